"""A time is known by its unit, its form and its name, and must be plausible."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

from mixrank.pipeline.starting.columns import profile
from mixrank.pipeline.starting.times import read_time
from mixrank.schemas.arrow import pa

TODAY = datetime.date(2024, 6, 1)
SECONDS = 1_704_103_200  # 2024-01-01 10:00 UTC


def time(values, name="ts"):
    return read_time(profile(name, pa.array(values)), TODAY)


@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_the_unit_of_a_number_is_the_one_that_makes_it_plausible(unit, scale):
    found = time([SECONDS * scale, (SECONDS + 60) * scale])
    assert (found.form, found.has_zone) == (unit, True)
    assert found.ms.tolist() == [SECONDS * 1000, (SECONDS + 60) * 1000]
    assert "2024-01-01 to 2024-01-01" in found.why


@pytest.mark.parametrize(
    ("values", "form", "has_zone", "ms"),
    [
        (["2024-01-01T11:00:00+01:00"], "iso", True, SECONDS * 1000),
        (["2024-01-01T10:00:00Z"], "iso", True, SECONDS * 1000),
        (["2024-01-01 10:00:00.250"], "iso", False, SECONDS * 1000 + 250),
        (["2024-01-01"], "date", False, (SECONDS - 36_000) * 1000),
        ([20240101], "date", False, (SECONDS - 36_000) * 1000),
        ([datetime.datetime(2024, 1, 1, 10)], "ms", True, SECONDS * 1000),
        ([datetime.date(2024, 1, 1)], "date", True, (SECONDS - 36_000) * 1000),
    ],
)
def test_texts_dates_and_timestamps_are_times(values, form, has_zone, ms):
    found = time(values)
    assert (found.form, found.has_zone, found.ms.tolist()) == (form, has_zone, [ms])


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 3],
        [4_000_000_000],
        ["2024-13-01"],
        ["yesterday"],
        ["2024-01-01T10:00:00Z", "2024-01-01T10:00:00"],
        [None, None, SECONDS],
    ],
)
def test_what_is_not_plausible_is_no_time(values):
    assert time(values) is None


def test_an_amount_in_the_range_of_seconds_is_no_time_unless_its_name_says_so():
    views = [1_500_000_000, 1_600_000_000] * 10
    assert time(views, "views") is None
    assert time(views, "seen_at").confidence < time(views, "timestamp").confidence


def test_a_missing_time_stays_missing():
    found = time([SECONDS, None, SECONDS + 1])
    assert np.isnan(found.ms[1])
    assert found.day.tolist() == [19723, -1, 19723]
