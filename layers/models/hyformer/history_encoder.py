"""How HyFormer encodes a history anew in each block."""

from __future__ import annotations

from typing import Any, Literal

import keras
from pydantic import PositiveInt

from mixrank.layers.base import DropoutRate, Layer, Shape, Tensor
from mixrank.layers.mixing import SwiGLU
from mixrank.layers.models.hyformer.history_attention import HistoryAttention

Encoder = Literal["transformer", "short", "swiglu"]


def kept_events(length: int, encoder: Encoder, short_length: int) -> int:
    """Events that come out of an encoder of `length` that go in."""
    return min(short_length, length) if encoder == "short" else length


@keras.saving.register_keras_serializable("mixrank")
class HistoryEncoder(Layer):
    """`Z = A(N(H)) + H`, `H' = f(N(Z)) + Z`: A is attention among events, f a SwiGLU, N an RMSNorm.

    With `short` only the newest events have queries and go on, as in LONGER; with `swiglu` there is no attention.

    Args:
        encoder: transformer, short or swiglu.
        heads: int >= 1, a divisor of dim. Attention heads.
        expansion: int >= 1. Hidden width of f over dim.
        short_length: int >= 1. Events that go on with `short`, if there are more.
        dropout: float in [0, 1). Share of each sub-layer's output dropped in training.

    Call arguments:
        items: Tensor (requests, length, dim), newest event first.
        valid: bool tensor (requests, length); False marks padding.

    Returns:
        Events (requests, length', dim), and which of them are valid.

    Raises:
        ValueError: if `heads` does not divide dim.

    Source: arXiv 2601.12681, and 2505.04421 for `short`.

    >>> layer = HistoryEncoder(encoder="short", heads=2, short_length=3)
    >>> layer(keras.ops.ones((2, 5, 4)), keras.ops.ones((2, 5), "bool"))[0].shape
    TensorShape([2, 3, 4])
    """

    def __init__(
        self,
        *,
        encoder: Encoder = "transformer",
        heads: PositiveInt = 4,
        expansion: PositiveInt = 2,
        short_length: PositiveInt = 16,
        dropout: DropoutRate = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def build(self, items_shape: Shape, valid_shape: Shape) -> None:
        policy = {"dtype": self.dtype_policy}
        self.attention = None
        if self.encoder != "swiglu":
            self.attention = HistoryAttention(heads=self.heads, name="attention", **policy)
            self.attention.build(items_shape, items_shape, valid_shape)
            self.norm = keras.layers.RMSNormalization(epsilon=1e-6, name="norm", **policy)
            self.norm.build(items_shape)
        self.ffn_norm = keras.layers.RMSNormalization(epsilon=1e-6, name="ffn_norm", **policy)
        self.ffn_norm.build(items_shape)
        self.ffn = SwiGLU(units=self.expansion * items_shape[-1], name="ffn", **policy)
        self.ffn.build(items_shape)
        self.drop = keras.layers.Dropout(self.dropout, name="drop", **policy) if self.dropout else None

    def call(self, items: Tensor, valid: Tensor, training: bool = False) -> tuple[Tensor, Tensor]:
        kept = kept_events(items.shape[1], self.encoder, self.short_length)
        if self.attention is not None:
            normed = self.norm(items)
            items = items[:, :kept] + self._dropped(self.attention(normed[:, :kept], normed, valid), training)
        return items + self._dropped(self.ffn(self.ffn_norm(items)), training), valid[:, :kept]

    def _dropped(self, update: Tensor, training: bool) -> Tensor:
        return update if self.drop is None else self.drop(update, training=training)

    def compute_output_shape(self, items_shape: Shape, valid_shape: Shape) -> tuple[Shape, Shape]:
        kept = kept_events(items_shape[1], self.encoder, self.short_length)
        return (items_shape[0], kept, items_shape[2]), (valid_shape[0], kept)
