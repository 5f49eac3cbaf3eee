"""A low-rank adapter per scenario, for scenarios mixed within a batch."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from mixrank.layers.base import PerToken, check_least


@keras.saving.register_keras_serializable("mixrank")
class ScenarioAdapter(keras.Layer):
    """`d_c = x A_c B_c + b_c` for the scenario c of a row; what MLoRA adds to a dense layer's `x W + b`.

    A starts as Glorot normal, B and b at 0, so that all scenarios start equal. The main scenario, and a row whose
    scenario is missing or not declared, gets 0.

    Args:
        units: int >= 1. Width of the output.
        scenarios: int >= 0. Number of scenarios.
        main: int in [0, scenarios). Position of the scenario without adapter.
        ratio: int >= 1. Width of the input over the rank r.
        min_rank: int >= 1. Smallest rank, r = max(inputs // ratio, min_rank).
        added: int in [0, scenarios). The last so many scenarios joined a trained model: their A, B and b are weights
            of their own, and the last one's alone are trainable.

    Call arguments:
        x: Tensor (batch, inputs).
        scenario: int tensor (batch,), or (1,) for the rows of one request: 0 is missing, i the i-th scenario,
            scenarios + 1 any other.

    Returns:
        Tensor (batch, units).

    Raises:
        ValueError: a value out of bounds.

    Source: arXiv 2510.15286, after MLoRA, arXiv 2408.08913.
    """

    def __init__(
        self,
        *,
        units: int,
        scenarios: int,
        main: int = 0,
        ratio: int = 16,
        min_rank: int = 4,
        added: int = 0,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        check_least(1, units=units, ratio=ratio, min_rank=min_rank)
        for name, value in (("main", main), ("added", added)):
            if not 0 <= value < max(1, scenarios):
                raise ValueError(f"`{name}` must be at least 0 and below `scenarios` = {scenarios}, received {value}")
        if main >= scenarios - added and added:
            raise ValueError(f"`main` must not be one of the {added} added scenarios, received {main}")
        self.units = units
        self.scenarios = scenarios
        self.main = main
        self.ratio = ratio
        self.min_rank = min_rank
        self.added = added

    def build(self, x_shape, scenario_shape=None) -> None:
        inputs = x_shape[-1]
        rank = adapter_rank(inputs, self.ratio, self.min_rank)
        # Every scenario but the main one, then each added scenario in weights of its own.
        self.sizes = [max(0, self.scenarios - self.added - 1), *[1] * self.added]
        self.down: list = []
        self.up: list = []
        self.bias: list = []
        for index, size in enumerate(self.sizes):
            suffix = f"_{self.scenarios - self.added + index}" if index else ""
            trainable = index == self.added
            for name, weights, shape, initializer in (
                ("down", self.down, (size, inputs, rank), PerToken("glorot_normal")),
                ("up", self.up, (size, rank, self.units), "zeros"),
                ("bias", self.bias, (size, self.units), "zeros"),
            ):
                if size:
                    weights.append(
                        self.add_weight(
                            shape=shape, initializer=initializer, trainable=trainable, name=f"{name}{suffix}"
                        )
                    )
        # id -> place among the adapters; ids without one take the first place and are multiplied by 0.
        adapted = [c for c in range(self.scenarios) if c != self.main]
        self.places = np.zeros(self.scenarios + 2, "int32")
        self.has_adapter = np.zeros(self.scenarios + 2, "float32")
        for place, c in enumerate(adapted):
            self.places[c + 1], self.has_adapter[c + 1] = place, 1

    def call(self, x, scenario):
        if not self.down:
            return ops.zeros((ops.shape(x)[0], self.units), x.dtype)
        ids = ops.clip(scenario, 0, self.scenarios + 1)
        place = ops.take(ops.convert_to_tensor(self.places), ids, axis=0)
        down, up, bias = (
            ops.take(weights[0] if len(weights) == 1 else ops.concatenate(weights, axis=0), place, axis=0)
            for weights in (self.down, self.up, self.bias)
        )
        down, up, bias = (ops.cast(weights, x.dtype) for weights in (down, up, bias))
        if scenario.shape[0] == 1:
            change = ops.matmul(ops.matmul(x, down[0]), up[0])
        else:
            # (batch, inputs) -> (batch, 1, inputs): every row has a pair of matrices of its own
            change = ops.matmul(ops.matmul(x[:, None, :], down), up)[:, 0]
        has = ops.take(ops.convert_to_tensor(self.has_adapter), ids, axis=0)
        return (change + bias) * ops.cast(has, x.dtype)[:, None]

    def compute_output_shape(self, x_shape, scenario_shape=None):
        return (x_shape[0], self.units)

    def get_config(self) -> dict:
        names = ("units", "scenarios", "main", "ratio", "min_rank", "added")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def adapter_rank(inputs: int, ratio: int, min_rank: int) -> int:
    """Rank of an adapter, `max(inputs // ratio, min_rank)`."""
    return max(inputs // ratio, min_rank)
