"""xDeepFM: products of fields of bounded degree, made vector by vector, beside an MLP."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.backbone import Features, FieldBackbone, Histories, Widths, register
from mixrank.layers.base import DropoutRate, Layer, Part, Shape, Tensor, dense_part
from mixrank.layers.mixing import MLP
from mixrank.layers.tokens import FieldTokens, count_field_tokens

PRESETS = {
    # For examples and one small log: trains in minutes on two CPU cores.
    "tiny": {"dim": 16, "cin_units": (16, 16), "mlp_units": (256, 128)},
    # The paper's embeddings and layers.
    "small": {"dim": 10, "cin_units": (200, 200, 200), "mlp_units": (400, 400)},
}
SCALED = {"cin_units": (4,), "mlp_units": (8,)}


@keras.saving.register_keras_serializable("mixrank")
class CompressedInteraction(Layer):
    """`x^k_h = sum_ij W^{k,h}_ij (x^{k-1}_i * x^0_j)`: the products of two sets of vectors, mixed; equation (6).

    The vectors keep their width, along which every product is taken element by element.

    Args:
        units: int >= 1. Number of output vectors H_k.

    Call arguments:
        x: Tensor (batch, H_{k-1}, dim), the output of the layer before.
        x0: Tensor (batch, fields, dim).

    Returns:
        Tensor (batch, units, dim).

    Raises:
        ValueError: if `units` is below 1.

    Source: arXiv 1803.05170.

    >>> CompressedInteraction(units=5)(keras.ops.ones((2, 3, 4)), keras.ops.ones((2, 6, 4))).shape
    TensorShape([2, 5, 4])
    """

    def __init__(self, *, units: PositiveInt, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, x_shape: Shape, x0_shape: Shape) -> None:
        self.mix = keras.layers.Dense(self.units, use_bias=False, name="mix", dtype=self.dtype_policy)
        self.mix.build((None, x0_shape[2], x_shape[1] * x0_shape[1]))

    def call(self, x: Tensor, x0: Tensor) -> Tensor:
        # (batch, n, dim) -> (batch, dim, n)
        left, right = (ops.transpose(each, (0, 2, 1)) for each in (x, x0))
        pairs = left[:, :, :, None] * right[:, :, None, :]
        # (batch, dim, n, fields) -> (batch, dim, n * fields)
        pairs = ops.reshape(pairs, (-1, x0.shape[2], x.shape[1] * x0.shape[1]))
        return ops.transpose(self.mix(pairs), (0, 2, 1))

    def compute_output_shape(self, x_shape: Shape, x0_shape: Shape) -> Shape:
        return (x_shape[0], self.units, x_shape[2])


@register(
    title="xDeepFM: Combining Explicit and Implicit Feature Interactions for Recommender Systems", arxiv="1803.05170"
)
class XDeepFM(FieldBackbone):
    """`[x; p^1; ...; p^T; MLP(v)]`, `p^k_h = sum_d x^k_hd` of the compressed interaction network's layers.

    x are all fields side by side, v their vectors x^0. A logistic head on it is equation (9).

    Args:
        dim: int >= 1. Width D of the vectors that are multiplied.
        cin_units: vectors H_k of each layer of the compressed interaction network.
        mlp_units: widths of the MLP's layers; none leaves the network alone.
        dropout: float in [0, 1). Share of each MLP layer's output dropped in training.
        pooling: mean, or target for attention from the candidate; makes a field of each history.

    Call arguments:
        features, histories, scenario, request_of: as in `Backbone`; the scenario is read as a feature only.

    Returns:
        Tensor (batch, fields + sum(cin_units) + mlp_units[-1]).

    Raises:
        ValueError: a value out of bounds.

    As in the paper, except:
        a linear map per field brings the spec's embeddings and numbers to `dim`;
        the linear part is a linear map of a field's embedding, where the paper has a weight per value;
        histories, which the paper does not have, enter pooled.

    Source: arXiv 1803.05170.
    """

    def __init__(
        self,
        *,
        dim: PositiveInt = 10,
        cin_units: tuple[PositiveInt, ...] = (200, 200, 200),
        mlp_units: tuple[PositiveInt, ...] = (400, 400),
        dropout: DropoutRate = 0.0,
        pooling: Literal["mean", "target"] = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        policy = {"dtype": self.dtype_policy}
        widths = self.field_widths(self.widths)
        self.project = FieldTokens(dim=self.dim, name="project", **policy)
        self.project.build([(None, width) for width in widths])
        fields = shape = (None, len(widths), self.dim)
        self.network = []
        for index, units in enumerate(self.cin_units):
            layer = CompressedInteraction(units=units, name=f"cin_{index}", **policy)
            layer.build(shape, fields)
            shape = (None, units, self.dim)
            self.network.append(layer)
        self.mlp = MLP(units=self.mlp_units, dropout=self.dropout, name="mlp", **policy)
        self.mlp.build((None, len(widths) * self.dim))

    def call(
        self,
        features: Features,
        histories: Histories,
        scenario: Tensor,
        request_of: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        found = self.fields(features, histories, request_of)
        x = x0 = self.project(found)
        number = len(found)
        for layer in self.network:
            x = layer(x, x0)
            found = [*found, ops.sum(x, axis=-1)]
        if self.mlp_units:
            # (batch, fields, dim) -> (batch, fields * dim)
            found = [*found, self.mlp(ops.reshape(x0, (-1, number * self.dim)), training=training)]
        return ops.concatenate(found, axis=-1)

    def width(self, widths: Widths) -> int:
        deep = self.mlp_units[-1] if self.mlp_units else 0
        return sum(self.field_widths(widths)) + sum(self.cin_units) + deep

    def count(self, widths: Widths) -> list[Part]:
        fields = self.field_widths(widths)
        inputs = (len(fields), *self.cin_units)
        mixed = sum(before * len(fields) * units for before, units in zip(inputs, self.cin_units, strict=False))
        return [
            *self.count_fields(widths),
            count_field_tokens(fields, self.dim)._replace(name="projection"),
            Part("compressed interaction", mixed, 2 * self.dim * mixed),
            dense_part("MLP", [len(fields) * self.dim, *self.mlp_units]),
        ]
