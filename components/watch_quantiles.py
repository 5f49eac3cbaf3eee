"""Quantiles of watch times among rows of about equal duration, found and applied inside the Transform graph."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
from numpy.typing import NDArray

from mixrank.schemas import GROUPS_OF_DURATION, QUANTILES

# Rows are counted in cells of durations and watch times that are so many to a doubling: 2 % wide.
CELLS = 32
# The cell of what is not above 0, and that of a missing duration.
NOTHING, MISSING = -(1 << 20), 1 << 20

Cells = Counter[tuple[int, int]]


def quantiles_of_group(duration: tf.Tensor, watched: tf.Tensor) -> tf.Tensor:
    """Quantiles of the watch times of each row's group, float32 `(batch, QUANTILES + 1)`, ascending.

    Groups are at most `GROUPS_OF_DURATION` intervals of durations with about as many training rows each, and one of
    the rows without a duration. The quantiles 0, 1/Q, 2/Q, ..., 1 are exact to the width of a cell. A group without
    training rows has those of all.

    The groups are no `tft.quantiles` of the durations: a second analysis inside them would need a second phase, which
    Transform cannot run under the Beam that is locked (its copy of a pipeline's steps knows fewer of their arguments).

    Args:
        duration: float32 `(batch,)`, NaN where it is missing.
        watched: float32 `(batch,)`, NaN in rows that do not count.
    """
    edges, tables = tft.experimental.ptransform_analyzer(
        [duration, watched],
        Tables(),
        [tf.float32, tf.float32],
        [[GROUPS_OF_DURATION - 1], [GROUPS_OF_DURATION + 1, QUANTILES + 1]],
    )
    known = tf.math.is_finite(duration)
    group = tf.searchsorted(edges, tf.where(known, duration, tf.zeros_like(duration)), side="right")
    return tf.gather(tables, tf.where(known, group, tf.fill(tf.shape(group), GROUPS_OF_DURATION)))


def rank(watched: tf.Tensor, quantiles: tf.Tensor) -> tf.Tensor:
    """Share of a row's group with a lower watch time, equal ones by half, float32 `(batch,)`; NaN for NaN.

    Between two quantiles the share grows linearly.

    Args:
        watched: float32 `(batch,)`.
        quantiles: as of `quantiles_of_group`.
    """
    y, left, right = watched[:, None], quantiles[:, :-1], quantiles[:, 1:]
    inside = tf.clip_by_value(tf.math.divide_no_nan(y - left, right - left), 0.0, 1.0)
    tied = (tf.cast(y >= left, tf.float32) + tf.cast(y > left, tf.float32)) / 2
    found = tf.reduce_mean(tf.where(right > left, inside, tied), axis=1)
    return tf.where(tf.math.is_finite(watched), found, math.nan)


class Tables(beam.PTransform):
    """Batches of durations and watch times -> edges between the groups, and the quantiles of each."""

    def expand(self, batches: Any) -> tuple[Any, Any]:
        found = batches | "Count cells" >> beam.CombineGlobally(CountCells())
        return found | "Edges" >> beam.Map(lambda both: both[0]), found | "Quantiles" >> beam.Map(lambda both: both[1])


class CountCells(beam.CombineFn):
    """Rows of each cell, and from them what `tables_of` makes."""

    def create_accumulator(self) -> Cells:
        return Counter()

    def add_input(self, accumulator: Cells, batch: tuple[NDArray[Any], NDArray[Any]]) -> Cells:
        duration, watched = batch
        counted = np.isfinite(watched)
        both = np.stack([_cells(duration[counted]), _cells(watched[counted])], axis=1)
        cells, counts = np.unique(both, axis=0, return_counts=True)
        accumulator.update({(d, y): n for (d, y), n in zip(cells.tolist(), counts.tolist(), strict=True)})
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[Cells]) -> Cells:
        whole: Cells = Counter()
        for each in accumulators:
            whole.update(each)
        return whole

    def extract_output(self, accumulator: Cells) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return tables_of(accumulator)


def tables_of(cells: Cells) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Edges between groups, `(GROUPS_OF_DURATION - 1,)`, and quantiles, `(GROUPS_OF_DURATION + 1, QUANTILES + 1)`.

    Args:
        cells: (cell of the duration, cell of the watch time) -> rows.
    """
    found = sorted((d, y, n) for (d, y), n in cells.items())
    duration, watched, count = np.array(found, np.int64).reshape(-1, 3).T
    known = duration < MISSING
    # The group in which the middle of each cell's rows falls, so that a cell is never divided.
    distinct, place = np.unique(duration[known], return_inverse=True)
    rows = np.bincount(place, count[known], len(distinct))
    middle = (np.cumsum(rows) - rows / 2) / max(1.0, rows.sum())
    group_of = np.minimum((middle * GROUPS_OF_DURATION).astype(np.int64), GROUPS_OF_DURATION - 1)
    group = np.full(len(duration), GROUPS_OF_DURATION)
    group[known] = group_of[place]
    # A group begins with its first cell; one that has none begins where the next does.
    first = np.searchsorted(group_of, np.arange(1, GROUPS_OF_DURATION))
    edges = np.append(_low(distinct), np.inf)[first]
    whole = _quantiles(watched, count)
    tables = [
        _quantiles(watched[group == number], count[group == number]) if (group == number).any() else whole
        for number in range(GROUPS_OF_DURATION + 1)
    ]
    return edges.astype(np.float32), np.stack(tables).astype(np.float32)


def _cells(values: NDArray[Any]) -> NDArray[np.int64]:
    found = np.full(len(values), NOTHING, np.int64)
    found[~np.isfinite(values)] = MISSING
    above = np.isfinite(values) & (values > 0)
    found[above] = np.floor(CELLS * np.log2(values[above].astype(np.float64)))
    return found


def _low(cells: NDArray[np.int64]) -> NDArray[np.float64]:
    """Lower bound of each cell."""
    return np.where(cells == NOTHING, 0.0, np.exp2(np.where(cells == NOTHING, 0, cells) / CELLS))


def _quantiles(cells: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Quantiles of rows that are spread evenly inside their cells; zeros without rows."""
    if not len(cells):
        return np.zeros(QUANTILES + 1)
    distinct, place = np.unique(cells, return_inverse=True)
    after = np.cumsum(np.bincount(place, counts))
    low = _low(distinct)
    high = np.where(distinct == NOTHING, 0.0, _low(distinct + 1))
    passed = np.stack([np.append(0, after[:-1]), after], axis=1).reshape(-1)
    return np.interp(np.linspace(0, after[-1], QUANTILES + 1), passed, np.stack([low, high], axis=1).reshape(-1))
