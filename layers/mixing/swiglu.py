"""Gated feed-forward sub-layers: one for all positions, or one per token."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from pydantic import PositiveFloat, PositiveInt

from mixrank.layers.base import Layer, Shape, Tensor
from mixrank.layers.mixing.per_token import PerTokenDense


class _Gated(Layer):
    def _transform(self, x: Tensor) -> Tensor:
        return self.down(self.up(x) * ops.silu(self.gate(x)))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


@keras.saving.register_keras_serializable("mixrank")
class SwiGLU(_Gated):
    """`f(x) = ((x W_up) * SiLU(x W_gate)) W_down` with the same matrices everywhere and no biases; MixFormer (5).

    Args:
        units: int >= 1. Hidden width.

    Call arguments:
        x: Tensor (batch, ..., dim).

    Returns:
        Tensor (batch, ..., dim).

    Raises:
        ValueError: if `units` is below 1.

    Source: arXiv 2002.05202 and 2602.14110.

    >>> SwiGLU(units=5)(keras.ops.ones((2, 3, 4))).shape
    TensorShape([2, 3, 4])
    """

    def __init__(self, *, units: PositiveInt, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: Shape) -> None:
        options = {"use_bias": False, "dtype": self.dtype_policy}
        self.up = keras.layers.Dense(self.units, name="up", **options)
        self.gate = keras.layers.Dense(self.units, name="gate", **options)
        self.down = keras.layers.Dense(input_shape[-1], name="down", **options)
        self.up.build(input_shape)
        self.gate.build(input_shape)
        self.down.build((*input_shape[:-1], self.units))

    def call(self, x: Tensor) -> Tensor:
        return self._transform(x)


@keras.saving.register_keras_serializable("mixrank")
class PerTokenSwiGLU(_Gated):
    """`f_i(x_i) = ((x_i W_up^i) * SiLU(x_i W_gate^i)) W_down^i`, matrices of token i alone; MixFormer (4) and (9).

    Args:
        units: int >= 1. Hidden width.
        start: float > 0. Scale at which W_down starts, over that of Glorot's; a small one makes a fresh residual block
            close to the identity.

    Call arguments:
        x: Tensor (batch, tokens, dim).

    Returns:
        Tensor (batch, tokens, dim).

    Raises:
        ValueError: if `units` is below 1 or `start` is not above 0.

    Source: arXiv 2002.05202 and 2602.14110.

    >>> PerTokenSwiGLU(units=5)(keras.ops.ones((2, 3, 4))).shape
    TensorShape([2, 3, 4])
    """

    def __init__(self, *, units: PositiveInt, start: PositiveFloat = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: Shape) -> None:
        tokens, dim = input_shape[1:]
        options = {"use_bias": False, "token_leading": True, "dtype": self.dtype_policy}
        self.up = PerTokenDense(self.units, name="up", **options)
        self.gate = PerTokenDense(self.units, name="gate", **options)
        glorot = keras.initializers.VarianceScaling(scale=self.start**2, mode="fan_avg", distribution="uniform")
        self.down = PerTokenDense(dim, kernel_initializer=glorot, name="down", **options)
        self.up.build((tokens, None, dim))
        self.gate.build((tokens, None, dim))
        self.down.build((tokens, None, self.units))

    def call(self, x: Tensor) -> Tensor:
        # (batch, tokens, dim) -> (tokens, batch, dim), and back after the products
        return ops.transpose(self._transform(ops.transpose(x, (1, 0, 2))), (1, 0, 2))
