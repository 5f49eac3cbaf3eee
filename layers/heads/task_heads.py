"""The last step of a task: representation to logit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import Layer, Part, Shape, Tensor, dense_part
from mixrank.layers.heads.base import NO_FIELDS, Heads


@keras.saving.register_keras_serializable("mixrank")
class TaskHead(Layer):
    """`logit = g(x)`, g an MLP with one output; the link of the task makes it a prediction, as in HeMix equation (22).

    Args:
        units: widths of hidden ReLU layers; empty for logistic regression.

    Call arguments:
        x: Tensor (batch, width).

    Returns:
        float32 tensor (batch,), whatever the precision of the layers below.

    Source: arXiv 2602.09387.

    >>> TaskHead(units=(4,))(keras.ops.ones((2, 3))).shape
    TensorShape([2])
    """

    def __init__(self, *, units: tuple[PositiveInt, ...] = (), dtype: Any = "float32", **kwargs: Any) -> None:
        super().__init__(dtype=dtype, **kwargs)

    def build(self, input_shape: Shape) -> None:
        self.hidden = [
            keras.layers.Dense(
                width,
                activation="relu",
                kernel_initializer="he_normal",
                name=f"hidden_{index}",
                dtype=self.dtype_policy,
            )
            for index, width in enumerate(self.units)
        ]
        self.logit = keras.layers.Dense(1, name="logit", dtype=self.dtype_policy)
        for dense in (*self.hidden, self.logit):
            dense.build(input_shape)
            input_shape = (*input_shape[:-1], dense.units)

    def call(self, x: Tensor) -> Tensor:
        for dense in self.hidden:
            x = dense(x)
        # (batch, 1) -> (batch,)
        return ops.reshape(self.logit(x), (-1,))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0],)


@keras.saving.register_keras_serializable("mixrank")
class TaskHeads(Heads):
    """One `TaskHead` per task on the shared representation: a shared bottom, the backbone, below one tower per task.

    Args:
        units: widths of the hidden ReLU layers of every task's tower; empty for logistic regression.
        tasks: as in `Heads`.

    Call arguments:
        x, scenario: as in `Heads`; the scenario is not read.

    Returns:
        task -> float32 tensor (batch,).

    Source: R. Caruana, "Multitask Learning", Machine Learning 28, 1997.

    >>> heads = TaskHeads(tasks=("click", "buy"))
    >>> heads(keras.ops.ones((2, 3)), keras.ops.ones(2, "int32"))["buy"].shape
    TensorShape([2])
    """

    def __init__(self, *, units: tuple[PositiveInt, ...] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, x_shape: Shape, scenario_shape: Shape, fields_shape: Any = None) -> None:
        super().build(x_shape, scenario_shape, fields_shape)
        self.task_heads = new_towers(self, self.units, self.input_width)

    def call(self, x: Tensor, scenario: Tensor, fields: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        return {task: head(x) for task, head in self.task_heads.items()}

    def count(self, width: int, fields: Mapping[str, int] = NO_FIELDS) -> list[Part]:
        return [count_towers(len(self.tasks), width, self.units)]


def new_towers(heads: Heads, units: tuple[int, ...], width: int) -> dict[str, TaskHead]:
    """A built `TaskHead` for each task.

    Args:
        heads: the layer that they belong to.
        units: as in `TaskHead`.
        width: of their input.
    """
    towers = {task: TaskHead(units=units, name=task, dtype=heads.dtype_policy) for task in heads.tasks}
    for tower in towers.values():
        tower.build((None, width))
    return towers


def count_towers(tasks: int, width: int, units: tuple[int, ...]) -> Part:
    """Parameters and FLOPs of `new_towers`.

    Args:
        tasks: their number.
        width, units: as in `new_towers`.
    """
    one = dense_part("heads", [width, *units, 1])
    return Part("heads", tasks * one.parameters, tasks * one.flops)
