"""Labels from a second table of events: each event belongs to the latest impression before it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from mixrank.components.examples.dictionary_column import Coded


class Outcome(NamedTuple):
    """A label made from events.

    Attributes:
        label: 1 for the impressions with an event.
        moment: time of the first of their events, milliseconds; missing without one.
        row: int array (events,). The impression of each event, -1 for none.
    """

    label: Coded
    moment: Coded
    row: np.ndarray

    @property
    def matched(self) -> int:
        """Number of events that belong to an impression."""
        return int((self.row >= 0).sum())


def moment_of(label: str) -> str:
    """Column with the time at which a label made from events became 1; not a column of the spec."""
    return f"_moment_{label}"


def outcome(
    impressions: list[Coded], time: np.ndarray, events: list[Coded], event_time: np.ndarray, within_ms: int
) -> Outcome:
    """Gives each event to the latest impression at or before it with the same keys, if it is recent enough.

    Of impressions with the same keys and time, the last one gets it.

    Args:
        impressions: their keys, one or more columns.
        time: int array (impressions,), milliseconds.
        events: their keys, in the same order of columns.
        event_time: int array (events,), milliseconds.
        within_ms: int >= 1. Longest time from an impression to its event.
    """
    group, event_group = _groups(impressions, events)
    # Ranks instead of times, so that (group, time) always fits into one integer.
    ranks = np.unique(time)
    width = len(ranks) + 1
    place = group * width + np.searchsorted(ranks, time)
    order = np.argsort(place, kind="stable")
    # The number of ranks up to a time is the rank of the latest one, plus 1.
    bound = event_group * width + np.searchsorted(ranks, event_time, side="right")
    last = np.searchsorted(place[order], bound, side="left") - 1
    found = np.flatnonzero((event_group >= 0) & (last >= 0))
    row = order[last[found]]
    fits = (group[row] == event_group[found]) & (event_time[found] - time[row] <= within_ms)
    found, row = found[fits], row[fits]
    moments = event_time[found]
    first = np.full(len(time), np.iinfo(np.int64).max)
    np.minimum.at(first, row, moments)
    has = np.zeros(len(time), dtype=bool)
    has[row] = True
    distinct, codes = np.unique(first[has], return_inverse=True)
    moment = np.zeros(len(time), dtype=np.int64)
    moment[has] = codes + 1
    owner = np.full(len(event_time), -1)
    owner[found] = row
    return Outcome(Coded(has + 1, [None, 0, 1]), Coded(moment, [None, *distinct.tolist()]), owner)


def _groups(left: list[Coded], right: list[Coded]) -> tuple[np.ndarray, np.ndarray]:
    """A number for every combination of keys, the same on both sides; -1 where a key is missing."""
    rows = len(left[0])
    group = np.zeros(rows + len(right[0]), dtype=np.int64)
    missing = np.zeros(len(group), dtype=bool)
    for one, other in zip(left, right, strict=True):
        both = one.concat(other)
        values = np.empty(len(both.values), dtype=object)
        values[:] = both.values
        codes = pd.factorize(values)[0][both.codes]
        missing |= both.missing()
        _, group = np.unique(group * (codes.max(initial=0) + 2) + codes + 1, return_inverse=True)
    group = np.where(missing, -1, group)
    return group[:rows], group[rows:]
