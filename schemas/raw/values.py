"""Raw values -> the type that the spec declares, or the reason why a value does not fit.

One rule for all file formats: a number, a flag or a missing value is written the same way whether the log
is Parquet, text or TFRecord.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from mixrank.schemas.arrow import pa, pc
from mixrank.schemas.task_kinds import BINARY

Kind = Literal["int", "str", "float", "flag", "time"]
# Missing values as text files and careless exports write them.
MISSING = frozenset({"", "nan", "NaN", "null", "NULL", "\\N"})
# A later time means a wrong unit; the limit also keeps calendars within 64-bit nanoseconds.
LATEST_MS = 7_258_118_400_000
_ARROW = {"int": pa.int64(), "str": pa.string(), "float": pa.float64(), "flag": pa.int64(), "time": pa.int64()}


@dataclass(frozen=True)
class RawColumn:
    """Expected type of a column of a raw table.

    Args:
        name: name after renaming.
        kind: "int", "str", "float", "flag" (of a binary label or an `Action`) or "time".
        required: bool. Whether a missing value makes the row bad.
        many: bool. Whether a row holds a list.
        separator: str or None. Splits text into a list.
        unit: "s" or "ms". Unit of a time.
    """

    name: str
    kind: Kind
    required: bool = False
    many: bool = False
    separator: str | None = None
    unit: str = "ms"

    @property
    def arrow_type(self) -> pa.DataType:
        return pa.list_(_ARROW[self.kind]) if self.many else _ARROW[self.kind]


def convert(array: pa.Array, column: RawColumn) -> tuple[pa.Array, dict[int, str]]:
    """Converts a raw Arrow array to `column.arrow_type`.

    Args:
        array: as read from the file.
        column: what it must hold.

    Returns:
        The converted array, null where missing or bad; and position -> reason for the bad ones.

    Raises:
        ValueError: if the type of the column cannot be converted at all.
    """
    array, bad = _unwrap(array, column)
    if column.many and column.separator is None:
        return _convert_lists(array, column)
    if pa.types.is_timestamp(array.type) and column.kind == "time":
        array = array.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
        column = replace(column, unit="ms")
    if pa.types.is_nested(array.type) or pa.types.is_temporal(array.type):
        raise ValueError(f"cannot read type {array.type} as {column.kind}")
    parse = _parser(column)
    if column.separator is not None:
        parse = _split(parse, column.separator)
    typed, more = _by_distinct(array, parse, column.arrow_type)
    if column.required:
        for position in np.flatnonzero(typed.is_null().to_numpy(zero_copy_only=False)):
            more.setdefault(int(position), "is missing")
    return typed, more | bad


def _by_distinct(array: pa.Array, parse: Callable[[Any], Any], to: pa.DataType) -> tuple[pa.Array, dict[int, str]]:
    """`parse` of every element, called once per distinct value."""
    encoded = array.dictionary_encode()
    values: list[Any] = []
    reasons: dict[int, str] = {}
    for code, value in enumerate(encoded.dictionary.to_pylist()):
        try:
            values.append(parse(value))
        except ValueError as error:
            values.append(None)
            reasons[code] = str(error)
    typed = pa.array(values, to).take(encoded.indices)
    if not reasons:
        return typed, {}
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return typed, {int(p): reasons[int(codes[p])] for p in np.flatnonzero(np.isin(codes, list(reasons)))}


def _unwrap(array: pa.Array, column: RawColumn) -> tuple[pa.Array, dict[int, str]]:
    """Plain values of a dictionary array, or of a list array (TFRecord) that holds single values."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if not _is_list(array.type) or (column.many and column.separator is None):
        return array, {}
    starts, lengths = _spans(array)
    rows = pa.array(np.where(lengths > 0, starts, 0), pa.int64(), mask=lengths == 0)
    return array.flatten().take(rows), {int(p): f"has {lengths[p]} values" for p in np.flatnonzero(lengths > 1)}


def _convert_lists(array: pa.Array, column: RawColumn) -> tuple[pa.Array, dict[int, str]]:
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), column.arrow_type), {}
    if not _is_list(array.type):
        raise ValueError(f"cannot read type {array.type} as a list; lists need Parquet or TFRecord, or a `separator`")
    _, lengths = _spans(array)
    flat, reasons = _by_distinct(array.flatten(), _parser(column), _ARROW[column.kind])
    owners = np.repeat(np.arange(len(array)), lengths)
    bad = {int(owners[position]): reason for position, reason in reasons.items()}
    present = ~flat.is_null().to_numpy(zero_copy_only=False)
    lengths = np.bincount(owners[present], minlength=len(array))
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, flat.filter(pa.array(present))), bad


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _spans(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Start in `array.flatten()` and length of every list."""
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.cumsum(lengths) - lengths, lengths


def _parser(column: RawColumn) -> Callable[[Any], Any]:
    if column.kind == "time":
        scale = 1000 if column.unit == "s" else 1
        return lambda value: parse_time(value, scale)
    return {"int": parse_int, "str": parse_text, "float": parse_float, "flag": parse_flag}[column.kind]


def _split(parse: Callable[[Any], Any], separator: str) -> Callable[[Any], list[Any]]:
    def parse_all(value: Any) -> list[Any]:
        text = parse_text(value) or ""
        parts = (parse(part.strip()) for part in text.split(separator))
        return [part for part in parts if part is not None]

    return parse_all


def _plain(value: Any) -> Any:
    """Bytes as text; every spelling of a missing value becomes None."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise ValueError("is not UTF-8 text") from None
    if isinstance(value, str):
        value = value.strip()
        return None if value in MISSING else value
    return None if isinstance(value, float) and math.isnan(value) else value


def parse_text(value: Any) -> str | None:
    value = _plain(value)
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    return None if value is None else str(value)


def parse_float(value: Any) -> float | None:
    value = _plain(value)
    if value is None:
        return None
    try:
        # Python would read 1_000 as a number; in a log it is not one.
        number = math.nan if isinstance(value, str) and "_" in value else float(value)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise ValueError("is not a number")
    if math.isinf(number):
        raise ValueError("is not finite")
    return number


def parse_int(value: Any) -> int | None:
    value = _plain(value)
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]+", value):
        value = int(value)
    if value is not None and not isinstance(value, int):
        # In Parquet and text files, an integer column with nulls often becomes float.
        number = parse_float(value)
        if number is None or number != int(number) or abs(number) > 2**53:
            raise ValueError("is not a whole number")
        value = int(number)
    if value is not None and not -(2**63) <= value < 2**63:
        raise ValueError("does not fit into 64 bits")
    return None if value is None else int(value)


def parse_flag(value: Any) -> int | None:
    value = _plain(value)
    if isinstance(value, str):
        value = {"true": 1, "false": 0}.get(value.lower(), value)
    value = parse_int(value)
    if value is not None and BINARY.wrong([value]):
        raise ValueError(f"must be {BINARY.expected}")
    return value


def parse_time(value: Any, scale: int) -> int | None:
    value = _plain(value)
    if isinstance(value, str) and re.fullmatch(r"[0-9]+", value):
        value = int(value)
    if isinstance(value, int):
        value *= scale
    elif value is not None:
        value = round((parse_float(value) or 0.0) * scale)
    if value is not None and not 0 <= value < LATEST_MS:
        raise ValueError("is not a time between 1970 and 2200 in the declared unit")
    return value
