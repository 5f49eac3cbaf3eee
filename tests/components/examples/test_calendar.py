import datetime
import zoneinfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixrank.components.examples.calendar import local_days, parse_days, window_start
from mixrank.schemas import CalendarDay, Sliding

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


def ms(year, month, day, hour=0, minute=0, zone=datetime.UTC, fold=0):
    return round(datetime.datetime(year, month, day, hour, minute, tzinfo=zone, fold=fold).timestamp() * 1000)


def start(time, timezone, starts_at=0):
    return int(window_start(np.array([time]), CalendarDay(timezone=timezone, starts_at=starts_at))[0])


def test_a_day_in_shanghai_begins_at_16_utc():
    assert start(ms(2022, 4, 25, 16), "Asia/Shanghai") == ms(2022, 4, 25, 16)
    assert start(ms(2022, 4, 25, 15, 59), "Asia/Shanghai") == ms(2022, 4, 24, 16)
    days = local_days(np.array([ms(2022, 4, 25, 16), ms(2022, 4, 25, 15, 59)]), "Asia/Shanghai", 0)
    assert days.astype(str).tolist() == ["2022-04-26", "2022-04-25"]


def test_a_day_may_begin_at_another_hour():
    days = local_days(np.array([ms(2022, 4, 25, 3, 59), ms(2022, 4, 25, 4)]), "UTC", 4)
    assert days.astype(str).tolist() == ["2022-04-24", "2022-04-25"]
    assert start(ms(2022, 4, 25, 3, 59), "UTC", 4) == ms(2022, 4, 24, 4)


def test_a_start_that_the_clock_skips_is_the_next_moment():
    # On 2022-03-27 clocks in Berlin went from 2:00 to 3:00.
    assert start(ms(2022, 3, 27, 12, zone=BERLIN), "Europe/Berlin", 2) == ms(2022, 3, 27, 3, zone=BERLIN)


def test_of_two_starts_that_read_alike_the_first_counts():
    # On 2022-10-30 clocks in Berlin went from 3:00 back to 2:00.
    first = ms(2022, 10, 30, 2, zone=BERLIN)
    assert start(ms(2022, 10, 30, 2, 30, zone=BERLIN), "Europe/Berlin", 2) == first
    assert start(ms(2022, 10, 30, 2, 30, zone=BERLIN, fold=1), "Europe/Berlin", 2) == first


def test_a_sliding_window_begins_so_many_seconds_earlier():
    assert window_start(np.array([5000, 700_000]), Sliding(seconds=600)).tolist() == [-595_000, 100_000]


@given(
    st.integers(0, 4_000_000_000_000),
    st.sampled_from(["Europe/Berlin", "America/Sao_Paulo", "Pacific/Apia", "Asia/Kathmandu"]),
    st.integers(0, 23),
)
def test_a_window_never_begins_after_the_impression_nor_two_days_before(time, timezone, starts_at):
    assert 0 <= time - start(time, timezone, starts_at) <= 49 * 3_600_000


@pytest.mark.parametrize("text", ["yesterday", "2022-13-01", "2022-05-02..", "20220502", "2022-05-02..2022-05-01"])
def test_days_are_read_strictly(text):
    if text == "2022-05-02..":
        assert parse_days(text) == ("2022-05-02", "2022-05-02")
        return
    with pytest.raises(ValueError, match="days are written as|after the last"):
        parse_days(text)
