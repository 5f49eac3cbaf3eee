"""Calendar days of event times, and the parser of day ranges."""

from __future__ import annotations

import datetime
import re

import numpy as np
import pandas as pd

from mixrank.schemas import CalendarDay, Sliding, Window
from mixrank.schemas.safe_text import shown


def local_days(time_ms: np.ndarray, timezone: str, starts_at: int) -> np.ndarray:
    """Calendar day of each time, as datetime64[D].

    Args:
        time_ms: int array (rows,), milliseconds since 1970-01-01 UTC.
        timezone: IANA name of the time zone that defines the days.
        starts_at: int in [0, 23]. Local hour at which a day begins.
    """
    local = pd.DatetimeIndex(time_ms.astype("datetime64[ms]")).tz_localize("UTC").tz_convert(timezone)
    wall = local.tz_localize(None).to_numpy()
    return (wall - np.timedelta64(starts_at, "h")).astype("datetime64[D]")


def window_start(time_ms: np.ndarray, window: Window) -> np.ndarray:
    """Start of the real-time history of each impression, in milliseconds.

    Args:
        time_ms: int array (rows,), milliseconds since 1970-01-01 UTC.
        window: `CalendarDay` (start of the impression's day) or `Sliding` (a number of seconds earlier).

    Returns:
        int array (rows,), never after `time_ms`.
    """
    if isinstance(window, Sliding):
        return time_ms - 1000 * window.seconds
    assert isinstance(window, CalendarDay)
    days = local_days(time_ms, window.timezone, window.starts_at)
    distinct, inverse = np.unique(days, return_inverse=True)
    return day_starts(distinct, window.timezone, window.starts_at)[inverse]


def day_starts(days: np.ndarray, timezone: str, starts_at: int) -> np.ndarray:
    """First millisecond of calendar days.

    Args:
        days: datetime64[D] array.
        timezone, starts_at: as in `local_days`.

    >>> day_starts(np.array(["2022-04-01"], "datetime64[D]"), "Asia/Shanghai", 4)
    array([1648756800000])
    """
    wall = pd.DatetimeIndex(days.astype("datetime64[ns]")) + pd.Timedelta(hours=starts_at)
    # A start that a clock change skips moves to the next existing moment; of a repeated one, the first is used.
    starts = wall.tz_localize(timezone, nonexistent="shift_forward", ambiguous=np.ones(len(wall), dtype=bool))
    return starts.tz_convert("UTC").tz_localize(None).to_numpy().astype("datetime64[ms]").astype(np.int64)


def parse_days(text: str) -> tuple[str, str]:
    """First and last day of `2022-05-05..2022-05-06`, or of a single day.

    Raises:
        ValueError: if it is neither.

    >>> parse_days("2022-05-05")
    ('2022-05-05', '2022-05-05')
    """
    first, _, last = text.partition("..")
    last = last or first
    for day in (first, last):
        try:
            fits = bool(re.fullmatch(r"\d{4}-\d{2}-\d{2}", day)) and bool(datetime.date.fromisoformat(day))
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(f"days are written as 2022-05-05..2022-05-06, received {shown(text)}")
    if first > last:
        raise ValueError(f"the first day is after the last: {text}")
    return first, last
