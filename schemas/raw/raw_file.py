"""One raw file of any format: its columns, its size, its rows."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

import numpy as np

from mixrank.schemas import Format
from mixrank.schemas.arrow import open_parquet, pa, reading
from mixrank.schemas.raw.batch import Batch
from mixrank.schemas.raw.compression import open_raw
from mixrank.schemas.raw.json_columns import read_json
from mixrank.schemas.raw.storage import open_stored
from mixrank.schemas.raw.text import TextFormat, header, read_text

BATCH_ROWS = 65_536
# JSON lines and TFRecords do not list their columns; they are collected from this many rows.
SNIFFED_ROWS = 1000
# Rough compression ratio of text.
RATIO = 5


@dataclass(frozen=True)
class Piece:
    """A part of a file that can be read by itself.

    Args:
        groups: first and last + 1 row group of a Parquet file; None for a whole file.
        before: rows of the file before it.
        rows: how many it has, None if that is known only when it is read.
        start: byte of a text file from which on it is read, beginning with the next row; rows are numbered from there.
        bytes: how much of a text file is read, without compression; None for all.
    """

    groups: tuple[int, int] | None = None
    before: int = 0
    rows: int | None = None
    start: int = 0
    bytes: int | None = None


WHOLE = Piece()


@dataclass(frozen=True)
class RawFile:
    """A file as found; `find_files` makes it.

    Args:
        path: path or URL.
        format: "parquet", "csv", "tsv", "json" (lines) or "tfrecord" (flat tf.Examples).
        codec: "gz", "bz2", "xz", "zst" or "lz4", None if it is not compressed.
        text: how values are separated in "csv" and "tsv".
        folders: (column, value) of every folder on its way that is named like `day=2026-01-05`; a null is None.
        stored: bytes as stored.
        modified: nanoseconds since 1970, 0 if unknown.
    """

    path: str
    format: Format
    codec: str | None
    text: TextFormat
    folders: tuple[tuple[str, str | None], ...] = ()
    stored: int = 0
    modified: int = 0

    def schema(self) -> pa.Schema:
        """Names and types of the columns as they are read, those of folders last; none if the file is empty.

        Values of text have type binary, those of folders string.

        Raises:
            ValueError: naming the file, if it cannot be read or names a column twice.
        """
        fields = self._own_columns()
        own = [field.name for field in fields]
        if not fields:
            return pa.schema([])
        return pa.schema([*fields, *(pa.field(name, pa.string()) for name, _ in self.folders if name not in own)])

    def _own_columns(self) -> list[pa.Field]:
        fields = self._fields()
        names = [field.name for field in fields]
        for name in names:
            if name and names.count(name) > 1:
                raise ValueError(f"{self.path} names column `{name}` twice; rename one of them in the file")
        # Of several columns without a name none can be asked for.
        return [field for field in fields if field.name or names.count("") == 1]

    def _fields(self) -> list[pa.Field]:
        if self.format == "parquet":
            with open_stored(self.path) as source:
                return list(open_parquet(source, self.path).schema_arrow)
        if self.format in ("csv", "tsv"):
            with self._open() as source:
                return [pa.field(name, pa.binary()) for name in header(source, self.path, self.text)]
        if self.format == "json":
            with self._open() as source:
                if source.read(64).lstrip().startswith(b"["):
                    raise ValueError(f"{self.path} holds a JSON list; write one object a line, as `jq -c '.[]'` does")
        first = next(self._rows(None, SNIFFED_ROWS), None)
        if first is None:
            return []
        if not len(first.rows):
            row, text, reason = first.bad[0]
            raise ValueError(f"{self.path} holds no row among the first {len(first.bad)}: row {row} {reason}: {text}")
        return list(first.table.schema)

    def uncompressed_size(self) -> int:
        """Approximate size in bytes without compression."""
        if self.format != "parquet":
            return self.stored * (RATIO if self.codec else 1)
        with open_stored(self.path) as source:
            metadata = open_parquet(source, self.path).metadata
            return sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))

    def pieces(self, least: int = 1) -> Iterator[Piece]:
        """The file in parts: row groups of a Parquet file, any other file as a whole.

        Args:
            least: rows of a part, except of the last one.
        """
        if self.format != "parquet":
            yield WHOLE
            return
        with open_stored(self.path) as source:
            metadata = open_parquet(source, self.path).metadata
            counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        first, before, rows = 0, 0, 0
        for group, count in enumerate(counts):
            rows += count
            if rows >= least or group == len(counts) - 1:
                yield Piece((first, group + 1), before, rows)
                first, before, rows = group + 1, before + rows, 0

    def read(self, names: Sequence[str], piece: Piece = WHOLE, size: int = BATCH_ROWS) -> Iterator[Batch]:
        """Batches of some columns.

        Args:
            names: columns of `schema()`; of JSON lines and TFRecords, others too, which are null.
            piece: the part to read.
            size: most rows of a batch.

        Raises:
            ValueError: naming the file, if it cannot be read or names a column twice.
        """
        present = [field.name for field in self._own_columns()]
        if not present:
            return
        # A column of the file itself is closer to the rows than the name of a folder.
        folders = {name: value for name, value in self.folders if name in names and name not in present}
        own = [name for name in names if name not in folders]
        # Rows are counted by a column even if only folders are asked for.
        for batch in self._read(own or present[:1], piece, size):
            for part in batch.pieces(size):
                columns = {name: part.table[name] for name in own}
                columns |= {name: _constant(value, len(part.rows)) for name, value in folders.items()}
                yield Batch(pa.table({name: columns[name] for name in names}), part.rows, part.bad)

    def head(self, rows: int, names: Sequence[str] | None = None) -> pa.Table:
        """The first rows, of all columns or some of them; those that cannot be parsed are left out."""
        schema = self.schema()
        names = schema.names if names is None else list(names)
        parts, left = [], rows
        for batch in self.read(names, size=min(rows, BATCH_ROWS)):
            parts.append(batch.table.slice(0, left))
            left -= parts[-1].num_rows
            # Types of JSON lines and TFRecords may differ between batches.
            if left <= 0 or self.format in ("json", "tfrecord"):
                break
        if not parts:
            return pa.table({name: pa.array([], schema.field(name).type) for name in names})
        return pa.concat_tables(parts)

    def records(self, size: int) -> Iterator[list[bytes]]:
        """The serialized tf.Examples of a TFRecord file.

        Args:
            size: most records of a list.
        """
        from mixrank.schemas.raw.tfrecord import records

        with self._open() as source:
            found = records(source, self.path)
            while block := list(islice(found, size)):
                yield block

    @property
    def is_text(self) -> bool:
        """Whether its rows are lines, so that a part of it can be read by bytes."""
        return self.format in ("csv", "tsv", "json")

    def _open(self) -> AbstractContextManager[BinaryIO]:
        return open_raw(self.path, self.codec)

    @contextmanager
    def _open_part(self, piece: Piece) -> Iterator[BinaryIO]:
        """The whole lines of a piece, after the line with the names of the columns."""
        with self._open() as source:
            if piece.bytes is None:
                yield source
                return
            head = b""
            if piece.start:
                if self.format != "json" and self.text.columns is None:
                    head = source.readline()
                source.seek(piece.start)
                source.readline()
            part = source.read(piece.bytes)
        yield io.BytesIO(head + (part[: part.rfind(b"\n") + 1] or part))

    def _read(self, names: Sequence[str], piece: Piece, size: int) -> Iterator[Batch]:
        if self.format == "parquet":
            return self._parquet(names, piece, size)
        return self._rows(names, size, piece)

    def _parquet(self, names: Sequence[str], piece: Piece, size: int) -> Iterator[Batch]:
        before = piece.before
        with open_stored(self.path) as source, reading(self.path):
            file = open_parquet(source, self.path)
            groups = None if piece.groups is None else list(range(*piece.groups))
            for batch in file.iter_batches(size, row_groups=groups, columns=list(names), use_threads=False):
                rows = np.arange(before + 1, before + 1 + batch.num_rows)
                before += batch.num_rows
                yield Batch(pa.Table.from_batches([batch]).select(list(names)), rows)

    def _rows(self, names: Sequence[str] | None, size: int, piece: Piece = WHOLE) -> Iterator[Batch]:
        with self._open_part(piece) as source:
            if self.format in ("csv", "tsv"):
                yield from read_text(source, self.path, self.text, names or ())
            elif self.format == "json":
                yield from read_json(source, self.path, names, size)
            else:
                from mixrank.schemas.raw.tfrecord import read_examples

                yield from read_examples(source, self.path, names, size)


def _constant(value: str | None, rows: int) -> pa.Array:
    if value is None:
        return pa.nulls(rows, pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int8)), pa.array([value]))
