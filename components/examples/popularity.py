"""Popularity on earlier days: daily counts of the values of columns or of pairs of them, looked up per impression.

Impressions are sharded by user, but most popularity is over all users. So `count` runs in every shard, `merge` adds up
the counts (one row per value and day), and a second pass looks up `popularity_of` the rows of each shard. Values that
hold the user occur in one shard only: their counts stay with it, and only their total is added up.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mixrank.components.examples.calendar import local_days
from mixrank.components.examples.dictionary_column import Coded
from mixrank.components.examples.label_events import moment_of
from mixrank.schemas import FeatureSpec, Popularity

# The value under which a day's rows of all values are counted.
ALL = ""
COLUMNS = ("column", "value", "day", "positives", "rows")
# More days than any log has, so that values do not overlap in `DailyCounts.at`.
_DAYS = 1 << 24


class Values(NamedTuple):
    """What a `Popularity` counts in a log: a row has one value, or several, or none.

    Attributes:
        rows: int array (values,), ascending. Row of the log.
        codes: int array (values,). Position in `texts`.
        texts: each distinct value once; of a combination, a JSON list of its parts.
    """

    rows: NDArray[np.int64]
    codes: NDArray[np.int64]
    texts: list[str]


def values_of(rule: Popularity, columns: Mapping[str, Coded]) -> Values:
    """The values that a rule counts, in the columns of a log."""
    parts = {name: _texts(columns[name]) for name in rule.parts}
    # The one with several values in a row, if there is one, comes first.
    names = sorted(parts, key=lambda name: bool((np.diff(parts[name].rows) == 0).any()), reverse=True)
    if len(names) == 1:
        return parts[names[0]]
    rows, codes, _ = parts[names[0]]
    for name in names[1:]:
        one = np.full(len(columns[name]), -1)
        one[parts[name].rows] = parts[name].codes
        known = one[rows] >= 0
        rows, codes = rows[known], codes[known] * len(parts[name].texts) + one[rows[known]]
    distinct, codes = np.unique(codes, return_inverse=True)
    columns_of_texts: dict[str, list[str]] = {}
    for name in reversed(names):
        distinct, place = np.divmod(distinct, max(1, len(parts[name].texts)))
        columns_of_texts[name] = [parts[name].texts[each] for each in place.tolist()]
    texts = [json.dumps(each) for each in zip(*(columns_of_texts[name] for name in rule.parts), strict=True)]
    return Values(rows, codes, texts)


def _texts(column: Coded) -> Values:
    lists = [
        () if value is None else dict.fromkeys(map(str, value)) if isinstance(value, tuple) else (str(value),)
        for value in column.values
    ]
    lengths = np.array([len(each) for each in lists], np.int64)
    codes, texts = pd.factorize(np.array([text for each in lists for text in each], object))
    count = lengths[column.codes]
    rows = np.repeat(np.arange(len(column)), count)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    first = np.cumsum(lengths) - lengths
    return Values(rows, codes[first[column.codes[rows]] + place] if len(rows) else rows, list(texts))


@dataclass(frozen=True)
class DailyCounts:
    """Counts of the values of a `Popularity`, sorted by value and day.

    Args:
        places: value, as text -> its number.
        at: int array. Number of the value times `_DAYS` plus the day, ascending.
        positives, rows: arrays. Sums over the days of a value up to the given one, as of that day.
        half_life: days in which a count loses half of its weight, or None.
    """

    places: dict[str, int]
    at: NDArray[np.int64]
    positives: NDArray[np.float64]
    rows: NDArray[np.float64]
    half_life: float | None = None

    def before(
        self, texts: list[str], codes: NDArray[np.int64], days: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Positives and rows of `texts[codes]` on all days before `days`; with a half-life, as of the day before."""
        if not len(self.at) or not len(codes):
            return np.zeros(len(codes)), np.zeros(len(codes))
        place = np.array([self.places.get(text, -1) for text in texts])[codes]
        last = np.searchsorted(self.at, place * _DAYS + days, side="left") - 1
        known = (place >= 0) & (last >= 0) & (self.at[last] // _DAYS == place)
        weight = np.where(known, 1.0, 0.0)
        if self.half_life is not None:
            weight = weight * 0.5 ** (np.where(known, days - 1 - self.at[last] % _DAYS, 0) / self.half_life)
        return weight * self.positives[last], weight * self.rows[last]


def count(rules: Mapping[str, Popularity], columns: Mapping[str, Coded], time: NDArray[np.int64]) -> pd.DataFrame:
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
        found = values_of(rule, columns)
        day = _day_numbers(rule, time)
        label = columns[rule.label].numbers() if rule.label is not None else np.zeros(len(time), np.int64)
        then = day
        if rule.label is not None and (moment := columns.get(moment_of(rule.label))) is not None:
            # A label from later events counts on the day of the event.
            then = np.where(label > 0, _day_numbers(rule, moment.numbers()), day)
        every = (np.zeros(len(time), np.int64), day, then, label)
        # A row without a value has no popularity of its own, but counts in the total.
        known = (1 + found.codes, day[found.rows], then[found.rows], label[found.rows])
        code, day, then, label = (np.concatenate(pair) for pair in zip(every, known, strict=True))
        at, place = np.unique(np.concatenate([code * _DAYS + day, code * _DAYS + then]), return_inverse=True)
        texts = np.array([ALL, *found.texts], object)
        parts.append(
            pd.DataFrame(
                {
                    "column": column,
                    "value": texts[at // _DAYS],
                    "day": at % _DAYS,
                    "positives": np.bincount(place[len(code) :], label, len(at)).astype(np.int64),
                    "rows": np.bincount(place[: len(code)], minlength=len(at)),
                }
            )[list(COLUMNS)]
        )
    return pd.concat(parts, ignore_index=True)


def merge(counts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The sum of the shards' counts, sorted."""
    keys = list(COLUMNS[:3])
    return pd.concat(counts).groupby(keys, as_index=False).sum().sort_values(keys, ignore_index=True)


def shared_and_own(
    spec: FeatureSpec, rules: Mapping[str, Popularity], counts: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The counts of one shard that others add to, and those of values that hold the user, which none adds to."""
    own = counts["column"].isin(own_rules(spec, rules)) & (counts["value"] != ALL)
    return counts[~own], counts[own]


def own_rules(spec: FeatureSpec, rules: Mapping[str, Popularity]) -> dict[str, Popularity]:
    """The rules whose values hold the user."""
    return {column: rule for column, rule in rules.items() if spec.user.name in rule.parts}


def daily_counts(rules: Mapping[str, Popularity], merged: pd.DataFrame) -> dict[str, DailyCounts]:
    """Column -> its counts, ready for lookups."""
    result = {}
    for column, rule in rules.items():
        frame, half_life = merged[merged["column"] == column], rule.half_life
        place, texts = pd.factorize(frame["value"], sort=True)
        at = place.astype(np.int64) * _DAYS + frame["day"].to_numpy(np.int64)
        order = np.argsort(at)
        at = at[order]
        result[column] = DailyCounts(
            places={text: number for number, text in enumerate(texts)},
            at=at,
            positives=_up_to_each_day(at, frame["positives"].to_numpy(np.float64)[order], half_life),
            rows=_up_to_each_day(at, frame["rows"].to_numpy(np.float64)[order], half_life),
            half_life=half_life,
        )
    return result


def folded(rules: Mapping[str, Popularity], merged: pd.DataFrame, until: int) -> pd.DataFrame:
    """Counts in which the days of a value that are over are one row, under the last of them.

    `daily_counts` of it, and of what later days add, has the numbers of all counts, to the bit, on the days from
    `until` on.

    Args:
        rules: column -> its declaration.
        merged: counts, as `merge` makes them.
        until: time from which on later rows are, in milliseconds; a day that ends later is left as it is.
    """
    parts = [merged[:0]]
    for column, counts in daily_counts(rules, merged).items():
        frame = merged[merged["column"] == column]
        (today,) = _day_numbers(rules[column], np.array([until]))
        place, day = np.divmod(counts.at, _DAYS)
        over = day < today
        last = over & ~np.append(over[1:] & (place[1:] == place[:-1]), False)
        texts = np.array([*counts.places], object)
        parts.append(
            pd.DataFrame(
                {
                    "column": column,
                    "value": texts[place[last]],
                    "day": day[last],
                    "positives": counts.positives[last],
                    "rows": counts.rows[last],
                }
            )
        )
        parts.append(frame[frame["day"] >= today])
    return pd.concat(parts, ignore_index=True)


def _up_to_each_day(at: NDArray[np.int64], counts: NDArray[np.float64], half_life: float | None) -> NDArray[np.float64]:
    """Sums of the counts of a value up to each of its days, as of that day."""
    place, day = np.divmod(at, _DAYS)
    first = np.append(True, place[1:] != place[:-1]) if len(at) else np.zeros(0, bool)
    start = np.flatnonzero(first)[np.cumsum(first) - 1] if len(at) else at
    if half_life is None:
        total = np.cumsum(counts)
        return total - (total - counts)[start]
    found = counts.copy()
    number = np.arange(len(at)) - start
    kept = 0.5 ** (np.diff(day, prepend=0) / half_life)
    # The second day of every value, then the third, and so on: there are as many as the log has days.
    order = np.argsort(number, kind="stable")
    bounds: list[int] = np.cumsum(np.bincount(number)).tolist()
    for begin, end in itertools.pairwise(bounds):
        rows = order[begin:end]
        found[rows] += kept[rows] * found[rows - 1]
    return found


def popularity_of(
    rule: Popularity, counts: DailyCounts, columns: Mapping[str, Coded], time: NDArray[np.int64]
) -> Coded:
    """The popularity of every row's value; missing where it has none. Counts of several values are added up.

    Args:
        rule: the declaration.
        counts: of its values, over all rows that have them, and of `ALL`, over all shards.
        columns: of the log.
        time: int array (rows,), milliseconds.
    """
    days, found = _day_numbers(rule, time), values_of(rule, columns)
    each = counts.before(found.texts, found.codes, days[found.rows])
    positives, rows = (np.bincount(found.rows, part, len(time)) for part in each)
    result = _numbers(rule, counts, positives, rows, days)
    distinct, codes = np.unique(result, return_inverse=True)
    missing = np.bincount(found.rows, minlength=len(time)) == 0
    return Coded(np.where(missing, 0, codes + 1), [None, *distinct.tolist()])


def _numbers(
    rule: Popularity,
    counts: DailyCounts,
    positives: NDArray[Any],
    rows: NDArray[Any],
    days: NDArray[np.int64],
) -> NDArray[Any]:
    """The feature, of the positives and rows on all days before `days`; int for rows without decay."""
    if rule.label is None:
        return rows if rule.half_life is not None else rows.astype(np.int64)
    rate = rate_before(counts, days)
    odds = (positives + rule.smoothing * rate) / (rows - positives + rule.smoothing * (1 - rate))
    return np.log(odds) - np.log(rate / (1 - rate))


def rate_before(counts: DailyCounts, days: NDArray[np.int64]) -> NDArray[np.float64]:
    """The rate of all rows on all days before `days`, with one row of each outcome added.

    So it has a logit, even if a log begins with clicks alone.
    """
    positives, rows = counts.before([ALL], np.zeros(len(days), np.int64), days)
    return (positives + 1) / (rows + 2)


def popularity_on(rule: Popularity, counts: DailyCounts, day: int) -> pd.DataFrame:
    """The popularity of every value on one day, for a request of that day.

    Args:
        rule: the declaration.
        counts: of its values and of `ALL`.
        day: number of the day since 1970-01-01.

    Returns:
        A row for each value that occurs before the day, sorted: `value` as text, the feature as `popularity`, and the
        `positives` and `rows` it is made of.
    """
    texts = sorted(text for text in counts.places if text != ALL)
    days = np.full(len(texts), day, np.int64)
    positives, rows = counts.before(texts, np.arange(len(texts)), days)
    numbers = _numbers(rule, counts, positives, rows, days)
    frame = pd.DataFrame({"value": texts, "popularity": numbers, "positives": positives, "rows": rows})
    return frame[rows > 0].reset_index(drop=True)


def _day_numbers(rule: Popularity, time: NDArray[np.int64]) -> NDArray[np.int64]:
    return local_days(time, rule.timezone, rule.starts_at).astype(np.int64)
