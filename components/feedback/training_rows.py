"""Decided impressions with what their outcomes say -> rows for training, as ExampleGen writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mixrank.components.examples import shuffled_pieces
from mixrank.components.feedback.served import KINDS, first_of, single, stretched, times_of
from mixrank.components.gates import Figures, LabelFigures
from mixrank.schemas import FeatureSpec
from mixrank.schemas.arrow import pa, pc
from mixrank.schemas.encode import PADDING, Column, columns

SEED = 2022
SPLIT = "train"
# A scenario that the spec does not list.
OTHER = "other"


@dataclass(frozen=True)
class TrainingRows:
    """Rows that are complete, and those that are not.

    Args:
        rows: columns as in an example, lists; those that an example leaves out are null.
        complete: bool array, of the rows that were given.
        missing: column -> rows that lack it.
    """

    rows: pa.Table
    complete: np.ndarray
    missing: dict[str, int]


def training_rows(
    served: pa.Table, values: pd.DataFrame, spec: FeatureSpec, until_ms: int, first_row: np.ndarray
) -> TrainingRows:
    """The examples of decided impressions.

    A flag that no outcome set is 0, and so is a number that counts or measures what a user did; of other labels, such
    as stars, a row without one is left out.

    Args:
        served: their rows, as `ServedRows` has them.
        values: what outcomes say of each, missing where none does.
        spec: the columns.
        until_ms: up to when outcomes are known.
        first_row: int array (rows,). A key for rows of a log without users.
    """
    known = columns(spec)
    time = times_of(served, spec)
    arrays = {column.name: served[column.name].combine_chunks() for column in known}
    arrays[spec.time.name] = single(time)
    if spec.user.per_row:
        arrays[spec.user.name] = single(pa.array(first_row))
    for name in values:
        (column,) = [each for each in known if each.name == name]
        arrays[name] = _outcome(values[name], column, served, spec)
    for label in spec.labels:
        if label.mature is not None:
            moments = pc.fill_null(time, 0).to_numpy(zero_copy_only=False)
            mature = moments + label.matures_after_ms <= until_ms
            arrays[label.mature] = single(pa.array(mature.astype(np.int64)))
    arrays |= _even(arrays, known)
    needed = [column for column in known if column.required or not (column.serving or column.optional)]
    complete = np.ones(len(served), bool)
    missing: dict[str, int] = {}
    for column in needed:
        there = pc.list_value_length(arrays[column.name]).to_numpy(zero_copy_only=False) > 0
        if not there.all():
            missing[column.name] = int((~there).sum())
        complete &= there
    table = pa.table({column.name: _as_example(arrays[column.name], column) for column in known})
    return TrainingRows(table.filter(pa.array(complete)), complete, missing)


def _even(arrays: dict[str, pa.Array], known: Sequence[Column]) -> dict[str, pa.Array]:
    """The columns of every history with as many events as the longest of them, as a row must have them.

    A log does not have the padding at the end, and so not an oldest event's attribute where it is missing.
    """
    found: dict[str, pa.Array] = {}
    for history in dict.fromkeys(column.history for column in known if column.history is not None):
        own = [column for column in known if column.history == history]
        counts = {
            column.name: pc.list_value_length(arrays[column.name]).to_numpy(zero_copy_only=False) for column in own
        }
        events = np.max([-(-counts[column.name] // column.width) for column in own], axis=0)
        for column in own:
            wanted = events * column.width
            if column.weighs is not None:
                # Weights are there for all events or none.
                wanted = np.where(counts[column.name] > 0, wanted, 0)
            found[column.name] = stretched(arrays[column.name], wanted, PADDING[column.kind])
    return found


def _outcome(given: pd.Series, column: Column, served: pa.Table, spec: FeatureSpec) -> pa.Array:
    kind = KINDS[column.kind]
    found = pa.array(given.to_numpy(float), pa.float64(), from_pandas=True)
    label = next((each for each in spec.labels if each.name == column.name), None)
    if label is None:
        # A weight or a position: that of the log, where no outcome has it.
        found = pc.coalesce(found, first_of(served, column).cast(pa.float64()))
    elif label.given is not None or (label.values.low == 0 and not label.values.has_classes):
        found = pc.fill_null(found, 0.0)
    return single(found.cast(kind, safe=False))


def _as_example(lists: pa.Array, column: Column) -> pa.Array:
    """Features are always there, with an empty list when missing; of the other columns nothing is."""
    if column.serving:
        return lists
    lengths = pc.list_value_length(lists)
    return pc.if_else(pc.greater(lengths, 0), lists, pa.nulls(len(lists), lists.type))


def write_examples(rows: pa.Table, spec: FeatureSpec, path: Path, number: int) -> None:
    """Writes rows as gzip-compressed TFRecords of tf.Examples, pieces of a user's rows in random order.

    Args:
        rows: as `training_rows` makes them, at least one.
        spec: the columns.
        path: the file.
        number: of the shard, by which the order is drawn.
    """
    import tensorflow as tf
    from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

    users, _ = pd.factorize(first_of(rows, spec.user.name).to_pandas())
    order = np.lexsort([first_of(rows, spec.time.name).to_numpy(), users])
    order = order[shuffled_pieces(users[order], np.random.default_rng([SEED, number]))]
    (batch,) = rows.take(pa.array(order)).combine_chunks().to_batches()
    options = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)
    encoder = RecordBatchToExamplesEncoder()
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for start in range(0, len(batch), 4096):
            for example in encoder.encode(batch.slice(start, 4096)):
                writer.write(example)


def figures_of(rows: pa.Table, spec: FeatureSpec) -> Figures:
    """What ExampleGen counts of its rows, as far as the gates of a day read it."""
    time = first_of(rows, spec.time.name).to_numpy()
    scenario = [
        str(value.decode() if isinstance(value, bytes) else value)
        for value in first_of(rows, spec.scenario.name).to_pylist()
    ]
    known = {str(value) for value in spec.scenario.values}
    places = np.array([value if value in known else OTHER for value in scenario], object)
    counted = {name: first_of(rows, name).to_numpy() for name in (*spec.tasks, *spec.mature)}
    labels: dict[str, dict[str, dict[str, LabelFigures]]] = {}
    for label in spec.labels:
        counts = label.counted(counted)
        own, truth = places[counts], counted[label.name][counts]
        found = {
            str(place): LabelFigures(rows=int((own == place).sum()), positives=int((truth[own == place] != 0).sum()))
            for place in np.unique(own.astype(str))
        }
        labels[label.name] = {SPLIT: found}
    return Figures(
        rows={SPLIT: len(rows)},
        labels=labels,
        first_ms=int(time.min()) if len(time) else None,
        last_ms=int(time.max()) if len(time) else None,
        num_shards=1,
    )
