"""FinalMLP: two MLPs on differently gated features, and the products of their outputs."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.backbone import Features, FieldBackbone, Histories, Widths, register
from mixrank.layers.base import (
    DropoutRate,
    Layer,
    LayerWidths,
    Part,
    Shape,
    Tensor,
    check_divides,
    dense_part,
    per_candidate,
)
from mixrank.layers.mixing import MLP, PerTokenDense

PRESETS = {
    # For examples and one small log: trains in minutes on two CPU cores.
    "tiny": {"first_units": (128, 64), "second_units": (128, 64), "gate_units": (32,), "fusion_heads": 4},
    # Streams of common benchmark size.
    "small": {"first_units": (400,), "second_units": (800,), "gate_units": (800,), "fusion_heads": 50},
}
SCALED = {"first_units": ("fusion_heads", 8), "second_units": ("fusion_heads", 8)}


@keras.saving.register_keras_serializable("mixrank")
class BilinearFusion(Layer):
    """`[o_1; o_2; (o_1^h W_h) * o_2^h, h = 1..k]`, o^h the h-th of k equal pieces; FinalMLP equations (6) to (8).

    A logistic head on it has the paper's `w_1 o_1 + w_2 o_2 + sum_h o_1^h W_h o_2^h` where its weights of the products
    are 1.

    Args:
        heads: int >= 1, a divisor of both widths. Pieces k.

    Call arguments:
        first: Tensor (batch, width 1).
        second: Tensor (batch, width 2).

    Returns:
        Tensor (batch, width 1 + 2 * width 2).

    Raises:
        ValueError: if `heads` does not divide a width.

    Source: arXiv 2304.00902.

    >>> BilinearFusion(heads=2)(keras.ops.ones((3, 4)), keras.ops.ones((3, 6))).shape
    TensorShape([3, 16])
    """

    def __init__(self, *, heads: PositiveInt = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, first_shape: Shape, second_shape: Shape) -> None:
        for width in (first_shape[-1], second_shape[-1]):
            check_divides(width, "the width of a stream", heads=self.heads)
        self.bilinear = PerTokenDense(
            second_shape[-1] // self.heads, use_bias=False, name="bilinear", dtype=self.dtype_policy
        )
        self.bilinear.build((None, self.heads, first_shape[-1] // self.heads))

    def call(self, first: Tensor, second: Tensor) -> Tensor:
        # (batch, width) -> (batch, heads, width / heads), and back
        pieces = ops.reshape(first, (-1, self.heads, first.shape[-1] // self.heads))
        mapped = ops.reshape(self.bilinear(pieces), (-1, second.shape[-1]))
        return ops.concatenate([first, second, mapped * second], axis=-1)

    def compute_output_shape(self, first_shape: Shape, second_shape: Shape) -> Shape:
        return (first_shape[0], first_shape[-1] + 2 * second_shape[-1])


@register(title="FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction", arxiv="2304.00902")
class FinalMLP(FieldBackbone):
    """`fuse(MLP_1(g_1 * x), MLP_2(g_2 * x))`, `g = 2 sigmoid(MLP_g(z))`; equations (1) to (8).

    x are all fields side by side. One gate reads z_1, the features of user and context, the other z_2, those of the
    item, so that one stream sees the row as the user does and the other as the item does.

    Args:
        first_units: widths of the stream behind the user's gate.
        second_units: widths of the stream behind the item's gate.
        gate_units: widths of the hidden layers of both gates; none leaves one linear map.
        gates: bool. Whether the streams read gated features; off is DualMLP.
        fusion_heads: int >= 1, a divisor of both streams' last widths. Pieces of the fusion, k.
        dropout: float in [0, 1). Share of each stream layer's output dropped in training.
        pooling: mean, or target for attention from the candidate; makes a field of each history.

    Call arguments:
        features, histories, scenario, request_of: as in `Backbone`; the scenario is read as a feature only.

    Returns:
        Tensor (batch, first_units[-1] + 2 * second_units[-1]).

    Raises:
        ValueError: a value out of bounds, a stream without layers, or heads that do not divide a stream.

    As in the paper, except:
        the weights of the products in the head are free, where the paper has a plain sum;
        histories, which the paper does not have, enter pooled, and are read by the streams alone.

    Source: arXiv 2304.00902.
    """

    def __init__(
        self,
        *,
        first_units: LayerWidths = (400,),
        second_units: LayerWidths = (800,),
        gate_units: tuple[PositiveInt, ...] = (800,),
        gates: bool = True,
        fusion_heads: PositiveInt = 50,
        dropout: DropoutRate = 0.0,
        pooling: Literal["mean", "target"] = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, units in (("first_units", first_units), ("second_units", second_units)):
            check_divides(units[-1], f"the last of `{name}`,", fusion_heads=fusion_heads)

    def _read_by_gates(self, widths: Widths) -> tuple[int, int]:
        vectors = widths.vectors
        return sum(vectors["user"]) + sum(vectors["context"]), sum(vectors["item"])

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        policy = {"dtype": self.dtype_policy}
        width = sum(self.field_widths(self.widths))
        self.gated: list[tuple[MLP, keras.layers.Dense] | None] = []
        for index, read in enumerate(self._read_by_gates(self.widths)):
            if not self.gates or not read:
                self.gated.append(None)
                continue
            hidden = MLP(units=self.gate_units, name=f"gate_hidden_{index}", **policy)
            hidden.build((None, read))
            gate = keras.layers.Dense(width, activation="sigmoid", name=f"gate_{index}", **policy)
            gate.build((None, self.gate_units[-1] if self.gate_units else read))
            self.gated.append((hidden, gate))
        self.streams = []
        for index, units in enumerate((self.first_units, self.second_units)):
            stream = MLP(units=units, dropout=self.dropout, name=f"stream_{index}", **policy)
            stream.build((None, width))
            self.streams.append(stream)
        self.fusion = BilinearFusion(heads=self.fusion_heads, name="fusion", **policy)
        self.fusion.build((None, self.first_units[-1]), (None, self.second_units[-1]))

    def call(
        self,
        features: Features,
        histories: Histories,
        scenario: Tensor,
        request_of: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        x = ops.concatenate(self.fields(features, histories, request_of), axis=-1)
        found = []
        for index, stream in enumerate(self.streams):
            gated = x
            if (layers := self.gated[index]) is not None:
                read = [*features["user"], *features["context"]] if index == 0 else list(features["item"])
                hidden, gate = layers
                of_side = gate(hidden(ops.concatenate(read, axis=-1), training=training))
                # The user's side is computed once per request.
                gated = x * 2 * (per_candidate(of_side, request_of) if index == 0 else of_side)
            found.append(stream(gated, training=training))
        return self.fusion(*found)

    def width(self, widths: Widths) -> int:
        return self.first_units[-1] + 2 * self.second_units[-1]

    def count(self, widths: Widths) -> list[Part]:
        width = sum(self.field_widths(widths))
        gates = [
            dense_part("gates", [read, *self.gate_units, width])
            for read in self._read_by_gates(widths)
            if self.gates and read
        ]
        bilinear = self.first_units[-1] * self.second_units[-1] // self.fusion_heads
        return [
            *self.count_fields(widths),
            *gates,
            *(dense_part("streams", [width, *units]) for units in (self.first_units, self.second_units)),
            Part("fusion", bilinear, 2 * bilinear),
        ]
