"""Transformed examples -> batches, as a stream that can start at any training step.

Training can stop after any step and resume exactly there: `training_stream(first_step=s)` yields what an uninterrupted
stream would yield from step `s` on, because the order of a pass depends only on the seed and the number of the pass.

A row is decompressed and decoded once per training where its rows fit into memory, else once per pass. The order is the
same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from mixrank.schemas import Label
from mixrank.serving.base import untuned

# Decoded rows that a training may hold in memory, in bytes.
HELD_BYTES = 1 << 30
# Records that are decoded at once.
DECODED = 4096


class Sampled(NamedTuple):
    """What was left out of the rows.

    Args:
        label: of whose negatives a share was kept.
        reweighted: labels in whose loss a kept negative stands for those that were not.
    """

    label: Label
    reweighted: tuple[str, ...]


@dataclass(frozen=True)
class TransformedRows:
    """Transformed TFRecord files of some splits.

    Args:
        files: paths, GZIP-compressed TFRecords of tf.Examples.
        columns: parsing specification; every column has a fixed length.
        labels: columns that are labels, in the order of the tasks, each under the name of its task.
        inputs: columns that the model reads.
        weights: label -> the column that weighs its rows, for those that have one.
        scenario_weights: column of scenario ids and the weight of each id, by which rows count besides; or None.
        sampled: label of which only a share of the negatives was kept, or None.
        beside: columns that training reads beside those of the model; they are among the inputs of a batch.
        learned: label -> the column that its loss sees in its place, for those that have one.
        groups: label -> the column of keys inside which its loss compares rows; such a label is `(batch, 2)`, with the
            number of the row's key in the batch.
    """

    files: tuple[str, ...]
    columns: Mapping[str, Any]
    labels: tuple[str, ...]
    inputs: tuple[str, ...]
    weights: Mapping[str, str] = field(default_factory=dict)
    scenario_weights: tuple[str, np.ndarray] | None = None
    sampled: Sampled | None = None
    beside: tuple[str, ...] = ()
    learned: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def find(
        cls, patterns: Sequence[str], columns: Mapping[str, Any], labels: Sequence[str], inputs: Sequence[str]
    ) -> TransformedRows:
        """Expands file patterns.

        Raises:
            ValueError: if a pattern matches no file.
        """
        files: list[str] = []
        for pattern in patterns:
            found = sorted(tf.io.gfile.glob(pattern))
            if not found:
                raise ValueError(f"no transformed examples match {pattern}")
            files += found
        return cls(tuple(files), dict(columns), tuple(labels), tuple(inputs))

    def count(self) -> int:
        """Number of rows, counted by reading every file once."""
        records = tf.data.TFRecordDataset(list(self.files), compression_type="GZIP", num_parallel_reads=2).batch(1024)
        return int(untuned(records).reduce(tf.constant(0, tf.int64), lambda n, b: n + tf.size(b, tf.int64)))

    def count_ids(self, size: int, id_of: Callable[[Mapping[str, Any]], Any], *columns: str) -> np.ndarray:
        """Number of rows with each id, `(size,)`.

        Args:
            size: number of ids.
            id_of: column -> tensor `(batch,)` of the columns named -> int tensor `(batch,)`.
            columns: what `id_of` reads.
        """
        wanted = {column: self.columns[column] for column in columns}
        records = tf.data.TFRecordDataset(list(self.files), compression_type="GZIP", num_parallel_reads=2).batch(1024)
        ids = untuned(records.map(lambda batch: id_of(tf.io.parse_example(batch, wanted))))
        counts = np.zeros(size, np.int64)
        for batch in ids.as_numpy_iterator():
            counts += np.bincount(batch.reshape(-1), minlength=size)
        return counts

    def parse(self, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        """A batch of serialized tf.Examples -> column -> tensor."""
        return tf.io.parse_example(serialized, self.columns)

    @property
    def trained_on(self) -> dict[str, Any]:
        """Parsing specification of the columns that training reads."""
        labels = (self.learned.get(name, name) for name in self.labels)
        read = (*self.inputs, *labels, *self.weights.values(), *self.beside, *self.groups.values())
        return {name: self.columns[name] for name in read}

    @property
    def bytes_per_row(self) -> int:
        """Size of a decoded row, of what training reads of it."""
        return sum(column.dtype.size * math.prod(column.shape) for column in self.trained_on.values())

    def decoded(self) -> tuple[np.ndarray, dict[str, tf.Tensor]]:
        """First and last row + 1 of every file (files, 2), and what training reads: column -> (rows, ...)."""
        found: dict[str, list[np.ndarray]] = {name: [] for name in self.trained_on}
        ends = [0]
        for path in self.files:
            records = tf.data.TFRecordDataset(path, compression_type="GZIP").batch(DECODED)
            rows = 0
            for batch in _in_order(records.map(self.parse_training, num_parallel_calls=2).prefetch(2)):
                for name, values in batch.items():
                    found[name].append(values.numpy())
                rows += len(values)
            ends.append(ends[-1] + rows)
        spans = np.stack([ends[:-1], ends[1:]], axis=1)
        # Column by column, so that the parts of one column at most are there twice.
        return spans, {name: tf.constant(np.concatenate(found.pop(name))) for name in list(found)}

    def parse_training(self, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        """As `parse`, but only the columns that training reads."""
        return tf.io.parse_example(serialized, self.trained_on)

    def split(self, row: Mapping[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], ...]:
        """(model inputs, labels) of parsed columns, and the weights of rows if there are any, `(batch, 1)` by label.

        Labels are `(batch, 1)`: Keras 3 does not divide the loss of rank-1 labels by the number of replicas, and two
        replicas would double every gradient.
        """
        inputs = {name: row[name] for name in (*self.inputs, *self.beside)}
        labels = {name: row[self.learned.get(name, name)][:, None] for name in self.labels}
        number = {key: tf.cast(tf.unique(row[key]).idx, tf.float32)[:, None] for key in set(self.groups.values())}
        grouped = labels | {name: tf.concat([labels[name], number[key]], 1) for name, key in self.groups.items()}
        reweighted = () if self.sampled is None else self.sampled.reweighted
        if not self.weights and self.scenario_weights is None and not reweighted:
            return inputs, grouped
        found = {label: row[self.weights[label]][:, None] for label in self.labels if label in self.weights}
        weights = {label: found.get(label, tf.ones_like(value)) for label, value in labels.items()}
        if self.scenario_weights is not None:
            column, by_id = self.scenario_weights
            balance = tf.gather(tf.constant(by_id, tf.float32), row[column])[:, None]
            weights = {label: weight * balance for label, weight in weights.items()}
        if self.sampled is not None:
            stands_for = self.sampled.label.stands_for(tf.cast(labels[self.sampled.label.name] > 0, tf.float32))
            weights |= {label: weights[label] * stands_for for label in reweighted}
        return inputs, grouped, weights


def training_stream(
    rows: TransformedRows,
    *,
    batch_size: int,
    steps_per_pass: int,
    steps: int,
    seed: int,
    shuffle_rows: int,
    rows_together: int = 1,
    first_step: int = 0,
    share: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Batches as `TransformedRows.split` makes them, reshuffled in each pass.

    Args:
        rows: what to read.
        batch_size: int >= 1. Global batch size.
        steps_per_pass: int >= 1. Full batches in one pass; the remainder of a pass is dropped.
        steps: int >= 1. Number of batches of the whole stream, including those already consumed.
        seed: int. Decides the order.
        shuffle_rows: int >= 1. Shuffle buffer in rows.
        rows_together: int >= 1. Rows that follow each other in a file and are shuffled as one.
        first_step: int >= 0. Number of batches already consumed.
        share: of a worker among several, or None for whole batches. A worker gets its part of each batch, as one
            batch for each of its replicas, so that all workers together see the same rows as a single process.
    """
    if steps_per_pass < 1:
        raise ValueError(f"there are fewer training rows than one batch of {batch_size}; lower `train.batch_size`")
    first_pass, passes = first_step // steps_per_pass, math.ceil(steps / steps_per_pass)
    several = passes - first_pass > 1
    fits = steps_per_pass * batch_size * rows.bytes_per_row <= HELD_BYTES
    source = _held(rows) if several and fits else _files(rows)
    one_pass = partial(_one_pass, source, batch_size, steps_per_pass, shuffle_rows, rows_together)
    batches = one_pass(seed + first_pass).skip(first_step % steps_per_pass)
    for number in range(first_pass + 1, passes):
        batches = batches.concatenate(one_pass(seed + number))
    batches = batches.take(steps - first_step)
    if share is not None:
        batches = _share(batches, batch_size, share)
    batches = batches.map(lambda b: rows.split(source.columns(b)), num_parallel_calls=2, deterministic=True)
    return _in_order(batches.prefetch(4))


class _Source(NamedTuple):
    """Where the rows of a stream come from.

    Args:
        files: (files, ...), what names the rows of a file.
        read: one of `files` -> its rows in order, each as a scalar.
        columns: a batch of such scalars -> column -> tensor.
    """

    files: np.ndarray
    read: Callable[[tf.Tensor], tf.data.Dataset]
    columns: Callable[[tf.Tensor], dict[str, tf.Tensor]]


def _files(rows: TransformedRows) -> _Source:
    return _Source(
        np.array(rows.files), lambda path: tf.data.TFRecordDataset(path, compression_type="GZIP"), rows.parse_training
    )


def _held(rows: TransformedRows) -> _Source:
    spans, columns = rows.decoded()
    return _Source(
        spans,
        lambda span: tf.data.Dataset.range(span[0], span[1]),
        lambda places: {name: tf.gather(values, places) for name, values in columns.items()},
    )


def _one_pass(
    source: _Source, batch_size: int, steps: int, shuffle_rows: int, together: int, seed: int
) -> tf.data.Dataset:
    files = len(source.files)
    order = np.random.default_rng(seed).permutation(files)
    records = tf.data.Dataset.from_tensor_slices(source.files[order]).interleave(
        source.read if together == 1 else lambda file: source.read(file).batch(together),
        cycle_length=min(8, files),
        block_length=max(1, 16 // together),
        num_parallel_calls=min(2, files),
        deterministic=True,
    )
    records = records.shuffle(max(1, shuffle_rows // together), seed=seed, reshuffle_each_iteration=False)
    if together > 1:
        records = records.unbatch()
    return records.batch(batch_size, drop_remainder=True).take(steps)


def _share(batches: tf.data.Dataset, batch_size: int, share: tf.distribute.InputContext) -> tf.data.Dataset:
    workers, replicas = share.num_input_pipelines, share.num_replicas_in_sync
    # (batch,) -> (workers, replicas of a worker, rows of a replica)
    shape = (workers, replicas // workers, batch_size // replicas)
    return batches.map(lambda batch: tf.reshape(batch, shape)[share.input_pipeline_id]).unbatch()


def evaluation_batches(rows: TransformedRows, batch_size: int) -> tf.data.Dataset:
    """Every row once, in file order, all columns; the last batch may be smaller."""
    records = tf.data.TFRecordDataset(list(rows.files), compression_type="GZIP")
    return _in_order(records.batch(batch_size).map(rows.parse, num_parallel_calls=2).prefetch(2))


def _in_order(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # Every worker reads all files, so that the order of rows is that of one process; this also avoids a warning.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return untuned(dataset.with_options(options))
