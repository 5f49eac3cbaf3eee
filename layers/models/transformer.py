"""A plain Transformer encoder on fields."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops
from pydantic import NonNegativeInt, PositiveInt

from mixrank.layers.backbone import Features, Histories, TokenBackbone, Widths, register
from mixrank.layers.base import DropoutRate, Part, Shape, Tensor, check_divides
from mixrank.layers.mixing import PostNormBlock, PreNormBlock, SelfAttention, SharedFFN

PRESETS = {
    # For examples and one small log: trains in minutes on two CPU cores.
    "tiny": {"dim": 64, "num_layers": 2, "head_units": (32,)},
    # Width and layers of hemix small; the paper's own sizes are for sentences.
    "small": {"dim": 256, "num_layers": 3, "attention_heads": 4, "expansion": 4},
}
SCALED = {"dim": ("attention_heads", 8)}


@register(title="Attention Is All You Need", arxiv="1706.03762")
class Transformer(TokenBackbone):
    """`Z = LN(X + MHA(X))`, `X' = LN(Z + FFN(Z))`, L times; mean over tokens.

    MHA is `softmax(Q K^T / sqrt(d)) V W_o` with `attention_heads` heads (1), FFN `gelu(z W_1 + b_1) W_2 + b_2` (2),
    both with the same weights for every token.

    Args:
        dim: int >= 1. Token width D.
        tokenizer: fields for one token per field, or split for a linear map of all of them, cut into tokens.
        num_tokens: int >= 1. Tokens of the split; not read with fields.
        num_layers: int >= 0. Number of blocks, L.
        attention_heads: int >= 1, a divisor of `dim`. Attention heads.
        expansion: int >= 1. Hidden width of the FFN over `dim`, k.
        norm: post as in the paper, or pre for `X + f(LN(X))` with a last LN after the blocks.
        readout: mean over tokens, or cls for a learned token that joins them and is read alone.
        dropout: float in [0, 1). Share of each sub-layer's output dropped in training.
        pooling: mean, or target for attention from the candidate; makes a field of each history.
        head_units: widths of the hidden layers of every task's head; empty is logistic regression.

    Call arguments:
        features, histories, scenario, request_of: as in `Backbone`; the scenario is read as a feature only.

    Returns:
        Tensor (batch, dim).

    Raises:
        ValueError: a value out of bounds, or heads that do not divide `dim`.

    As in the paper, except:
        an encoder alone, without positions: fields have no order, and projections of their own tell them apart;
        GELU for ReLU, no biases in MHA, dropout off by default.

    Source: arXiv 1706.03762; pre-norm 2002.04745.
    """

    def __init__(
        self,
        *,
        dim: PositiveInt = 256,
        tokenizer: Literal["fields", "split"] = "fields",
        num_tokens: PositiveInt = 16,
        num_layers: NonNegativeInt = 3,
        attention_heads: PositiveInt = 4,
        expansion: PositiveInt = 4,
        norm: Literal["post", "pre"] = "post",
        readout: Literal["mean", "cls"] = "mean",
        dropout: DropoutRate = 0.0,
        pooling: Literal["mean", "target"] = "mean",
        head_units: tuple[PositiveInt, ...] = (128,),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_divides(dim, "`dim`", attention_heads=attention_heads)

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        shape = (None, self._sequence(self.widths), self.dim)
        for block in self.blocks:
            block.build(shape)
        if self.norm == "pre":
            self.last_norm = keras.layers.LayerNormalization(epsilon=1e-5, name="last_norm", dtype=self.dtype_policy)
            self.last_norm.build(shape)
        if self.readout == "cls":
            normal = keras.initializers.RandomNormal(stddev=0.02)
            self.cls = self.add_weight(shape=(1, 1, self.dim), initializer=normal, name="cls")

    def new_block(self, index: int) -> PostNormBlock:
        policy = {"dtype": self.dtype_policy}
        kind = PreNormBlock if self.norm == "pre" else PostNormBlock
        return kind(
            mixing=SelfAttention(heads=self.attention_heads, name="mixing", **policy),
            ffn=SharedFFN(expansion=self.expansion, activation="gelu", name="ffn", **policy),
            dropout=self.dropout,
            name=f"block_{index}",
            **policy,
        )

    def _sequence(self, widths: Widths) -> int:
        """Tokens that attend to each other."""
        return self.count_of_tokens(widths) + (self.readout == "cls")

    def call(
        self,
        features: Features,
        histories: Histories,
        scenario: Tensor,
        request_of: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        x = self.tokens(features, histories, request_of)
        if self.readout == "cls":
            x = ops.concatenate([ops.broadcast_to(self.cls, (ops.shape(x)[0], 1, self.dim)), x], axis=1)
        for block in self.blocks:
            x = block(x, training=training)
        if self.norm == "pre":
            x = self.last_norm(x)
        return x[:, 0] if self.readout == "cls" else ops.mean(x, axis=1)

    def count(self, widths: Widths) -> list[Part]:
        n, d, k, layers = self._sequence(widths), self.dim, self.expansion, self.num_layers
        cls = [Part("cls token", d, 0)] if self.readout == "cls" else []
        last = 2 * d if self.norm == "pre" else 0
        return [
            *self.count_tokenizer(widths),
            *cls,
            Part("blocks: mixing", layers * 4 * d * d, layers * 2 * (4 * n * d * d + 2 * n * n * d)),
            Part("blocks: FFN", layers * (2 * k * d * d + k * d + d), layers * 2 * n * 2 * k * d * d),
            Part("norms", layers * 4 * d + last, 0),
        ]
