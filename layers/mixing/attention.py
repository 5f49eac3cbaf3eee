"""Attention: masked softmax, scaled dot products and self-attention among tokens."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import Layer, Shape, Tensor, check_divides
from mixrank.layers.mixing.attention_entropy import Watcher

# Low enough to vanish in float32, and far from its limits.
_NEVER = -1e30


def softmax(scores: Tensor) -> Tensor:
    """Softmax over the last axis in float32; a single score gets all the weight, without Keras's warning."""
    scores = ops.cast(scores, "float32")
    return ops.ones_like(scores) if scores.shape[-1] == 1 else ops.softmax(scores, axis=-1)


def without_masked(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores in float32, so low where `mask` is False that a softmax gives no weight there.

    Args:
        scores: Tensor (..., keys).
        mask: bool tensor that broadcasts to `scores`; True marks a valid position.
    """
    return ops.where(mask, ops.cast(scores, "float32"), _NEVER)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """`a_t = exp(s_t) / sum_u exp(s_u)` over the valid positions of the last axis, in float32; 0 elsewhere.

    A row without a valid position gives zeros.

    Args:
        scores: Tensor (..., keys).
        mask: bool tensor that broadcasts to `scores`; True marks a valid position.

    Returns:
        float32 tensor (..., keys).
    """
    weights = softmax(without_masked(scores, mask))
    # Valid or not, the weights of a row add up to 1; only an empty row must be put right.
    return weights * ops.cast(ops.any(mask, axis=-1, keepdims=True), "float32")


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    *,
    scale: bool = True,
    watcher: Watcher | None = None,
) -> Tensor:
    """`softmax(Q K^T / sqrt(d)) V` per head, heads side by side; HeMix equations (6) and (7).

    Args:
        queries: Tensor (batch, heads, queries, d); the batch or the number of queries is known from its shape.
        keys: Tensor (batch, heads, keys, d), or (1, heads, keys, d) for all rows.
        values: Tensor (batch, heads, keys, width), or (1, heads, keys, width).
        mask: None, or bool tensor that broadcasts to (batch, heads, queries, keys); True marks a valid key.
        scale: bool. Whether scores are divided by sqrt(d).
        watcher: is told the weights and the mask, if there is one.

    Returns:
        Tensor (batch, queries, heads * width).
    """
    batch, heads, num_queries, width = queries.shape
    scores = ops.matmul(queries * width**-0.5 if scale else queries, ops.transpose(keys, (0, 1, 3, 2)))
    weights = softmax(scores) if mask is None else masked_softmax(scores, mask)
    if watcher is not None and mask is not None:
        watcher(weights, mask)
    output = ops.matmul(ops.cast(weights, values.dtype), values)
    # (batch, heads, queries, width) -> (batch, queries, heads * width)
    lengths = (batch, -1) if num_queries is None else (-1, num_queries)
    return ops.reshape(ops.transpose(output, (0, 2, 1, 3)), (*lengths, heads * values.shape[3]))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(batch, length, dim) -> (batch, heads, length, dim / heads)."""
    length, dim = x.shape[1:]
    return ops.transpose(ops.reshape(x, (-1, length, heads, dim // heads)), (0, 2, 1, 3))


def merge_heads(x: Tensor) -> Tensor:
    """(batch, heads, length, width) -> (batch, length, heads * width), the inverse of `split_heads`."""
    heads, length, width = x.shape[1:]
    return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, length, heads * width))


def matmul_of_rows(x: Tensor, y: Tensor) -> Tensor:
    """`x y` per row and head; if all rows share y, in one product per head, without a copy of y per row.

    Args:
        x: Tensor (batch, heads, queries, n).
        y: Tensor (batch, heads, n, m), or (1, heads, n, m) for all rows.

    Returns:
        Tensor (batch, heads, queries, m).
    """
    if y.shape[0] != 1:
        return ops.matmul(x, y)
    heads, queries, width = x.shape[1:]
    # (batch, heads, queries, n) -> (1, heads, batch * queries, n), and back
    product = ops.matmul(ops.reshape(ops.transpose(x, (1, 0, 2, 3)), (1, heads, -1, width)), y)
    return ops.transpose(ops.reshape(product, (heads, -1, queries, y.shape[3])), (1, 0, 2, 3))


@keras.saving.register_keras_serializable("mixrank")
class SelfAttention(Layer):
    """`softmax(Q K^T / sqrt(d)) V W_o` among the tokens of a row, with shared projections and no biases.

    Args:
        heads: int >= 1. Attention heads, a divisor of dim.

    Call arguments:
        x: Tensor (batch, tokens, dim).

    Returns:
        Tensor (batch, tokens, dim).

    Raises:
        ValueError: if `heads` does not divide dim.

    Source: arXiv 1706.03762; HeMix equation (3).

    >>> SelfAttention(heads=2)(keras.ops.ones((3, 5, 4))).shape
    TensorShape([3, 5, 4])
    """

    def __init__(self, *, heads: PositiveInt = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: Shape) -> None:
        dim = input_shape[2]
        check_divides(dim, heads=self.heads)
        self.projections = [
            keras.layers.Dense(dim, use_bias=False, name=name, dtype=self.dtype_policy)
            for name in ("query", "key", "value", "output")
        ]
        for projection in self.projections:
            projection.build(input_shape)

    def call(self, x: Tensor) -> Tensor:
        query, key, value, output = self.projections
        queries, keys, values = (split_heads(project(x), self.heads) for project in (query, key, value))
        return output(attend(queries, keys, values, None))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape
