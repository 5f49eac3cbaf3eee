"""Attention among many events without all of its scores at once, forward and backward."""

from __future__ import annotations

from typing import Any

from keras import ops

from mixrank.layers.base import Tensor
from mixrank.layers.mixing.attention import merge_heads, without_masked

# Scores of a row and head, queries times keys, up to which all of them are held at once, which is faster.
PLAIN = 2**18
# Scores of a row and head that a chunk holds. TensorFlow works on up to ten chunks at a time.
CHUNK = 2**16
# Logarithm of a sum that no score lowers: weights of a row without a valid key are 0.
_EMPTY = 1e30


def is_long(queries: Tensor, keys: Tensor) -> bool:
    """Whether the scores of queries for keys, (batch, heads, length, width) each, are too many to hold at once."""
    return queries.shape[2] * keys.shape[2] > PLAIN


def attend_in_chunks(
    queries: Tensor, keys: Tensor, values: Tensor, valid: Tensor, *, first: int | None = None
) -> Tensor:
    """`softmax(Q K^T / sqrt(d)) V` per head, heads side by side, in memory that is linear in the number of keys.

    Forward, some queries at a time read all keys, and of each query the logarithm L of the sum of its exponentials is
    kept. Backward, the weights `P = exp(Q K^T / sqrt(d) - L)` are computed again, first for some queries at a time,
    `dQ = S K`, then for some keys at a time, `dK = S^T Q` and `dV = P^T dO`, with `S = P * (dO V^T - sum(dO * O))`.

    Args:
        queries: Tensor (batch, heads, queries, d).
        keys: Tensor (batch, heads, keys, d).
        values: Tensor (batch, heads, keys, d).
        valid: bool tensor (batch, keys); False marks padding. A query without a valid key finds zeros.
        first: None if a query sees all valid keys; otherwise query i sees those up to place `first + i`.

    Returns:
        Tensor (batch, queries, heads * d).

    Source: arXiv 2205.14135, algorithms 1 and 4, with whole rows of scores in a chunk.
    """
    number, places = queries.shape[2], keys.shape[2]
    of_queries, of_keys = (max(1, CHUNK // length) for length in (places, number))

    def sees(query: Any, key: Any) -> Tensor:
        """Whether queries may see keys, by their places, which broadcast."""
        return key >= 0 if first is None else key <= first + query

    @ops.custom_gradient
    def attention(q: Tensor, k: Tensor, v: Tensor, valid: Tensor) -> tuple[Tensor, Any]:
        k_columns, key = ops.transpose(k, (0, 1, 3, 2)), ops.arange(places, dtype="int32")

        def scores_of(q: Tensor, start: Tensor) -> Tensor:
            query = start + ops.arange(of_queries, dtype="int32")[:, None]
            mask = ops.logical_and(valid[:, None, None, :] > 0, sees(query, key))
            return without_masked(ops.matmul(q, k_columns), mask)

        def read(given: tuple[Tensor, Tensor]) -> Tensor:
            scores = scores_of(*given)
            largest = ops.max(scores, axis=-1, keepdims=True)
            weights = ops.exp(scores - largest)
            total = ops.sum(weights, axis=-1, keepdims=True)
            some = ops.cast(largest > -_EMPTY / 10, "float32")
            found = ops.cast(ops.matmul(ops.cast(weights, v.dtype), v), "float32") / total * some
            log_sum = (largest + ops.log(total)) * some + _EMPTY * (1 - some)
            return ops.concatenate([found, log_sum], axis=-1)

        chunks = _chunks(q, of_queries)
        starts = of_queries * ops.arange(chunks.shape[0], dtype="int32")
        found = _joined(ops.map(read, (chunks, starts)), number)
        output, log_sum = found[..., :-1], found[..., -1:]

        def gradient(*args: Tensor, upstream: Tensor | None = None) -> tuple[Tensor, ...]:
            (change,) = args if upstream is None else (upstream,)
            kept = ops.sum(ops.cast(change, "float32") * output, axis=-1, keepdims=True)
            v_columns = ops.transpose(v, (0, 1, 3, 2))

            def of_some_queries(given: tuple[Tensor, ...]) -> Tensor:
                q, start, change, log_sum, kept = given
                weights = ops.exp(scores_of(q, start) - log_sum)
                slopes = weights * (ops.cast(ops.matmul(change, v_columns), "float32") - kept)
                return ops.matmul(ops.cast(slopes, k.dtype), k)

            each = (_chunks(x, of_queries) for x in (change, log_sum, kept))
            d_queries = _joined(ops.map(of_some_queries, (chunks, starts, *each)), number)

            q_columns, change_columns, log_sums, all_kept = (
                ops.transpose(x, (0, 1, 3, 2)) for x in (q, change, log_sum, kept)
            )
            query = ops.arange(number, dtype="int32")

            def of_some_keys(given: tuple[Tensor, ...]) -> Tensor:
                k, v, valid, start = given
                key = start + ops.arange(of_keys, dtype="int32")[:, None]
                mask = ops.logical_and(valid > 0, sees(query, key))
                # (batch, heads, keys, queries)
                weights = ops.exp(without_masked(ops.matmul(k, q_columns), mask) - log_sums)
                slopes = weights * (ops.cast(ops.matmul(v, change_columns), "float32") - all_kept)
                d_values = ops.matmul(ops.cast(weights, change.dtype), change)
                return ops.concatenate([ops.matmul(ops.cast(slopes, q.dtype), q), d_values], axis=-1)

            each = (_chunks(x, of_keys) for x in (k, v, valid[:, None, :, None]))
            starts_of_keys = of_keys * ops.arange(-(-places // of_keys), dtype="int32")
            both = _joined(ops.map(of_some_keys, (*each, starts_of_keys)), places)
            return d_queries, *ops.split(both, 2, axis=-1), ops.zeros_like(valid)

        return ops.cast(output, v.dtype), gradient

    scaled = queries * queries.shape[-1] ** -0.5
    return merge_heads(attention(scaled, keys, values, ops.cast(valid, "float32")))


def _chunks(x: Tensor, size: int) -> Tensor:
    """(batch, heads, length, width) -> (chunks, batch, heads, size, width), zeros behind the last."""
    heads, length, width = x.shape[1:]
    number = -(-length // size)
    x = ops.pad(x, ((0, 0), (0, 0), (0, number * size - length), (0, 0)))
    return ops.transpose(ops.reshape(x, (-1, heads, number, size, width)), (2, 0, 1, 3, 4))


def _joined(x: Tensor, length: int) -> Tensor:
    """The inverse of `_chunks`."""
    number, _, heads, size, width = x.shape
    return ops.reshape(ops.transpose(x, (1, 2, 0, 3, 4)), (-1, heads, number * size, width))[:, :, :length]
