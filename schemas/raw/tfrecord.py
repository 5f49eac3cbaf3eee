"""TFRecord files of tf.Examples, read without TensorFlow from any place and codec.

A record is its length (8 bytes), the check sum of those (4), the bytes, and their check sum (4); check sums are
CRC-32C, rotated and shifted (tensorflow/core/lib/io/record_writer.h).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO

import google_crc32c
import numpy as np

from mixrank.schemas.arrow import pa
from mixrank.schemas.raw.batch import Batch

_HEAD, _SUM = struct.Struct("<QI"), struct.Struct("<I")


def is_tfrecord(head: bytes) -> bool:
    """Whether a file begins with the length of a record and its check sum."""
    return len(head) >= _HEAD.size and _masked(head[:8]) == _HEAD.unpack_from(head)[1]


def records(source: BinaryIO, name: str) -> Iterator[bytes]:
    """The records of a file.

    Args:
        source: the open file.
        name: of the file, for messages.

    Raises:
        ValueError: naming the file and the last good record, if it is cut off or damaged.
    """
    number = 0
    while head := source.read(_HEAD.size):
        if len(head) < _HEAD.size or not is_tfrecord(head):
            raise ValueError(_broken(name, number, len(head) < _HEAD.size))
        length, _ = _HEAD.unpack(head)
        record, tail = source.read(length), source.read(_SUM.size)
        if len(tail) < _SUM.size or _masked(record) != _SUM.unpack(tail)[0]:
            raise ValueError(_broken(name, number, len(tail) < _SUM.size))
        number += 1
        yield record


def read_examples(source: BinaryIO, name: str, names: Sequence[str] | None, size: int) -> Iterator[Batch]:
    """Batches of some columns of a file of tf.Examples, each value a list.

    Args:
        source: the open file.
        name: of the file, for messages.
        names: columns, None for all that the records of a batch have.
        size: records per batch.
    """
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    decoder = ExamplesToRecordBatchDecoder()
    found, before = records(source, name), 0
    while block := list(islice(found, size)):
        rows = np.arange(before + 1, before + 1 + len(block))
        before += len(block)
        bad: list[tuple[int, str, str]] = []
        try:
            batch = decoder.DecodeBatch(block)
        except (RuntimeError, ValueError):
            whole = np.array([_is_example(decoder, record) for record in block])
            for place in np.flatnonzero(~whole):
                bad.append((int(rows[place]), block[place][:100].hex(), "is not a tf.Example"))
            rows = rows[whole]
            try:
                batch = decoder.DecodeBatch([block[place] for place in np.flatnonzero(whole)])
            except (RuntimeError, ValueError) as error:
                raise ValueError(f"{name} cannot be read as tfrecord: {error}") from None
        table = pa.Table.from_batches([batch])
        if names is not None:
            present = set(table.column_names)
            table = pa.table({each: table[each] if each in present else pa.nulls(len(rows)) for each in names})
        yield Batch(table, rows, bad)


def _is_example(decoder: Any, record: bytes) -> bool:
    try:
        decoder.DecodeBatch([record])
    except (RuntimeError, ValueError):
        return False
    return True


def _masked(data: bytes) -> int:
    crc = int(google_crc32c.value(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _broken(name: str, number: int, cut: bool) -> str:
    return f"{name} cannot be read after row {number}: it is {'cut off' if cut else 'damaged, or no TFRecord file'}"
