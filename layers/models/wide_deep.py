"""Wide & Deep: a linear model and an MLP, trained together."""

from __future__ import annotations

from typing import Any, Literal

from keras import ops
from pydantic import PositiveInt

from mixrank.layers.backbone import Features, FieldBackbone, Histories, Widths, register
from mixrank.layers.base import DropoutRate, Part, Shape, Tensor, dense_part
from mixrank.layers.mixing import MLP

PRESETS = {
    # For examples and one small log: trains in minutes on two CPU cores.
    "tiny": {"mlp_units": (256, 128)},
    # The paper's layers.
    "small": {"mlp_units": (1024, 512, 256)},
}
SCALED = {"mlp_units": (8,)}


@register(title="Wide & Deep Learning for Recommender Systems", arxiv="1606.07792")
class WideDeep(FieldBackbone):
    """`[x; MLP(x)]`, x all fields side by side; a logistic head adds the logits of both sides, equation (3).

    The wide side remembers combinations that the spec declares (`Cross`), the deep side generalises.

    Args:
        mlp_units: widths of the MLP's layers; none is logistic regression.
        dropout: float in [0, 1). Share of each MLP layer's output dropped in training.
        pooling: mean, or target for attention from the candidate; makes a field of each history.

    Call arguments:
        features, histories, scenario, request_of: as in `Backbone`; the scenario is read as a feature only.

    Returns:
        Tensor (batch, fields + mlp_units[-1]).

    Raises:
        ValueError: a value out of bounds.

    As in the paper, except:
        the wide side is a linear map of a field's embedding, where the paper has a weight per value;
        one optimizer trains both sides, where the paper takes FTRL for the wide one;
        histories, which the paper does not have, enter pooled.

    Source: arXiv 1606.07792.
    """

    def __init__(
        self,
        *,
        mlp_units: tuple[PositiveInt, ...] = (1024, 512, 256),
        dropout: DropoutRate = 0.0,
        pooling: Literal["mean", "target"] = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        self.mlp = MLP(units=self.mlp_units, dropout=self.dropout, name="mlp", dtype=self.dtype_policy)
        self.mlp.build((None, sum(self.field_widths(self.widths))))

    def call(
        self,
        features: Features,
        histories: Histories,
        scenario: Tensor,
        request_of: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        x = ops.concatenate(self.fields(features, histories, request_of), axis=-1)
        return ops.concatenate([x, self.mlp(x, training=training)], axis=-1) if self.mlp_units else x

    def width(self, widths: Widths) -> int:
        return sum(self.field_widths(widths)) + (self.mlp_units[-1] if self.mlp_units else 0)

    def count(self, widths: Widths) -> list[Part]:
        return [*self.count_fields(widths), dense_part("MLP", [sum(self.field_widths(widths)), *self.mlp_units])]
