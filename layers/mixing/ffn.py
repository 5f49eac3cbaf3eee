"""Feed-forward sub-layers: one per token, or one for all tokens."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import Activation, Layer, Shape, Tensor
from mixrank.layers.mixing.per_token import PerTokenDense


class _FeedForward(Layer):
    def __init__(
        self,
        *,
        expansion: PositiveInt = 4,
        hidden_dim: PositiveInt | None = None,
        activation: Activation = "relu",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def _hidden(self, dim: int) -> int:
        return self.hidden_dim or self.expansion * dim

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


@keras.saving.register_keras_serializable("mixrank")
class PerTokenFFN(_FeedForward):
    """`f_i = phi(z_i W_1^i + b_1^i) W_2^i + b_2^i` with weights of token i alone; HeMix (19)-(20), RankMixer (6)-(9).

    Args:
        expansion: int >= 1. Hidden width over token width, k in the papers.
        hidden_dim: int >= 1, or None. Hidden width, any number; overrides `expansion`.
        activation: Name or function of phi.

    Call arguments:
        x: Tensor (batch, tokens, dim).

    Returns:
        Tensor (batch, tokens, dim).

    Source: arXiv 2602.09387 and 2507.15551.

    >>> PerTokenFFN(expansion=2)(keras.ops.ones((2, 3, 4))).shape
    TensorShape([2, 3, 4])
    """

    def build(self, input_shape: Shape) -> None:
        tokens, dim = input_shape[1:]
        options = {"token_leading": True, "dtype": self.dtype_policy}
        self.expand = PerTokenDense(
            self._hidden(dim), activation=self.activation, kernel_initializer="he_normal", name="expand", **options
        )
        self.contract = PerTokenDense(dim, name="contract", **options)
        self.expand.build((tokens, None, dim))
        self.contract.build((tokens, None, self._hidden(dim)))

    def call(self, x: Tensor) -> Tensor:
        # (batch, tokens, dim) -> (tokens, batch, dim), and back after both products
        return ops.transpose(self.contract(self.expand(ops.transpose(x, (1, 0, 2)))), (1, 0, 2))


@keras.saving.register_keras_serializable("mixrank")
class SharedFFN(_FeedForward):
    """`f_i = phi(z_i W_1 + b_1) W_2 + b_2` with the same weights for every token, as in the Transformer.

    Args:
        expansion: int >= 1. Hidden width over token width.
        hidden_dim: int >= 1, or None. Hidden width itself; overrides `expansion`.
        activation: Name or function of phi.

    Call arguments:
        x: Tensor (batch, tokens, dim).

    Returns:
        Tensor (batch, tokens, dim).

    Source: arXiv 1706.03762.

    >>> SharedFFN(expansion=2)(keras.ops.ones((2, 3, 4))).shape
    TensorShape([2, 3, 4])
    """

    def build(self, input_shape: Shape) -> None:
        dim = input_shape[-1]
        self.expand = keras.layers.Dense(
            self._hidden(dim),
            activation=self.activation,
            kernel_initializer="he_normal",
            name="expand",
            dtype=self.dtype_policy,
        )
        self.contract = keras.layers.Dense(dim, name="contract", dtype=self.dtype_policy)
        self.expand.build(input_shape)
        self.contract.build((*input_shape[:-1], self._hidden(dim)))

    def call(self, x: Tensor) -> Tensor:
        return self.contract(self.expand(x))
