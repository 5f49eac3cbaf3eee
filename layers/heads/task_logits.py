"""From the logits of heads to the logits of tasks, of which an ordinal and a multiclass one have several."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import Layer, Part, Shape, Tensor


@keras.saving.register_keras_serializable("mixrank")
class TaskLogits(Layer):
    """Logits of tasks whose labels have classes; those of all other tasks pass as they are.

    * An ordinal task of K levels has one score f from its head, and K - 1 thresholds that are learned here and are the
      same for all rows: `z_k = f - theta_k`, the logit of "above level k" (McCullagh 1980, equation 2.4). The
      thresholds rise, `theta_k = theta_{k-1} + softplus(d_k)`, so that every level has a probability above 0. At first
      all levels are equally likely at f = 0.
    * A multiclass task has a logit for each class from its heads, which are put side by side.

    Args:
        tasks: names of all tasks, in their order.
        levels: ordinal task -> number of its levels, at least 2.
        classes: multiclass task -> names of the logits of its classes.

    Call arguments:
        logits: name -> Tensor (batch,).

    Returns:
        task -> float32 tensor: (batch,), (batch, levels - 1) of an ordinal task, (batch, classes) of a multiclass one.

    >>> layer = TaskLogits(tasks=("stars",), levels={"stars": 4})
    >>> layer({"stars": keras.ops.zeros(1)})["stars"].numpy().round(4)
    array([[ 1.0986,  0.    , -1.0986]], dtype=float32)
    """

    def __init__(
        self,
        *,
        tasks: tuple[str, ...],
        levels: dict[str, PositiveInt] | None = None,
        classes: dict[str, tuple[str, ...]] | None = None,
        dtype: Any = "float32",
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype=dtype, **kwargs)
        self.level_counts, self.class_names = levels or {}, classes or {}
        for task, count in self.level_counts.items():
            if count < 2:
                raise ValueError(f"`levels` of task `{task}` must be >= 2, received {count}")

    def build(self, logits_shape: dict[str, Shape]) -> None:
        self.thresholds = {}
        for task, count in self.level_counts.items():
            even = [-math.log(count / place - 1) for place in range(1, count)]
            # The inverse of softplus, of the steps between them.
            start = np.array([even[0], *np.log(np.expm1(np.diff(even)))], np.float32)
            self.thresholds[task] = self.add_weight(
                name=f"{task}_thresholds", shape=start.shape, initializer=lambda shape, dtype, start=start: start
            )

    def call(self, logits: dict[str, Tensor]) -> dict[str, Tensor]:
        return {task: self._of_task(task, logits) for task in self.tasks}

    def _of_task(self, task: str, logits: dict[str, Tensor]) -> Tensor:
        if task in self.level_counts:
            return ops.cast(logits[task], "float32")[:, None] - self.rising(task)[None, :]
        if task in self.class_names:
            return ops.cast(ops.stack([logits[name] for name in self.class_names[task]], axis=1), "float32")
        return logits[task]

    def rising(self, task: str) -> Tensor:
        """The thresholds of an ordinal task, `(levels - 1,)`."""
        first, steps = self.thresholds[task][:1], ops.softplus(self.thresholds[task][1:])
        return ops.cumsum(ops.concatenate([first, steps]))

    def compute_output_shape(self, logits_shape: dict[str, Shape]) -> dict[str, Shape]:
        batch = next(iter(logits_shape.values()))[0]
        widths = {task: count - 1 for task, count in self.level_counts.items()}
        widths |= {task: len(names) for task, names in self.class_names.items()}
        return {task: (batch, widths[task]) if task in widths else (batch,) for task in self.tasks}

    def parts(self) -> list[Part]:
        """Parameters; the few sums are not counted."""
        return (
            [Part("thresholds", sum(self.level_counts.values()) - len(self.level_counts), 0)]
            if self.level_counts
            else []
        )
