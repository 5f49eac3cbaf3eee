"""Columns of many rows as encoded parts of tf.Examples: distinct values are encoded once, a history is one slice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Protocol

import numpy as np

from mixrank.components.examples.dictionary_column import Coded
from mixrank.components.examples.histories import Sequences, Slices
from mixrank.schemas.encode import PADDING, UNKNOWN_GAP
from mixrank.schemas.wire import Kind, entry, example, header, payload


class EntryColumn(Protocol):
    """A column that can write the map entries of some rows."""

    def entries(self, rows: np.ndarray) -> Iterable[bytes]:
        """One map entry per row, in the order of `rows`."""


class ValueColumn:
    """Keys, labels, scenario and non-sequential features.

    Args:
        name: the column.
        kind: "int", "float" or "str".
        coded: scalars, or tuples of them.
        length: int or None. Maximum number of values of a tuple.
    """

    def __init__(self, name: str, kind: Kind, coded: Coded, length: int | None = None):
        self._codes, self._values = coded.codes, coded.values
        self._encode = lambda value: entry(name, kind, _as_list(value)[:length])
        # Of a day's shard most values are those of rows that are not written.
        self._entries: dict[int, bytes] = {}

    def entries(self, rows: np.ndarray) -> Iterable[bytes]:
        codes = self._codes[rows]
        for code in np.unique(codes).tolist():
            if code not in self._entries:
                self._entries[code] = self._encode(self._values[code])
        return map(self._entries.__getitem__, codes.tolist())


class HistoryColumn:
    """A history column: an item attribute, or the action, of every event.

    Args:
        name: the column.
        kind: "int", "float" or "str".
        coded: the attribute of every event: rows of the table, then prior events.
        width: int >= 1. Values per event, padded.
        sequence: events of all users.
        slices: the history of every row.
    """

    def __init__(self, name: str, kind: Kind, coded: Coded, width: int, sequence: Sequences, slices: Slices):
        fragments = [payload(kind, _padded(value, kind, width)) for value in coded.values]
        codes = coded.codes[sequence.events]
        sizes = np.array([len(fragment) for fragment in fragments])[codes]
        self._buffer = b"".join(map(fragments.__getitem__, codes.tolist()))
        self._offsets = np.concatenate([[0], np.cumsum(sizes)])
        self._slices = slices
        self._header = partial(header, name, kind)

    def entries(self, rows: np.ndarray) -> Iterable[bytes]:
        starts, counts = self._slices.starts[rows], self._slices.counts[rows]
        return _cut(self._buffer, self._offsets[starts], self._offsets[starts + counts], self._header)


class GapColumn:
    """Whole seconds from every event of a history to the impression; -1 if the event's time is unknown.

    Args:
        name: the column.
        time: int array (rows,), milliseconds.
        moment: int array (rows of the events' table,), milliseconds. When each was known.
        sequence: events of all users.
        slices: the history of every row.
    """

    def __init__(self, name: str, time: np.ndarray, moment: np.ndarray, sequence: Sequences, slices: Slices):
        self._time, self._moment, self._events, self._slices = time, moment, sequence.events, slices
        self._header = partial(header, name, "int")

    def entries(self, rows: np.ndarray) -> Iterable[bytes]:
        events, starts, ends = _events_of(self._events, self._slices, rows)
        known = events < len(self._moment)
        # A table without events has no moment to look at.
        moment = np.append(self._moment, 0)[np.where(known, events, len(self._moment))]
        passed = np.repeat(self._time[rows], self._slices.counts[rows]) - moment
        buffer, offsets = varints(np.where(known, passed // 1000, UNKNOWN_GAP))
        return _cut(buffer, offsets[starts], offsets[ends], self._header)


class LateActionColumn:
    """The bit mask of every event of a history, each bit only if it was known before the impression.

    Args:
        name: the column.
        masks: int array (events,). Bits that are known with the event: rows of the table, then prior events.
        late: (bit mask (events,), the time at which it is known (events,) in milliseconds) of each other flag.
        time: int array (rows,), milliseconds.
        sequence: events of all users.
        slices: the history of every row.
    """

    def __init__(
        self,
        name: str,
        masks: np.ndarray,
        late: list[tuple[np.ndarray, np.ndarray]],
        time: np.ndarray,
        sequence: Sequences,
        slices: Slices,
    ):
        self._masks, self._late, self._time = masks, late, time
        self._events, self._slices = sequence.events, slices
        self._header = partial(header, name, "int")

    def entries(self, rows: np.ndarray) -> Iterable[bytes]:
        events, starts, ends = _events_of(self._events, self._slices, rows)
        time = np.repeat(self._time[rows], self._slices.counts[rows])
        values = self._masks[events]
        for mask, moment in self._late:
            values = values | np.where(moment[events] < time, mask[events], 0)
        buffer, offsets = varints(values)
        return _cut(buffer, offsets[starts], offsets[ends], self._header)


def _events_of(events: np.ndarray, slices: Slices, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The events of the histories of some rows, one history after the other; where each begins, and where it ends."""
    starts, counts = slices.starts[rows], slices.counts[rows]
    ends = np.cumsum(counts)
    return events[np.arange(counts.sum()) + np.repeat(starts - ends + counts, counts)], ends - counts, ends


def varints(numbers: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Base-128 encodings of signed 64-bit integers, one after the other.

    Returns:
        The bytes, and the offsets (numbers + 1,) at which each begins.
    """
    rest = numbers.astype(np.int64).view(np.uint64)
    sizes = np.ones(len(rest), dtype=np.int64)
    for bits in range(7, 64, 7):
        sizes += rest >= np.uint64(1) << np.uint64(bits)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    out = np.empty(offsets[-1], dtype=np.uint8)
    # Byte b of every number that is long enough; all but the last byte carry the continuation bit.
    for position in range(int(sizes.max(initial=0))):
        has = np.flatnonzero(sizes > position)
        septet = (rest[has] >> np.uint64(7 * position) & np.uint64(0x7F)).astype(np.uint8)
        out[offsets[has] + position] = septet | np.where(sizes[has] > position + 1, 0x80, 0).astype(np.uint8)
    return out.tobytes(), offsets


def examples(columns: list[EntryColumn], rows: np.ndarray) -> Iterator[bytes]:
    """Serialized tf.Examples of some rows."""
    return map(example, zip(*(column.entries(rows) for column in columns), strict=True))


def _cut(buffer: bytes, starts: np.ndarray, ends: np.ndarray, header_of: Any) -> Iterable[bytes]:
    return [
        header_of(end - start) + buffer[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
    ]


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, tuple) else [value]


def _padded(value: Any, kind: Kind, width: int) -> list[Any]:
    values = _as_list(value)[:width]
    return values + [PADDING[kind]] * (width - len(values))
