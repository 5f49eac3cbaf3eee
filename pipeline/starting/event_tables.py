"""Tables of events that follow an impression, such as clicks or orders in a file of their own."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mixrank.pipeline.starting import words
from mixrank.pipeline.starting.columns import Column
from mixrank.pipeline.starting.tables import Found
from mixrank.pipeline.starting.times import Time, read_time

# Times to an event that are tried, in seconds; the first within which nearly all events come is taken.
WITHIN = {"1m": 60, "5m": 300, "30m": 1800, "2h": 7200, "12h": 43_200, "1d": 86_400, "7d": 604_800}
NEARLY_ALL = 0.95
# Least share of the events of a table that must follow an impression.
LEAST_FOLLOWING = 0.3


@dataclass(frozen=True)
class Events:
    """A table of events that make a label.

    Args:
        table: the table.
        on: columns that an impression and its event share.
        time: of the events.
        within: longest time to an event, as `LabelFrom` takes it.
        label: int array (rows of the log,). Whether an event follows.
        following: share of the events that follow an impression.
    """

    table: Found
    on: tuple[str, ...]
    time: Time
    within: str
    label: np.ndarray
    following: float

    @property
    def name(self) -> str:
        """Name of the label: click for clicks.csv."""
        stem = words.cleaned(self.table.name.rpartition("/")[2].partition(".")[0].rstrip("*_-"))
        return words.singular(stem.lower())


def find_events(
    log: Found, others: Iterable[Found], user: str | None, item: str, time: Time, today: datetime.date
) -> list[Events]:
    """The tables whose rows follow impressions of the log."""
    found = []
    for other in others:
        on = _shared(log, other, user, item)
        at = _time(other, time, today)
        if not on or at is None:
            continue
        one, two = _codes([log.columns[name] for name in on], [other.columns[name] for name in on])
        row, delay = _latest_before(one, time.ms, two, at.ms)
        following = float(np.mean(row >= 0))
        if following < LEAST_FOLLOWING:
            continue
        delays = delay[row >= 0] / 1000
        within = next((w for w, seconds in WITHIN.items() if np.mean(delays <= seconds) >= NEARLY_ALL), "7d")
        label = np.zeros(log.sampled, dtype=int)
        label[row[(row >= 0) & (delay <= 1000 * WITHIN[within])]] = 1
        if 0 < label.mean() < 1:
            found.append(Events(other, on, at, within, label, following))
    return found


def _shared(log: Found, other: Found, user: str | None, item: str) -> tuple[str, ...]:
    """The item and the user, or the item and an id of the request, by which an event knows its impression."""
    if item not in other.columns:
        return ()
    if user is not None and user in other.columns:
        return (user, item)
    ids = [name for name in log.columns if name in other.columns and name != item and words.words(name)[-1:] == ("id",)]
    return (ids[0], item) if ids else ()


def _time(other: Found, time: Time, today: datetime.date) -> Time | None:
    if time.column in other.columns:
        return read_time(other.columns[time.column], today)
    times = [found for column in other.columns.values() if (found := read_time(column, today)) is not None]
    return max(times, key=lambda each: each.confidence, default=None)


def _codes(ours: Sequence[Column], theirs: Sequence[Column]) -> tuple[np.ndarray, np.ndarray]:
    """Equal numbers for rows of both tables that are equal in all columns; -1 where one is missing."""
    one, two = np.zeros(ours[0].rows, dtype=np.int64), np.zeros(theirs[0].rows, dtype=np.int64)
    for our, their in zip(ours, theirs, strict=True):
        places = {_plain(value): code for code, value in enumerate(our.values)}
        to = np.array([places.get(_plain(value), -1) for value in their.values] + [-1])
        width = len(places) + 1
        own, other = our.codes, to[their.codes]
        one = np.where((one < 0) | (own < 0), -1, one * width + own)
        two = np.where((two < 0) | (other < 0), -1, two * width + other)
    return one, two


def _plain(value: object) -> str:
    return str(value)


def _latest_before(
    ours: np.ndarray, shown: np.ndarray, theirs: np.ndarray, happened: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The latest of our rows with the same code at or before each of theirs, -1 for none, and the time between."""
    usable = np.flatnonzero((ours >= 0) & ~np.isnan(shown))
    order = usable[np.lexsort((shown[usable], ours[usable]))]
    known = (theirs >= 0) & ~np.isnan(happened)
    # Ranks keep pairs of code and time in one number.
    codes = np.unique(np.concatenate([ours[order], theirs[known]]))
    low = min(shown[order].min(initial=np.inf), happened[known].min(initial=np.inf))
    span = max(shown[order].max(initial=0), happened[known].max(initial=0)) - low + 1
    ranked = np.searchsorted(codes, ours[order]) * span + (shown[order] - low)
    asked = np.searchsorted(codes, theirs[known]) * span + (happened[known] - low)
    place = np.searchsorted(ranked, asked, side="right") - 1
    row = np.full(len(theirs), -1)
    delay = np.full(len(theirs), np.inf)
    matched = (place >= 0) & (ours[order[np.maximum(place, 0)]] == theirs[known]) if len(order) else place >= 0
    to = np.flatnonzero(known)[matched]
    row[to] = order[place[matched]]
    delay[to] = happened[to] - shown[row[to]]
    return row, delay
