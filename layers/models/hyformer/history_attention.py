"""Attention of queries to the events of one history."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import Layer, Shape, Tensor, check_divides, shared_by_candidates
from mixrank.layers.mixing import (
    attend_in_chunks,
    is_long,
    masked_softmax,
    matmul_of_rows,
    merge_heads,
    split_heads,
)


@keras.saving.register_keras_serializable("mixrank")
class HistoryAttention(Layer):
    """`softmax(Q W_q (H W_k)^T / sqrt(d)) H W_v W_o`, d the width of a head; softmax runs over the valid events.

    Keys and values are computed once per request. A row without a valid event gets zeros.

    Args:
        heads: int >= 1, a divisor of dim. Attention heads.

    Call arguments:
        queries: Tensor (batch, queries, dim), normalized.
        items: Tensor (requests, length, dim), normalized.
        valid: bool tensor (requests, length); False marks padding.
        request_of: None, or int tensor (batch,): the index of each query's request. With one request, as seen in the
            shape of `items`, all rows read its keys in one product per head; with more they are gathered.

    Returns:
        Tensor (batch, queries, dim).

    Raises:
        ValueError: if `heads` does not divide dim.

    Source: arXiv 2601.12681 and 1706.03762.

    >>> layer = HistoryAttention(heads=2)
    >>> layer(keras.ops.ones((2, 3, 4)), keras.ops.ones((2, 5, 4)), keras.ops.ones((2, 5), "bool")).shape
    TensorShape([2, 3, 4])
    """

    def __init__(self, *, heads: PositiveInt, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, queries_shape: Shape, items_shape: Shape, valid_shape: Shape) -> None:
        dim = queries_shape[-1]
        check_divides(dim, heads=self.heads)
        # Variance 1 / inputs: queries and keys of unit-scale tokens have unit scale.
        options = {"use_bias": False, "kernel_initializer": "lecun_uniform", "dtype": self.dtype_policy}
        self.query = keras.layers.Dense(dim, name="query", **options)
        self.key_value = keras.layers.Dense(2 * dim, name="key_value", **options)
        self.output_projection = keras.layers.Dense(dim, name="output", **options)
        for dense in (self.query, self.key_value, self.output_projection):
            dense.build((None, None, dim))

    def call(self, queries: Tensor, items: Tensor, valid: Tensor, request_of: Tensor | None = None) -> Tensor:
        keys, values = (split_heads(half, self.heads) for half in ops.split(self.key_value(items), 2, axis=-1))
        q = split_heads(self.query(queries), self.heads)
        if request_of is None and is_long(q, keys):
            return self.output_projection(attend_in_chunks(q, keys, values, valid))
        keys, values, mask = (shared_by_candidates(x, request_of) for x in (keys, values, valid[:, None, None, :]))
        scores = matmul_of_rows(q * q.shape[-1] ** -0.5, ops.transpose(keys, (0, 1, 3, 2)))
        weights = ops.cast(masked_softmax(scores, mask), values.dtype)
        return self.output_projection(merge_heads(matmul_of_rows(weights, values)))

    def compute_output_shape(
        self, queries_shape: Shape, items_shape: Shape, valid_shape: Shape, request_of_shape: Shape | None = None
    ) -> Shape:
        return queries_shape
