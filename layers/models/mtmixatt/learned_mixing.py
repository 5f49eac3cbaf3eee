"""Token mixing by a learned matrix per head."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import Layer, PerToken, Shape, Tensor, check_divides

Mixing = Literal["orthogonal", "ones", "zeros", "identity"]


@keras.saving.register_keras_serializable("mixrank")
class Rotation(keras.initializers.Initializer):
    """An orthogonal matrix of determinant +1, drawn uniformly.

    A matrix W of determinant -1 has the eigenvalue -1, so that W + I, mixing with its residual, starts without full
    rank; one of determinant +1 almost never has it.

    Args:
        seed: int or None, as in `keras.initializers.Orthogonal`.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed
        self._orthogonal = keras.initializers.Orthogonal(seed=seed)

    def __call__(self, shape: Shape, dtype: str | None = None, **kwargs: Any) -> Tensor:
        drawn = self._orthogonal(shape, dtype="float32")
        first = drawn[:, :1] * ops.sign(ops.det(drawn))
        return ops.cast(ops.concatenate([first, drawn[:, 1:]], axis=1), dtype or "float32")

    def get_config(self) -> dict:
        return {"seed": self.seed}


@keras.saving.register_keras_serializable("mixrank")
class LearnedMixing(Layer):
    """`Y_h = W_h X_h`, X_h the h-th piece of every token's channels; Multi-Mix Attention of MTmixAtt.

    The residual is the block's. RankMixer's fixed shuffle, variant M1, is `TokenMixing`.

    Args:
        heads: int >= 1, a divisor of dim. Pieces H, each with a matrix W_h (tokens, tokens).
        start: how W_h starts: orthogonal with determinant +1 (M3), ones, zeros (M2), or identity.

    Call arguments:
        x: Tensor (batch, tokens, dim).

    Returns:
        Tensor (batch, tokens, dim).

    Raises:
        ValueError: if `heads` does not divide dim.

    Source: arXiv 2510.15286.

    >>> LearnedMixing(heads=2)(keras.ops.ones((5, 3, 4))).shape
    TensorShape([5, 3, 4])
    """

    def __init__(self, *, heads: PositiveInt, start: Mixing = "orthogonal", **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: Shape) -> None:
        tokens, dim = input_shape[1:]
        check_divides(dim, heads=self.heads)
        one = Rotation() if self.start == "orthogonal" else self.start
        self.kernel = self.add_weight(shape=(self.heads, tokens, tokens), initializer=PerToken(one), name="kernel")

    def call(self, x: Tensor) -> Tensor:
        tokens, dim = x.shape[1:]
        piece = dim // self.heads
        # (batch, tokens, dim) -> (heads, tokens, batch * piece)
        pieces = ops.transpose(ops.reshape(x, (-1, tokens, self.heads, piece)), (2, 1, 0, 3))
        mixed = ops.matmul(self.kernel, ops.reshape(pieces, (self.heads, tokens, -1)))
        # (heads, tokens, batch * piece) -> (batch, tokens, dim)
        mixed = ops.transpose(ops.reshape(mixed, (self.heads, tokens, -1, piece)), (2, 1, 0, 3))
        return ops.reshape(mixed, (-1, tokens, dim))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape
