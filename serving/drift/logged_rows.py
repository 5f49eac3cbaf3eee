"""Served or logged rows of any supported format as Arrow batches, laid out like the training examples."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mixrank.schemas import FeatureSpec
from mixrank.schemas.arrow import open_parquet, pa, pc, reading
from mixrank.schemas.encode import PADDING, Column, columns

TYPES = {"int": pa.int64(), "float": pa.float32(), "str": pa.large_binary()}


class LoggedRows:
    """Rows of a file, or of the files of a folder.

    Formats, detected by content: TFRecords of tf.Examples, with or without gzip; Parquet in the layout of a request or
    as batch scoring writes it; JSON lines, each a row, `{"row": ..., "scores": ...}` as in golden rows,
    `{"instances": [...]}` as sent to `score_rows`, or `{"request": ..., "candidates": [...]}` as a client ranks them,
    either with `scores` beside it.

    Args:
        source: file or folder; for a batch job's output, its `scores` folder. Hidden files and `_SUCCESS` are skipped.
        spec: the columns.
        batch_size: int >= 1. Rows per batch.

    Raises:
        ValueError: if there is no file.
    """

    def __init__(self, source: Path, spec: FeatureSpec, batch_size: int = 4096) -> None:
        self.source, self.batch_size = source, batch_size
        self.columns = {column.name: column for column in columns(spec)}
        self.tasks = spec.tasks
        self.ignored: set[str] = set()
        folder = source / "scores" if (source / "scores").is_dir() else source
        files = sorted(folder.rglob("*")) if folder.is_dir() else [folder]
        self.files = [f for f in files if f.is_file() and not f.name.startswith((".", "_"))]
        if not self.files:
            raise ValueError(f"{source} is neither a file nor a folder of files")

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Batches of the spec's columns found in the rows, as lists, and `score_<task>` as plain floats.

        Labels are found under the task's name or as `label_<task>`, scores as `score_<task>` or as fractions under
        the task's name. Columns that the spec does not know end up in `ignored`.

        Raises:
            ValueError: naming the file and column of a value that does not fit.
        """
        for file in self.files:
            form = _form(file)
            try:
                yield from {"parquet": self._parquet, "json": self._json, "tfrecord": self._tfrecord}[form](file)
            except pa.ArrowInvalid as error:
                raise ValueError(f"{file}: {error}") from None

    def _parquet(self, file: Path) -> Iterator[pa.RecordBatch]:
        batches = open_parquet(file).iter_batches(self.batch_size)
        while True:
            with reading(str(file)):
                if (batch := next(batches, None)) is None:
                    return
            yield self._lists(file, dict(zip(batch.schema.names, batch.columns, strict=True)))

    def _json(self, file: Path) -> Iterator[pa.RecordBatch]:
        with gzip.open(file, "rt") if _is_gzip(file) else file.open() as lines:
            rows = (row for number, line in enumerate(lines, 1) if line.strip() for row in _rows(file, number, line))
            while part := list(islice(rows, self.batch_size)):
                arrays = {}
                for name in dict.fromkeys(key for row in part for key in row):
                    try:
                        arrays[name] = pa.array([row.get(name) for row in part])
                    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                        raise ValueError(f"{file}: column `{name}` mixes types ({error})") from None
                yield self._lists(file, arrays)

    def _tfrecord(self, file: Path) -> Iterator[pa.RecordBatch]:
        import tensorflow as tf
        from tensorflow_metadata.proto.v0 import schema_pb2
        from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

        from mixrank.serving.base import untuned

        kinds = {"int": schema_pb2.INT, "float": schema_pb2.FLOAT, "str": schema_pb2.BYTES}
        schema = schema_pb2.Schema()
        for column in self.columns.values():
            schema.feature.add(name=column.name, type=kinds[column.kind])
        decoder = ExamplesToRecordBatchDecoder(schema.SerializeToString())
        records = untuned(tf.data.TFRecordDataset(str(file), "GZIP" if _is_gzip(file) else "")).batch(self.batch_size)
        try:
            for part in records.as_numpy_iterator():
                yield decoder.DecodeBatch(list(part))
        except (tf.errors.DataLossError, RuntimeError) as error:
            raise ValueError(f"{file} is not Parquet, JSON lines or a TFRecord of such tf.Examples: {error}") from None

    def _lists(self, file: Path, arrays: Mapping[str, pa.Array]) -> pa.RecordBatch:
        found: dict[str, pa.Array] = {}
        for name, array in arrays.items():
            task = name.removeprefix("score_") if name.startswith("score_") else name
            if task in self.tasks and (name != task or pa.types.is_floating(array.type)):
                found[f"score_{task}"] = array.cast(pa.float64())
            elif (column := self.columns.get(name.removeprefix("label_"))) and column.name in (name, *self.tasks):
                try:
                    found[column.name] = as_lists(column, array)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
                    raise ValueError(f"{file}: column `{name}` takes {column.kind} values: {error}") from None
            else:
                self.ignored.add(name)
        return pa.RecordBatch.from_arrays(list(found.values()), list(found))


def as_lists(column: Column, array: pa.Array) -> pa.LargeListArray:
    """A column as in the training examples: a missing value is an empty list, histories keep their newest events.

    Padding as in a request (`PADDING`) counts as missing; inside a history it keeps its place, after
    the oldest event it is dropped.

    Args:
        column: the column.
        array: single values, or lists of them.
    """
    kind = TYPES[column.kind]
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if not _is_list(array.type):
        values = _plain(array, column)
        present = _present(column, values)
        return _cut(present.astype(np.int64), values.filter(pa.array(present)))
    if pa.types.is_null(array.type.value_type):
        return _cut(np.zeros(len(array), np.int64), pa.array([], kind))
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    values = _plain(array.flatten(), column)
    present = _present(column, values)
    row = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    if column.history is None:
        kept = present
    else:
        end = np.zeros(len(lengths), np.int64)
        np.maximum.at(end, row[present], (place[present] // column.width + 1) * column.width)
        kept = place < np.minimum(end, column.length or 0)[row]
    if not kept.all():
        values = values.filter(pa.array(kept))
    return _cut(np.bincount(row[kept], minlength=len(lengths)), pc.fill_null(values, pa.scalar(_padding(column), kind)))


def _plain(array: pa.Array, column: Column) -> pa.Array:
    if column.kind == "str" and not (_is_text(array.type) or pa.types.is_null(array.type)):
        raise pa.ArrowTypeError(f"received {array.type}")
    if column.kind == "int" and pa.types.is_floating(array.type):
        # Pandas turns integers into floats as soon as one is missing.
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
    if column.kind == "float" and pa.types.is_integer(array.type):
        array = array.cast(pa.float64(), safe=False)
    # Text is cast to bytes via large text; a float with a fraction is never rounded to an id.
    array = array.cast(pa.large_string()) if pa.types.is_string(array.type) else array
    return array.cast(TYPES[column.kind], safe=column.kind != "float")


def _present(column: Column, values: pa.Array) -> np.ndarray:
    if column.kind == "float":
        missing = pc.is_nan(values)
    else:
        missing = pc.equal(values, pa.scalar(_padding(column), values.type))
    return ~pc.fill_null(missing, True).to_numpy(zero_copy_only=False).astype(bool)


def _padding(column: Column) -> Any:
    return b"" if column.kind == "str" else PADDING[column.kind]


def _cut(lengths: np.ndarray, values: pa.Array) -> pa.LargeListArray:
    return pa.LargeListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64()), values)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


def _rows(file: Path, number: int, line: str) -> list[dict[str, Any]]:
    """The rows of one line, each with its scores as `score_<task>`."""
    try:
        entry = json.loads(line)
        if "instances" in entry:
            rows = entry["instances"]
        elif "candidates" in entry:
            rows = [{**entry["request"], **candidate} for candidate in entry["candidates"]]
        else:
            rows = [entry["row"] if isinstance(entry.get("row"), dict) else entry]
        scores = entry.get("scores") or [{}] * len(rows)
        scores = [scores] if isinstance(scores, dict) else scores
        return [
            {**row, **{f"score_{task}": value for task, value in score.items()}}
            for row, score in zip(rows, scores, strict=True)
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{file}, line {number}: expected a row, {{'row', 'scores'}}, {{'instances'}} or "
            f"{{'request', 'candidates'}} ({type(error).__name__}: {error})"
        ) from None


def _form(file: Path) -> str:
    with gzip.open(file) if _is_gzip(file) else file.open("rb") as stream:
        head = stream.read(64)
    if head.startswith(b"PAR1"):
        return "parquet"
    return "json" if head.lstrip().startswith(b"{") else "tfrecord"


def _is_gzip(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"
