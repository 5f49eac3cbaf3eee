"""Experts of heads: several MLPs, each on an input of its own or all on one."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import keras
from keras import ops
from pydantic import NonNegativeInt, PositiveInt

from mixrank.layers.base import Layer, LayerWidths, Part, Shape, Tensor
from mixrank.layers.mixing import PerTokenDense


@keras.saving.register_keras_serializable("mixrank")
class ExpertBank(Layer):
    """E MLPs: `f_e(x) = phi(... relu(x W_1^e + b_1^e) ...)`, with a feature gate before and a norm after, if wanted.

    relu: phi is ReLU. swish: `phi(h) = z sigmoid(z)`, `z = gamma_e (h - mean h) / sd h + beta_e` over the units of a
    row, so that all experts put out values of one scale.

    With a rank r, expert e reads `x * 2 sigmoid(x A_e B_e)`, A_e (width, r) and B_e (r, width).

    Args:
        experts: int >= 1. Number of experts E.
        units: widths of the layers of an expert, the last one that of its output.
        activation: relu, or swish for norm and swish after the last layer.
        rank: int >= 0. Rank of the feature gates; 0 has none.

    Call arguments:
        x: Tensor (batch, width).

    Returns:
        Tensor (batch, experts, units[-1]), and the feature gates (experts, batch, width) or None.

    >>> ExpertBank(experts=2, units=(5, 4))(keras.ops.ones((7, 3)))[0].shape
    TensorShape([7, 2, 4])
    """

    def __init__(
        self,
        *,
        experts: PositiveInt,
        units: LayerWidths,
        activation: Literal["relu", "swish"] = "relu",
        rank: NonNegativeInt = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def build(self, x_shape: Shape) -> None:
        width, policy = x_shape[-1], {"dtype": self.dtype_policy}
        self.down = self.up = None
        if self.rank:
            self.down = PerTokenDense(self.rank, use_bias=False, token_leading=True, name="gate_down", **policy)
            self.down.build((self.experts, None, width))
            self.up = PerTokenDense(width, use_bias=False, token_leading=True, name="gate_up", **policy)
            self.up.build((self.experts, None, self.rank))
        self.dense = []
        for index, units in enumerate(self.units):
            last = index == len(self.units) - 1
            dense = PerTokenDense(
                units,
                activation=None if last and self.activation == "swish" else "relu",
                kernel_initializer="he_normal",
                token_leading=True,
                name=f"dense_{index}",
                **policy,
            )
            dense.build((self.experts, None, width))
            self.dense.append(dense)
            width = units
        if self.activation == "swish":
            self.scale = self.add_weight(shape=(self.experts, 1, width), initializer="ones", name="scale")
            self.shift = self.add_weight(shape=(self.experts, 1, width), initializer="zeros", name="shift")

    def call(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        # (batch, width) -> (1, batch, width), which all experts share
        h, gates = x[None], None
        if self.down is not None and self.up is not None:
            # (experts, batch, rank) -> (experts, batch, width)
            gates = 2.0 * ops.sigmoid(self.up(self.down(h)))
            h = h * gates
        for layer in self.dense:
            h = layer(h)
        if self.activation == "swish":
            centred = h - ops.mean(h, axis=-1, keepdims=True)
            deviation = ops.sqrt(ops.mean(ops.square(centred), axis=-1, keepdims=True) + 1e-5)
            h = ops.silu(centred / deviation * self.scale + self.shift)
        # (experts, batch, units) -> (batch, experts, units)
        return ops.transpose(h, (1, 0, 2)), gates

    def compute_output_shape(self, x_shape: Shape) -> tuple[Shape, Shape | None]:
        gates = (self.experts, x_shape[0], x_shape[-1]) if self.rank else None
        return (x_shape[0], self.experts, self.units[-1]), gates


def count_experts(
    experts: int, width: int, units: tuple[int, ...], activation: str = "relu", rank: int = 0
) -> tuple[int, int]:
    """Parameters and FLOPs of an `ExpertBank`.

    Args:
        experts, units, activation, rank: as in `ExpertBank`.
        width: of the input.
    """
    products = sum(a * b for a, b in itertools.pairwise((width, *units))) + 2 * width * rank
    norm = 2 * units[-1] if activation == "swish" else 0
    return experts * (products + sum(units) + norm), 2 * experts * products


def mix(weights: Tensor, experts: Tensor) -> Tensor:
    """`y_k = sum_e w_ke f_e`.

    Args:
        weights: Tensor (batch, gates, experts).
        experts: Tensor (batch, experts, units).

    Returns:
        Tensor (batch, gates, units).
    """
    return ops.matmul(weights, experts)


def count_mix(experts: int, units: int) -> int:
    """FLOPs of one gate of `mix`."""
    return 2 * experts * units


def total(name: str, *found: tuple[int, int]) -> Part:
    """Pairs of parameters and FLOPs, added up."""
    return Part(name, sum(parameters for parameters, _ in found), sum(flops for _, flops in found))
