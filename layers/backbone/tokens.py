"""The frame of models that turn fields into tokens and stack blocks on them."""

from __future__ import annotations

from typing import Any, Literal

from keras import ops
from pydantic import NonNegativeInt, PositiveInt

from mixrank.layers.backbone.base import Features, Histories, Widths
from mixrank.layers.backbone.fields import FieldBackbone
from mixrank.layers.base import DropoutRate, Layer, Part, Shape, Tensor, dense_part
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
        pooling, head_units, scenarios, field_names: as in `FieldBackbone`.
    """

    def __init__(
        self,
        *,
        dim: PositiveInt,
        tokenizer: Literal["fields", "split"],
        num_tokens: PositiveInt,
        num_layers: NonNegativeInt,
        dropout: DropoutRate = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def new_block(self, index: int) -> Layer:
        """Block number `index`, not yet built."""
        raise NotImplementedError(f"{type(self).__name__} has no new_block()")

    def count_of_tokens(self, widths: Widths) -> int:
        """How many tokens the tokenizer makes."""
        return self.num_tokens if self.tokenizer == "split" else len(self.field_widths(widths))

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
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

    def tokens(self, features: Features, histories: Histories, request_of: Tensor | None = None) -> Tensor:
        """The fields as tokens.

        Returns:
            Tensor (batch, tokens, dim).
        """
        fields = self.fields(features, histories, request_of)
        return self.to_tokens(fields if self.tokenizer == "fields" else ops.concatenate(fields, axis=-1))

    def count_tokenizer(self, widths: Widths) -> list[Part]:
        """Parameters and FLOPs of `tokens`."""
        fields = self.field_widths(widths)
        if self.tokenizer == "fields":
            return [*self.count_fields(widths), count_field_tokens(fields, self.dim)]
        return [*self.count_fields(widths), dense_part("tokenizer", [sum(fields), self.num_tokens * self.dim])]

    def width(self, widths: Widths) -> int:
        return self.dim
