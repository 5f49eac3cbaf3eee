"""Arrow columns of the request layout -> inputs of `score_rows`, whole columns at a time.

Values are read by the rule of a raw log (`mixrank.schemas.raw.convert`), so that a file is scored as it would be
trained on: numbers may be text, whole numbers floats, and `null` is a missing value. Beyond that, a row is accepted if
and only if `to_instance` accepts it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mixrank.schemas.arrow import pa, pc
from mixrank.schemas.encode import PADDING, Column
from mixrank.schemas.raw import RawColumn, as_request_column, convert, plain_layout
from mixrank.serving.batch_scoring.scoring_plan import arrow_type

# Position -> (column, reason).
Bad = dict[int, tuple[str, str]]


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
    counts: dict[str, np.ndarray] = {}
    names = {column.name for column in known}
    for column in known:
        if column.name in table.column_names:
            array = _one_array(table[column.name])
        else:
            array = pa.nulls(table.num_rows, arrow_type(column))
        if not column.serving and column.name not in keep:
            continue
        if column.length is None:
            values, missing = _scalars(column, array, rows.bad)
            lengths = (~missing).astype(np.int64)
        else:
            values, lengths = _lists(column, array, rows.bad)
        counts[column.name] = lengths
        if column.weighs is not None and column.history is None:
            uneven = (lengths > 0) & (lengths != counts[column.weighs])
            _mark(rows.bad, column, uneven, f"has not as many weights as `{column.weighs}` has values")
        if column.required:
            _mark(rows.bad, column, lengths == 0, "is required but missing")
        if column.history is not None:
            own = lengths // column.width
            first, count = events.setdefault(column.history, (column.name, own))
            # Weights are there for all events or none.
            for position in np.flatnonzero((own != count) & ((own > 0) | (column.weighs is None))):
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
    return plain_layout(pa.concat_arrays(chunks.chunks) if chunks.num_chunks else pa.array([], chunks.type))


def _mark(bad: Bad, column: Column, rows: np.ndarray, reason: str) -> None:
    for position in np.flatnonzero(rows):
        bad.setdefault(int(position), (column.name, reason))


def _scalars(column: Column, array: pa.Array, bad: Bad) -> tuple[np.ndarray | Texts, np.ndarray]:
    """Dense values with padding where missing, and a mask of the missing ones."""
    # A log may have its time as a timestamp; only a column that is copied can be one.
    is_time = pa.types.is_timestamp(array.type) and not column.serving
    typed = _converted(column, array, RawColumn(column.name, "time" if is_time else column.kind), bad)
    return _dense(column, typed), _is_null(typed)


def _lists(column: Column, array: pa.Array, bad: Bad) -> tuple[np.ndarray | Texts, np.ndarray]:
    """Dense values `(rows, length)`, padding after the last; and how many there are, at most `length`."""
    assert column.length is not None
    # Lists in text are JSON.
    array, wrong = as_request_column(array, column)
    for position, reason in wrong.items():
        bad.setdefault(position, (column.name, reason))
    if column.history is None:
        exactly = column.length if column.exact else None
        wanted = RawColumn(column.name, column.kind, many=True, exactly=exactly, weighs=column.weighs)
        array = _converted(column, array, wanted, bad)
    elif pa.types.is_null(array.type):
        array = array.cast(arrow_type(column))
    if not _is_list(array.type):
        raise ValueError(f"column `{column.name}` takes a list, the file holds {array.type}")
    _, raw, flat = _spans(array)
    lengths = np.minimum(raw, column.length)
    owners = np.repeat(np.arange(len(array)), raw)
    positions = np.arange(len(flat)) - np.repeat(np.cumsum(raw) - raw, raw)
    inside = positions < column.length
    if column.history is None:
        _mark(bad, column, raw > column.length, f"takes at most {column.length} values")
    else:
        # A long history keeps its newest events, which come first.
        flat = _events(column, flat, owners, inside, bad)
    if column.width > 1:
        _mark(bad, column, lengths % column.width != 0, f"takes {column.width} values per event")
    values = _dense(column, flat)
    places = np.arange(column.length) < lengths[:, None]
    if isinstance(values, Texts):
        codes = np.zeros(places.shape, np.int32)
        codes[places] = values.codes[inside]
        return Texts(codes, values.values), lengths
    dense = np.full(places.shape, PADDING[column.kind], values.dtype)
    dense[places] = values[inside]
    return dense, lengths


def _events(column: Column, flat: pa.Array, owners: np.ndarray, inside: np.ndarray, bad: Bad) -> pa.Array:
    """Attributes of events, null where one is missing; padding stands for it, so that the others keep their place."""
    absent = _is_null(flat)
    if column.kind == "float":
        # A missing number of an event is the padding of its kind.
        absent[:] = False
    elif pa.types.is_floating(flat.type):
        absent |= np.isnan(flat.to_numpy(zero_copy_only=False))
    if pa.types.is_int64(flat.type):
        flat = pc.if_else(pc.equal(flat, pa.scalar(PADDING["int"], pa.int64())), pa.scalar(None, flat.type), flat)
    wrong: Bad = {}
    wanted = RawColumn(column.name, column.kind, weight=column.weighs is not None)
    typed = _converted(column, flat, wanted, wrong)
    reasons = {**dict.fromkeys(np.flatnonzero(absent).tolist(), (column.name, "is missing in an event")), **wrong}
    for place in sorted(reasons):
        if inside[place]:
            bad.setdefault(int(owners[place]), reasons[place])
    return typed


def _converted(column: Column, array: pa.Array, wanted: RawColumn, bad: Bad) -> pa.Array:
    """Values by the rule that ExampleGen reads a log with.

    Raises:
        ValueError: naming the column, if no value of the array's type fits.
    """
    try:
        typed, reasons = convert(array, wanted)
    except ValueError as error:
        raise ValueError(f"column `{column.name}`: {error}") from None
    for position, reason in reasons.items():
        bad.setdefault(position, (column.name, reason))
    return typed


def _dense(column: Column, typed: pa.Array) -> np.ndarray | Texts:
    """Values with padding where null."""
    if column.kind == "str":
        encoded = typed.dictionary_encode()
        values = encoded.dictionary.cast(pa.binary()).to_pylist()
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False) + 1
        return Texts(codes.astype(np.int32), [b"", *values])
    if column.kind == "int":
        return typed.fill_null(PADDING["int"]).to_numpy(zero_copy_only=False)
    # A null is NaN here.
    return typed.to_numpy(zero_copy_only=False).astype(np.float32)


def _is_null(array: pa.Array) -> np.ndarray:
    return array.is_null().to_numpy(zero_copy_only=False)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _spans(array: pa.Array) -> tuple[np.ndarray, np.ndarray, pa.Array]:
    """Start and length of every list in its flat values, and those."""
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.cumsum(lengths) - lengths, lengths, array.flatten()


def _keep(column: Column, array: pa.Array, values: np.ndarray | Texts, lengths: np.ndarray) -> pa.Array:
    """A column copied unchanged to the output, with the same type for all files."""
    if column.length is not None:
        return array if array.type == arrow_type(column) else array.cast(arrow_type(column), safe=False)
    if isinstance(values, Texts):
        return pa.array([None, *(v.decode() for v in values.values[1:])], pa.string()).take(pa.array(values.codes))
    return pa.array(values, arrow_type(column), mask=lengths == 0)
