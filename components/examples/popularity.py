"""Popularity of item attributes on earlier days: daily counts over all users, looked up for every impression.

Impressions are sharded by user, but popularity is over all users. So `count` runs in every shard, `merge` adds up the
counts (one row per value and day), and a second pass looks up `popularity_of` the rows of each shard.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mixrank.components.examples.calendar import local_days
from mixrank.components.examples.dictionary_column import Coded
from mixrank.components.examples.label_events import moment_of
from mixrank.schemas import Popularity

# The value under which a day's rows of all values are counted.
ALL = ""
COLUMNS = ("column", "value", "day", "positives", "rows")


@dataclass(frozen=True)
class DailyCounts:
    """Counts of one column of a `Popularity`, sorted by value and day.

    Args:
        places: value, as text -> its number.
        at: int array. Number of the value times `_DAYS` plus the day, ascending.
        positives, rows: int arrays. Sums over the days of a value up to the given one.
    """

    places: dict[str, int]
    at: np.ndarray
    positives: np.ndarray
    rows: np.ndarray

    def before(self, values: list[str], codes: np.ndarray, days: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positives and rows of `values[codes]` on all days before `days`."""
        place = np.array([self.places.get(value, -1) for value in values])[codes]
        last = np.searchsorted(self.at, place * _DAYS + days, side="left") - 1
        known = (place >= 0) & (last >= 0) & (self.at[last] // _DAYS == place)
        return np.where(known, self.positives[last], 0), np.where(known, self.rows[last], 0)


# More days than any log has, so that values do not overlap in `DailyCounts.at`.
_DAYS = 1 << 24


def count(rules: dict[str, Popularity], columns: dict[str, Coded], time: np.ndarray) -> pd.DataFrame:
    """Rows and positives per value and day in one shard.

    Args:
        rules: column -> its declaration.
        columns: of the shard's log.
        time: int array (rows,), milliseconds.

    Returns:
        One row per column, value and day: `COLUMNS`; `day` counts from 1970-01-01, value `ALL` is every row.
    """
    parts = []
    for column, rule in rules.items():
        attribute = columns[rule.of]
        day = _day_numbers(rule, time)
        label = columns[rule.label].numbers() if rule.label is not None else np.zeros(len(time), dtype=np.int64)
        values = np.array([ALL, *map(str, attribute.values[1:])], dtype=object)
        frame = pd.DataFrame({"value": values[attribute.codes], "day": day, "positives": label, "rows": 1})
        if rule.label is not None and (moment := columns.get(moment_of(rule.label))) is not None:
            # A label from later events counts on the day of the event.
            then = frame[label > 0].assign(day=_day_numbers(rule, moment.numbers()[label > 0]), rows=0)
            frame = pd.concat([frame.assign(positives=0), then])
        # A missing value has no popularity of its own, but its rows count in the total.
        known = frame[frame["value"] != ALL].groupby(["value", "day"], as_index=False).sum()
        every = frame.assign(value=ALL).groupby(["value", "day"], as_index=False).sum()
        parts.append(pd.concat([every, known]).assign(column=column)[list(COLUMNS)])
    return pd.concat(parts, ignore_index=True)


def merge(counts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The sum of the shards' counts, sorted."""
    keys = list(COLUMNS[:3])
    return pd.concat(counts).groupby(keys, as_index=False).sum().sort_values(keys, ignore_index=True)


def daily_counts(merged: pd.DataFrame) -> dict[str, DailyCounts]:
    """Column -> its counts, ready for lookups."""
    result = {}
    for column, frame in merged.groupby("column"):
        place, values = pd.factorize(frame["value"], sort=True)
        at = place.astype(np.int64) * _DAYS + frame["day"].to_numpy(np.int64)
        order = np.argsort(at)
        sums = frame.groupby("value")[["positives", "rows"]].cumsum()
        result[str(column)] = DailyCounts(
            places={value: number for number, value in enumerate(values)},
            at=at[order],
            positives=sums["positives"].to_numpy()[order],
            rows=sums["rows"].to_numpy()[order],
        )
    return result


def popularity_of(rule: Popularity, counts: DailyCounts, attribute: Coded, time: np.ndarray) -> Coded:
    """The popularity of every row's value; missing where the value is.

    Args:
        rule: the declaration.
        counts: over all shards.
        attribute: the column `rule.of`.
        time: int array (rows,), milliseconds.
    """
    days = _day_numbers(rule, time)
    positives, rows = counts.before([ALL, *map(str, attribute.values[1:])], attribute.codes, days)
    result: Any = rows
    if rule.label is not None:
        all_positives, all_rows = counts.before([ALL], np.zeros(len(time), dtype=np.int64), days)
        # Add one row of each outcome, so that the rate is finite even if a log begins with clicks only.
        rate = (all_positives + 1) / (all_rows + 2)
        odds = (positives + rule.smoothing * rate) / (rows - positives + rule.smoothing * (1 - rate))
        result = np.log(odds) - np.log(rate / (1 - rate))
    distinct, codes = np.unique(result, return_inverse=True)
    return Coded(np.where(attribute.missing(), 0, codes + 1), [None, *distinct.tolist()])


def _day_numbers(rule: Popularity, time: np.ndarray) -> np.ndarray:
    return local_days(time, rule.timezone, rule.starts_at).astype(np.int64)
