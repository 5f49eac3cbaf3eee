"""The last step of a task: representation to logit."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import Layer, Part, Shape, Tensor, dense_part


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
class TaskHeads(Layer):
    """One `TaskHead` per task on a shared representation.

    Args:
        tasks: names of the tasks.
        units: as in `TaskHead`, the same for every task.

    Call arguments:
        x: Tensor (batch, width).
        scenario: int tensor (batch,), or (1,) for the candidates of one request; other heads read it.

    Returns:
        task -> float32 tensor (batch,).

    >>> heads = TaskHeads(tasks=("click", "buy"))
    >>> heads(keras.ops.ones((2, 3)), keras.ops.ones(2, "int32"))["buy"].shape
    TensorShape([2])
    """

    def __init__(
        self, *, tasks: tuple[str, ...], units: tuple[PositiveInt, ...] = (), dtype: Any = "float32", **kwargs: Any
    ) -> None:
        super().__init__(dtype=dtype, **kwargs)

    def build(self, x_shape: Shape, scenario_shape: Shape) -> None:
        self.task_heads = {task: TaskHead(units=self.units, name=task, dtype=self.dtype_policy) for task in self.tasks}
        for head in self.task_heads.values():
            head.build(x_shape)
        self.input_width = x_shape[-1]

    def call(self, x: Tensor, scenario: Tensor) -> dict[str, Tensor]:
        return {task: head(x) for task, head in self.task_heads.items()}

    def compute_output_shape(self, x_shape: Shape, scenario_shape: Shape) -> dict[str, Shape]:
        return dict.fromkeys(self.tasks, (x_shape[0],))

    def count(self, width: int) -> list[Part]:
        """Parameters and FLOPs for a representation of `width`; works before `build`."""
        one = dense_part("heads", [width, *self.units, 1])
        return [Part("heads", len(self.tasks) * one.parameters, len(self.tasks) * one.flops)]

    def parts(self) -> list[Part]:
        """Parameters and FLOPs of the layer as it was built."""
        return self.count(self.input_width)
