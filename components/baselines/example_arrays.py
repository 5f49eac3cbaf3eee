"""All rows of `tf.Example` files as NumPy arrays, with numbers in place of texts and ids, and histories as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mixrank.schemas import (
    Action,
    AnyFromFile,
    Categorical,
    FeatureSpec,
    Lookup,
    MultiCategorical,
    Numeric,
    NumericLookup,
    TimeGap,
    Vector,
    VectorTable,
)
from mixrank.schemas.encode import PADDING, UNKNOWN_GAP, Column, columns
from mixrank.schemas.raw import read_side_file

BATCH = 4096


@dataclass(frozen=True)
class ExampleArrays:
    """Rows of some splits, one split after the other.

    Args:
        columns: column -> array. Keys, scenario and categorical columns: int32 codes, 0 for a missing value; the
            columns of one feature, its own and those in histories, share their codes. `Numeric` and `Vector`: float32,
            NaN if missing. `Action`: int16 bit masks, -1 after the last event. `TimeGap`: float32 seconds, NaN where
            the time is not known and after the last event. Time: int64. Labels: int64, or float32 if they are no whole
            numbers. Row weights: float32. Shape `(rows,)`, of `MultiCategorical` and `Vector` `(rows, values)`, in a
            history `(rows, events)` and `(rows, events, values)`. What a side file says is there like a column, in a
            history unless it is a vector.
        events: history -> int64 `(rows,)`, the number of its events.
        ends: number of rows up to the end of each split.
    """

    columns: dict[str, NDArray[Any]]
    events: dict[str, NDArray[np.int64]]
    ends: tuple[int, ...]

    def __len__(self) -> int:
        return self.ends[-1]

    def between(self, first: int, end: int) -> ExampleArrays:
        """The rows first, ..., end - 1, as one split; shares the memory."""
        return ExampleArrays(
            {name: column[first:end] for name, column in self.columns.items()},
            {name: count[first:end] for name, count in self.events.items()},
            (end - first,),
        )


def read_examples(spec: FeatureSpec, patterns: Sequence[str]) -> ExampleArrays:
    """Reads every column of a spec.

    Args:
        spec: the columns.
        patterns: globs of gzipped TFRecord files as ExampleGen writes them, one per split, for instance
            "examples/Split-train/*"; files are read in sorted order.

    Raises:
        ValueError: without patterns, if no file matches one, or if a row has no time or label, or several.
    """
    if not patterns:
        raise ValueError("`patterns` must name at least one split, received none")
    known = columns(spec)
    coders: dict[str, _Coder] = {}
    collected = [_Collected(spec, column, coders) for column in known]
    counts: dict[str, list[NDArray[np.int64]]] = {history.name: [] for history in spec.histories}
    ends, rows = [], 0
    for pattern in patterns:
        for batch in _batches(pattern, known):
            events: dict[str, Any] = {}
            for each in collected:
                values, lengths = batch[each.column.name]
                each.add(values, lengths, pattern)
                if (history := each.column.history) is not None:
                    found = np.minimum(lengths, each.length) // each.column.width
                    events[history] = np.maximum(events.get(history, 0), found)
            for history, count in events.items():
                counts[history].append(count)
            rows += len(lengths)
        ends.append(rows)
    # One column after the other gives up its pieces, so that no more than one is in memory twice.
    joined = {each.column.name: each.joined() for each in collected}
    for feature in spec.from_files:
        said = _from_file(spec, feature, coders[feature.of].numbers)
        joined[feature.name] = said[joined[feature.of]]
        for listing in spec.histories:
            for name, found_there in spec.added_to(listing):
                # A vector for every event would fill the memory.
                if found_there == feature and said.ndim == 1:
                    joined[name] = said[joined[listing.column(feature.of)]]
    return ExampleArrays(joined, {name: np.concatenate(parts) for name, parts in counts.items()}, tuple(ends))


def _from_file(spec: FeatureSpec, feature: AnyFromFile, codes: Mapping[Any, int]) -> NDArray[Any]:
    """What a side file says about each code of the feature whose value is looked up, `(codes[, dim])`.

    Args:
        spec, feature: the declaration.
        codes: raw value, text in bytes -> its code; 0 is a missing value.
    """
    table = read_side_file(spec, feature)
    place = {key.encode() if isinstance(key, str) else key: row for row, key in enumerate(table.keys.tolist())}
    rows = np.full(len(codes), -1)
    for value, code in codes.items():
        rows[code] = place.get(value, -1) if code else -1
    known = rows >= 0
    known[known] = ~table.missing[rows[known]]
    match feature:
        case Lookup():
            # In the order of the file, from 1 on.
            found = np.zeros(len(rows), np.int32)
            found[known] = 1 + pd.factorize(table.values)[0][rows[known]]
        case NumericLookup() | VectorTable():
            found = np.full((len(rows), *table.values.shape[1:]), np.nan, np.float32)
            found[known] = table.values[rows[known]]
        case _:
            assert_never(feature)
    return found


def read_columns(spec: FeatureSpec, pattern: str, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Some columns as they are, in the order of sorted files and their rows.

    Args:
        spec: the columns.
        pattern: as in `read_examples`, of one split.
        names: columns with one value in every row.

    Returns:
        name -> `(rows,)` of int64, float32 or text.

    Raises:
        ValueError: if no file matches, or a row lacks one of the columns or has several values of it.
    """
    wanted = [column for column in columns(spec) if column.name in names]
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for batch in _batches(pattern, wanted):
        for name, part in parts.items():
            values, lengths = batch[name]
            _check_one(name, lengths, pattern)
            part.append(np.array([text.decode() for text in values], object) if values.dtype == object else values)
    return {name: np.concatenate(part) for name, part in parts.items()}


def read_lists(spec: FeatureSpec, pattern: str, names: Sequence[str]) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Some columns with any number of values in a row, in the order of `read_columns`.

    Args:
        spec, pattern, names: as in `read_columns`.

    Returns:
        name -> its values, one row after the other, int64, float32 or text; and how many each row has, `(rows,)`.

    Raises:
        ValueError: if no file matches.
    """
    wanted = [column for column in columns(spec) if column.name in names]
    parts: dict[str, list[tuple[NDArray[Any], NDArray[Any]]]] = {name: [] for name in names}
    for batch in _batches(pattern, wanted):
        for name, part in parts.items():
            values, lengths = batch[name]
            text = values.dtype == object
            part.append((np.array([each.decode() for each in values], object) if text else values, lengths))
    return {name: tuple(map(np.concatenate, zip(*part, strict=True))) for name, part in parts.items()}  # type: ignore


def _batches(pattern: str, wanted: Sequence[Column]) -> Iterator[dict[str, tuple[NDArray[Any], NDArray[np.int64]]]]:
    """Column -> its values, one row after the other, and how many each row has."""
    import tensorflow as tf
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    from mixrank.schemas.arrow import pc
    from mixrank.serving.base import untuned

    files = sorted(tf.io.gfile.glob(pattern))
    if not files:
        raise ValueError(f"{pattern} matches no file")
    kinds = {"int": schema_pb2.INT, "float": schema_pb2.FLOAT, "str": schema_pb2.BYTES}
    schema = schema_pb2.Schema()
    for column in wanted:
        schema.feature.add(name=column.name, type=kinds[column.kind])
    decoder = ExamplesToRecordBatchDecoder(schema.SerializeToString())
    records = untuned(tf.data.TFRecordDataset(files, compression_type="GZIP")).batch(BATCH).prefetch(1)
    for serialized in records.as_numpy_iterator():
        try:
            batch = decoder.DecodeBatch(serialized.tolist())
        except RuntimeError as error:
            raise ValueError(f"{pattern} holds other columns than the spec says: {error}") from None
        yield {
            name: (
                lists.flatten().to_numpy(zero_copy_only=False),
                pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64),
            )
            for name, lists in zip(batch.schema.names, batch.columns, strict=True)
        }


def _check_one(name: str, lengths: NDArray[np.int64], pattern: str) -> None:
    if (lengths != 1).any():
        found = int(lengths[lengths != 1][0])
        raise ValueError(f"every row of {pattern} must have one `{name}`, one has {found}")


class _Collected:
    """One column, batch by batch."""

    def __init__(self, spec: FeatureSpec, column: Column, coders: dict[str, _Coder]) -> None:
        fields = {name: field for history in spec.histories for name, field in spec.history_fields(history)}
        field = fields.get(column.name)
        self.column, self.length = column, column.length or 1
        self.has_one = column.name in (spec.time.name, *spec.tasks, *spec.row_weights, *spec.mature)
        self.is_gap = False
        self.coder: _Coder | None = None
        self.fill: float = 0
        dtype: Any = np.int32
        match field:
            case None if self.has_one:
                dtype = np.int64 if column.kind == "int" else np.float32
            case None if column.kind == "float":
                self.fill, dtype = np.nan, np.float32
            case None:
                self.coder = coders.setdefault(column.name, _Coder(column.kind))
            case Action():
                self.fill, dtype = -1, np.int16
            case TimeGap():
                self.is_gap, self.fill, dtype = True, np.nan, np.float32
            case Numeric() | Vector():
                self.fill, dtype = np.nan, np.float32
            case Categorical() | MultiCategorical():
                self.coder = coders.setdefault(field.name, _Coder(column.kind))
            case _:
                assert_never(field)
        self.dtype = np.dtype(dtype)
        self.shape: tuple[int, ...] = () if column.length is None else (self.length,)
        if field is not None and field.max_values is not None:
            self.shape = (self.length // column.width, column.width)
        self.parts: list[NDArray[Any]] = []

    def add(self, values: NDArray[Any], lengths: NDArray[np.int64], pattern: str) -> None:
        if self.has_one:
            _check_one(self.column.name, lengths, pattern)
        if self.coder is not None:
            values = self.coder.codes(values)
        elif self.is_gap:
            values = np.where(values == UNKNOWN_GAP, np.nan, values)
        row = np.repeat(np.arange(len(lengths)), lengths)
        place = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        kept = place < self.length
        part = np.full((len(lengths), self.length), self.fill, self.dtype)
        part[row[kept], place[kept]] = values[kept]
        self.parts.append(part.reshape(len(part), *self.shape))

    def joined(self) -> NDArray[Any]:
        whole = np.concatenate(self.parts) if self.parts else np.zeros((0, *self.shape), self.dtype)
        self.parts = []
        return whole


class _Coder:
    """Numbers the values of a feature in the order in which they come; 0 is a missing value."""

    def __init__(self, kind: str) -> None:
        missing = PADDING[kind]
        self.numbers: dict[Any, int] = {missing.encode() if kind == "str" else missing: 0}

    def codes(self, values: NDArray[Any]) -> NDArray[np.int32]:
        places, distinct = pd.factorize(values)
        numbers = [self.numbers.setdefault(value, len(self.numbers)) for value in distinct.tolist()]
        return np.array(numbers, np.int32)[places]
