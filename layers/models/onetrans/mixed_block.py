"""A causal Transformer block in which events share weights and feature tokens have their own."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
from keras import ops
from pydantic import NonNegativeInt, PositiveInt

from mixrank.layers.base import DropoutRate, Layer, Shape, Tensor, check_divides, shared_by_candidates
from mixrank.layers.mixing import (
    PerTokenDense,
    PerTokenFFN,
    SharedFFN,
    attend,
    attend_in_chunks,
    is_long,
    matmul_of_rows,
    merge_heads,
    softmax,
    split_heads,
    without_masked,
)

# Variance 1 / inputs, so that queries and keys of unit-scale tokens have unit scale however many are made at once.
_UNIT = "lecun_uniform"


@keras.saving.register_keras_serializable("mixrank")
class MixedBlock(Layer):
    """`Z = MixedMHA(RMSNorm(X)) + X`, `X' = MixedFFN(RMSNorm(Z)) + Z` over `X = [S; NS]`; OneTrans.

    S are events, oldest first, which share W_Q, W_K, W_V, W_O and the FFN; each of the NS feature tokens has its own.
    The mask is causal: an event sees itself and older events, feature token i all events and the feature tokens up to
    i. So the events' side does not depend on the candidate, and is computed once per request. Only the newest `keep`
    events have queries; all have keys and values.

    Args:
        heads: int >= 1, a divisor of dim. Attention heads.
        keep: int >= 0. Events that go on to the next block; 0 before nobody reads them.
        expansion: int >= 1. Hidden width of the FFN over dim, with GELU.
        ns_parameters: own for each feature token, or shared with the events; an ablation.
        dropout: float in [0, 1). Share of each sub-layer's output dropped in training.

    Call arguments:
        ns: Tensor (batch, tokens, dim).
        s: Tensor (requests, length, dim), or None without events.
        valid: bool tensor (requests, length), or None; False marks padding.
        request_of: None, or int tensor (batch,): the index of each candidate's request. With one request, as seen in
            the shape of `s`, all candidates read its keys in one product per head.

    Returns:
        Feature tokens (batch, tokens, dim); the newest `keep` events (requests, keep, dim) and which of them are valid,
        or None twice if `keep` is 0.

    Raises:
        ValueError: if `heads` does not divide dim, or there are fewer events than `keep`.

    Source: arXiv 2510.26104.

    >>> block = MixedBlock(heads=2, keep=1)
    >>> ns, s, valid = block(keras.ops.ones((2, 3, 4)), keras.ops.ones((2, 5, 4)), keras.ops.ones((2, 5), "bool"))
    >>> s.shape
    TensorShape([2, 1, 4])
    """

    def __init__(
        self,
        *,
        heads: PositiveInt,
        keep: NonNegativeInt,
        expansion: PositiveInt = 4,
        ns_parameters: Literal["own", "shared"] = "own",
        dropout: DropoutRate = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def build(self, ns_shape: Shape, s_shape: Shape | None = None, valid_shape: Shape | None = None) -> None:
        tokens, dim = ns_shape[1:]
        check_divides(dim, heads=self.heads)
        self.length = 0 if s_shape is None else s_shape[1]
        if self.keep > self.length:
            raise ValueError(f"`keep` must be at most the number of events {self.length}, received {self.keep}")
        policy = {"dtype": self.dtype_policy}
        self.norm = keras.layers.RMSNormalization(epsilon=1e-6, name="norm", **policy)
        self.ffn_norm = keras.layers.RMSNormalization(epsilon=1e-6, name="ffn_norm", **policy)
        self.norm.build(ns_shape)
        self.ffn_norm.build(ns_shape)
        shared = self.ns_parameters == "shared"
        self.s = self._weights("s", keras.layers.Dense, (None, None, dim), reads=shared or self.keep > 0)
        self.ns = self.s if shared else self._weights("ns", PerTokenDense, ns_shape, reads=True)
        # [i, j]: whether feature token i sees j.
        self.ns_sees = np.tri(tokens, dtype=bool)
        self.drop = keras.layers.Dropout(self.dropout, name="drop", **policy) if self.dropout else None

    def _weights(self, side: str, dense: type, shape: Shape, reads: bool) -> dict[str, Any]:
        """Layers of one side; without `reads` only those that others read it by."""
        if side == "s" and not self.length and self.ns_parameters == "own":
            return {}
        policy = {"dtype": self.dtype_policy}
        units = {"key_value": 2 * shape[-1]} | ({"query": shape[-1], "output": shape[-1]} if reads else {})
        found = {
            name: dense(width, use_bias=False, kernel_initializer=_UNIT, name=f"{side}_{name}", **policy)
            for name, width in units.items()
        }
        if reads:
            ffn = SharedFFN if dense is keras.layers.Dense else PerTokenFFN
            found["ffn"] = ffn(expansion=self.expansion, activation="gelu", name=f"{side}_ffn", **policy)
        for layer in found.values():
            layer.build(shape)
        return found

    def call(
        self,
        ns: Tensor,
        s: Tensor | None = None,
        valid: Tensor | None = None,
        request_of: Tensor | None = None,
        training: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        normed = self.norm(ns)
        own_keys, own_values = self._split(self.ns["key_value"](normed))
        queries = split_heads(self.ns["query"](normed), self.heads)
        if s is None or valid is None:
            found = attend(queries, own_keys, own_values, self.ns_sees)
            return self._transform(ns, found, self.ns, training), None, None
        normed = self.norm(s)
        keys, values = self._split(self.s["key_value"](normed))
        seen = (shared_by_candidates(x, request_of) for x in (keys, values, valid[:, None, None, :]))
        ns = self._transform(ns, self._read(queries, own_keys, own_values, *seen), self.ns, training)
        if not self.keep:
            return ns, None, None
        first = self.length - self.keep
        queries = split_heads(self.s["query"](normed[:, first:]), self.heads)
        if is_long(queries, keys):
            found = attend_in_chunks(queries, keys, values, valid, first=first)
        else:
            # Made in the graph, where it is nothing beside the scores; as a constant it would stand in every export.
            older = ops.arange(self.length) <= ops.arange(first, self.length)[:, None]
            found = attend(queries, keys, values, ops.logical_and(older, valid[:, None, None, :]))
        return ns, self._transform(s[:, first:], found, self.s, training), valid[:, first:]

    def _split(self, x: Tensor) -> list[Tensor]:
        """Keys and values, (batch, heads, tokens, dim / heads) each."""
        return [split_heads(half, self.heads) for half in ops.split(x, 2, axis=-1)]

    def _read(
        self, queries: Tensor, own_keys: Tensor, own_values: Tensor, keys: Tensor, values: Tensor, mask: Tensor
    ) -> Tensor:
        """What feature tokens find in events and in each other, under one softmax; (batch, tokens, dim)."""
        queries = queries * queries.shape[-1] ** -0.5
        events = matmul_of_rows(queries, ops.transpose(keys, (0, 1, 3, 2)))
        tokens = ops.matmul(queries, ops.transpose(own_keys, (0, 1, 3, 2)))
        # Every token sees itself, so no row is empty.
        scores = [without_masked(events, mask), without_masked(tokens, self.ns_sees)]
        weights = ops.cast(softmax(ops.concatenate(scores, axis=-1)), values.dtype)
        of_events, of_tokens = ops.split(weights, [self.length], axis=-1)
        return merge_heads(matmul_of_rows(of_events, values) + ops.matmul(of_tokens, own_values))

    def _transform(self, x: Tensor, found: Tensor, weights: dict[str, Any], training: bool) -> Tensor:
        """Output projection, residual, and the FFN with its own."""
        update = weights["output"](found)
        x = x + (update if self.drop is None else self.drop(update, training=training))
        update = weights["ffn"](self.ffn_norm(x))
        return x + (update if self.drop is None else self.drop(update, training=training))

    def compute_output_shape(
        self,
        ns_shape: Shape,
        s_shape: Shape | None = None,
        valid_shape: Shape | None = None,
        request_of_shape: Shape | None = None,
    ) -> tuple[Shape, Shape | None, Shape | None]:
        if s_shape is None or not self.keep:
            return ns_shape, None, None
        return ns_shape, (s_shape[0], self.keep, s_shape[2]), (s_shape[0], self.keep)
