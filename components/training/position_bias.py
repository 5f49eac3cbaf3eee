"""What a place in a list adds to the logits while a model is trained, and never when it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mixrank.components.training.batches import TransformedRows
from mixrank.schemas import FeatureSpec, Position


class PositionBias:
    """`z = f(x) + g(k) - log(sum_j pi_j e^g(j))`: a logit f that knows no place, and a bias of each place k.

    Training sees z, the export f. pi_j is the share of the training rows at place j: with what is taken off, the odds
    of an item are its mean odds over the places of the log, so that f keeps the log's level as far as probabilities are
    small. As the shallow tower of Zhao et al., "Recommending What Video to Watch Next", RecSys 2019, section 4.3;
    Guo et al., "PAL", RecSys 2019, multiply probabilities instead, which is the same where they are small. Create it
    inside the strategy's scope.

    Args:
        position: the declaration.
        scenario: column of scenario ids.
        tasks: those whose logits have a bias.
        shares: pi_j of every row of the table of biases, see `_index`.
    """

    def __init__(self, position: Position, scenario: str, tasks: Sequence[str], shares: np.ndarray) -> None:
        self.position = position
        self.scenario = scenario
        self.tasks = tuple(tasks)
        self.shares = tf.constant(shares, tf.float32)
        self.weights = keras.Variable(np.zeros((len(shares), len(self.tasks)), np.float32), name="position_bias")

    @classmethod
    def of(cls, spec: FeatureSpec, rows: TransformedRows) -> PositionBias | None:
        """The biases of a log's places, all 0; None if it knows no places.

        Args:
            spec: columns of a row.
            rows: those that are trained on.
        """
        if spec.position is None:
            return None
        scenarios = len(spec.scenario.values) + 2 if spec.position.per_scenario else 1
        position, scenario = spec.position, spec.scenario.name
        size = scenarios * position.ids
        counts = rows.count_ids(size, lambda row: _index(position, scenario, row), position.name, scenario)
        return cls(position, scenario, spec.biased_tasks, counts / max(1, counts.sum()))

    def index(self, columns: Mapping[str, Any]) -> tf.Tensor:
        """Row of each example in the table of biases, `(batch, 1)`."""
        return _index(self.position, self.scenario, columns)[:, None]

    def read(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`g(k)` of each example, `(batch, 1, tasks)`, and the level that is taken off, `(tasks,)`."""
        table = self.weights.value
        return tf.gather(table, rows), tf.reduce_logsumexp(table + tf.math.log(self.shares)[:, None], axis=0)

    def add(self, logits: dict[str, Any], bias: tf.Tensor, level: tf.Tensor) -> dict[str, Any]:
        """The logits that training sees; those of other tasks stay."""
        # The level is a number of this step: what moves is the bias of a place, and f keeps the level.
        own = bias[:, 0] - tf.stop_gradient(level)
        return logits | {task: logits[task] + own[:, at] for at, task in enumerate(self.tasks)}

    def learned(self) -> dict[str, list[float]]:
        """Task -> bias of every row of the table less the level, the first of each scenario that of no known place."""
        found = self.weights.numpy() - self.read(np.zeros((1, 1), np.int64))[1].numpy()
        return {task: [round(float(v), 6) for v in found[:, at]] for at, task in enumerate(self.tasks)}


def _index(position: Position, scenario: str, columns: Mapping[str, Any]) -> Any:
    """Id of the place; with biases per scenario the ids of one scenario after those of the other."""
    found = columns[position.name]
    return columns[scenario] * position.ids + found if position.per_scenario else found
