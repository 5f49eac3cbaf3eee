"""Logged rows of any form as one table: all columns of the spec as lists, what the log knows of them, and scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixrank.schemas import FeatureSpec
from mixrank.schemas.arrow import pa, pc
from mixrank.schemas.encode import Column, columns
from mixrank.serving.drift import IMPRESSION, LOGGED_AT, LoggedRows

KINDS = {"int": pa.int64(), "float": pa.float32(), "str": pa.large_binary()}


class ServedRows:
    """The rows of some logs, one after the other.

    Args:
        sources: files or folders, as `LoggedRows` takes them.
        spec: the columns.

    Raises:
        ValueError: if there is no file.
    """

    def __init__(self, sources: Sequence[Path], spec: FeatureSpec) -> None:
        self.spec = spec
        self.logs = [LoggedRows(source, spec, about=True) for source in sources]
        self.columns = columns(spec)
        self.found: set[str] = set()
        own = {column.name for column in self.columns}
        fields = [pa.field(column.name, pa.large_list(KINDS[column.kind])) for column in self.columns]
        fields += [
            pa.field(name, kind)
            for name, kind in ((IMPRESSION, pa.large_string()), (LOGGED_AT, pa.int64()))
            if name not in own
        ]
        self.schema = pa.schema([*fields, *(pa.field(f"score_{task}", pa.float64()) for task in spec.tasks)])

    @property
    def size(self) -> int:
        """Bytes of the files, uncompressed, about."""
        return sum(file.uncompressed_size() for log in self.logs for file in log.files)

    @property
    def ignored(self) -> set[str]:
        """Columns that the spec does not know, of what was read."""
        return {name for log in self.logs for name in log.ignored}

    @property
    def absent(self) -> list[str]:
        """Columns that a request may carry and no row had, of what was read."""
        return [column.name for column in self.columns if column.serving and column.name not in self.found]

    def __iter__(self) -> Iterator[pa.Table]:
        """Batches of `schema`; a missing value is an empty list."""
        for log in self.logs:
            for batch in log:
                self.found.update(batch.schema.names)
                yield pa.Table.from_arrays([self._column(batch, field) for field in self.schema], schema=self.schema)

    def _column(self, batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
        listed = pa.types.is_large_list(field.type)
        if field.name not in batch.schema.names:
            return filled(pa.nulls(batch.num_rows, field.type)) if listed else pa.nulls(batch.num_rows, field.type)
        array = batch.column(batch.schema.get_field_index(field.name))
        return filled(array).cast(field.type) if listed else array.cast(field.type)


def filled(lists: pa.Array) -> pa.Array:
    """Lists of which the missing ones are empty."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return pa.LargeListArray.from_arrays(pa.array(np.append(0, np.cumsum(lengths)), pa.int64()), lists.flatten())


def stretched(lists: pa.LargeListArray, lengths: np.ndarray, padding: Any) -> pa.LargeListArray:
    """Lists padded at the end.

    Args:
        lists: none missing.
        lengths: int array (rows,), at least those of the lists.
        padding: what is added.
    """
    old = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    if (old == lengths).all():
        return lists
    row = np.repeat(np.arange(len(old)), lengths)
    place = np.arange(len(row)) - (np.cumsum(lengths) - lengths)[row]
    index = pa.array((np.cumsum(old) - old)[row] + place, mask=place >= old[row])
    values = lists.flatten().take(index)
    kind = values.type
    padding = padding.encode() if pa.types.is_large_binary(kind) else padding
    values = values.fill_null(pa.scalar(padding, kind))
    return pa.LargeListArray.from_arrays(pa.array(np.append(0, np.cumsum(lengths)), pa.int64()), values)


def first_of(rows: pa.Table, column: Column | str) -> pa.Array:
    """The single values of a column; missing where it is."""
    name = column if isinstance(column, str) else column.name
    array = rows[name].combine_chunks()
    if not pa.types.is_large_list(array.type):
        return array
    lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False).astype(np.int64)
    return array.flatten().take(pa.array(np.cumsum(lengths) - lengths, mask=lengths == 0))


def as_text(array: pa.Array) -> pa.Array:
    """Keys as text, so that those of a log and of a table of outcomes are the same.

    Raises:
        ValueError: if a text is not UTF-8.
    """
    try:
        array = array.cast(pa.large_string()) if pa.types.is_large_binary(array.type) else array
    except pa.ArrowInvalid as error:
        raise ValueError(f"keys must be UTF-8 text: {error}") from None
    return array.cast(pa.string())


def times_of(rows: pa.Table, spec: FeatureSpec) -> pa.Array:
    """When each row was served, in milliseconds: its own time, else that of the log; missing without either."""
    own = first_of(rows, spec.time.name)
    return pc.coalesce(own, rows[LOGGED_AT].combine_chunks()) if LOGGED_AT in rows.column_names else own


def single(values: pa.Array) -> pa.Array:
    """Single values as lists; a missing one is an empty list."""
    present = pc.is_valid(values).to_numpy(zero_copy_only=False).astype(np.int64)
    return pa.LargeListArray.from_arrays(pa.array(np.append(0, np.cumsum(present)), pa.int64()), values.drop_null())
