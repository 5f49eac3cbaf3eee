"""DLRM: inner products of all pairs of embeddings, beside an MLP on the numbers."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from keras import ops
from pydantic import PositiveInt

from mixrank.layers.backbone import Features, FieldBackbone, Histories, Widths, register
from mixrank.layers.base import DropoutRate, Part, Shape, Tensor, dense_part
from mixrank.layers.mixing import MLP
from mixrank.layers.models.dlrm.interaction import DotInteraction
from mixrank.layers.tokens import FieldTokens, count_field_tokens

PRESETS = {
    # For examples and one small log: trains in minutes on two CPU cores.
    "tiny": {"dim": 16, "bottom_units": (64,), "top_units": (256, 128)},
    # The authors' settings for the Criteo Kaggle log.
    "small": {"dim": 16, "bottom_units": (512, 256, 64), "top_units": (512, 256)},
}
SCALED = {"bottom_units": (8,), "top_units": (8,)}


@register(title="Deep Learning Recommendation Model for Personalization and Recommendation Systems", arxiv="1906.00091")
class DLRM(FieldBackbone):
    """`h = TopMLP([z_0; p])`, `p = {<v_i, v_j>, j < i}` over `v = [z_0, e_1, ..., e_n]`, `z_0 = BottomMLP(numbers)`.

    Fields of width 1 are the numbers; the others, pooled histories included, are mapped to the width d = `dim`.

    Args:
        dim: int >= 1. Width d of the vectors that are multiplied.
        bottom_units: widths of the bottom MLP's hidden layers; its last layer has width `dim`.
        top_units: widths of the top MLP's layers; none leaves [z_0; p] to the heads.
        dropout: float in [0, 1). Share of each MLP layer's output dropped in training.
        pooling: mean, or target for attention from the candidate; makes a field of each history.

    Call arguments:
        features, histories, scenario, request_of: as in `Backbone`; the scenario is read as a feature only.

    Returns:
        Tensor (batch, top_units[-1]).

    Raises:
        ValueError: a value out of bounds, or fewer than two vectors to multiply.

    As in the paper, except:
        a linear map per field brings embeddings of the spec's widths to `dim`;
        a spec without numbers has no z_0, and no bottom MLP;
        histories, which the paper does not have, enter pooled;
        `dropout` is an addition, off by default.

    Source: arXiv 1906.00091.
    """

    removed: ClassVar = {"keep_self": False}

    def __init__(
        self,
        *,
        dim: PositiveInt = 16,
        bottom_units: tuple[PositiveInt, ...] = (512, 256, 64),
        top_units: tuple[PositiveInt, ...] = (512, 256),
        dropout: DropoutRate = 0.0,
        pooling: Literal["mean", "target"] = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        policy = {"dtype": self.dtype_policy}
        numbers, vectors = self._kinds(self.widths)
        multiplied = len(vectors) + bool(numbers)
        if not vectors or multiplied < 2:
            raise ValueError(
                f"dlrm multiplies pairs of vectors, but the spec gives {len(vectors)} wider than 1 and "
                f"{len(numbers)} numbers; declare more features or histories"
            )
        self.project = FieldTokens(dim=self.dim, name="project", **policy)
        self.project.build([(None, width) for width in vectors])
        if numbers:
            self.bottom = MLP(units=(*self.bottom_units, self.dim), dropout=self.dropout, name="bottom", **policy)
            self.bottom.build((None, len(numbers)))
        self.interaction = DotInteraction(name="interaction", **policy)
        self.interaction.build((None, multiplied, self.dim))
        self.top = MLP(units=self.top_units, dropout=self.dropout, name="top", **policy)
        self.top.build((None, self._interacted(self.widths)))

    def _kinds(self, widths: Widths) -> tuple[list[int], list[int]]:
        """Widths of the numbers, widths of the other fields."""
        fields = self.field_widths(widths)
        return [width for width in fields if width == 1], [width for width in fields if width > 1]

    def _interacted(self, widths: Widths) -> int:
        """Width of [z_0; p]."""
        numbers, vectors = self._kinds(widths)
        n = len(vectors) + bool(numbers)
        return n * (n - 1) // 2 + (self.dim if numbers else 0)

    def call(
        self,
        features: Features,
        histories: Histories,
        scenario: Tensor,
        request_of: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        fields = self.fields(features, histories, request_of)
        numbers = [field for field in fields if field.shape[-1] == 1]
        tokens = self.project([field for field in fields if field.shape[-1] > 1])
        if not numbers:
            return self.top(self.interaction(tokens), training=training)
        z0 = self.bottom(ops.concatenate(numbers, axis=-1), training=training)
        # (batch, dim) -> (batch, 1, dim)
        pairs = self.interaction(ops.concatenate([z0[:, None, :], tokens], axis=1))
        return self.top(ops.concatenate([z0, pairs], axis=-1), training=training)

    def width(self, widths: Widths) -> int:
        return self.top_units[-1] if self.top_units else self._interacted(widths)

    def count(self, widths: Widths) -> list[Part]:
        numbers, vectors = self._kinds(widths)
        n = len(vectors) + bool(numbers)
        project = count_field_tokens(tuple(vectors), self.dim)
        bottom = [dense_part("bottom MLP", [len(numbers), *self.bottom_units, self.dim])] if numbers else []
        return [
            *self.count_fields(widths),
            project._replace(name="projection"),
            *bottom,
            # The product of all vectors with all computes each pair twice.
            Part("interaction", 0, 2 * n * n * self.dim),
            dense_part("top MLP", [self._interacted(widths), *self.top_units]),
        ]
