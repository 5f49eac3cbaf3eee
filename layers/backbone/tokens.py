"""The frame of models that turn fields into tokens and stack blocks on them."""

from __future__ import annotations

from typing import Literal

import keras
from keras import ops

from mixrank.layers.backbone.base import Widths
from mixrank.layers.backbone.fields import FieldBackbone
from mixrank.layers.base import Part, check_dropout, check_least, dense_part
from mixrank.layers.tokens import FieldTokens, InteractThenSplit, count_field_tokens


class TokenBackbone(FieldBackbone):
    """Fields to tokens of one width, then blocks (batch, tokens, dim) -> the same shape.

    A subclass overrides `new_block`, `call` and `count`.

    Args:
        dim: int >= 1. Token width D.
        tokenizer: fields for one token per field, or split for an MLP on all of them, cut into tokens.
        num_tokens: int >= 1. Tokens of the split.
        num_layers: int >= 0. Number of blocks, L.
        dropout: float in [0, 1). Share of each sub-layer's output dropped in training.
        pooling, attention_units, head_units, scenarios: as in `FieldBackbone`.
    """

    def __init__(
        self,
        *,
        dim: int,
        tokenizer: Literal["fields", "split"],
        num_tokens: int,
        num_layers: int,
        dropout: float = 0.0,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        check_least(1, dim=dim, num_tokens=num_tokens)
        check_least(0, num_layers=num_layers)
        if tokenizer not in ("fields", "split"):
            raise ValueError(f"`tokenizer` must be fields or split, received {tokenizer!r}")
        check_dropout(dropout)
        self.dim = dim
        self.tokenizer = tokenizer
        self.num_tokens = num_tokens
        self.num_layers = num_layers
        self.dropout = dropout

    def new_block(self, index: int) -> keras.Layer:
        """Block number `index`, not yet built."""
        raise NotImplementedError(f"{type(self).__name__} has no new_block()")

    def count_of_tokens(self, widths: Widths) -> int:
        """How many tokens the tokenizer makes."""
        return self.num_tokens if self.tokenizer == "split" else len(self.field_widths(widths))

    def build(self, features_shape, histories_shape=None, scenario_shape=None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        widths = self.field_widths(self.widths)
        if self.tokenizer == "fields":
            self.to_tokens = FieldTokens(dim=self.dim, name="tokenizer", dtype=self.dtype_policy)
            self.to_tokens.build([(None, width) for width in widths])
        else:
            self.to_tokens = InteractThenSplit(
                tokens=self.num_tokens, dim=self.dim, name="tokenizer", dtype=self.dtype_policy
            )
            self.to_tokens.build((None, sum(widths)))
        self.blocks = [self.new_block(index) for index in range(self.num_layers)]

    def tokens(self, features, histories, rows=None):
        """The fields as tokens.

        Returns:
            Tensor (batch, tokens, dim).
        """
        fields = self.fields(features, histories, rows)
        return self.to_tokens(fields if self.tokenizer == "fields" else ops.concatenate(fields, axis=-1))

    def count_tokenizer(self, widths: Widths) -> list[Part]:
        """Parameters and FLOPs of `tokens`."""
        fields = self.field_widths(widths)
        if self.tokenizer == "fields":
            return [*self.count_fields(widths), count_field_tokens(fields, self.dim)]
        return [*self.count_fields(widths), dense_part("tokenizer", [sum(fields), self.num_tokens * self.dim])]

    def width(self, widths: Widths) -> int:
        return self.dim

    def get_config(self) -> dict:
        names = ("dim", "tokenizer", "num_tokens", "num_layers", "dropout")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
