"""WuKong: stacked factorization machines, each layer squaring the order of the interactions."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.backbone import Features, FieldBackbone, Histories, Widths, register
from mixrank.layers.base import Layer, Part, Shape, Tensor
from mixrank.layers.mixing import FactorizationBlock, TokenProjection, count_factorization
from mixrank.layers.tokens import FieldTokens

PRESETS = {
    # For examples and one small log: trains in minutes on two CPU cores.
    "tiny": {
        "dim": 32,
        "num_layers": 2,
        "num_fm": 16,
        "num_linear": 16,
        "rank": 8,
        "mlp_units": (128, 64),
        "head_units": (32,),
    },
    # Sizes of a widely used public implementation; the paper's own begin at hundreds of millions.
    "small": {"dim": 64, "num_layers": 3, "num_fm": 40, "num_linear": 40, "rank": 8, "mlp_units": (512, 256)},
}
SCALED = {"dim": (4,), "mlp_units": (8,)}


@register(title="Wukong: Towards a Scaling Law for Large-Scale Recommendation", arxiv="2403.02545")
class Wukong(FieldBackbone):
    """`X' = LN(concat(FMB(X), LCB(X)) + R X)`, L times; all tokens side by side are the representation.

    X holds one token per field. FMB, the factorization machine block, makes `num_fm` tokens of pairwise products; LCB,
    linear compression, `num_linear` tokens that are weighted sums. R maps the number of tokens of the input to that of
    the output and is left out where they are equal. Layer i captures interactions of order 1 to 2^i.

    Args:
        dim: int >= 1. Token width d.
        num_layers: int >= 1. Layers.
        num_fm: int >= 1. Tokens made by the factorization machine block, n_F.
        num_linear: int >= 1. Tokens made by linear compression, n_L.
        rank: int >= 1. Columns of the factorization machine's projection Y, k.
        mlp_units: widths of the hidden layers in the factorization machine block.
        attentive: bool. Whether Y is computed from the row, or learned once for all rows.
        pooling: mean, or target for attention from the candidate; makes a field of each history.
        head_units: widths of the hidden layers of every task's head; empty is logistic regression.

    Call arguments:
        features, histories, scenario, request_of: as in `Backbone`; the scenario is read as a feature only.

    Returns:
        Tensor (batch, (num_fm + num_linear) * dim).

    Raises:
        ValueError: a value out of bounds.

    As in the paper, except:
        a field's vector is mapped to `dim` by a linear layer of its own, numbers included;
        the attentive Y is an MLP, with `mlp_units` hidden layers, of the row compressed to `rank` tokens;
        the final MLP is that of each task's head.

    Source: arXiv 2403.02545.
    """

    def __init__(
        self,
        *,
        dim: PositiveInt = 64,
        num_layers: PositiveInt = 3,
        num_fm: PositiveInt = 40,
        num_linear: PositiveInt = 40,
        rank: PositiveInt = 8,
        mlp_units: tuple[PositiveInt, ...] = (512, 256),
        attentive: bool = False,
        pooling: Literal["mean", "target"] = "mean",
        head_units: tuple[PositiveInt, ...] = (128,),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        policy = {"dtype": self.dtype_policy}
        widths = self.field_widths(self.widths)
        self.tokenizer = FieldTokens(dim=self.dim, name="tokenizer", **policy)
        self.tokenizer.build([(None, width) for width in widths])
        tokens, self.layers = len(widths), []
        for index in range(self.num_layers):
            layer = _WukongLayer(
                num_fm=self.num_fm,
                num_linear=self.num_linear,
                rank=self.rank,
                units=self.mlp_units,
                attentive=self.attentive,
                name=f"layer_{index}",
                **policy,
            )
            layer.build((None, tokens, self.dim))
            self.layers.append(layer)
            tokens = self.num_tokens

    @property
    def num_tokens(self) -> int:
        """Tokens after every layer."""
        return self.num_fm + self.num_linear

    def call(
        self,
        features: Features,
        histories: Histories,
        scenario: Tensor,
        request_of: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        x = self.tokenizer(self.fields(features, histories, request_of))
        for layer in self.layers:
            x = layer(x)
        # (batch, tokens, dim) -> (batch, tokens * dim)
        return ops.reshape(x, (-1, self.num_tokens * self.dim))

    def width(self, widths: Widths) -> int:
        return self.num_tokens * self.dim

    def count(self, widths: Widths) -> list[Part]:
        fields, d = self.field_widths(widths), self.dim
        parts = [*self.count_fields(widths), Part("tokens", (sum(fields) + len(fields)) * d, 2 * sum(fields) * d)]
        n, out = len(fields), self.num_tokens
        for _ in range(self.num_layers):
            fm = count_factorization(n, d, self.num_fm, self.rank, self.mlp_units, attentive=self.attentive)
            residual = n * out if n != out else 0
            parts += [
                fm._replace(name="layers: factorization machine"),
                Part("layers: linear", n * self.num_linear + residual, 2 * d * (n * self.num_linear + residual)),
                Part("layers: norms", 2 * d, 0),
            ]
            n = out
        return parts


@keras.saving.register_keras_serializable("mixrank")
class _WukongLayer(Layer):
    """`LN(concat(FMB(X), LCB(X)) + R X)`, (batch, n, dim) -> (batch, num_fm + num_linear, dim)."""

    def __init__(
        self, *, num_fm: int, num_linear: int, rank: int, units: tuple[int, ...], attentive: bool, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: Shape) -> None:
        policy = {"dtype": self.dtype_policy}
        self.factorization = FactorizationBlock(
            tokens=self.num_fm,
            rank=self.rank,
            units=self.units,
            attentive=self.attentive,
            name="factorization",
            **policy,
        )
        self.linear = TokenProjection(tokens=self.num_linear, name="linear", **policy)
        shape = self.compute_output_shape(input_shape)
        self.residual = None
        if shape[1] != input_shape[1]:
            self.residual = TokenProjection(tokens=shape[1], name="residual", **policy)
            self.residual.build(input_shape)
        self.norm = keras.layers.LayerNormalization(epsilon=1e-5, name="norm", **policy)
        self.factorization.build(input_shape)
        self.linear.build(input_shape)
        self.norm.build(shape)

    def call(self, x: Tensor) -> Tensor:
        update = ops.concatenate([self.factorization(x), self.linear(x)], axis=1)
        return self.norm(update + (x if self.residual is None else self.residual(x)))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.num_fm + self.num_linear, input_shape[2])
