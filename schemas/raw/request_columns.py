"""Columns of served or logged rows, as files of any format give them -> numbers, text and lists of them.

The layout is that of a request. What a format cannot hold as it is, is read as a raw log is read: numbers that are
written as text, decimals, missing values. Lists in text are JSON.
"""

from __future__ import annotations

from mixrank.schemas.arrow import pa
from mixrank.schemas.encode import Column
from mixrank.schemas.raw.json_columns import to_arrow
from mixrank.schemas.raw.json_lines import parse_json
from mixrank.schemas.raw.values import RawColumn, convert
from mixrank.schemas.safe_text import shown


def as_request_column(array: pa.Array, column: Column) -> tuple[pa.Array, dict[int, str]]:
    """The values of a column, and position -> reason of those that do not fit, which become null.

    Args:
        array: as read from a file.
        column: what it must hold.

    Raises:
        ValueError: if no value of its type can fit.
    """
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_null(array.type) or pa.types.is_nested(array.type):
        return array, {}
    if column.length is not None:
        return _lists(array, column) if _is_text(array.type) else (array, {})
    if pa.types.is_timestamp(array.type) and not column.serving:
        return array.cast(pa.timestamp("ms"), safe=False).cast(pa.int64()), {}
    if column.kind != "str" and (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
        return array, {}
    return _described(array, *convert(array, RawColumn(column.name, column.kind)))


def _lists(array: pa.Array, column: Column) -> tuple[pa.Array, dict[int, str]]:
    values: list[list[object] | None] = []
    bad: dict[int, str] = {}
    for place, cell in enumerate(array.cast(pa.binary()).to_pylist()):
        value = None
        try:
            value = _json_list(cell, column) if cell else None
        except ValueError as error:
            bad[place] = str(error)
        values.append(value)
    return _described(array, to_arrow(values), bad)


def _json_list(cell: bytes, column: Column) -> list[object]:
    wanted: tuple[type, ...] = {"int": (int,), "float": (int, float), "str": (str,)}[column.kind]
    try:
        values = parse_json(cell)
    except ValueError as error:
        raise ValueError(f"takes a JSON list, but {error}") from None
    if not isinstance(values, list):
        raise ValueError("takes a JSON list")
    for value in values:
        fits = isinstance(value, wanted) and not isinstance(value, bool)
        if not fits or (isinstance(value, int) and not -(2**63) <= value < 2**63):
            raise ValueError(f"takes a JSON list of {column.kind} values")
    return values


def _described(array: pa.Array, values: pa.Array, bad: dict[int, str]) -> tuple[pa.Array, dict[int, str]]:
    cells = array.cast(pa.binary())
    return values, {place: f"{reason}, received {_shown(cells[place].as_py())}" for place, reason in bad.items()}


def _shown(cell: bytes) -> str:
    return shown(cell.decode(errors="replace"))


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
