"""Attention: masked softmax, HeMix's query-mixed interest extraction and plain self-attention."""

from __future__ import annotations

import keras
from keras import ops

from mixrank.layers.base import check_least, per_candidate, shared_by_candidates
from mixrank.layers.mixing.per_token import PerTokenDense

# Low enough to vanish in float32, and far from its limits.
_NEVER = -1e30


def softmax(scores):
    """Softmax over the last axis in float32; a single score gets all the weight, without Keras's warning."""
    scores = ops.cast(scores, "float32")
    return ops.ones_like(scores) if scores.shape[-1] == 1 else ops.softmax(scores, axis=-1)


def masked_softmax(scores, mask):
    """`a_t = exp(s_t) / sum_u exp(s_u)` over the valid positions of the last axis, in float32; 0 elsewhere.

    A row without a valid position gives zeros.

    Args:
        scores: Tensor (..., keys).
        mask: bool tensor that broadcasts to `scores`; True marks a valid position.

    Returns:
        float32 tensor (..., keys).
    """
    weights = softmax(ops.where(mask, ops.cast(scores, "float32"), _NEVER))
    # Valid or not, the weights of a row add up to 1; only an empty row must be put right.
    return weights * ops.cast(ops.any(mask, axis=-1, keepdims=True), "float32")


def attend(queries, keys, values, mask, *, scale: bool = True):
    """`softmax(Q K^T / sqrt(d)) V` per head, heads side by side; HeMix equations (6) and (7).

    Args:
        queries: Tensor (batch, heads, queries, d); the batch or the number of queries is known from its shape.
        keys: Tensor (batch, heads, keys, d), or (1, heads, keys, d) for all rows.
        values: Tensor (batch, heads, keys, width), or (1, heads, keys, width).
        mask: None, or bool tensor that broadcasts to (batch, heads, queries, keys); True marks a valid key.
        scale: bool. Whether scores are divided by sqrt(d).

    Returns:
        Tensor (batch, queries, heads * width).
    """
    batch, heads, num_queries, width = queries.shape
    scores = ops.matmul(queries * width**-0.5 if scale else queries, ops.transpose(keys, (0, 1, 3, 2)))
    weights = softmax(scores) if mask is None else masked_softmax(scores, mask)
    output = ops.matmul(ops.cast(weights, values.dtype), values)
    # (batch, heads, queries, width) -> (batch, queries, heads * width)
    lengths = (batch, -1) if num_queries is None else (-1, num_queries)
    return ops.reshape(ops.transpose(output, (0, 2, 1, 3)), (*lengths, heads * values.shape[3]))


def split_heads(x, heads: int):
    """(batch, length, dim) -> (batch, heads, length, dim / heads)."""
    length, dim = x.shape[1:]
    return ops.transpose(ops.reshape(x, (-1, length, heads, dim // heads)), (0, 2, 1, 3))


def _check_heads(heads: int, dim: int) -> None:
    if heads < 1 or dim % heads:
        raise ValueError(f"`heads` must divide the token width {dim}, received {heads}")


@keras.saving.register_keras_serializable("mixrank")
class MixedQueryAttention(keras.Layer):
    """Interest tokens of one history from dynamic and fixed queries, HeMix equations (4)-(9).

    `o_i = sum_t softmax_t(q_i . k_t / sqrt(d)) v_t`, `O = [o_1, ..., o_n] W_o` with `q_i = Q[i] W_q^i` projected by a
    matrix of its own, `Q = [dynamic; fixed]`, and `K = S W_k`, `V = S W_v` shared by all queries. d is the width of a
    head. Fixed queries are weights and the same for every sample, so they are projected once per batch.

    Args:
        num_fixed: int >= 0. Number of fixed queries.
        heads: int >= 1. Attention heads, a divisor of dim.
        residual: bool. Whether the queries are added to the output.
        null_key: bool. Whether a learned key and value join every history, so that an empty one gives a learned token
            in place of zeros.

    Call arguments:
        dynamic: Tensor (batch, queries, dim), the feature tokens that query this history.
        items: Tensor (batch, length, dim).
        valid: bool tensor (batch, length); False marks padding. (Keras reserves the name `mask`.)
        rows: None, or int tensor (batch,): the request of each candidate; `items` and `valid` then have one row per
            request. Keys, values and all that the fixed queries find are computed once for it. With one request, as
            seen in the shape of `items`, dynamic queries share keys and values; with more they are gathered.

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
        self, *, num_fixed: int, heads: int = 4, residual: bool = False, null_key: bool = False, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        check_least(0, num_fixed=num_fixed)
        self.num_fixed = num_fixed
        self.heads = heads
        self.residual = residual
        self.null_key = null_key

    def build(self, dynamic_shape, items_shape, valid_shape) -> None:
        num_dynamic, dim = dynamic_shape[1:]
        _check_heads(self.heads, dim)
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
        self.key = keras.layers.Dense(dim, name="key", **options)
        self.value = keras.layers.Dense(dim, name="value", **options)
        self.output_projection = keras.layers.Dense(dim, name="output", **options)
        for projection in (self.key, self.value, self.output_projection):
            projection.build((None, None, dim))

    def call(self, dynamic, items, valid, rows=None):
        requests, dim = ops.shape(items)[0], items.shape[2]
        keys, values = self.key(items), self.value(items)
        if self.null_key:
            null = ops.broadcast_to(self.null, (2, requests, 1, dim))
            keys, values = ops.concatenate([null[0], keys], axis=1), ops.concatenate([null[1], values], axis=1)
            valid = ops.concatenate([ops.ones((requests, 1), dtype="bool"), valid], axis=1)
        history = split_heads(keys, self.heads), split_heads(values, self.heads), valid[:, None, None, :]

        # (batch, queries, dim) -> (queries, batch, dim)
        dynamic = ops.transpose(dynamic, (1, 0, 2))
        queries = self.dynamic_query(dynamic)
        if not self.num_fixed:
            return self._read(dynamic, queries, *(shared_by_candidates(x, rows) for x in history))
        shape = (self.num_fixed, requests, dim)
        fixed, fixed_queries = (ops.broadcast_to(x, shape) for x in (self.fixed, self.fixed_query(self.fixed)))
        if rows is None:
            raw, queries = (ops.concatenate(x, axis=0) for x in ((dynamic, fixed), (queries, fixed_queries)))
            return self._read(raw, queries, *history)
        found = self._read(dynamic, queries, *(shared_by_candidates(x, rows) for x in history))
        return ops.concatenate([found, per_candidate(self._read(fixed, fixed_queries, *history), rows)], axis=1)

    def _read(self, raw, queries, keys, values, mask):
        """What queries (queries, batch, dim) find in a history of heads, (batch, queries, dim)."""
        number, _, dim = queries.shape
        queries = ops.reshape(queries, (number, -1, self.heads, dim // self.heads))
        if keys.shape[0] == 1:
            # All rows read one history: few large products, with the rows where an attention has its queries.
            # (queries, batch, heads, width) -> (queries, heads, batch, width)
            output = attend(ops.transpose(queries, (0, 2, 1, 3)), keys, values, mask)
            output = ops.transpose(output, (1, 0, 2))
        else:
            # (queries, batch, heads, width) -> (batch, heads, queries, width)
            output = attend(ops.transpose(queries, (1, 2, 0, 3)), keys, values, mask)
        output = self.output_projection(output)
        # (queries, batch, dim) -> (batch, queries, dim)
        return output + ops.transpose(raw, (1, 0, 2)) if self.residual else output

    def compute_output_shape(self, dynamic_shape, items_shape, valid_shape, rows_shape=None):
        return (dynamic_shape[0], dynamic_shape[1] + self.num_fixed, dynamic_shape[2])

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "num_fixed": self.num_fixed,
            "heads": self.heads,
            "residual": self.residual,
            "null_key": self.null_key,
        }


@keras.saving.register_keras_serializable("mixrank")
class SelfAttention(keras.Layer):
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

    def __init__(self, *, heads: int = 4, **kwargs) -> None:
        super().__init__(**kwargs)
        self.heads = heads

    def build(self, input_shape) -> None:
        dim = input_shape[2]
        _check_heads(self.heads, dim)
        self.projections = [
            keras.layers.Dense(dim, use_bias=False, name=name, dtype=self.dtype_policy)
            for name in ("query", "key", "value", "output")
        ]
        for projection in self.projections:
            projection.build(input_shape)

    def call(self, x):
        query, key, value, output = self.projections
        queries, keys, values = (split_heads(project(x), self.heads) for project in (query, key, value))
        return output(attend(queries, keys, values, None))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "heads": self.heads}
