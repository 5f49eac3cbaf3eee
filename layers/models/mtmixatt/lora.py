"""A low-rank adapter per scenario, for scenarios mixed within a batch."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from pydantic import NonNegativeInt, PositiveInt

from mixrank.layers.base import Layer, PerToken, Shape, Tensor


@keras.saving.register_keras_serializable("mixrank")
class ScenarioAdapter(Layer):
    """`d_c = x A_c B_c + b_c` for the scenario c of a row; what MLoRA adds to a dense layer's `x W + b`.

    A starts as Glorot normal, B and b at 0, so that all scenarios start equal. The main scenario, which is the first,
    and a row whose scenario is missing or not declared get 0.

    Args:
        units: int >= 1. Width of the output.
        scenarios: int >= 0. Number of scenarios.
        ratio: int >= 1. Width of the input over the rank, r = max(inputs // ratio, 4).

    Call arguments:
        x: Tensor (batch, inputs).
        scenario: int tensor (batch,), or (1,) for the candidates of one request: 0 is missing, i the i-th scenario,
            scenarios + 1 any other.

    Returns:
        Tensor (batch, units).

    Raises:
        ValueError: a value out of bounds.

    Source: arXiv 2510.15286, after MLoRA, arXiv 2408.08913.

    >>> ScenarioAdapter(units=3, scenarios=2)(keras.ops.ones((4, 5)), keras.ops.array([0, 1, 2, 3])).shape
    TensorShape([4, 3])
    """

    def __init__(
        self, *, units: PositiveInt, scenarios: NonNegativeInt, ratio: PositiveInt = 16, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)

    def build(self, x_shape: Shape, scenario_shape: Shape | None = None) -> None:
        inputs = x_shape[-1]
        rank = adapter_rank(inputs, self.ratio)
        adapted = max(0, self.scenarios - 1)
        self.down = self.up = self.bias = None
        if adapted:
            glorot = PerToken("glorot_normal")
            self.down = self.add_weight(shape=(adapted, inputs, rank), initializer=glorot, name="down")
            self.up = self.add_weight(shape=(adapted, rank, self.units), initializer="zeros", name="up")
            self.bias = self.add_weight(shape=(adapted, self.units), initializer="zeros", name="bias")

    def call(self, x: Tensor, scenario: Tensor) -> Tensor:
        if self.down is None:
            return ops.zeros((ops.shape(x)[0], self.units), x.dtype)
        # Ids 2 to C have the adapters 0 to C - 2; others take the first one and are multiplied by 0.
        has = ops.logical_and(scenario >= 2, scenario <= self.scenarios)
        place = ops.where(has, scenario - 2, 0)
        down, up, bias = (
            ops.cast(ops.take(weights, place, axis=0), x.dtype) for weights in (self.down, self.up, self.bias)
        )
        if scenario.shape[0] == 1:
            change = ops.matmul(ops.matmul(x, down[0]), up[0])
        else:
            # (batch, inputs) -> (batch, 1, inputs): every row has a pair of matrices of its own
            change = ops.matmul(ops.matmul(x[:, None, :], down), up)[:, 0]
        return (change + bias) * ops.cast(has, x.dtype)[:, None]

    def compute_output_shape(self, x_shape: Shape, scenario_shape: Shape | None = None) -> Shape:
        return (x_shape[0], self.units)


def adapter_rank(inputs: int, ratio: int) -> int:
    """Rank of an adapter; below 4 a scenario can hardly differ."""
    return max(inputs // ratio, 4)
