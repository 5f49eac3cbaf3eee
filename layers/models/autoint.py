"""AutoInt: self-attention among fields, with an MLP beside it."""

from __future__ import annotations

from typing import Literal

import keras
from keras import ops

from mixrank.layers.backbone import FieldBackbone, Widths, register
from mixrank.layers.base import Part, check_dropout, check_least, check_units, dense_part
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
class InteractingLayer(keras.Layer):
    """`e'_m = ReLU([o_m^1, ..., o_m^H] + W_res e_m)`, `o_m^h = sum_k softmax_k(<W_q^h e_m, W_k^h e_k>) W_v^h e_k`.

    Self-attention among fields without biases, and without the scaling of scores.

    Args:
        dim: int >= 1. Width of the output, all heads side by side.
        heads: int >= 1, a divisor of `dim`. Attention heads H.
        scale: bool. Whether scores are divided by the root of a head's width, as in the Transformer.
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

    def __init__(self, *, dim: int, heads: int = 2, scale: bool = False, residual: bool = True, **kwargs) -> None:
        super().__init__(**kwargs)
        if heads < 1 or dim < 1 or dim % heads:
            raise ValueError(f"`heads` must divide `dim`, received {heads} and {dim}")
        self.dim = dim
        self.heads = heads
        self.scale = scale
        self.residual = residual

    def build(self, input_shape) -> None:
        names = ("query", "key", "value", "shortcut") if self.residual else ("query", "key", "value")
        self.projections = [
            keras.layers.Dense(self.dim, use_bias=False, name=name, dtype=self.dtype_policy) for name in names
        ]
        for projection in self.projections:
            projection.build(input_shape)

    def call(self, x):
        query, key, value, *shortcut = self.projections
        queries, keys, values = (split_heads(project(x), self.heads) for project in (query, key, value))
        output = attend(queries, keys, values, None, scale=self.scale)
        for project in shortcut:
            output = output + project(x)
        return ops.relu(output)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.dim)

    def get_config(self) -> dict:
        config = {"dim": self.dim, "heads": self.heads, "scale": self.scale, "residual": self.residual}
        return {**super().get_config(), **config}


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
        scale: bool. Whether attention scores are divided by the root of a head's width.
        residual: bool. Whether interacting layers have residuals; off is an ablation.
        mlp_units: widths of the MLP's layers; none is AutoInt without plus.
        dropout: float in [0, 1). Share of each MLP layer's output dropped in training.
        pooling: mean, or target for attention from the candidate; makes a field of each history.
        attention_units: hidden layers of target attention.
        head_units: widths of the hidden layers of every task's head; empty is logistic regression.

    Call arguments:
        features, histories, scenario, rows: as in `Backbone`; the scenario is read as a feature only.

    Returns:
        Tensor (batch, fields * attention_dim + mlp_units[-1]).

    Raises:
        ValueError: a value out of bounds, or heads that do not divide `attention_dim`.

    As in the paper, except:
        a linear map per field brings embeddings of the spec's widths, and numbers, to `dim`;
        the MLP reads the fields at the spec's widths;
        histories, which the paper does not have, enter pooled;
        `scale` and `dropout` are additions, off by default.

    Source: arXiv 1810.11921.
    """

    def __init__(
        self,
        *,
        dim: int = 16,
        attention_dim: int = 64,
        attention_heads: int = 2,
        num_layers: int = 3,
        scale: bool = False,
        residual: bool = True,
        mlp_units: tuple[int, ...] = (400, 400),
        dropout: float = 0.0,
        pooling: Literal["mean", "target"] = "mean",
        attention_units: tuple[int, ...] = (32,),
        head_units: tuple[int, ...] = (),
        **kwargs,
    ) -> None:
        super().__init__(pooling=pooling, attention_units=attention_units, head_units=head_units, **kwargs)
        check_least(1, dim=dim, attention_dim=attention_dim)
        check_least(0, num_layers=num_layers)
        if attention_heads < 1 or attention_dim % attention_heads:
            raise ValueError(
                f"`attention_heads` must divide `attention_dim` {attention_dim}, received {attention_heads}"
            )
        check_units(mlp_units=mlp_units)
        check_dropout(dropout)
        self.dim = dim
        self.attention_dim = attention_dim
        self.attention_heads = attention_heads
        self.num_layers = num_layers
        self.scale = scale
        self.residual = residual
        self.mlp_units = tuple(mlp_units)
        self.dropout = dropout

    def build(self, features_shape, histories_shape=None, scenario_shape=None) -> None:
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
                scale=self.scale,
                residual=self.residual,
                name=f"interacting_{index}",
                **policy,
            )
            layer.build(shape)
            shape = (None, len(widths), self.attention_dim)
            self.interacting.append(layer)
        self.mlp = MLP(units=self.mlp_units, dropout=self.dropout, name="mlp", **policy)
        self.mlp.build((None, sum(widths)))

    def call(self, features, histories, scenario, rows=None, training=False):
        fields = self.fields(features, histories, rows)
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

    def get_config(self) -> dict:
        names = ("dim", "attention_dim", "attention_heads", "num_layers", "scale", "residual", "dropout")
        values = {name: getattr(self, name) for name in names}
        return {**super().get_config(), **values, "mlp_units": list(self.mlp_units)}
