"""Factorization machines on tokens, and linear maps from tokens to tokens."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import Layer, Part, Shape, Tensor, dense_part
from mixrank.layers.mixing.mlp import MLP


@keras.saving.register_keras_serializable("mixrank")
class TokenProjection(Layer):
    """`Y = W X`: each output token is a weighted sum of the input tokens; WuKong's linear compression.

    Args:
        tokens: int >= 1. Number of output tokens.

    Call arguments:
        x: Tensor (batch, n, dim).

    Returns:
        Tensor (batch, tokens, dim).

    Raises:
        ValueError: if `tokens` is below 1.

    Source: arXiv 2403.02545.

    >>> TokenProjection(tokens=5)(keras.ops.ones((2, 3, 4))).shape
    TensorShape([2, 5, 4])
    """

    def __init__(self, *, tokens: PositiveInt, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: Shape) -> None:
        self.project = keras.layers.Dense(self.tokens, use_bias=False, name="project", dtype=self.dtype_policy)
        self.project.build((None, input_shape[2], input_shape[1]))

    def call(self, x: Tensor) -> Tensor:
        # (batch, n, dim) -> (batch, dim, n), and back with `tokens`
        return ops.transpose(self.project(ops.transpose(x, (0, 2, 1))), (0, 2, 1))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.tokens, input_shape[2])


@keras.saving.register_keras_serializable("mixrank")
class FactorizationBlock(Layer):
    """`FMB(X) = reshape(MLP(LN(flatten(X X^T Y))), tokens x dim)`: pairwise products, then new tokens from them.

    `X X^T Y` is computed as `X (X^T Y)`, so that n^2 products become 2 n rank. With `attentive`, Y depends on the row:
    `Y = reshape(MLP(flatten(C X)), n x rank)`, C mapping n tokens to `rank`.

    Args:
        tokens: int >= 1. Number of output tokens.
        rank: int >= 1. Columns of Y.
        units: widths of the MLP's hidden ReLU layers; its last layer is linear.
        attentive: bool. Whether Y is computed from the row.

    Call arguments:
        x: Tensor (batch, n, dim).

    Returns:
        Tensor (batch, tokens, dim).

    Raises:
        ValueError: if an argument is below 1.

    Source: arXiv 2403.02545.

    >>> FactorizationBlock(tokens=5, rank=2, units=(7,))(keras.ops.ones((2, 3, 4))).shape
    TensorShape([2, 5, 4])
    """

    def __init__(
        self,
        *,
        tokens: PositiveInt,
        rank: PositiveInt,
        units: tuple[int, ...] = (),
        attentive: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: Shape) -> None:
        self.input_tokens, self.dim = n, dim = tuple(input_shape[1:])
        policy = {"dtype": self.dtype_policy}
        if self.attentive:
            self.compress = TokenProjection(tokens=self.rank, name="compress", **policy)
            self.compress.build(input_shape)
            self.attend_hidden = MLP(units=self.units, name="attend_hidden", **policy)
            self.attend_hidden.build((None, self.rank * dim))
            self.attend_output = keras.layers.Dense(n * self.rank, name="attend_output", **policy)
            self.attend_output.build(self.attend_hidden.compute_output_shape((None, self.rank * dim)))
        else:
            self.project = TokenProjection(tokens=self.rank, name="project", **policy)
            self.project.build(input_shape)
        self.norm = keras.layers.LayerNormalization(epsilon=1e-5, name="norm", **policy)
        self.norm.build((None, n * self.rank))
        self.hidden = MLP(units=self.units, name="hidden", **policy)
        self.hidden.build((None, n * self.rank))
        self.expand = keras.layers.Dense(self.tokens * dim, name="expand", **policy)
        self.expand.build(self.hidden.compute_output_shape((None, n * self.rank)))

    def interactions(self, x):
        """`X X^T Y`.

        Returns:
            Tensor (batch, n, rank).
        """
        if not self.attentive:
            # (batch, rank, dim), which is (X^T Y)^T
            return ops.matmul(x, ops.transpose(self.project(x), (0, 2, 1)))
        # (batch, rank, dim) -> (batch, rank * dim) -> (batch, n * rank) -> (batch, n, rank)
        y = self.attend_hidden(ops.reshape(self.compress(x), (-1, self.rank * self.dim)))
        y = ops.reshape(self.attend_output(y), (-1, self.input_tokens, self.rank))
        return ops.matmul(x, ops.matmul(ops.transpose(x, (0, 2, 1)), y))

    def call(self, x: Tensor) -> Tensor:
        # (batch, n, rank) -> (batch, n * rank)
        x = self.norm(ops.reshape(self.interactions(x), (-1, self.input_tokens * self.rank)))
        # (batch, tokens * dim) -> (batch, tokens, dim)
        return ops.reshape(self.expand(self.hidden(x)), (-1, self.tokens, self.dim))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.tokens, input_shape[2])


def count_factorization(
    n: int, dim: int, tokens: int, rank: int, units: tuple[int, ...] = (), *, attentive: bool = False
) -> Part:
    """Parameters and FLOPs of a `FactorizationBlock`.

    Args:
        n, dim: tokens of its input, and their width.
        tokens, rank, units, attentive: as in `FactorizationBlock`.
    """
    expand = dense_part("", [n * rank, *units, tokens * dim])
    attend = dense_part("", [rank * dim, *units, n * rank]) if attentive else Part("", 0, 0)
    # Y, or the compression in its place, and the norm; then X^T Y, or the compression and X^T Y, and X (X^T Y).
    parameters = expand.parameters + attend.parameters + n * rank + 2 * n * rank
    flops = expand.flops + attend.flops + 2 * (3 if attentive else 2) * n * rank * dim
    return Part("factorization machine", parameters, flops)
