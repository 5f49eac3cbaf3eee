"""The SavedModel of a batch job: loaded once per process, called on whole batches, bad rows named and left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from apache_beam.utils.shared import Shared

from mixrank.schemas import FeatureSpec
from mixrank.schemas.arrow import pa
from mixrank.schemas.encode import Column, columns, decode, to_instance
from mixrank.schemas.safe_text import shown
from mixrank.schemas.tfmd import parsing_spec
from mixrank.serving.base import METADATA, check_saved_model, load_saved_model, load_spec, versions
from mixrank.serving.batch_scoring.row_files import Bad, Inputs, Rows, Texts

_LOADED = Shared()
# TensorFlow's message quotes the bytes that it cannot parse, and decoding that message then fails too.
_REFUSED = (tf.errors.InvalidArgumentError, UnicodeDecodeError)


def find_model(path: Path) -> Path:
    """The SavedModel at a path: the folder itself, or the newest version in it.

    Raises:
        ValueError: if there is none, it is incomplete, or mixrank did not export it.
    """
    if not path.is_dir():
        raise ValueError(f"model {path} does not exist; it is a version's folder or a folder of versions")
    if not (path / "saved_model.pb").is_file():
        found = versions(path)
        if not found:
            raise ValueError(f"model {path} holds neither a SavedModel nor a version, a folder named by a number")
        path = found[max(found)]
    check_saved_model(path)
    if not (path / METADATA).is_file():
        raise ValueError(f"model {path} was not exported by mixrank: it holds no {METADATA}")
    return path


def load(path: str, threads: int | None) -> Model:
    """The model of this process; later calls return the model of the first.

    Args:
        path: SavedModel.
        threads: int or None. Threads that an operation may use; without effect once TensorFlow has started.
    """

    def make() -> Model:
        if threads is not None:
            try:
                tf.config.threading.set_intra_op_parallelism_threads(threads)
                tf.config.threading.set_inter_op_parallelism_threads(threads)
            except RuntimeError:
                # TensorFlow is already running in this process, so its number of threads is fixed.
                pass
        return Model(Path(path))

    return _LOADED.acquire(make, tag=(path, threads))


@dataclass
class Scored:
    """Good rows of a batch.

    Args:
        good: int array. Their positions in the batch.
        scores: task -> float32 array, one per good row.
        kept: column of the output -> values of the good rows.
        bad: position -> (column or "", reason) of all others.
    """

    good: np.ndarray
    scores: dict[str, np.ndarray]
    kept: dict[str, pa.Array]
    bad: Bad


class Model:
    """An exported model.

    Args:
        path: SavedModel.
    """

    def __init__(self, path: Path) -> None:
        self.spec = load_spec(path)
        self.columns = columns(self.spec)
        self._loaded = load_saved_model(path)
        self._rows: Callable[..., dict[str, tf.Tensor]] = self._loaded.signatures["score_rows"]
        self._examples: Callable[..., dict[str, tf.Tensor]] = self._loaded.signatures["serving_default"]
        self._graphs: dict[tuple[str, ...], Any] = {}

    def score_rows(self, rows: Rows, size: int) -> Scored:
        """Scores columns through `score_rows`.

        Args:
            rows: as `mixrank.serving.batch_scoring.row_files.read_rows` gives them.
            size: int. Number of rows, bad ones included.
        """
        bad = dict(rows.bad)
        good, scores = self._call(lambda chosen: self._rows(**_tensors(rows.inputs, chosen)), _others(size, bad), bad)
        return Scored(good, scores, {name: column.take(pa.array(good)) for name, column in rows.kept.items()}, bad)

    def score_examples(self, examples: np.ndarray, keep: Sequence[str]) -> Scored:
        """Scores serialized tf.Examples through `serving_default`.

        Args:
            examples: object array of bytes.
            keep: columns of the spec to copy.
        """
        if tuple(keep) not in self._graphs:
            self._graphs[tuple(keep)] = self._graph(keep)
        graph = self._graphs[tuple(keep)]
        bad: Bad = {}
        try:
            fits, scores, kept = graph(tf.constant(examples, tf.string))
            if fits.numpy().all():
                arrays = {name: _array(self._column(name), kept[name]) for name in keep}
                return Scored(np.arange(len(examples)), _flat(scores), arrays, {})
        except (*_REFUSED, pa.ArrowInvalid):
            # One of the rows is bad; checking each finds which one, and why.
            pass
        for position, example in enumerate(examples):
            reason = _fault(self.spec, example)
            if reason is not None:
                bad[position] = reason

        def score(chosen: np.ndarray) -> dict[str, tf.Tensor]:
            return self._examples(examples=tf.constant(examples[chosen], tf.string))

        good, answers = self._call(score, _others(len(examples), bad), bad)
        _, _, kept = graph(tf.constant(examples[good], tf.string))
        return Scored(good, answers, {name: _array(self._column(name), kept[name]) for name in keep}, bad)

    def _call(
        self, score: Callable[[np.ndarray], dict[str, tf.Tensor]], rows: np.ndarray, bad: Bad
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Scores of `rows`; rows that the graph itself rejects are found by bisection."""
        if not len(rows):
            return rows, {task: np.zeros(0, np.float32) for task in self.spec.outputs}
        try:
            return rows, _flat(score(rows))
        except _REFUSED as error:
            if len(rows) == 1:
                said = str(getattr(error, "message", error)).splitlines()
                bad[int(rows[0])] = ("", f"the model refuses it: {said[0] if said else 'no message'}")
                return self._call(score, rows[:0], bad)
        halves = [self._call(score, half, bad) for half in np.array_split(rows, 2)]
        return np.concatenate([good for good, _ in halves]), {
            task: np.concatenate([scores[task] for _, scores in halves]) for task in self.spec.outputs
        }

    def _column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    def _graph(self, keep: Sequence[str]) -> Any:
        """Examples -> whether each fits, scores, kept columns; one graph, so that TensorFlow parses in parallel."""
        parsing = parsing_spec(self.spec, labels=False)
        kinds = {"int": tf.int64, "float": tf.float32, "str": tf.string}
        kept = {name: tf.io.RaggedFeature(kinds[self._column(name).kind], row_splits_dtype=tf.int64) for name in keep}
        served = [column for column in self.columns if column.serving]

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
        def graph(examples: tf.Tensor) -> Any:
            # The same call as in the signature, so the graph optimizer merges the two.
            raw = tf.io.parse_example(examples, parsing)
            fits = tf.ones(tf.shape(examples), tf.bool)
            events: dict[str, tf.Tensor] = {}
            for column in served:
                lengths = raw[column.name].row_lengths()
                if column.history is None:
                    fits &= lengths <= (column.length or 1)
                    if column.weighs is not None:
                        fits &= (lengths == 0) | (lengths == raw[column.weighs].row_lengths())
                        fits &= tf.reduce_all(raw[column.name] >= 0, axis=1)
                    if column.exact:
                        fits &= (lengths == 0) | (lengths == column.length)
                    if column.kind == "float":
                        fits &= tf.reduce_all(tf.math.is_finite(raw[column.name]), axis=1)
                    continue
                newest = tf.minimum(lengths, tf.constant(column.length, tf.int64))
                first = events.setdefault(column.history, newest // column.width)
                same = newest // column.width == first
                fits &= (same if column.weighs is None else same | (newest == 0)) & (newest % column.width == 0)
                if column.weighs is not None:
                    fits &= tf.logical_not(tf.reduce_any(raw[column.name][:, : column.length] < 0, axis=1))
            # Rows without these columns must not stop the batch; the signature's own check of required ones does.
            copied = tf.io.parse_example(examples, kept) if kept else {}
            return fits, self._examples(examples=examples), copied

        return graph


_LISTS = {"int": "int64_list", "float": "float_list", "str": "bytes_list"}


def _fault(spec: FeatureSpec, example: bytes) -> tuple[str, str] | None:
    """(column, reason) for which a tf.Example cannot be scored."""
    from google.protobuf.message import DecodeError

    try:
        row = decode(spec, example)
        to_instance(spec, row)
        features = tf.train.Example.FromString(example).features.feature
        for column in columns(spec):
            if column.length is None and column.name in features:
                count = len(getattr(features[column.name], _LISTS[column.kind]).value)
                if count > 1:
                    return column.name, f"takes one value, received {count}"
                if column.kind == "float" and count and not np.isfinite(row[column.name]):
                    # `to_instance` reads NaN as a missing number; in a tf.Example an empty list means missing.
                    return column.name, f"takes a finite number, received {shown(row[column.name])}"
    except DecodeError:
        return "", "is not a tf.Example"
    except ValueError as error:
        name = str(error).split("`")
        return (name[1] if str(error).startswith("column `") else ""), str(error)
    return None


def _others(size: int, bad: Bad) -> np.ndarray:
    return np.setdiff1d(np.arange(size), np.array(list(bad), np.int64))


def _flat(scores: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
    return {task: values.numpy().reshape(-1) for task, values in scores.items()}


def _tensors(inputs: Inputs, rows: np.ndarray) -> dict[str, tf.Tensor]:
    return {
        name: tf.gather(tf.constant(column.values, tf.string), column.codes[rows])
        if isinstance(column, Texts)
        else tf.constant(column[rows])
        for name, column in inputs.items()
    }


def _array(column: Column, ragged: tf.RaggedTensor) -> pa.Array:
    values, splits = ragged.flat_values.numpy(), ragged.row_splits.numpy()
    flat = pa.array(values, pa.binary()).cast(pa.string()) if column.kind == "str" else pa.array(values)
    if column.length is not None:
        return pa.ListArray.from_arrays(pa.array(splits, pa.int32()), flat)
    empty = splits[1:] == splits[:-1]
    return flat.take(pa.array(np.where(empty, 0, splits[:-1]), pa.int64(), mask=empty))
