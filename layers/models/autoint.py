"""AutoInt: self-attention among fields, with an MLP beside it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import keras
from keras import ops
from pydantic import NonNegativeInt, PositiveInt

from mixrank.layers.backbone import Features, FieldBackbone, Histories, Widths, register
from mixrank.layers.base import DropoutRate, Layer, Part, Shape, Tensor, check_divides, dense_part
from mixrank.layers.mixing import MLP, attend, split_heads
from mixrank.layers.tokens import FieldTokens, count_field_tokens

PRESETS = {
    # For examples and one small log: trains in minutes on two CPU cores.
    "tiny": {"dim": 16, "attention_dim": 32, "mlp_units": (256, 128)},
    # The paper's embeddings, layers and heads; an MLP of common size.
    "small": {"dim": 16, "attention_dim": 64, "attention_heads": 2, "num_layers": 3, "mlp_units": (400, 400)},
}
SCALED = {"attention_dim": ("attention_heads", 8), "mlp_units": (8,)}


@keras.saving.register_keras_serializable("mixrank")
class InteractingLayer(Layer):
    """`e'_m = ReLU([o_m^1, ..., o_m^H] + W_res e_m)`, `o_m^h = sum_k softmax_k(<W_q^h e_m, W_k^h e_k>) W_v^h e_k`.

    Self-attention among fields without biases, and without the scaling of scores.

    Args:
        dim: int >= 1. Width of the output, all heads side by side.
        heads: int >= 1, a divisor of `dim`. Attention heads H.
        residual: bool. Whether W_res e_m is added; off is an ablation.

    Call arguments:
        x: Tensor (batch, fields, width).

    Returns:
        Tensor (batch, fields, dim).

    Raises:
        ValueError: if `heads` does not divide `dim`.

    Source: arXiv 1810.11921.

    >>> InteractingLayer(dim=6, heads=2)(keras.ops.ones((3, 5, 4))).shape
    TensorShape([3, 5, 6])
    """

    def __init__(self, *, dim: PositiveInt, heads: PositiveInt = 2, residual: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_divides(dim, "`dim`", heads=heads)

    def build(self, input_shape: Shape) -> None:
        names = ("query", "key", "value", "shortcut") if self.residual else ("query", "key", "value")
        self.projections = [
            keras.layers.Dense(self.dim, use_bias=False, name=name, dtype=self.dtype_policy) for name in names
        ]
        for projection in self.projections:
            projection.build(input_shape)

    def call(self, x: Tensor) -> Tensor:
        query, key, value, *shortcut = self.projections
        queries, keys, values = (split_heads(project(x), self.heads) for project in (query, key, value))
        output = attend(queries, keys, values, None, scale=False)
        for project in shortcut:
            output = output + project(x)
        return ops.relu(output)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.dim)


@register(
    title="AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks", arxiv="1810.11921"
)
class AutoInt(FieldBackbone):
    """`[flatten(e^L_1, ..., e^L_M); MLP(x)]`, e^l the L interacting layers on the fields, x all fields side by side.

    A logistic head on it adds the logits of both sides: AutoInt+. Without `mlp_units` it is AutoInt.

    Args:
        dim: int >= 1. Width of the fields' embeddings.
        attention_dim: int >= 1. Width of an interacting layer's output, all heads side by side.
        attention_heads: int >= 1, a divisor of `attention_dim`. Heads of an interacting layer.
        num_layers: int >= 0. Number of interacting layers, L.
        residual: bool. Whether interacting layers have residuals; off is an ablation.
        mlp_units: widths of the MLP's layers; none is AutoInt without plus.
        dropout: float in [0, 1). Share of each MLP layer's output dropped in training.
        pooling: mean, or target for attention from the candidate; makes a field of each history.

    Call arguments:
        features, histories, scenario, request_of: as in `Backbone`; the scenario is read as a feature only.

    Returns:
        Tensor (batch, fields * attention_dim + mlp_units[-1]).

    Raises:
        ValueError: a value out of bounds, or heads that do not divide `attention_dim`.

    As in the paper, except:
        a linear map per field brings embeddings of the spec's widths, and numbers, to `dim`;
        the MLP reads the fields at the spec's widths;
        histories, which the paper does not have, enter pooled;
        `dropout` is an addition, off by default.

    Source: arXiv 1810.11921.
    """

    removed: ClassVar = {"scale": False}

    def __init__(
        self,
        *,
        dim: PositiveInt = 16,
        attention_dim: PositiveInt = 64,
        attention_heads: PositiveInt = 2,
        num_layers: NonNegativeInt = 3,
        residual: bool = True,
        mlp_units: tuple[PositiveInt, ...] = (400, 400),
        dropout: DropoutRate = 0.0,
        pooling: Literal["mean", "target"] = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_divides(attention_dim, "`attention_dim`", attention_heads=attention_heads)

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        policy = {"dtype": self.dtype_policy}
        widths = self.field_widths(self.widths)
        self.tokenizer = FieldTokens(dim=self.dim, name="tokenizer", **policy)
        self.tokenizer.build([(None, width) for width in widths])
        shape = (None, len(widths), self.dim)
        self.interacting = []
        for index in range(self.num_layers):
            layer = InteractingLayer(
                dim=self.attention_dim,
                heads=self.attention_heads,
                residual=self.residual,
                name=f"interacting_{index}",
                **policy,
            )
            layer.build(shape)
            shape = (None, len(widths), self.attention_dim)
            self.interacting.append(layer)
        self.mlp = MLP(units=self.mlp_units, dropout=self.dropout, name="mlp", **policy)
        self.mlp.build((None, sum(widths)))

    def call(
        self,
        features: Features,
        histories: Histories,
        scenario: Tensor,
        request_of: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        fields = self.fields(features, histories, request_of)
        x = self.tokenizer(fields)
        for layer in self.interacting:
            x = layer(x)
        # (batch, fields, width) -> (batch, fields * width)
        x = ops.reshape(x, (-1, x.shape[1] * x.shape[2]))
        if not self.mlp_units:
            return x
        return ops.concatenate([x, self.mlp(ops.concatenate(fields, axis=-1), training=training)], axis=-1)

    def width(self, widths: Widths) -> int:
        token = self.attention_dim if self.num_layers else self.dim
        return len(self.field_widths(widths)) * token + (self.mlp_units[-1] if self.mlp_units else 0)

    def count(self, widths: Widths) -> list[Part]:
        fields, a = self.field_widths(widths), self.attention_dim
        n, inputs = len(fields), [self.dim, *[a] * (self.num_layers - 1)][: self.num_layers]
        weights = sum((3 + self.residual) * width * a for width in inputs)
        mlp = [dense_part("MLP", [sum(fields), *self.mlp_units])] if self.mlp_units else []
        return [
            *self.count_fields(widths),
            count_field_tokens(fields, self.dim),
            Part("interacting layers", weights, 2 * (n * weights + self.num_layers * 2 * n * n * a)),
            *mlp,
        ]
