"""HeMix's interest extraction: dynamic and fixed queries read a history."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from pydantic import NonNegativeInt, PositiveInt

from mixrank.layers.base import Layer, Shape, Tensor, check_divides, per_candidate, shared_by_candidates
from mixrank.layers.mixing import PerTokenDense, Watcher, attend, split_heads


@keras.saving.register_keras_serializable("mixrank")
class MixedQueryAttention(Layer):
    """Interest tokens of one history from dynamic and fixed queries, HeMix equations (4)-(9).

    `o_i = sum_t softmax_t(q_i . k_t / sqrt(d)) v_t`, `O = [o_1, ..., o_n] W_o` with `q_i = Q[i] W_q^i` projected by a
    matrix of its own, `Q = [dynamic; fixed]`, and `K = S W_k`, `V = S W_v` shared by all queries. d is the width of a
    head. Fixed queries are weights and the same for every sample, so they are projected once per batch.

    With `norm` the scores, not the values, are those of LayerNorms of Q and S. Embedding rows start small; without it
    so do the scores, every query weighs all items alike, and the gradients to its matrices, products of two small
    numbers, keep it that way.

    Args:
        num_fixed: int >= 0. Number of fixed queries.
        heads: int >= 1. Attention heads, a divisor of dim.
        norm: bool. Whether queries and items are normalized before the projections that make the scores.
        residual: bool. Whether the queries are added to the output.
        null_key: bool. Whether a learned key and value join every history, so that an empty one gives a learned token
            in place of zeros.

    Call arguments:
        dynamic: Tensor (batch, queries, dim), the feature tokens that query this history.
        items: Tensor (batch, length, dim).
        valid: bool tensor (batch, length); False marks padding. (Keras reserves the name `mask`.)
        request_of: None, or int tensor (batch,): the index of each candidate's request; `items` and `valid` then
            have
            one row per request. Keys, values and all that the fixed queries find are computed once for it. With one
            request, as seen in the shape of `items`, dynamic queries share keys and values; with more they are
            gathered.

    Returns:
        Tensor (batch, queries + num_fixed, dim).

    Raises:
        ValueError: if `heads` does not divide dim or the items have another width than the queries.

    Source: arXiv 2602.09387.

    >>> layer = MixedQueryAttention(num_fixed=2, heads=2)
    >>> layer(keras.ops.ones((3, 5, 4)), keras.ops.ones((3, 6, 4)), keras.ops.ones((3, 6), "bool")).shape
    TensorShape([3, 7, 4])
    """

    def __init__(
        self,
        *,
        num_fixed: NonNegativeInt,
        heads: PositiveInt = 4,
        norm: bool = False,
        residual: bool = False,
        null_key: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Told every attention while `insights` looks.
        self.on_attention: Watcher | None = None

    def build(self, dynamic_shape: Shape, items_shape: Shape, valid_shape: Shape) -> None:
        num_dynamic, dim = dynamic_shape[1:]
        check_divides(dim, heads=self.heads)
        if items_shape[2] != dim:
            raise ValueError(f"`items` must be as wide as the queries, {dim}, received {items_shape[2]}")
        options = {"use_bias": False, "dtype": self.dtype_policy}
        self.dynamic_query = PerTokenDense(dim, name="dynamic_query", token_leading=True, **options)
        self.dynamic_query.build((num_dynamic, None, dim))
        if self.num_fixed:
            normal = keras.initializers.RandomNormal(stddev=0.02)
            self.fixed = self.add_weight(shape=(self.num_fixed, 1, dim), initializer=normal, name="fixed")
            self.fixed_query = PerTokenDense(dim, name="fixed_query", token_leading=True, **options)
            self.fixed_query.build((self.num_fixed, 1, dim))
        if self.null_key:
            normal = keras.initializers.RandomNormal(stddev=0.02)
            self.null = self.add_weight(shape=(2, 1, 1, dim), initializer=normal, name="null")
        self.norms = []
        for name in ("query_norm", "item_norm") if self.norm else ():
            self.norms.append(keras.layers.LayerNormalization(epsilon=1e-5, name=name, dtype=self.dtype_policy))
            self.norms[-1].build((None, None, dim))
        self.key = keras.layers.Dense(dim, name="key", **options)
        self.value = keras.layers.Dense(dim, name="value", **options)
        self.output_projection = keras.layers.Dense(dim, name="output", **options)
        for projection in (self.key, self.value, self.output_projection):
            projection.build((None, None, dim))

    def call(self, dynamic: Tensor, items: Tensor, valid: Tensor, request_of: Tensor | None = None) -> Tensor:
        requests, dim = ops.shape(items)[0], items.shape[2]
        normed_queries, normed_items = self.norms or (_same, _same)
        keys, values = self.key(normed_items(items)), self.value(items)
        if self.null_key:
            null = ops.broadcast_to(self.null, (2, requests, 1, dim))
            keys, values = ops.concatenate([null[0], keys], axis=1), ops.concatenate([null[1], values], axis=1)
            valid = ops.concatenate([ops.ones((requests, 1), dtype="bool"), valid], axis=1)
        history = split_heads(keys, self.heads), split_heads(values, self.heads), valid[:, None, None, :]

        # (batch, queries, dim) -> (queries, batch, dim)
        dynamic = ops.transpose(dynamic, (1, 0, 2))
        queries = self.dynamic_query(normed_queries(dynamic))
        if not self.num_fixed:
            return self._read(dynamic, queries, *(shared_by_candidates(x, request_of) for x in history))
        shape = (self.num_fixed, requests, dim)
        fixed, fixed_queries = (
            ops.broadcast_to(x, shape) for x in (self.fixed, self.fixed_query(normed_queries(self.fixed)))
        )
        if request_of is None:
            raw, queries = (ops.concatenate(x, axis=0) for x in ((dynamic, fixed), (queries, fixed_queries)))
            return self._read(raw, queries, *history)
        found = self._read(dynamic, queries, *(shared_by_candidates(x, request_of) for x in history))
        return ops.concatenate([found, per_candidate(self._read(fixed, fixed_queries, *history), request_of)], axis=1)

    def _read(self, raw: Tensor, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Interests (batch, queries, dim) that queries (queries, batch, dim) find in a history split into heads."""
        number, _, dim = queries.shape
        queries = ops.reshape(queries, (number, -1, self.heads, dim // self.heads))
        if keys.shape[0] == 1:
            # All rows read one history: few large products, with the rows where an attention has its queries.
            # (queries, batch, heads, width) -> (queries, heads, batch, width)
            output = attend(ops.transpose(queries, (0, 2, 1, 3)), keys, values, mask)
            output = ops.transpose(output, (1, 0, 2))
        else:
            # (queries, batch, heads, width) -> (batch, heads, queries, width)
            output = attend(ops.transpose(queries, (1, 2, 0, 3)), keys, values, mask, watcher=self.on_attention)
        output = self.output_projection(output)
        # (queries, batch, dim) -> (batch, queries, dim)
        return output + ops.transpose(raw, (1, 0, 2)) if self.residual else output

    def compute_output_shape(
        self, dynamic_shape: Shape, items_shape: Shape, valid_shape: Shape, request_of_shape: Shape | None = None
    ) -> Shape:
        return (dynamic_shape[0], dynamic_shape[1] + self.num_fixed, dynamic_shape[2])


def _same(x: Tensor) -> Tensor:
    return x
