"""Explicit feature crosses: full rank, low rank, and a mixture of low-rank experts."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import Layer, Shape, Tensor
from mixrank.layers.mixing.attention import softmax
from mixrank.layers.mixing.per_token import PerTokenDense


@keras.saving.register_keras_serializable("mixrank")
class Cross(Layer):
    """`x_{l+1} = x_0 * (W x_l + b) + x_l`, with W = U V^T of rank r if `rank` is given; DCN-V2.

    Args:
        rank: int >= 1, or None for a full matrix. Below half the width it saves parameters.

    Call arguments:
        x0: Tensor (batch, width), the input of the first layer.
        x: Tensor (batch, width), the output of the layer before.

    Returns:
        Tensor (batch, width).

    Raises:
        ValueError: if `rank` is below 1, or `x0` and `x` differ in width.

    Source: arXiv 2008.13535.

    >>> x = keras.ops.ones((2, 5))
    >>> Cross(rank=3)(x, x).shape
    TensorShape([2, 5])
    """

    def __init__(self, *, rank: PositiveInt | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, x0_shape: Shape, x_shape: Shape) -> None:
        width = _same_width(x0_shape, x_shape)
        policy = {"dtype": self.dtype_policy}
        self.project = None
        if self.rank is not None:
            self.project = keras.layers.Dense(self.rank, use_bias=False, name="project", **policy)
            self.project.build((None, width))
        self.cross = keras.layers.Dense(width, name="cross", **policy)
        self.cross.build((None, self.rank or width))

    def call(self, x0: Tensor, x: Tensor) -> Tensor:
        return x0 * self.cross(x if self.project is None else self.project(x)) + x

    def compute_output_shape(self, x0_shape: Shape, x_shape: Shape) -> Shape:
        return x_shape


@keras.saving.register_keras_serializable("mixrank")
class CrossMixture(Layer):
    """`x_{l+1} = sum_i G_i(x_l) x_0 * (U_i tanh(C_i tanh(V_i^T x_l)) + b) + x_l`; DCN-V2.

    G is the softmax of a linear map of x_l to one number per expert.

    Args:
        rank: int >= 1. Inner width r of an expert.
        experts: int >= 1. Number of experts K.

    Call arguments:
        x0: Tensor (batch, width), the input of the first layer.
        x: Tensor (batch, width), the output of the layer before.

    Returns:
        Tensor (batch, width).

    Raises:
        ValueError: if `rank` or `experts` is below 1, or `x0` and `x` differ in width.

    Source: arXiv 2008.13535.

    >>> x = keras.ops.ones((2, 5))
    >>> CrossMixture(rank=3, experts=2)(x, x).shape
    TensorShape([2, 5])
    """

    def __init__(self, *, rank: PositiveInt, experts: PositiveInt, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, x0_shape: Shape, x_shape: Shape) -> None:
        width = _same_width(x0_shape, x_shape)
        options = {"use_bias": False, "token_leading": True, "dtype": self.dtype_policy}
        self.down = PerTokenDense(self.rank, activation="tanh", name="down", **options)
        self.down.build((self.experts, None, width))
        self.inner = PerTokenDense(self.rank, activation="tanh", name="inner", **options)
        self.inner.build((self.experts, None, self.rank))
        self.up = PerTokenDense(width, name="up", **options)
        self.up.build((self.experts, None, self.rank))
        self.bias = self.add_weight(shape=(width,), initializer="zeros", name="bias")
        self.gate = keras.layers.Dense(self.experts, use_bias=False, name="gate", dtype=self.dtype_policy)
        self.gate.build((None, width))

    def call(self, x0: Tensor, x: Tensor) -> Tensor:
        gates = ops.cast(softmax(self.gate(x)), x.dtype)
        # (batch, width) -> (1, batch, width) -> (experts, batch, width)
        opinions = self.up(self.inner(self.down(x[None])))
        # (batch, experts) -> (experts, batch, 1)
        weights = ops.transpose(gates)[:, :, None]
        # The gates add up to 1, so that one bias serves all experts.
        return x0 * (ops.sum(weights * opinions, axis=0) + self.bias) + x

    def compute_output_shape(self, x0_shape: Shape, x_shape: Shape) -> Shape:
        return x_shape


def _same_width(x0_shape: Shape, x_shape: Shape) -> int:
    if x0_shape[-1] != x_shape[-1]:
        raise ValueError(f"`x0` and `x` must be equally wide, received {x0_shape[-1]} and {x_shape[-1]}")
    return x_shape[-1]
