"""Mixing across tokens without attention: the block transpose, RankMixer's mixing and HeMix's low-rank mixing."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import Layer, Shape, Tensor, check_divides
from mixrank.layers.mixing.per_token import PerTokenDense


def block_transpose(x: Tensor, heads: int, *, token_leading: bool = False) -> Tensor:
    """`G_h = [x_1^h, ..., x_T^h]`: mixed token h joins the h-th piece of every token; HeMix equations (13)-(15).

    With `heads` = tokens it is the parameter-free token mixing of RankMixer, equations (3)-(5).

    Args:
        x: Tensor (batch, tokens, dim).
        heads: int. Number of mixed tokens, a divisor of dim.
        token_leading: bool. Whether the mixed-token axis of the result comes first.

    Returns:
        Tensor (batch, heads, tokens * dim / heads), or (heads, batch, ...) if `token_leading`.

    Raises:
        ValueError: if `heads` does not divide dim.

    Source: arXiv 2602.09387 and 2507.15551.

    >>> mixed = block_transpose(keras.ops.array([[[1, 2, 3, 4], [5, 6, 7, 8]]]), 2)
    >>> keras.ops.convert_to_numpy(mixed)[0, 0].tolist()
    [1, 2, 5, 6]
    """
    tokens, dim = x.shape[1:]
    check_divides(dim, heads=heads)
    # (batch, tokens, heads, dim / heads)
    x = ops.reshape(x, (-1, tokens, heads, dim // heads))
    if token_leading:
        # (heads, batch, tokens, dim / heads)
        return ops.reshape(ops.transpose(x, (2, 0, 1, 3)), (heads, -1, tokens * (dim // heads)))
    # (batch, heads, tokens, dim / heads)
    return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, heads, tokens * (dim // heads)))


def inverse_block_transpose(mixed: Tensor, tokens: int, *, token_leading: bool = False) -> Tensor:
    """Exact inverse of `block_transpose`, the group-aligned reconstruction of HeMix equation (18).

    Args:
        mixed: Tensor (batch, heads, tokens * piece), or (heads, batch, tokens * piece) if `token_leading`.
        tokens: int. Number of tokens of the result.
        token_leading: bool. Whether the mixed-token axis comes first.

    Returns:
        Tensor (batch, tokens, heads * piece).

    Source: arXiv 2602.09387.
    """
    heads = mixed.shape[0 if token_leading else 1]
    piece = mixed.shape[2] // tokens
    if token_leading:
        # (heads, batch, tokens, piece) -> (batch, tokens, heads, piece)
        x = ops.transpose(ops.reshape(mixed, (heads, -1, tokens, piece)), (1, 2, 0, 3))
    else:
        # (batch, heads, tokens, piece) -> (batch, tokens, heads, piece)
        x = ops.transpose(ops.reshape(mixed, (-1, heads, tokens, piece)), (0, 2, 1, 3))
    return ops.reshape(x, (-1, tokens, heads * piece))


@keras.saving.register_keras_serializable("mixrank")
class TokenMixing(Layer):
    """RankMixer's token mixing, equations (3)-(5): `block_transpose` with as many heads as tokens; no parameters.

    Call arguments:
        x: Tensor (batch, tokens, dim).

    Returns:
        Tensor (batch, tokens, dim).

    Raises:
        ValueError: if the number of tokens does not divide dim.

    Source: arXiv 2507.15551.

    >>> TokenMixing()(keras.ops.ones((5, 3, 6))).shape
    TensorShape([5, 3, 6])
    """

    def build(self, input_shape: Shape) -> None:
        tokens, dim = input_shape[1:]
        if dim % tokens:
            raise ValueError(
                f"token mixing needs `dim` divisible by the number of tokens {tokens}, received {dim}; "
                f"the nearest widths are {dim // tokens * tokens} and {(dim // tokens + 1) * tokens}"
            )

    def call(self, x: Tensor) -> Tensor:
        return block_transpose(x, x.shape[1])

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


@keras.saving.register_keras_serializable("mixrank")
class HeteroMixing(Layer):
    """`G'_h = W_R^h ReLU(W_L^h G_h)` on the block transpose G of the tokens, and back; HeMix equations (13)-(18).

    W_L^h and W_R^h belong to mixed token h alone and have rank `rank`. The residual is the block's.

    Args:
        heads: int >= 1. Number of mixed tokens, a divisor of dim.
        rank: int >= 1. Inner width, below the mixed token's width tokens * dim / heads.
        use_bias: bool. Whether both products add a bias per mixed token.

    Call arguments:
        x: Tensor (batch, tokens, dim).

    Returns:
        Tensor (batch, tokens, dim).

    Raises:
        ValueError: if `heads` does not divide dim, or `rank` is not below the mixed token's width.

    Source: arXiv 2602.09387.

    >>> HeteroMixing(heads=2, rank=3)(keras.ops.ones((5, 7, 4))).shape
    TensorShape([5, 7, 4])
    """

    def __init__(self, *, heads: PositiveInt, rank: PositiveInt, use_bias: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: Shape) -> None:
        tokens, dim = input_shape[1:]
        check_divides(dim, heads=self.heads)
        width = tokens * dim // self.heads
        if self.rank >= width:
            raise ValueError(
                f"`rank` must be below the mixed token's width tokens * dim / heads = {width}, received {self.rank}"
            )
        options = {"use_bias": self.use_bias, "token_leading": True, "dtype": self.dtype_policy}
        self.left = PerTokenDense(self.rank, activation="relu", kernel_initializer="he_normal", name="left", **options)
        self.right = PerTokenDense(width, name="right", **options)
        self.left.build((self.heads, None, width))
        self.right.build((self.heads, None, self.rank))

    def call(self, x: Tensor) -> Tensor:
        mixed = block_transpose(x, self.heads, token_leading=True)
        return inverse_block_transpose(self.right(self.left(mixed)), x.shape[1], token_leading=True)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape
