"""Batched reader of a raw file: Parquet, separated text or TFRecord, from any file system that Beam can read."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from mixrank.schemas.arrow import open_parquet, pa, reading

BATCH_ROWS = 65_536
CSV_BLOCK_BYTES = 8 * 2**20
# A TFRecord file does not list its columns; they are collected from this many records.
SNIFFED_RECORDS = 1000
# Rough compression ratio of text.
GZIP_RATIO = 5


@dataclass(frozen=True)
class Batch:
    """Rows of a file.

    Args:
        table: the requested columns; a column absent from all records of a TFRecord batch has type null.
        rows: int array. Number of each row in its file, from 1; a header is not counted.
        bad: (row, text, reason) of rows that could not be parsed.
    """

    table: pa.Table
    rows: np.ndarray
    bad: list[tuple[int, str, str]] = field(default_factory=list)


def column_names(file: str, kind: str, separator: str) -> list[str]:
    """Names of the columns of a file."""
    if kind == "parquet":
        with _open(file, kind) as source:
            return list(open_parquet(source, file).schema_arrow.names)
    if kind == "csv":
        with _open(file, kind) as source:
            header = source.readline().decode("utf-8-sig")
        if not header.strip():
            raise ValueError(f"{file} is empty; its first line must name the columns")
        # The CSV reader parses the header as a file of its own, so that it also handles the quoting.
        reader = pa.csv.open_csv(pa.py_buffer(header.encode()), parse_options=_parse_options(separator, None))
        return list(reader.schema.names)
    batch = next(_tfrecord(file, None, SNIFFED_RECORDS), None)
    if batch is None:
        raise ValueError(f"{file} holds no records")
    return list(batch.table.column_names)


def uncompressed_size(file: str, kind: str) -> int:
    """Approximate uncompressed size of a file in bytes."""
    if kind == "parquet":
        with _open(file, kind) as source:
            metadata = open_parquet(source, file).metadata
            return sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    (match,) = FileSystems.match([file])
    return match.metadata_list[0].size_in_bytes * (GZIP_RATIO if file.endswith(".gz") else 1)


def row_groups(file: str) -> Iterator[tuple[int, int]]:
    """(row group, rows before it) of a Parquet file."""
    before = 0
    with _open(file, "parquet") as source:
        metadata = open_parquet(source, file).metadata
        for group in range(metadata.num_row_groups):
            yield group, before
            before += metadata.row_group(group).num_rows


def read_file(
    file: str, kind: str, separator: str, names: list[str], group: int = -1, before: int = 0
) -> Iterator[Batch]:
    """Batches of some columns of a file, or of one row group of it.

    Args:
        file: its path.
        kind: "parquet", "csv" or "tfrecord".
        separator: of a text file.
        names: columns to read.
        group: row group of a Parquet file, -1 for the whole file.
        before: rows of the file before the row group.

    Raises:
        ValueError: naming the file, if it cannot be read.
    """
    if kind == "parquet":
        yield from _parquet(file, names, group, before)
    elif kind == "csv":
        yield from _csv(file, names, separator)
    else:
        yield from _tfrecord(file, names, BATCH_ROWS)


@contextlib.contextmanager
def _open(file: str, kind: str) -> Iterator[BinaryIO | gzip.GzipFile]:
    """An open, decompressed file; errors that Arrow raises while reading it get its name."""
    # Beam could decompress too, but Arrow does not work with its file object.
    with reading(file, kind), FileSystems.open(file, compression_type=CompressionTypes.UNCOMPRESSED) as source:
        yield gzip.GzipFile(fileobj=source) if file.endswith(".gz") else source


def _parquet(file: str, names: list[str], group: int, before: int) -> Iterator[Batch]:
    with _open(file, "parquet") as source:
        reader = open_parquet(source, file)
        groups = [group] if group >= 0 else None
        for batch in reader.iter_batches(BATCH_ROWS, row_groups=groups, columns=names, use_threads=False):
            rows = np.arange(before + 1, before + 1 + batch.num_rows)
            before += batch.num_rows
            yield Batch(pa.Table.from_batches([batch]).select(names), rows)


def _parse_options(separator: str, handler: object) -> pa.csv.ParseOptions:
    # Tab-separated files have no quoting: a film may be called `"Great Performances" Cats`.
    quote = False if separator == "\t" else '"'
    return pa.csv.ParseOptions(delimiter=separator, quote_char=quote, invalid_row_handler=handler)


def _csv(file: str, names: list[str], separator: str) -> Iterator[Batch]:
    ragged: dict[int, tuple[int, str, str]] = {}

    def skip(row: pa.csv.InvalidRow) -> str:
        # Arrow counts the header as row 1.
        number = row.number - 1
        ragged[number] = (number, row.text, f"has {row.actual_columns} columns instead of {row.expected_columns}")
        return "skip"

    with _open(file, "csv") as source:
        reader = pa.csv.open_csv(
            source,
            # Arrow numbers rows only when it reads with one thread.
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=CSV_BLOCK_BYTES),
            parse_options=_parse_options(separator, skip),
            # Values are checked later, by one rule for all formats; as bytes, text that is not UTF-8 gets there too.
            convert_options=pa.csv.ConvertOptions(
                include_columns=names,
                column_types={name: pa.binary() for name in names},
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
        before, reported = 0, 0
        for batch in reader:
            if not batch.num_rows:
                continue
            rows = np.arange(before + 1, before + 1 + batch.num_rows + len(ragged) - reported)
            rows = rows[~np.isin(rows, list(ragged))][: batch.num_rows]
            before = int(rows[-1])
            bad = [ragged[number] for number in sorted(ragged)[reported:] if number <= before]
            reported += len(bad)
            yield Batch(pa.Table.from_batches([batch]), rows, bad)
        if late := [ragged[number] for number in sorted(ragged)[reported:]]:
            empty = pa.table({name: pa.array([], pa.binary()) for name in names})
            yield Batch(empty, np.zeros(0, dtype=np.int64), late)


def _tfrecord(file: str, names: list[str] | None, batch_rows: int) -> Iterator[Batch]:
    import tensorflow as tf
    from tfx_bsl.coders import example_coder

    from mixrank.serving.base import untuned

    decoder = example_coder.ExamplesToRecordBatchDecoder()
    compression = "GZIP" if file.endswith(".gz") else ""
    before = 0
    try:
        for records in untuned(tf.data.TFRecordDataset(file, compression)).batch(batch_rows).as_numpy_iterator():
            rows = np.arange(before + 1, before + 1 + len(records))
            before += len(records)
            bad: list[tuple[int, str, str]] = []
            try:
                batch = decoder.DecodeBatch(list(records))
            except (RuntimeError, ValueError):
                whole = [_is_example(record) for record in records]
                bad = [
                    (int(row), record[:100].hex(), "is not a tf.Example")
                    for row, record, fits in zip(rows, records, whole, strict=True)
                    if not fits
                ]
                rows = rows[whole]
                batch = decoder.DecodeBatch([record for record, fits in zip(records, whole, strict=True) if fits])
            table = pa.Table.from_batches([batch])
            if names is not None:
                table = pa.table({n: table[n] if n in table.column_names else pa.nulls(table.num_rows) for n in names})
            yield Batch(table, rows, bad)
    except (tf.errors.DataLossError, RuntimeError) as error:
        raise ValueError(f"{file} cannot be read as tfrecord: {error}") from error


def _is_example(record: bytes) -> bool:
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    try:
        tf.train.Example.FromString(record)
    except DecodeError:
        return False
    return True
