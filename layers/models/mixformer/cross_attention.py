"""Heads that read a history, each with keys and values of its own and its own state as the query."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from mixrank.layers.base import Layer, PerToken, Shape, Tensor, per_candidate
from mixrank.layers.mixing import Watcher, masked_softmax

Order = Literal["auto", "materialised", "reordered"]


@keras.saving.register_keras_serializable("mixrank")
class PerHeadCrossAttention(Layer):
    """`z_i = sum_t softmax_t(q_i . k_t^i / sqrt(dim)) v_t^i + q_i`, `k_t^i = h_t^i W_k^i`, `v_t^i = h_t^i W_v^i`.

    MixFormer equations (6)-(8): the query is the head itself, without a projection, and softmax runs over the valid
    positions. A head with an empty history keeps its state.

    With `norm` the scores are those of RMSNorms of head and items; values and the head that is added stay as they are.

    Two orders of the products give the same result. Materialised projects every item to a key and a value, 4 T dim^2
    operations per head and request. Reordered moves the matrices to the query, `q . (h W_k) = (q W_k^T) . h` and
    `(sum_t a_t h_t) W_v`, 4 dim^2 operations per head and query. So reordered costs less while a request has fewer
    queries than items.

    Args:
        order: materialised, reordered, or auto for the cheaper one. Auto is reordered without `request_of`. With
            `request_of` it is reordered if candidates <= requests * length is known from the shapes, and materialised
            otherwise, because requests of unknown size are ranking requests with many candidates.
        norm: bool. Whether queries and items are normalized; without it scores start near 0 and each head reads a mean.

    Call arguments:
        queries: Tensor (batch, heads, dim).
        items: Tensor (batch, length, heads, dim), or (requests, ...) with `request_of`.
        valid: bool tensor (batch, length), or (requests, length) with `request_of`; False marks padding.
        request_of: None, or int tensor (batch,): the index of each query's request. Keys and values are computed once
            per request. With one request, as seen in the shape of `valid`, all queries share them in one product per
            head; with more they are gathered for each query.

    Returns:
        Tensor (batch, heads, dim).

    Raises:
        ValueError: an unknown `order`, or items of another number of heads or width than the queries.

    Source: arXiv 2602.14110.

    >>> layer = PerHeadCrossAttention()
    >>> layer(keras.ops.ones((2, 3, 4)), keras.ops.ones((2, 5, 3, 4)), keras.ops.ones((2, 5), "bool")).shape
    TensorShape([2, 3, 4])
    """

    def __init__(self, *, order: Order = "auto", norm: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Told every attention while `insights` looks.
        self.on_attention: Watcher | None = None

    def build(
        self, queries_shape: Shape, items_shape: Shape, valid_shape: Shape, request_of_shape: Shape | None = None
    ) -> None:
        heads, dim = queries_shape[1:]
        if tuple(items_shape[2:]) != (heads, dim):
            raise ValueError(f"`items` must end in the queries' {(heads, dim)}, received {tuple(items_shape[2:])}")
        shape = (heads, dim, dim)
        self.key = self.add_weight(shape=shape, initializer=PerToken("glorot_uniform"), name="key")
        self.value = self.add_weight(shape=shape, initializer=PerToken("glorot_uniform"), name="value")
        self.norms = []
        for name in ("query_norm", "item_norm") if self.norm else ():
            self.norms.append(keras.layers.RMSNormalization(epsilon=1e-6, name=name, dtype=self.dtype_policy))
            self.norms[-1].build((None, dim))

    def call(self, queries: Tensor, items: Tensor, valid: Tensor, request_of: Tensor | None = None) -> Tensor:
        asked, compared = queries, items
        if self.norm:
            query_norm, item_norm = self.norms
            asked, compared = query_norm(queries), item_norm(items)
        # (batch, heads, dim) -> (heads, batch, dim)
        q = ops.transpose(asked, (1, 0, 2)) * queries.shape[2] ** -0.5
        # (requests, length, heads, dim) -> (heads, requests, length, dim)
        h = ops.transpose(items, (2, 0, 1, 3))
        compared = ops.transpose(compared, (2, 0, 1, 3)) if self.norm else h
        if self._reorders(valid, request_of):
            q = ops.matmul(q, ops.transpose(self.key, (0, 2, 1)))
            found = ops.matmul(self._read(q, compared, h, valid, request_of), self.value)
        else:
            found = self._read(q, self._project(compared, self.key), self._project(h, self.value), valid, request_of)
        return ops.transpose(found, (1, 0, 2)) + queries

    def _reorders(self, valid: Tensor, request_of: Tensor | None) -> bool:
        if self.order != "auto":
            return self.order == "reordered"
        if request_of is None:
            return True
        candidates, (requests, length) = request_of.shape[0], valid.shape
        return candidates is not None and requests is not None and candidates <= requests * length

    @staticmethod
    def _project(h: Tensor, kernel: Tensor) -> Tensor:
        heads, _, length, dim = h.shape
        # (heads, requests, length, dim) -> (heads, requests * length, dim), and back
        projected = ops.matmul(ops.reshape(h, (heads, -1, dim)), kernel)
        return ops.reshape(projected, (heads, -1, length, dim))

    def _read(self, q: Tensor, keys: Tensor, values: Tensor, valid: Tensor, request_of: Tensor | None) -> Tensor:
        if request_of is not None and valid.shape[0] == 1:
            # (heads, batch, dim) x (heads, length, dim) -> (heads, batch, length)
            scores = ops.matmul(q, ops.transpose(keys[:, 0], (0, 2, 1)))
            weights = masked_softmax(scores, valid[None])
            return ops.matmul(ops.cast(weights, values.dtype), values[:, 0])
        if request_of is not None:
            same, keys = keys is values, ops.take(keys, request_of, axis=1)
            values = keys if same else ops.take(values, request_of, axis=1)
        # (heads, batch, 1, dim) x (heads, batch, length, dim) -> (heads, batch, 1, length)
        scores = ops.matmul(q[:, :, None], ops.transpose(keys, (0, 1, 3, 2)))
        valid = per_candidate(valid, request_of)
        weights = masked_softmax(scores, valid[None, :, None, :])
        if self.on_attention is not None:
            # (heads, batch, 1, length) -> (batch, 1, heads, length)
            self.on_attention(ops.transpose(weights, (1, 2, 0, 3)), valid[:, None, None, :])
        # (heads, batch, 1, dim) -> (heads, batch, dim)
        return ops.matmul(ops.cast(weights, values.dtype), values)[:, :, 0]

    def compute_output_shape(
        self, queries_shape: Shape, items_shape: Shape, valid_shape: Shape, request_of_shape: Shape | None = None
    ) -> Shape:
        return queries_shape
