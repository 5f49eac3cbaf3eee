"""Hiformer: attention among fields with projections that know which field they project."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops
from pydantic import NonNegativeInt, PositiveInt

from mixrank.layers.backbone import Features, FieldBackbone, Histories, Widths, register
from mixrank.layers.base import Layer, Part, Shape, Tensor
from mixrank.layers.mixing import PerTokenFFN
from mixrank.layers.models.hiformer.field_attention import FieldAttention
from mixrank.layers.tokens import FieldTokens, InteractThenSplit

PRESETS = {
    # For examples and one small log: trains in minutes on two CPU cores.
    "tiny": {
        "dim": 32,
        "attention_heads": 2,
        "key_dim": 8,
        "value_dim": 16,
        "key_rank": 16,
        "value_rank": 64,
        "head_units": (32,),
    },
    # As published, with low-rank projections; large is the published form with full ones.
    "small": {
        "dim": 128,
        "num_layers": 1,
        "attention_heads": 4,
        "key_dim": 16,
        "value_dim": 64,
        "key_rank": 128,
        "value_rank": 1024,
        "expansion": 4,
    },
    "large": {"dim": 128, "attention_heads": 4, "key_dim": 16, "value_dim": 64, "low_rank": False},
}
SCALED = {"dim": (4,), "key_dim": (4,), "value_dim": (4,), "key_rank": (8,), "value_rank": (8,)}


@register(
    title="Hiformer: Heterogeneous Feature Interactions Learning with Transformers for Recommender Systems",
    arxiv="2311.05884",
)
class Hiformer(FieldBackbone):
    """`O = LN(X + Attention(X))`, `X' = LN(O + FFN(O))`, L times; the task tokens are the representation.

    X holds learned task tokens, then one token per field. Attention is `softmax(Q K^T / sqrt(d_k)) V` per head. In
    "composite" form each query, key and value is a projection of all tokens together, of low rank; in "heterogeneous"
    form of its own token by a matrix of its own. The FFN has weights per token. The last layer computes the task
    tokens only.

    Args:
        dim: int >= 1. Token width d.
        num_cls: int >= 1. Learned task tokens.
        num_dense: int >= 0. Tokens made of all numbers together; 0 gives every number a token of its own.
        num_layers: int >= 1. Layers L.
        attention_heads: int >= 1. Attention heads H.
        key_dim: int >= 1. Width d_k of a head's query and key.
        value_dim: int >= 1. Width d_v of a head's value.
        attention: composite projections (Hiformer), or heterogeneous ones.
        low_rank: bool. Whether composite projections are products of two matrices.
        key_rank: int >= 1. Rank r_k of composite queries and keys.
        value_rank: int >= 1. Rank r_v of composite values.
        expansion: int >= 1. Hidden width of the FFN over `dim`.
        pooling: mean, or target for attention from the candidate; makes a field of each history.
        head_units: widths of the hidden layers of every task's head; empty is logistic regression.

    Call arguments:
        features, histories, scenario, request_of: as in `Backbone`; the scenario is read as a feature only.

    Returns:
        Tensor (batch, num_cls * dim).

    Raises:
        ValueError: a value out of bounds.

    As in the paper, except:
        task tokens are shared by all tasks' heads; the paper has one per task;
        a field's vector is mapped to `dim` by a linear layer of its own;
        queries have rank r_k like keys, and heads share both ranks, with which the published sizes agree.

    Source: arXiv 2311.05884.
    """

    def __init__(
        self,
        *,
        dim: PositiveInt = 128,
        num_cls: PositiveInt = 1,
        num_dense: NonNegativeInt = 1,
        num_layers: PositiveInt = 1,
        attention_heads: PositiveInt = 4,
        key_dim: PositiveInt = 16,
        value_dim: PositiveInt = 64,
        attention: Literal["composite", "heterogeneous"] = "composite",
        low_rank: bool = True,
        key_rank: PositiveInt = 128,
        value_rank: PositiveInt = 1024,
        expansion: PositiveInt = 4,
        pooling: Literal["mean", "target"] = "mean",
        head_units: tuple[PositiveInt, ...] = (128,),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        policy = {"dtype": self.dtype_policy}
        widths = self.field_widths(self.widths)
        self.numbers = self._numbers(widths)
        self.others = [i for i in range(len(widths)) if i not in self.numbers]
        self.cls = self.add_weight(
            shape=(self.num_cls, self.dim), initializer=keras.initializers.RandomNormal(stddev=0.02), name="cls"
        )
        self.tokenizer = FieldTokens(dim=self.dim, name="tokenizer", **policy)
        self.tokenizer.build([(None, widths[i]) for i in self.others])
        if self.numbers:
            self.dense_tokens = InteractThenSplit(tokens=self.num_dense, dim=self.dim, name="dense_tokens", **policy)
            self.dense_tokens.build((None, len(self.numbers)))
        shape = (None, self.num_tokens(self.widths), self.dim)
        self.layers = []
        for index in range(self.num_layers):
            layer = _HiformerLayer(
                attention=self._attention(index, name="attention", **policy),
                ffn=PerTokenFFN(expansion=self.expansion, activation="gelu", name="ffn", **policy),
                name=f"layer_{index}",
                **policy,
            )
            layer.build(shape)
            self.layers.append(layer)

    def _numbers(self, widths: tuple[int, ...]) -> list[int]:
        """Fields that are aggregated into dense tokens."""
        numbers = [i for i, width in enumerate(widths) if width == 1] if self.num_dense else []
        return numbers if len(numbers) < len(widths) else []

    def num_tokens(self, widths: Widths) -> int:
        """Task tokens, dense tokens and one token per other field."""
        fields = self.field_widths(widths)
        numbers = len(self._numbers(fields))
        return self.num_cls + (self.num_dense if numbers else 0) + len(fields) - numbers

    def _attention(self, index: int, **kwargs) -> FieldAttention:
        return FieldAttention(
            heads=self.attention_heads,
            key_dim=self.key_dim,
            value_dim=self.value_dim,
            composite=self.attention == "composite",
            key_rank=self.key_rank if self.low_rank else None,
            value_rank=self.value_rank if self.low_rank else None,
            num_queries=self.num_cls if index == self.num_layers - 1 else None,
            **kwargs,
        )

    def tokens(self, features: Features, histories: Histories, request_of: Tensor | None = None) -> Tensor:
        """Task tokens, dense tokens, field tokens.

        Returns:
            Tensor (batch, tokens, dim).
        """
        fields = self.fields(features, histories, request_of)
        tokens = self.tokenizer([fields[i] for i in self.others])
        if self.numbers:
            dense = self.dense_tokens(ops.concatenate([fields[i] for i in self.numbers], axis=-1))
            tokens = ops.concatenate([dense, tokens], axis=1)
        cls = ops.broadcast_to(ops.cast(self.cls, tokens.dtype), (ops.shape(tokens)[0], self.num_cls, self.dim))
        return ops.concatenate([cls, tokens], axis=1)

    def call(
        self,
        features: Features,
        histories: Histories,
        scenario: Tensor,
        request_of: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        x = self.tokens(features, histories, request_of)
        for layer in self.layers:
            x = layer(x)
        # (batch, num_cls, dim) -> (batch, num_cls * dim)
        return ops.reshape(x, (-1, self.num_cls * self.dim))

    def width(self, widths: Widths) -> int:
        return self.num_cls * self.dim

    def count(self, widths: Widths) -> list[Part]:
        d, hidden, tokens = self.dim, self.expansion * self.dim, self.num_tokens(widths)
        fields = self.field_widths(widths)
        numbers = len(self._numbers(fields))
        projected = (sum(fields) - numbers) * d + numbers * self.num_dense * d
        biases = (tokens - self.num_cls) * d
        attention, attention_products, ffn, ffn_products = 0, 0, 0, 0
        for index in range(self.num_layers):
            parameters, products = self._attention(index).count(tokens, d)
            attention, attention_products = attention + parameters, attention_products + products
            asking = self.num_cls if index == self.num_layers - 1 else tokens
            ffn += asking * (2 * d * hidden + hidden + d)
            ffn_products += asking * 2 * d * hidden
        return [
            *self.count_fields(widths),
            Part("tokens", projected + biases + self.num_cls * d, 2 * projected),
            Part("layers: attention", attention, 2 * attention_products),
            Part("layers: FFN", ffn, 2 * ffn_products),
            Part("layers: norms", self.num_layers * 4 * d, 0),
        ]


@keras.saving.register_keras_serializable("mixrank")
class _HiformerLayer(Layer):
    """Attention and FFN with residual and norm; the tokens that ask are the first ones, and the only ones kept."""

    def __init__(self, *, attention: FieldAttention, ffn: PerTokenFFN, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: Shape) -> None:
        self.attention.build(input_shape)
        shape = self.compute_output_shape(input_shape)
        self.ffn.build(shape)
        self.attention_norm, self.ffn_norm = (
            keras.layers.LayerNormalization(epsilon=1e-5, name=name, dtype=self.dtype_policy)
            for name in ("attention_norm", "ffn_norm")
        )
        self.attention_norm.build(shape)
        self.ffn_norm.build(shape)

    def call(self, x: Tensor) -> Tensor:
        x = self.attention_norm(x[:, : self.attention.queries] + self.attention(x))
        return self.ffn_norm(x + self.ffn(x))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return self.attention.compute_output_shape(input_shape)
