"""Heads that read a history, each with keys and values of its own and its own state as the query."""

from __future__ import annotations

from typing import Literal

import keras
from keras import ops

from mixrank.layers.base import PerToken, per_candidate
from mixrank.layers.mixing import masked_softmax

Order = Literal["auto", "materialised", "reordered"]


@keras.saving.register_keras_serializable("mixrank")
class PerHeadCrossAttention(keras.Layer):
    """`z_i = sum_t softmax_t(q_i . k_t^i / sqrt(dim)) v_t^i + q_i`, `k_t^i = h_t^i W_k^i`, `v_t^i = h_t^i W_v^i`.

    MixFormer equations (6)-(8): the query is the head itself, without a projection, and softmax runs over the valid
    positions. A head with an empty history keeps its state.

    Two orders of the products give the same result. Materialised projects every item to a key and a value, 4 T dim^2
    operations per head and request. Reordered moves the matrices to the query, `q . (h W_k) = (q W_k^T) . h` and
    `(sum_t a_t h_t) W_v`, 4 dim^2 operations per head and query. So reordered costs less while a request has fewer
    queries than items.

    Args:
        order: materialised, reordered, or auto for the cheaper one. Auto is reordered without `rows`. With `rows` it is
            reordered if candidates <= requests * length is known from the shapes, and materialised otherwise, because
            requests of unknown size are ranking requests with many candidates.

    Call arguments:
        queries: Tensor (batch, heads, dim).
        items: Tensor (batch, length, heads, dim), or (requests, ...) with `rows`.
        valid: bool tensor (batch, length), or (requests, length) with `rows`; False marks padding.
        rows: None, or int tensor (batch,): the request of each query. Keys and values are computed once per request.
            With one request, as seen in the shape of `valid`, all queries share them in one product per head; with
            more they are gathered for each query.

    Returns:
        Tensor (batch, heads, dim).

    Raises:
        ValueError: an unknown `order`, or items of another number of heads or width than the queries.

    Source: arXiv 2602.14110.

    >>> layer = PerHeadCrossAttention()
    >>> layer(keras.ops.ones((2, 3, 4)), keras.ops.ones((2, 5, 3, 4)), keras.ops.ones((2, 5), "bool")).shape
    TensorShape([2, 3, 4])
    """

    def __init__(self, *, order: Order = "auto", **kwargs) -> None:
        super().__init__(**kwargs)
        if order not in ("auto", "materialised", "reordered"):
            raise ValueError(f"`order` must be auto, materialised or reordered, received {order!r}")
        self.order = order

    def build(self, queries_shape, items_shape, valid_shape, rows_shape=None) -> None:
        heads, dim = queries_shape[1:]
        if tuple(items_shape[2:]) != (heads, dim):
            raise ValueError(f"`items` must end in the queries' {(heads, dim)}, received {tuple(items_shape[2:])}")
        shape = (heads, dim, dim)
        self.key = self.add_weight(shape=shape, initializer=PerToken("glorot_uniform"), name="key")
        self.value = self.add_weight(shape=shape, initializer=PerToken("glorot_uniform"), name="value")

    def call(self, queries, items, valid, rows=None):
        # (batch, heads, dim) -> (heads, batch, dim)
        q = ops.transpose(queries, (1, 0, 2)) * queries.shape[2] ** -0.5
        # (requests, length, heads, dim) -> (heads, requests, length, dim)
        h = ops.transpose(items, (2, 0, 1, 3))
        if self._reorders(valid, rows):
            q = ops.matmul(q, ops.transpose(self.key, (0, 2, 1)))
            found = ops.matmul(self._read(q, h, h, valid, rows), self.value)
        else:
            found = self._read(q, self._project(h, self.key), self._project(h, self.value), valid, rows)
        return ops.transpose(found, (1, 0, 2)) + queries

    def _reorders(self, valid, rows) -> bool:
        if self.order != "auto":
            return self.order == "reordered"
        if rows is None:
            return True
        candidates, (requests, length) = rows.shape[0], valid.shape
        return candidates is not None and requests is not None and candidates <= requests * length

    @staticmethod
    def _project(h, kernel):
        heads, _, length, dim = h.shape
        # (heads, requests, length, dim) -> (heads, requests * length, dim), and back
        projected = ops.matmul(ops.reshape(h, (heads, -1, dim)), kernel)
        return ops.reshape(projected, (heads, -1, length, dim))

    @staticmethod
    def _read(q, keys, values, valid, rows):
        if rows is not None and valid.shape[0] == 1:
            # (heads, batch, dim) x (heads, length, dim) -> (heads, batch, length)
            scores = ops.matmul(q, ops.transpose(keys[:, 0], (0, 2, 1)))
            weights = masked_softmax(scores, valid[None])
            return ops.matmul(ops.cast(weights, values.dtype), values[:, 0])
        if rows is not None:
            same, keys = keys is values, ops.take(keys, rows, axis=1)
            values = keys if same else ops.take(values, rows, axis=1)
        # (heads, batch, 1, dim) x (heads, batch, length, dim) -> (heads, batch, 1, length)
        scores = ops.matmul(q[:, :, None], ops.transpose(keys, (0, 1, 3, 2)))
        weights = masked_softmax(scores, per_candidate(valid, rows)[None, :, None, :])
        # (heads, batch, 1, dim) -> (heads, batch, dim)
        return ops.matmul(ops.cast(weights, values.dtype), values)[:, :, 0]

    def compute_output_shape(self, queries_shape, items_shape, valid_shape, rows_shape=None):
        return queries_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "order": self.order}
