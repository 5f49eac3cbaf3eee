"""DIN: an MLP on features and on histories that the candidate has weighed."""

from __future__ import annotations

from typing import Any, Literal

from keras import ops

from mixrank.layers.backbone import Features, FieldBackbone, Histories, Widths, register
from mixrank.layers.base import DropoutRate, LayerWidths, Part, Shape, Tensor, dense_part
from mixrank.layers.mixing import MLP

PRESETS = {
    # For examples and one small log: trains in minutes on two CPU cores.
    "tiny": {"mlp_units": (128, 64)},
    # The paper's layers.
    "small": {"mlp_units": (200, 80)},
}
SCALED = {"mlp_units": (8,)}


@register(title="Deep Interest Network for Click-Through Rate Prediction", arxiv="1706.06978")
class DIN(FieldBackbone):
    """`MLP([x; v_1; v_2])`, `v = sum_t a(c, e_t) e_t`: a history's events, each weighed by the candidate; equation (3).

    x are all feature vectors side by side, c those of the item, a an MLP of `[c; e_t; c * e_t]` that is not normalized,
    so that the strength of an interest survives.

    Args:
        mlp_units: widths of the MLP's layers, at least one.
        dropout: float in [0, 1). Share of each MLP layer's output dropped in training.
        pooling: target, or mean for the paper's base model without attention.

    Call arguments:
        features, histories, scenario, request_of: as in `Backbone`; the scenario is read as a feature only.

    Returns:
        Tensor (batch, mlp_units[-1]).

    Raises:
        ValueError: if `mlp_units` is empty or a value is out of bounds.

    As in the paper, except:
        ReLU takes the place of Dice, whose statistics over a batch would make a row's score depend on other rows;
        the attention sees the product of candidate and event, where the paper takes their outer product;
        the candidate is mapped to an event's width first.

    Source: arXiv 1706.06978.
    """

    def __init__(
        self,
        *,
        mlp_units: LayerWidths = (200, 80),
        dropout: DropoutRate = 0.0,
        pooling: Literal["mean", "target"] = "target",
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
        return self.mlp(ops.concatenate(self.fields(features, histories, request_of), axis=-1), training=training)

    def width(self, widths: Widths) -> int:
        return self.mlp_units[-1]

    def count(self, widths: Widths) -> list[Part]:
        return [*self.count_fields(widths), dense_part("MLP", [sum(self.field_widths(widths)), *self.mlp_units])]
