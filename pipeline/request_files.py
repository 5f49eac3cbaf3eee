"""Files of rows or requests to score, one JSON object a line, and examples of them for a model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixrank.schemas import FeatureSpec
from mixrank.schemas.encode import columns
from mixrank.schemas.raw import codec_of, open_raw, parse_json, read_json_lines
from mixrank.schemas.synthetic import toy_rows
from mixrank.serving.base import find_version, load_spec
from mixrank.serving.export import GOLDEN_FILE, read_golden

# Events of a history in a row that is drawn.
EVENTS = 3


@dataclass(frozen=True)
class Line:
    """A row, or a request with its candidates.

    Args:
        where: file and line, for errors.
        value: its content.
    """

    where: str
    value: dict[str, Any]


def read_lines(source: str, rank: bool) -> Iterator[Line]:
    """The objects of a file, read as they are needed.

    Args:
        source: a file of JSON lines, or one whose name ends in .json, with a list of objects or one object; both may be
            compressed; or -, which is JSON lines from standard input.
        rank: whether each object is a request with its candidates.

    Raises:
        ValueError: if the file is missing or empty, or a line is not such an object, naming the line.
    """
    empty = True
    for where, value in _values(source):
        if not isinstance(value, dict):
            raise ValueError(f"{where}: expected an object, column -> value, received {str(value)[:100]}")
        if rank:
            _check_request(where, value)
        empty = False
        yield Line(where, value)
    if empty:
        raise ValueError(f"{'standard input' if source == '-' else source} holds no rows")


def _values(source: str) -> Iterator[tuple[str, Any]]:
    if source == "-":
        for number, value in read_json_lines(sys.stdin.buffer, "standard input"):
            yield f"standard input, line {number}", value
        return
    file = Path(source)
    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    with open_raw(source, codec_of(source)) as stream:
        if not source.removesuffix(f".{codec_of(source)}").endswith(".json"):
            for number, value in read_json_lines(stream, source):
                yield f"{source}, line {number}", value
            return
        try:
            values = parse_json(stream.read())
        except ValueError as error:
            raise ValueError(f"{file} {error}") from None
    for number, value in enumerate(values if isinstance(values, list) else [values], 1):
        yield f"{source}, row {number}", value


def _check_request(where: str, value: dict[str, Any]) -> None:
    candidates = value.get("candidates")
    fits = isinstance(value.get("request"), dict) and isinstance(candidates, list) and len(value) == 2
    if not fits or not all(isinstance(candidate, dict) for candidate in candidates or []):
        raise ValueError(
            f'{where}: expected {{"request": {{...}}, "candidates": [{{...}}, ...]}}, received {str(value)[:100]}'
        )


def example_lines(folder: Path, rank: bool, count: int) -> list[dict[str, Any]]:
    """Rows that a model can score, or one request with candidates: its golden rows, then drawn ones.

    Args:
        folder: a version, or a folder of versions.
        rank: whether a request is wanted.
        count: rows or candidates, >= 1.

    Raises:
        ValueError: if there is no feature spec, or `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"--count must be at least 1, received {count}")
    version = find_version(folder)
    spec = load_spec(version)
    file = version / GOLDEN_FILE
    rows = [each.row for each in read_golden(file)][:count] if file.is_file() else []
    rows += _drawn(spec, count - len(rows))
    if not rank:
        return rows
    items = {column.name for column in columns(spec) if column.candidate}
    request = {name: value for name, value in rows[0].items() if name not in items}
    return [{"request": request, "candidates": [{k: row[k] for k in row if k in items} for row in rows]}]


def _drawn(spec: FeatureSpec, count: int) -> list[dict[str, Any]]:
    rows = []
    for row in toy_rows(spec, count):
        short = {}
        for column in columns(spec):
            value = row[column.name]
            if column.history is not None:
                value = value[: EVENTS * column.width]
            if column.serving and value not in (None, []):
                short[column.name] = value
        rows.append(short)
    return rows
