"""Attention with SiLU in place of softmax, over a request's tokens and its candidates."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import Layer, Shape, Tensor, check_divides, per_candidate
from mixrank.layers.mixing import merge_heads, split_heads
from mixrank.layers.models.mtgr.group_norm import GroupLayerNorm


def visible_keys(sizes: tuple[int, ...], ordered: tuple[bool, ...]) -> np.ndarray:
    """MTGR's dynamic mask among the tokens of a request, without the candidates.

    Every token sees all tokens of the groups without order. A group with order, newest token first, is seen only by
    its own tokens; each of them sees itself and the older ones.

    Args:
        sizes: number of tokens of each group.
        ordered: whether a group has an order.

    Returns:
        bool array (tokens, tokens); [i, j] says whether token i sees token j.

    >>> visible_keys((1, 2), (False, True)).astype(int).tolist()
    [[1, 0, 0], [1, 1, 1], [1, 0, 1]]
    """
    group = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(group))
    free = ~np.asarray(ordered, bool)[group]
    older = (group[:, None] == group[None, :]) & (place[None, :] >= place[:, None])
    return free[None, :] | older


@keras.saving.register_keras_serializable("mixrank")
class SiluAttentionBlock(Layer):
    """`X' = W_o GLN(A V * U) + X`, `A = SiLU(Q K^T) / n * mask`, `[Q, U, K, V] = SiLU(W GLN(X) + b)`; MTGR.

    Context tokens (fields and histories) are computed once per request and never see a candidate. A candidate sees
    every valid context token and itself, never another candidate. n is the number of context tokens, padding
    included, and the candidate.

    Args:
        heads: int >= 1. Attention heads, a divisor of dim.
        sizes: number of context tokens of each group.
        ordered: whether the mask of `visible_keys` gives a group an order.
        group_norm: bool. Whether GLN has gain and bias per group, candidates being one; off, all tokens share them.
        last: bool. Whether only the candidates are computed, since no block follows.

    Call arguments:
        context: Tensor (requests, tokens, dim).
        valid: bool tensor (requests, tokens); False marks padding.
        candidates: Tensor (batch, dim).
        request_of: None, or int tensor (batch,): the index of each candidate's request.

    Returns:
        Context tokens, or None if `last`; candidates.

    Raises:
        ValueError: if `heads` does not divide dim.

    Source: arXiv 2505.18654.

    >>> layer = SiluAttentionBlock(heads=2, sizes=(1, 2), ordered=(False, True))
    >>> context, candidates = layer(keras.ops.ones((5, 3, 4)), keras.ops.ones((5, 3), "bool"), keras.ops.ones((5, 4)))
    >>> candidates.shape
    TensorShape([5, 4])
    """

    def __init__(
        self,
        *,
        heads: PositiveInt,
        sizes: tuple[PositiveInt, ...],
        ordered: tuple[bool, ...],
        group_norm: bool = True,
        last: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if len(sizes) != len(ordered):
            raise ValueError(f"`ordered` must have {len(sizes)} values, one per group, received {tuple(ordered)}")

    def build(self, context_shape: Shape, valid_shape: Shape, candidates_shape: Shape) -> None:
        dim = candidates_shape[-1]
        check_divides(dim, heads=self.heads)
        self.visible = visible_keys(self.sizes, self.ordered)
        self.query_gate, self.key_value, self.output_projection = (
            keras.layers.Dense(units, activation=activation, name=name, dtype=self.dtype_policy)
            for name, units, activation in (
                ("query_gate", 2 * dim, "silu"),
                ("key_value", 2 * dim, "silu"),
                ("output", dim, None),
            )
        )
        for dense in (self.query_gate, self.key_value, self.output_projection):
            dense.build((None, dim))
        self.candidate_norm, self.context_norm = self._norms("", context_shape, context=True)
        self.candidate_output_norm, self.context_output_norm = self._norms(
            "output_", context_shape, context=not self.last
        )

    def _norms(self, prefix: str, context_shape: Shape, context: bool) -> tuple[Any, Any]:
        """Norms of the candidates and of the context tokens; one and the same without groups."""
        policy = {"dtype": self.dtype_policy}
        name = f"candidate_{prefix}norm" if self.group_norm else f"{prefix}norm"
        candidate = keras.layers.LayerNormalization(epsilon=1e-5, name=name, **policy)
        candidate.build((None, context_shape[-1]))
        if not self.group_norm:
            return candidate, candidate
        if not context:
            return candidate, None
        groups = GroupLayerNorm(sizes=self.sizes, name=f"context_{prefix}norm", **policy)
        groups.build(context_shape)
        return candidate, groups

    def call(self, context: Tensor, valid: Tensor, candidates: Tensor, request_of: Tensor | None = None) -> Tensor:
        normed = self.context_norm(context)
        keys, values = (split_heads(x, self.heads) for x in ops.split(self.key_value(normed), 2, axis=-1))
        candidates = self._candidates(keys, values, valid, candidates, request_of)
        if self.last:
            return None, candidates
        queries, gates = ops.split(self.query_gate(normed), 2, axis=-1)
        mask = ops.logical_and(self.visible[None, None], valid[:, None, None, :])
        found = merge_heads(self._attend(split_heads(queries, self.heads), keys, values, mask))
        return context + self.output_projection(self.context_output_norm(found * gates)), candidates

    def _candidates(
        self, keys: Tensor, values: Tensor, valid: Tensor, candidates: Tensor, request_of: Tensor | None
    ) -> Tensor:
        dim = candidates.shape[-1]
        normed = self.candidate_norm(candidates)
        query, gate = ops.split(self.query_gate(normed), 2, axis=-1)
        own_key, own_value = ops.split(self.key_value(normed), 2, axis=-1)
        mask = valid[:, None, None, :]
        # (batch, dim) -> (batch, heads, 1, dim / heads)
        queries, own_keys, own_values = (split_heads(x[:, None, :], self.heads) for x in (query, own_key, own_value))
        if request_of is not None and keys.shape[0] == 1:
            # One request: its candidates are the queries of one product, and nothing is copied.
            # (batch, heads, 1, width) -> (1, heads, batch, width), and back
            found = self._attend(ops.transpose(queries, (2, 1, 0, 3)), keys, values, mask)
            found = ops.transpose(found, (2, 1, 0, 3))
        else:
            keys, values, mask = (per_candidate(x, request_of) for x in (keys, values, mask))
            found = self._attend(queries, keys, values, mask)
        own = self._weights(ops.sum(queries * own_keys, axis=-1, keepdims=True))
        # (batch, heads, 1, width) -> (batch, dim)
        found = ops.reshape(found + ops.cast(own, own_values.dtype) * own_values, (-1, dim))
        return candidates + self.output_projection(self.candidate_output_norm(found * gate))

    def _weights(self, scores: Tensor) -> Tensor:
        return ops.silu(ops.cast(scores, "float32")) / (sum(self.sizes) + 1)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """`SiLU(Q K^T) / n * mask V`, (batch, heads, queries, width)."""
        weights = self._weights(ops.matmul(queries, ops.transpose(keys, (0, 1, 3, 2))))
        weights = ops.where(mask, weights, 0.0)
        return ops.matmul(ops.cast(weights, values.dtype), values)

    def compute_output_shape(
        self, context_shape: Shape, valid_shape: Shape, candidates_shape: Shape, request_of_shape: Shape | None = None
    ) -> Shape:
        return (None if self.last else context_shape), candidates_shape
