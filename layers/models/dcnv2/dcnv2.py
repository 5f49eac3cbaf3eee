"""DCN-V2: explicit feature crosses of bounded degree, beside or below an MLP."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops
from pydantic import NonNegativeInt, PositiveInt

from mixrank.layers.backbone import Features, FieldBackbone, Histories, Widths, register
from mixrank.layers.base import DropoutRate, Part, Shape, Tensor, dense_part
from mixrank.layers.mixing import MLP, Cross, CrossMixture

PRESETS = {
    # For examples and one small log: trains in minutes on two CPU cores.
    "tiny": {"cross": "low_rank", "rank": 32, "mlp_units": (256, 128)},
    # The defaults of the FuxiCTR benchmark.
    "small": {"cross": "full", "num_layers": 3, "structure": "parallel", "mlp_units": (500, 500, 500)},
}
SCALED = {"mlp_units": (8,)}


@register(
    title="DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank Systems",
    arxiv="2008.13535",
)
class DCNv2(FieldBackbone):
    """`x_{l+1} = x_0 * (W_l x_l + b_l) + x_l`, L times, x_0 all fields side by side; an MLP beside it or on top.

    W_l is a full matrix or a product U V^T of low rank, or a mixture of low-rank experts replaces the bracket.
    Beside: `[x_L; MLP(x_0)]`; on top: `MLP(x_L)`.

    Args:
        num_layers: int >= 0. Cross layers L; L layers make products of up to L + 1 features.
        cross: full, low_rank, or mixture of low-rank experts.
        rank: int >= 1. Inner width r of low_rank, and of each expert of mixture.
        num_experts: int >= 1. Experts of mixture, K.
        structure: parallel for the MLP beside the crosses, stacked for it on top.
        mlp_units: widths of the MLP's layers; none leaves the crosses alone.
        dropout: float in [0, 1). Share of each MLP layer's output dropped in training.
        pooling: mean, or target for attention from the candidate; makes a field of each history.

    Call arguments:
        features, histories, scenario, request_of: as in `Backbone`; the scenario is read as a feature only.

    Returns:
        Tensor (batch, fields + mlp_units[-1]) in parallel, (batch, mlp_units[-1]) stacked.

    Raises:
        ValueError: a value out of bounds.

    As in the paper, except:
        fields keep the widths of the spec;
        the gate of the experts is a softmax, their inner activation tanh (the paper leaves both open);
        histories, which the paper does not have, enter pooled;
        `dropout` is an addition, off by default.

    Source: arXiv 2008.13535.
    """

    def __init__(
        self,
        *,
        num_layers: NonNegativeInt = 3,
        cross: Literal["full", "low_rank", "mixture"] = "full",
        rank: PositiveInt = 32,
        num_experts: PositiveInt = 4,
        structure: Literal["parallel", "stacked"] = "parallel",
        mlp_units: tuple[PositiveInt, ...] = (500, 500, 500),
        dropout: DropoutRate = 0.0,
        pooling: Literal["mean", "target"] = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        width = sum(self.field_widths(self.widths))
        self.crosses = [self._new_cross(f"cross_{index}") for index in range(self.num_layers)]
        for layer in self.crosses:
            layer.build((None, width), (None, width))
        self.mlp = MLP(units=self.mlp_units, dropout=self.dropout, name="mlp", dtype=self.dtype_policy)
        self.mlp.build((None, width))

    def _new_cross(self, name: str) -> keras.Layer:
        if self.cross == "mixture":
            return CrossMixture(rank=self.rank, experts=self.num_experts, name=name, dtype=self.dtype_policy)
        return Cross(rank=self.rank if self.cross == "low_rank" else None, name=name, dtype=self.dtype_policy)

    def call(
        self,
        features: Features,
        histories: Histories,
        scenario: Tensor,
        request_of: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        x = x0 = ops.concatenate(self.fields(features, histories, request_of), axis=-1)
        for layer in self.crosses:
            x = layer(x0, x)
        if self.structure == "stacked":
            return self.mlp(x, training=training)
        return ops.concatenate([x, self.mlp(x0, training=training)], axis=-1) if self.mlp_units else x

    def width(self, widths: Widths) -> int:
        fields = sum(self.field_widths(widths))
        if not self.mlp_units:
            return fields
        return self.mlp_units[-1] + (fields if self.structure == "parallel" else 0)

    def count(self, widths: Widths) -> list[Part]:
        d, r, k = sum(self.field_widths(widths)), self.rank, self.num_experts
        products, biases = {
            "full": (d * d, d),
            "low_rank": (2 * d * r, d),
            "mixture": (k * (2 * d * r + r * r) + d * k, d),
        }[self.cross]
        return [
            *self.count_fields(widths),
            Part("cross layers", self.num_layers * (products + biases), self.num_layers * 2 * products),
            dense_part("MLP", [d, *self.mlp_units]),
        ]
