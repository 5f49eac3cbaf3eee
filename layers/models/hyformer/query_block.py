"""One block of HyFormer: queries read their history, then all tokens mix."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import DropoutRate, Layer, Shape, Tensor
from mixrank.layers.mixing import PerTokenFFN, TokenMixing
from mixrank.layers.models.hyformer.history_attention import HistoryAttention
from mixrank.layers.models.hyformer.history_encoder import Encoder, HistoryEncoder


@keras.saving.register_keras_serializable("mixrank")
class QueryBlock(Layer):
    """`Q'_h = A_h(N(Q_h), N(H_h)) + Q_h`, `X = [Q'_1, ..., F]`, `X' = PFFN(Mix(N(X))) + X`; HyFormer.

    Query decoding and query boosting. H_h is history h after this block's encoder; A_h attends from the queries of that
    history to its events, Mix is the block transpose of all T tokens, PFFN an FFN with weights of each token, N an
    RMSNorm. Encoders, keys and values do not depend on the candidate, and are computed once per request.

    Args:
        num_queries: int >= 1. Queries of each history, which are the first tokens.
        heads: int >= 1, a divisor of dim. Attention heads.
        encoder, short_length: as in `HistoryEncoder`.
        hidden_dim: int >= 1. Hidden width of the PFFN, with GELU.
        sequence_expansion: int >= 1. Hidden width of the encoder's SwiGLU over dim.
        dropout: float in [0, 1). Share of each sub-layer's output dropped in training.

    Call arguments:
        x: Tensor (batch, tokens, dim): the queries of the first history, of the second, and so on, then the fields.
        histories: list of tensors (requests, length, dim), newest event first.
        valid: list of bool tensors (requests, length).
        request_of: None, or int tensor (batch,): the index of each candidate's request.

    Returns:
        Tokens of the shape of `x`; the histories after their encoders, and which of their events are valid.

    Raises:
        ValueError: if `heads` or the number of tokens does not divide dim.

    Source: arXiv 2601.12681.

    >>> block = QueryBlock(num_queries=1, heads=2)
    >>> history = [keras.ops.ones((2, 5, 6))], [keras.ops.ones((2, 5), "bool")]
    >>> block(keras.ops.ones((2, 3, 6)), *history)[0].shape
    TensorShape([2, 3, 6])
    """

    def __init__(
        self,
        *,
        num_queries: PositiveInt,
        heads: PositiveInt,
        encoder: Encoder = "transformer",
        short_length: PositiveInt = 16,
        hidden_dim: PositiveInt = 256,
        sequence_expansion: PositiveInt = 2,
        dropout: DropoutRate = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def build(self, x_shape: Shape, histories_shape: list[Shape], valid_shape: list[Shape]) -> None:
        policy = {"dtype": self.dtype_policy}
        self.encoders: list[HistoryEncoder] = []
        self.attentions: list[HistoryAttention] = []
        self.query_norms: list[keras.Layer] = []
        self.event_norms: list[keras.Layer] = []
        for index, (items, valid) in enumerate(zip(histories_shape, valid_shape, strict=True)):
            encoder = HistoryEncoder(
                encoder=self.encoder,
                heads=self.heads,
                expansion=self.sequence_expansion,
                short_length=self.short_length,
                dropout=self.dropout,
                name=f"encoder_{index}",
                **policy,
            )
            encoder.build(items, valid)
            attention = HistoryAttention(heads=self.heads, name=f"decode_{index}", **policy)
            attention.build(x_shape, items, valid)
            self.encoders.append(encoder)
            self.attentions.append(attention)
            for norms, name in ((self.query_norms, "query_norm"), (self.event_norms, "event_norm")):
                norm = keras.layers.RMSNormalization(epsilon=1e-6, name=f"{name}_{index}", **policy)
                norm.build(x_shape)
                norms.append(norm)
        self.norm = keras.layers.RMSNormalization(epsilon=1e-6, name="norm", **policy)
        self.mixing = TokenMixing(name="mixing", **policy)
        self.ffn = PerTokenFFN(hidden_dim=self.hidden_dim, activation="gelu", name="ffn", **policy)
        for layer in (self.norm, self.mixing, self.ffn):
            layer.build(x_shape)
        self.drop = keras.layers.Dropout(self.dropout, name="drop", **policy) if self.dropout else None

    def call(
        self,
        x: Tensor,
        histories: list[Tensor],
        valid: list[Tensor],
        request_of: Tensor | None = None,
        training: bool = False,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        encoded = [
            encode(items, mask, training=training)
            for encode, items, mask in zip(self.encoders, histories, valid, strict=True)
        ]
        tokens = []
        for index, (items, mask) in enumerate(encoded):
            queries = x[:, index * self.num_queries : (index + 1) * self.num_queries]
            normed = self.query_norms[index](queries), self.event_norms[index](items)
            tokens.append(queries + self._dropped(self.attentions[index](*normed, mask, request_of), training))
        x = ops.concatenate([*tokens, x[:, len(encoded) * self.num_queries :]], axis=1)
        x = x + self._dropped(self.ffn(self.mixing(self.norm(x))), training)
        return x, [items for items, _ in encoded], [mask for _, mask in encoded]

    def _dropped(self, update: Tensor, training: bool) -> Tensor:
        return update if self.drop is None else self.drop(update, training=training)

    def compute_output_shape(
        self,
        x_shape: Shape,
        histories_shape: list[Shape],
        valid_shape: list[Shape],
        request_of_shape: Shape | None = None,
    ) -> tuple[Shape, list[Shape], list[Shape]]:
        found = [
            encode.compute_output_shape(items, mask)
            for encode, items, mask in zip(self.encoders, histories_shape, valid_shape, strict=True)
        ]
        return x_shape, [items for items, _ in found], [mask for _, mask in found]
