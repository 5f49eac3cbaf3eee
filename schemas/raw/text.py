"""Separated text, CSV or TSV: cut into blocks of whole rows, which Arrow parses."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from mixrank.schemas.arrow import pa, reading
from mixrank.schemas.raw.batch import Batch

BLOCK_BYTES = 8 * 2**20
# A row that does not end within this has an open quote.
LONGEST_ROW_BYTES = 512 * 2**20
HEADER_BYTES = 2**20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Characters of a row that a message shows.
SHOWN = 200


@dataclass(frozen=True)
class TextFormat:
    """The way a text file separates values.

    Args:
        separator: between two values, one character.
        quotes: whether `"` encloses a value; two of them inside it are one.
        backslash: whether a backslash takes the meaning from the character after it.
        columns: names of the columns of a file without a header.
    """

    separator: str
    quotes: bool
    backslash: bool = False
    columns: tuple[str, ...] | None = None


def header(source: BinaryIO, name: str, text: TextFormat) -> list[str]:
    """Names of the columns of a file; none if it is empty.

    Args:
        source: the open file, at its beginning.
        name: of the file, for messages.
        text: its format.

    Raises:
        ValueError: if its header is not UTF-8, or does not end.
    """
    head = source.read(HEADER_BYTES).removeprefix(BYTE_ORDER_MARK)
    if not head.strip():
        return []
    if text.columns is not None:
        return list(text.columns)
    # As Latin-1 every byte is a character, so that values below that are not UTF-8 do not matter here.
    reader = csv.reader(
        io.StringIO(head.decode("latin-1"), newline=""),
        delimiter=text.separator,
        quoting=csv.QUOTE_MINIMAL if text.quotes else csv.QUOTE_NONE,
        escapechar="\\" if text.backslash else None,
    )
    try:
        cells = next(cells for cells in reader if cells)
    except csv.Error as error:
        raise ValueError(f"{name}: its header cannot be read: {error}") from None
    if len(head) == HEADER_BYTES and not (b"\n" in head or b"\r" in head):
        raise ValueError(f"{name}: its header does not end within {HEADER_BYTES:,} bytes; is it a text file?")
    try:
        return [cell.encode("latin-1").decode() for cell in cells]
    except UnicodeDecodeError:
        raise ValueError(
            f"{name}: its header is not UTF-8 text; store it as UTF-8, such as by `iconv -f latin1 -t utf-8`, or set "
            "`format` if it is not a text file"
        ) from None


def read_text(source: BinaryIO, name: str, text: TextFormat, names: Sequence[str]) -> Iterator[Batch]:
    """Batches of some columns of a file, as bytes; an empty value is null.

    Args:
        source: the open file, at its beginning.
        name: of the file, for messages.
        text: its format.
        names: at least one of its columns.

    Raises:
        ValueError: naming the file and the row, if a row does not end.
    """
    columns: Sequence[str] | None = text.columns
    before = 0
    # Arrow's own reader of blocks is not used: it reads ahead in a thread, which waits for Python's lock for ever when
    # whoever reads stops early, and it fails at a row that is longer than a block.
    for rows in _whole_rows(source, text):
        if not rows.ends:
            advice = '; is a `"` left open in it? `quotes=False` reads a `"` as any other character' * text.quotes
            raise ValueError(f"{name}, row {before + 1} does not end within {len(rows.content):,} bytes{advice}")
        table, ragged, columns = _parse(rows.content, name, text, columns, names)
        numbers = np.arange(1, 1 + table.num_rows + len(ragged))
        numbers = numbers[~np.isin(numbers, [row for row, _, _ in ragged])] + before
        yield Batch(table, numbers, [(row + before, shown, reason) for row, shown, reason in ragged])
        before += table.num_rows + len(ragged)


@dataclass(frozen=True)
class _Rows:
    """Bytes of a file from the beginning of a row; `ends` says whether to the end of one."""

    content: bytes
    ends: bool = True


def _whole_rows(source: BinaryIO, text: TextFormat) -> Iterator[_Rows]:
    rest, first = b"", True
    while block := source.read(max(BLOCK_BYTES, len(rest), len(BYTE_ORDER_MARK))):
        rest += block.removeprefix(BYTE_ORDER_MARK) if first else block
        first = False
        if end := _end_of_rows(rest, text):
            yield _Rows(rest[:end])
            rest = rest[end:]
        elif len(rest) >= LONGEST_ROW_BYTES:
            yield _Rows(rest, ends=False)
            return
    if rest.strip():
        yield _Rows(rest, ends=_end_of_rows(rest + b"\n", text) > len(rest))


def _end_of_rows(content: bytes, text: TextFormat) -> int:
    """Where the last whole row of some bytes ends, which begin with a row; 0 if there is none."""
    if text.backslash and b"\\" in content:
        return _end_by_values(content, text)
    quotes = np.zeros(0, dtype=np.int64)
    if text.quotes and b'"' in content:
        characters = np.frombuffer(content, np.uint8)
        quotes = np.flatnonzero(characters == ord('"'))
        # Every second quote must open a value, or be the second of two that stand for one. Otherwise one of them is a
        # plain character inside a value without quotes, and counting them does not tell where values end.
        opening = quotes[::2]
        expected = np.zeros(256, dtype=bool)
        expected[list(f'{text.separator}"\r\n'.encode())] = True
        if not expected[characters[opening[opening > 0] - 1]].all():
            return _end_by_values(content, text)
    feed, back = content.rfind(b"\n"), content.rfind(b"\r")
    while (end := max(feed, back)) >= 0:
        if not len(quotes) or np.searchsorted(quotes, end) % 2 == 0:
            return end + 1
        if end == feed:
            feed = content.rfind(b"\n", 0, end)
        else:
            back = content.rfind(b"\r", 0, end)
    return 0


def _end_by_values(content: bytes, text: TextFormat) -> int:
    """As `_end_of_rows`, value by value, as Arrow reads them: slow, but right wherever a quote or backslash stands."""
    separator = re.escape(text.separator.encode())
    escaped, outside = (rb"|\\[\s\S]", rb"\\") if text.backslash else (b"", b"")
    plain = rb"(?:[^\r\n" + separator + outside + rb"]++" + escaped + rb")*+"
    value = plain
    if text.quotes:
        quoted = rb'"(?:[^"' + outside + rb']++|""' + escaped + rb')*+"'
        value = rb"(?:" + quoted + plain + rb'|(?!")' + plain + rb")"
    rows = re.compile(rb"(?:" + value + rb"(?:" + separator + value + rb")*+[\r\n])*+")
    found = rows.match(content)
    return found.end() if found else 0


def _parse(
    content: bytes, name: str, text: TextFormat, columns: Sequence[str] | None, names: Sequence[str]
) -> tuple[pa.Table, list[tuple[int, str, str]], Sequence[str] | None]:
    """Some columns of whole rows, the rows that do not fit, and the names of all columns.

    Args:
        columns: names of all columns; None takes them from the first row.
    """
    ragged: list[tuple[int, str, str]] = []
    if content.startswith(BYTE_ORDER_MARK):
        # The file's own is gone already, so that this one belongs to a value; Arrow drops one from whatever it reads.
        content = BYTE_ORDER_MARK + content
    # Arrow counts a header as row 1.
    first = 1 if columns is None else 0

    def skip(row: pa.csv.InvalidRow) -> str:
        reason = f"has {row.actual_columns} columns instead of {row.expected_columns}"
        ragged.append((row.number - first, row.text[:SHOWN], reason))
        return "skip"

    if columns is None:
        columns = header(io.BytesIO(content), name, text) or None
        options = pa.csv.ReadOptions(use_threads=False, block_size=len(content) + 1)
    else:
        options = pa.csv.ReadOptions(use_threads=False, block_size=len(content) + 1, column_names=list(columns))
    try:
        with reading(name, "text"):
            table = pa.csv.read_csv(
                pa.BufferReader(content),
                # Arrow numbers rows only when it reads with one thread.
                read_options=options,
                parse_options=pa.csv.ParseOptions(
                    delimiter=text.separator,
                    quote_char='"' if text.quotes else False,
                    escape_char="\\" if text.backslash else False,
                    newlines_in_values=text.quotes,
                    invalid_row_handler=skip,
                ),
                # Values are checked later, by one rule for all formats; as bytes, what is not UTF-8 gets there too.
                convert_options=pa.csv.ConvertOptions(
                    include_columns=list(names),
                    column_types={each: pa.binary() for each in names},
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
    except ValueError as error:
        # Blank lines, or a header without rows.
        if "Empty CSV file" not in str(error):
            raise
        table = pa.table({each: pa.array([], pa.binary()) for each in names})
    return table, sorted(ragged), columns
