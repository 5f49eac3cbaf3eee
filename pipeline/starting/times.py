"""Which column is the time of an impression, how it is written, and whether it can be true."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mixrank.pipeline.starting.columns import Column

# Logs of recommenders begin in the nineties; none ends after tomorrow.
EARLIEST = datetime.date(1995, 1, 1)
NAMES = ("event_time", "timestamp", "time_ms", "time", "ts", "datetime", "date_time", "event_ts", "created_at", "epoch")
_WORD = re.compile(r"time|timestamp|^ts$|_ts$|^ts_|date|epoch|created|_at$|when", re.IGNORECASE)
_ISO = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(:\d\d(\.\d+)?)?)\s*(Z|[+-]\d\d:?\d\d)?")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")

Form = Literal["s", "ms", "us", "ns", "iso", "date"]
PER_SECOND: dict[Form, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@dataclass(frozen=True)
class Time:
    """A column read as a time.

    Args:
        column: its name.
        form: unit of a number, "iso" for text such as 2024-01-05T10:00:00Z, "date" for a day.
        has_zone: whether the text says its zone; numbers count from 1970 UTC.
        ms: float array (rows,). Milliseconds since 1970 UTC, NaN if missing.
        why: reason, for a comment.
        confidence: in [0, 1].
    """

    column: str
    form: Form
    has_zone: bool
    ms: np.ndarray
    why: str
    confidence: float

    @property
    def day(self) -> np.ndarray:
        """Days since 1970, -1 if missing."""
        return np.where(np.isnan(self.ms), -1, self.ms // 86_400_000).astype(np.int64)


def read_time(column: Column, today: datetime.date) -> Time | None:
    """The column as a time, or None if it cannot be one.

    Args:
        column: the column.
        today: later times than tomorrow are not plausible.
    """
    if column.lengths is not None or column.missing_share > 0.5 or not column.distinct:
        return None
    found = _of_numbers(column, today) if column.is_number else _of_text(column)
    if found is None:
        return None
    form, has_zone, ms, why = found
    low, high = _ms(EARLIEST), _ms(today + datetime.timedelta(days=2))
    if not (ms.min() >= low and ms.max() < high):
        return None
    # A number in the range of seconds may be an amount or an id; its name must say that it is a time.
    named = bool(_WORD.search(column.name))
    if column.is_number and not named and column.distinct < 0.2 * column.rows:
        return None
    confidence = (0.5 if named else 0.3) + (0.3 if column.name.lower() in NAMES else 0.0)
    # A day orders nothing within itself.
    confidence += {"date": -0.25, "iso": 0.1}.get(form, 0.15)
    return Time(column.name, form, has_zone, np.append(ms, np.nan)[column.codes], why, min(1.0, confidence))


def _of_numbers(column: Column, today: datetime.date) -> tuple[Form, bool, np.ndarray, str] | None:
    assert column.numbers is not None
    numbers = column.numbers
    if column.look == "int" and all(_is_day(number) for number in numbers[:1000]):
        # 20240105
        days = [_ms(datetime.datetime.strptime(str(int(number)), "%Y%m%d").date()) for number in numbers]
        return "date", False, np.array(days, float), f"days written like {int(numbers[0])}"
    for unit, scale in PER_SECOND.items():
        seconds = numbers / scale
        low = _ms(EARLIEST) / 1000
        high = _ms(today + datetime.timedelta(days=2)) / 1000
        if seconds.min() >= low and seconds.max() < high:
            ms = seconds * 1000
            return unit, True, ms, f"{_as_day(ms.min())} to {_as_day(ms.max())} if counted in {unit}"
    return None


def _is_day(number: float) -> bool:
    if not 19_950_101 <= number <= 21_001_231:
        return False
    try:
        datetime.datetime.strptime(str(int(number)), "%Y%m%d")
    except ValueError:
        return False
    return True


def _of_text(column: Column) -> tuple[Form, bool, np.ndarray, str] | None:
    if column.look == "time":
        is_day = not isinstance(column.values[0], datetime.datetime)
        stamps = np.array(column.values, dtype="datetime64[ms]").astype(np.int64).astype(float)
        form: Form = "date" if is_day else "ms"
        return form, True, stamps, f"{_as_day(stamps.min())} to {_as_day(stamps.max())}"
    texts = [str(value) for value in column.values]
    if all(_DAY.fullmatch(text) for text in texts):
        try:
            stamps = np.array(texts, dtype="datetime64[ms]").astype(np.int64).astype(float)
        except ValueError:
            return None
        return "date", False, stamps, f"days from {_as_day(stamps.min())} to {_as_day(stamps.max())}"
    matches = [_ISO.fullmatch(text) for text in texts]
    if not all(matches):
        return None
    zoned = [match is not None and match[5] is not None for match in matches]
    if any(zoned) and not all(zoned):
        return None
    try:
        stamps = np.array([_iso_ms(text) for text in texts])
    except ValueError:
        return None
    zones = "with a zone" if zoned[0] else "without a zone"
    return "iso", zoned[0], stamps, f"{_as_day(stamps.min())} to {_as_day(stamps.max())}, written {zones}"


def _iso_ms(text: str) -> float:
    found = datetime.datetime.fromisoformat(text)
    if found.tzinfo is None:
        found = found.replace(tzinfo=datetime.UTC)
    return found.timestamp() * 1000


def _ms(day: datetime.date) -> int:
    return (day - datetime.date(1970, 1, 1)).days * 86_400_000


def _as_day(ms: float) -> str:
    return (datetime.date(1970, 1, 1) + datetime.timedelta(days=int(ms // 86_400_000))).isoformat()


def as_day(number: int) -> str:
    """ISO date of a number of days since 1970."""
    return (datetime.date(1970, 1, 1) + datetime.timedelta(days=number)).isoformat()
