"""CSV in the request layout: one column per header cell, lists as JSON, an empty cell where a value is missing."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from mixrank.schemas.arrow import pa
from mixrank.schemas.encode import Column
from mixrank.schemas.safe_text import shown

# A list column is a single cell.
csv.field_size_limit(2**30)
Bad = dict[int, tuple[str, str]]


@contextmanager
def open_text(path: str | Path) -> Iterator[TextIO]:
    """A text file, unzipped if its name ends in .gz; bytes that are not UTF-8 become lone surrogates."""
    raw = gzip.open(path, "rb") if str(path).endswith(".gz") else open(path, "rb")  # noqa: SIM115
    with io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        yield lines


def read_cells(path: str, rows: int) -> Iterator[tuple[list[str], list[tuple[int, list[str]]]]]:
    """(header, numbered rows) of a CSV file, in chunks of rows; row 1 follows the header.

    Raises:
        ValueError: naming the file, if it cannot be read.
    """
    try:
        with open_text(path) as lines:
            reader = csv.reader(lines)
            header = next(reader, [])
            block: list[tuple[int, list[str]]] = []
            for number, cells in enumerate(filter(None, reader), start=1):
                block.append((number, cells))
                if len(block) == rows:
                    yield header, block
                    block = []
            if block:
                yield header, block
    except (csv.Error, gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} cannot be read as csv: {error}") from None


def to_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], wanted: Mapping[str, Column | None]
) -> tuple[pa.Table, Bad]:
    """Cells -> Arrow columns of the types of the spec.

    Args:
        header: column of each cell.
        rows: cells, as many as the header has.
        wanted: column -> what it must hold, None for text that is copied.

    Returns:
        The table, with null where a cell is missing or bad; position -> (column, reason) of the bad ones.
    """
    arrays: dict[str, pa.Array] = {}
    bad: Bad = {}
    for place, name in enumerate(header):
        if name not in wanted:
            continue
        column = wanted[name]
        parse = _parser(column)
        known: dict[str, Any] = {}
        values: list[Any] = []
        for position, cells in enumerate(rows):
            cell = cells[place]
            if cell not in known:
                try:
                    known[cell] = parse(cell) if cell else None
                except ValueError as error:
                    known[cell] = error
            value = known[cell]
            if isinstance(value, ValueError):
                bad.setdefault(position, (name, f"{value}, received {shown(cell)}"))
                value = None
            values.append(value)
        kind = pa.string() if column is None else _TYPES[column.kind]
        arrays[name] = pa.array(values, pa.list_(kind) if column is not None and column.length is not None else kind)
    return pa.table(arrays), bad


_TYPES = {"int": pa.int64(), "float": pa.float64(), "str": pa.string()}


def _parser(column: Column | None) -> Callable[[str], Any]:
    if column is None:
        return _text
    return {"int": _integer, "float": _number, "str": _text}[column.kind] if column.length is None else _list(column)


def _text(cell: str) -> str:
    try:
        cell.encode()
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8 text") from None
    return cell


def _integer(cell: str) -> int:
    # Many writers store an integer as 3.0 when its column has missing values.
    whole = re.fullmatch(r"([+-]?[0-9]+)(\.0*)?", cell, re.ASCII)
    if whole is None or not -(2**63) <= int(whole[1]) < 2**63:
        raise ValueError("takes a 64-bit integer")
    return int(whole[1])


def _number(cell: str) -> float:
    try:
        # Python would read 1_000 as a number; in a file it is not one.
        number = math.inf if "_" in cell else float(cell)
    except ValueError:
        number = math.inf
    if math.isinf(number):
        raise ValueError("takes a finite number")
    return number


def _list(column: Column) -> Callable[[str], list[Any]]:
    wanted: tuple[type, ...] = {"int": (int,), "float": (int, float), "str": (str,)}[column.kind]

    def parse(cell: str) -> list[Any]:
        try:
            values = json.loads(_text(cell))
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, list):
            raise ValueError("takes a JSON list")
        for value in values:
            fits = isinstance(value, wanted) and not isinstance(value, bool)
            if not fits or (isinstance(value, int) and not -(2**63) <= value < 2**63):
                raise ValueError(f"takes a JSON list of {column.kind} values")
        return values

    return parse
