"""Served or logged rows of any supported format as Arrow batches, laid out like the training examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mixrank.schemas import FeatureSpec
from mixrank.schemas.arrow import pa, pc
from mixrank.schemas.encode import PADDING, Column, columns
from mixrank.schemas.raw import RawFile, as_request_column, files_at, open_raw, read_json_lines, to_arrow
from mixrank.serving.client import is_prediction_log
from mixrank.serving.drift.prediction_logs import DEFAULT, parts_of, with_column

# What a log knows of a row besides its columns: by what its outcome finds it, and when it was scored, in milliseconds.
IMPRESSION, LOGGED_AT = "impression_id", "logged_at"
TYPES = {"int": pa.int64(), "float": pa.float32(), "str": pa.large_binary()}


class LoggedRows:
    """Rows of a file, or of the files of a folder.

    Formats, as raw files have them: TFRecords of tf.Examples, or of PredictionLogs as a server logs requests; Parquet
    in the layout of a request or as batch scoring writes it; CSV with lists as JSON; JSON lines, each a row,
    `{"row": ..., "scores": ...}` as in golden rows, `{"instances": [...]}` as sent to `score_rows`, or
    `{"request": ..., "candidates": [...]}` as a client ranks them, either with `scores`, `impression_ids` and
    `logged_at` beside it, as a client logs them.

    Args:
        source: file or folder; for a batch job's output, its `scores` folder. Hidden and empty files are skipped.
        spec: the columns.
        batch_size: int >= 1. Rows per batch.
        about: bool. Whether batches also have `impression_id` (text) and `logged_at` (milliseconds), where the log has
            them and they are no columns of the spec.

    Raises:
        ValueError: if there is no file.
    """

    def __init__(self, source: Path, spec: FeatureSpec, batch_size: int = 4096, about: bool = False) -> None:
        self.source, self.batch_size, self.about = source, batch_size, about
        self.columns = {column.name: column for column in columns(spec)}
        self.tasks = spec.tasks
        # Probabilities of classes say no more of drift than their mean.
        self.unread = {f"score_{name}" for name in spec.outputs if name not in spec.tasks} | {IMPRESSION, LOGGED_AT}
        self.ignored: set[str] = set()
        if not source.exists():
            raise ValueError(f"{source} is neither a file nor a folder of files")
        self.files = files_at(source / "scores" if (source / "scores").is_dir() else source).files

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Batches of the spec's columns found in the rows, as lists, and `score_<task>` as plain floats.

        Labels are found under the task's name or as `label_<task>`, scores as `score_<task>` or as fractions under
        the task's name. Columns that the spec does not know end up in `ignored`.

        Raises:
            ValueError: naming the file, row and column of a value that does not fit.
        """
        for file in self.files:
            if file.format == "tfrecord":
                first = next(file.records(1), [b""])
                yield from self._requests(file) if is_prediction_log(first[0]) else self._examples(file)
            elif file.format == "json":
                yield from self._json(file)
            else:
                yield from self._columns(file)

    def _columns(self, file: RawFile) -> Iterator[pa.RecordBatch]:
        for batch in file.read(file.schema().names, size=self.batch_size):
            for row, _, reason in batch.bad:
                raise ValueError(f"{file.path}, row {row} {reason}")
            arrays = {name: pa.concat_arrays(batch.table[name].chunks) for name in batch.table.column_names}
            yield self._lists(file.path, arrays, batch.rows)

    def _json(self, file: RawFile) -> Iterator[pa.RecordBatch]:
        with open_raw(file.path, file.codec) as stream:
            lines = read_json_lines(stream, file.path)
            rows = ((number, row) for number, value in lines for row in _rows(f"{file.path}, line {number}", value))
            while part := list(islice(rows, self.batch_size)):
                names = dict.fromkeys(key for _, row in part for key in row)
                arrays = {name: to_arrow([row.get(name) for _, row in part]) for name in names}
                yield self._lists(file.path, arrays, [number for number, _ in part])

    def _examples(self, file: RawFile) -> Iterator[pa.RecordBatch]:
        for part in file.records(self.batch_size):
            yield self._decoded(file, part)

    def _requests(self, file: RawFile) -> Iterator[pa.RecordBatch]:
        records = (record for block in file.records(1) for record in block)
        served = {name: column for name, column in self.columns.items() if column.serving}
        for part in parts_of(records, file.path, served, self.batch_size):
            if part.signature == DEFAULT:
                batch = self._decoded(file, part.examples)
            else:
                batch = self._lists(file.path, part.arrays(), part.numbers)
            if LOGGED_AT in self._about:
                batch = with_column(batch, LOGGED_AT, part.logged_at)
            yield batch

    def _decoded(self, file: RawFile, examples: Sequence[bytes]) -> pa.RecordBatch:
        try:
            batch = self._decoder.DecodeBatch(examples)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{file.path} holds records that are no tf.Examples of this spec: {error}") from None
        for name, kind in self._about.items():
            if name in batch.schema.names:
                place = batch.schema.get_field_index(name)
                lists = batch.column(place)
                if len(lists.flatten()) == 0:
                    first = pa.nulls(len(lists), kind)
                else:
                    first = lists.flatten().take(_firsts(lists)).cast(kind)
                batch = pa.RecordBatch.from_arrays(
                    [first if number == place else array for number, array in enumerate(batch.columns)],
                    batch.schema.names,
                )
        return batch

    @property
    def _about(self) -> dict[str, pa.DataType]:
        """Columns besides those of the spec -> type."""
        kinds = {IMPRESSION: pa.large_string(), LOGGED_AT: pa.int64()} if self.about else {}
        return {name: kind for name, kind in kinds.items() if name not in self.columns}

    @cached_property
    def _decoder(self) -> Any:
        from tensorflow_metadata.proto.v0 import schema_pb2
        from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

        kinds = {"int": schema_pb2.INT, "float": schema_pb2.FLOAT, "str": schema_pb2.BYTES}
        schema = schema_pb2.Schema()
        for column in self.columns.values():
            schema.feature.add(name=column.name, type=kinds[column.kind])
        for name, kind in self._about.items():
            schema.feature.add(name=name, type=kinds["int" if kind == pa.int64() else "str"])
        return ExamplesToRecordBatchDecoder(schema.SerializeToString())

    def _lists(self, file: str, arrays: Mapping[str, pa.Array], rows: Sequence[int] | np.ndarray) -> pa.RecordBatch:
        found: dict[str, pa.Array] = {}
        for name, array in arrays.items():
            task = name.removeprefix("score_") if name.startswith("score_") else name
            column = self.columns.get(name.removeprefix("label_"))
            if task in self.tasks and (name != task or _holds_fractions(array)):
                values = _checked(file, rows, name, array, Column(name, "float"))
                found[f"score_{task}"] = values.cast(pa.float64())
            elif column is not None and column.name in (name, *self.tasks):
                # Of what was served, a text such as `null` is one.
                typed = self.about and column.kind == "str" and column.length is None and _is_text(array.type)
                values = array if typed else _checked(file, rows, name, array, column)
                try:
                    found[column.name] = as_lists(column, values)
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
                    raise ValueError(f"{file}: column `{name}` takes {column.kind} values: {error}") from None
            elif name in self._about:
                found[name] = _plain_about(file, name, array, self._about[name])
            elif name not in self.unread:
                self.ignored.add(name)
        return pa.RecordBatch.from_arrays(list(found.values()), list(found))


def _checked(file: str, rows: Sequence[int] | np.ndarray, name: str, array: pa.Array, column: Column) -> pa.Array:
    try:
        values, bad = as_request_column(array, column)
    except ValueError as error:
        raise ValueError(f"{file}, column `{name}`: {error}") from None
    for position, reason in sorted(bad.items()):
        raise ValueError(f"{file}, row {rows[position]}, column `{name}` {reason}")
    return values


def _plain_about(file: str, name: str, array: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        # Pandas turns whole numbers into floats as soon as one is missing.
        array = array.cast(pa.int64()) if pa.types.is_floating(array.type) else array
        array = array.cast(pa.large_string()) if pa.types.is_string(array.type) else array
        return array.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise ValueError(f"{file}: column `{name}` takes {kind}, received {array.type}: {error}") from None


def _firsts(lists: pa.Array) -> pa.Array:
    """Position of the first value of every list in all values; null where there is none."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return pa.array(np.cumsum(lengths) - lengths, mask=lengths == 0)


def _holds_fractions(array: pa.Array) -> bool:
    if pa.types.is_floating(array.type):
        return True
    return _is_text(array.type) and bool(pc.any(pc.match_substring(array, ".")).as_py())


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


def _rows(where: str, entry: Any) -> list[dict[str, Any]]:
    """The rows of one line, each with its scores as `score_<task>`."""
    try:
        if "instances" in entry:
            rows = entry["instances"]
        elif "candidates" in entry:
            rows = [{**entry["request"], **candidate} for candidate in entry["candidates"]]
        else:
            rows = [entry["row"] if isinstance(entry.get("row"), dict) else entry]
        scores = entry.get("scores") or [{}] * len(rows)
        scores = [scores] if isinstance(scores, dict) else scores
        about: list[dict[str, Any]] = [{} for _ in rows]
        if (ids := entry.get("impression_ids")) is not None:
            about = [{IMPRESSION: each} for each in ids]
        if (moment := entry.get(LOGGED_AT)) is not None:
            about = [{**each, LOGGED_AT: moment} for each in about]
        return [
            {**row, **known, **{f"score_{task}": value for task, value in score.items()}}
            for row, known, score in zip(rows, about, scores, strict=True)
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{where}: expected a row, {{'row', 'scores'}}, {{'instances'}} or "
            f"{{'request', 'candidates'}} ({type(error).__name__}: {error})"
        ) from None
