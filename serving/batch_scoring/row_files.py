"""Arrow columns of the request layout -> inputs of `score_rows`, whole columns at a time.

A row is accepted if and only if `to_instance` accepts it, with one exception: single values may be written as a raw
log may write them, such as a whole number as a float, because many writers turn an integer column with missing values
into floats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mixrank.schemas.arrow import pa, pc
from mixrank.schemas.encode import PADDING, Column
from mixrank.schemas.raw import as_request_column
from mixrank.serving.batch_scoring.scoring_plan import arrow_type

# Position -> (column, reason).
Bad = dict[int, tuple[str, str]]
MAX_FLOAT32 = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Texts:
    """Text as positions in its distinct values, so that each becomes a Python object once.

    Args:
        codes: int array (rows,) or (rows, length).
        values: distinct values as UTF-8; the first is the padding.
    """

    codes: np.ndarray
    values: list[bytes]

    def __getitem__(self, rows: np.ndarray) -> Texts:
        return Texts(self.codes[rows], self.values)


Inputs = dict[str, np.ndarray | Texts]


@dataclass
class Rows:
    """A batch of rows as columns.

    Args:
        inputs: inputs of `score_rows`, one entry per row, bad rows included.
        kept: columns copied to the output, null where missing.
        bad: position -> (column, reason).
    """

    inputs: Inputs = field(default_factory=dict)
    kept: dict[str, pa.Array] = field(default_factory=dict)
    bad: Bad = field(default_factory=dict)


def read_rows(known: Sequence[Column], keep: Mapping[str, pa.DataType], table: pa.Table) -> Rows:
    """Checks a table and pads its columns to their fixed lengths.

    Args:
        known: columns of a row, from `columns`.
        keep: column of the output -> type.
        table: some of those columns; the others are missing in every row.

    Raises:
        ValueError: naming the column whose type is not the spec's.
    """
    rows = Rows()
    events: dict[str, tuple[str, np.ndarray]] = {}
    names = {column.name for column in known}
    for column in known:
        if column.name in table.column_names:
            array = _one_array(table[column.name])
        else:
            array = pa.nulls(table.num_rows, arrow_type(column))
        if not column.serving and column.name not in keep:
            continue
        try:
            array, wrong = as_request_column(array, column)
        except ValueError as error:
            raise ValueError(f"column `{column.name}`: {error}") from None
        for position, reason in wrong.items():
            rows.bad.setdefault(position, (column.name, reason))
        if column.length is None:
            values, missing = _scalars(column, array, rows.bad)
            lengths = (~missing).astype(np.int64)
        else:
            values, lengths = _lists(column, array, rows.bad)
        if column.required:
            _mark(rows.bad, column, lengths == 0, "is required but missing")
        if column.history is not None:
            own = lengths // column.width
            first, count = events.setdefault(column.history, (column.name, own))
            for position in np.flatnonzero(own != count):
                reason = f"has {own[position]} events, but `{first}` of the same history has {count[position]}"
                rows.bad.setdefault(int(position), (column.name, reason))
        if column.serving:
            rows.inputs[column.name] = values
        if column.name in keep:
            rows.kept[column.name] = _keep(column, array, values, lengths)
    for name, kind in keep.items():
        if name not in names:
            rows.kept[name] = _copied(name, _one_array(table[name]), kind, rows.bad)
    return rows


def _copied(name: str, array: pa.Array, kind: pa.DataType, bad: Bad) -> pa.Array:
    """A column outside the spec, unchanged but for its type."""
    if not pa.types.is_binary(array.type) or not pa.types.is_string(kind):
        return array.cast(kind)
    values: list[str | None] = []
    for position, value in enumerate(array.to_pylist()):
        try:
            values.append(value if value is None else value.decode())
        except UnicodeDecodeError:
            values.append(None)
            bad.setdefault(position, (name, "is not UTF-8 text"))
    return pa.array(values, kind)


def _one_array(chunks: pa.ChunkedArray) -> pa.Array:
    array = pa.concat_arrays(chunks.chunks) if chunks.num_chunks else pa.array([], chunks.type)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _mark(bad: Bad, column: Column, rows: np.ndarray, reason: str) -> None:
    for position in np.flatnonzero(rows):
        bad.setdefault(int(position), (column.name, reason))


def _is_null(array: pa.Array) -> np.ndarray:
    return array.is_null().to_numpy(zero_copy_only=False)


def _scalars(column: Column, array: pa.Array, bad: Bad) -> tuple[np.ndarray | Texts, np.ndarray]:
    """Dense values with padding where missing, and a mask of the missing ones."""
    if _is_list(array.type):
        # A tf.Example has only lists, and some other writers do the same.
        starts, lengths, flat = _spans(array)
        _mark(bad, column, lengths > 1, "takes one value, received several")
        array = flat.take(pa.array(np.where(lengths > 0, starts, 0), pa.int64(), mask=lengths == 0))
    values, wrong = _plain(column, array)
    _mark(bad, column, wrong, f"takes {_EXPECTED[column.kind]}")
    if isinstance(values, Texts):
        return values, values.codes == 0
    missing = np.isnan(values) if column.kind == "float" else _is_null(array)
    if column.kind == "int" and pa.types.is_floating(array.type):
        missing = missing | (values == PADDING["int"])
    return values, missing


def _lists(column: Column, array: pa.Array, bad: Bad) -> tuple[np.ndarray | Texts, np.ndarray]:
    """Dense values `(rows, length)`, padding after the last; and how many there are, at most `length`."""
    assert column.length is not None
    if pa.types.is_null(array.type):
        array = array.cast(arrow_type(column))
    if not _is_list(array.type):
        raise ValueError(f"column `{column.name}` takes a list, the file holds {array.type}")
    _, raw, flat = _spans(array)
    lengths = np.minimum(raw, column.length)
    values, wrong = _plain(column, flat)
    if not pa.types.is_floating(flat.type):
        wrong |= _is_null(flat)
    elif column.kind == "int":
        wrong |= np.isnan(flat.to_numpy(zero_copy_only=False))
    else:
        wrong |= np.isnan(values)  # type: ignore[arg-type]
    owners = np.repeat(np.arange(len(array)), raw)
    positions = np.arange(len(flat)) - np.repeat(np.cumsum(raw) - raw, raw)
    inside = positions < column.length
    judged = wrong & inside
    if judged.any():
        marked = np.zeros(len(array), dtype=bool)
        marked[owners[judged]] = True
        _mark(bad, column, marked, f"takes {_EXPECTED[column.kind]} in every place of the list")
    # A long history keeps its newest events, which come first.
    if column.history is None and (raw > column.length).any():
        _mark(bad, column, raw > column.length, f"takes at most {column.length} values")
    if column.width > 1:
        _mark(bad, column, lengths % column.width != 0, f"takes {column.width} values per event")
    places = np.arange(column.length) < lengths[:, None]
    if isinstance(values, Texts):
        codes = np.zeros(places.shape, np.int32)
        codes[places] = values.codes[inside]
        return Texts(codes, values.values), lengths
    dense = np.full(places.shape, PADDING[column.kind], values.dtype)
    dense[places] = values[inside]
    return dense, lengths


_EXPECTED = {"int": "a 64-bit integer", "float": "a finite 32-bit number", "str": "text"}


def _plain(column: Column, array: pa.Array) -> tuple[np.ndarray | Texts, np.ndarray]:
    """Values of an array, padding where null; and where a value does not fit.

    Raises:
        ValueError: if no value of the array's type fits.
    """
    kind = array.type
    if pa.types.is_null(kind):
        array = array.cast({"int": pa.int64(), "float": pa.float32(), "str": pa.string()}[column.kind])
        kind = array.type
    if column.kind == "str":
        if kind not in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
            raise _wrong_type(column, kind)
        return _texts(array)
    if pa.types.is_integer(kind):
        if column.kind == "int":
            wrong = np.zeros(len(array), dtype=bool)
            if pa.types.is_uint64(kind):
                wrong = pc.greater(array, pa.scalar(2**63 - 1, pa.uint64())).fill_null(False).to_numpy(False)
                array = array.cast(pa.int64(), safe=False)
            return array.cast(pa.int64()).fill_null(PADDING["int"]).to_numpy(zero_copy_only=False), wrong
        array = array.cast(pa.float64(), safe=False)
    elif not pa.types.is_floating(kind):
        raise _wrong_type(column, kind)
    numbers = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
    if column.kind == "float":
        wrong = np.abs(np.nan_to_num(numbers, nan=0.0, posinf=np.inf, neginf=-np.inf)) > MAX_FLOAT32
        return np.where(wrong, np.nan, numbers).astype(np.float32), wrong
    known = ~np.isnan(numbers)
    whole = known & (np.abs(np.where(known, numbers, 0)) <= 2**53)
    whole &= np.floor(np.where(whole, numbers, 0)) == np.where(whole, numbers, 0)
    return np.where(whole, np.where(whole, numbers, 0).astype(np.int64), PADDING["int"]), known & ~whole


def _wrong_type(column: Column, kind: pa.DataType) -> ValueError:
    return ValueError(f"column `{column.name}` takes {_EXPECTED[column.kind]}, the file holds {kind}")


def _texts(array: pa.Array) -> tuple[Texts, np.ndarray]:
    encoded = array.dictionary_encode()
    values: list[bytes] = [b""]
    codes, broken = [], []
    for code, value in enumerate(encoded.dictionary.cast(pa.binary()).to_pylist()):
        try:
            value.decode()
        except UnicodeDecodeError:
            broken.append(code)
            value = b""
        codes.append(len(values) if value else 0)
        values += [value] if value else []
    places = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    # A null maps to the last place, which holds the padding.
    return Texts(np.array([*codes, 0], np.int32)[places], values), np.isin(places, broken)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _spans(array: pa.Array) -> tuple[np.ndarray, np.ndarray, pa.Array]:
    """Start and length of every list in its flat values, and those."""
    if pa.types.is_fixed_size_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.cumsum(lengths) - lengths, lengths, array.flatten()


def _keep(column: Column, array: pa.Array, values: np.ndarray | Texts, lengths: np.ndarray) -> pa.Array:
    """A column copied unchanged to the output, with the same type for all files."""
    if column.length is not None:
        return array if array.type == arrow_type(column) else array.cast(arrow_type(column), safe=False)
    if isinstance(values, Texts):
        return pa.array([None, *(v.decode() for v in values.values[1:])], pa.string()).take(pa.array(values.codes))
    return pa.array(values, arrow_type(column), mask=lengths == 0)
