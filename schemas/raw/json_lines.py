"""JSON lines: one object a line, read as they are needed, without Arrow."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from mixrank.schemas.safe_text import shown

LONGEST_LINE_BYTES = 64 * 2**20


def parse_json(text: bytes) -> Any:
    """The value of a JSON text that comes from someone else.

    Raises:
        ValueError: with the reason, if it is not JSON, names a field of an object twice, is nested too deeply or holds
            text that cannot be written as UTF-8.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object)
        # JSON can spell half of a character, which no file or server takes.
        if b"\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair (`\\ud800` to `\\udfff`), which is no character") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at character {error.pos + 1}") from None
    except _Twice as error:
        raise ValueError(f"names `{error}` twice") from None
    except ValueError:
        # The one that is left: Python's own limit, which keeps a number from taking minutes.
        raise ValueError(f"holds a whole number of more than {sys.get_int_max_str_digits()} digits") from None
    return value


class _Twice(Exception):
    """A field that an object names twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return found


def read_json_lines(source: BinaryIO, name: str) -> Iterator[tuple[int, Any]]:
    """Number, from 1, and value of every line that is not blank.

    Args:
        source: the open file.
        name: of the file, for messages.

    Raises:
        ValueError: naming the file and the line, if a line is not JSON.
    """
    for number, line in numbered_lines(source, name):
        try:
            yield number, parse_json(line)
        except ValueError as error:
            raise ValueError(f"{name}, line {number} {error}") from None


def numbered_lines(source: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    """Number, from 1, and bytes of every line that is not blank.

    Raises:
        ValueError: naming the file and the line, if a line does not end.
    """
    number = 0
    while line := source.readline(LONGEST_LINE_BYTES):
        number += 1
        if len(line) == LONGEST_LINE_BYTES and not line.endswith(b"\n"):
            raise ValueError(f"{name}, line {number} does not end within {LONGEST_LINE_BYTES:,} bytes")
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line := line.strip():
            yield number, line


def as_row(value: Any) -> dict[str, Any]:
    """A value that must be an object, column -> value.

    Raises:
        ValueError: with what came instead.
    """
    if not isinstance(value, dict):
        raise ValueError(f"must be an object, column -> value, received {shown(value)}")
    return value
