"""DHEN: layers that are ensembles of unlike interactions, so that a stack makes interactions of interactions."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.backbone import Features, FieldBackbone, Histories, Widths, register
from mixrank.layers.base import Layer, Part, Shape, Tensor, check_divides, dense_part
from mixrank.layers.mixing import (
    MLP,
    Cross,
    FactorizationBlock,
    PostNormBlock,
    SelfAttention,
    SharedFFN,
    TokenProjection,
    count_factorization,
)
from mixrank.layers.tokens import FieldTokens, count_field_tokens

PRESETS = {
    # For examples and one small log: trains in minutes on two CPU cores.
    "tiny": {
        "dim": 16,
        "num_layers": 2,
        "num_tokens": 8,
        "rank": 8,
        "cross_rank": 8,
        "mlp_units": (64,),
        "attention_heads": 2,
        "head_units": (32,),
    },
    # Chosen to stand beside wukong's: the paper's own begin far above.
    "small": {"dim": 64, "num_layers": 3, "num_tokens": 20, "rank": 8, "cross_rank": 32, "mlp_units": (512, 256)},
}
SCALED = {"dim": ("attention_heads", 4), "mlp_units": (8,)}

Interaction = Literal["dot", "cross", "attention", "linear", "mlp"]


@keras.saving.register_keras_serializable("mixrank")
class CrossTokens(Layer):
    """`Y = W_m (x * (U V^T x + b) + x)`, x the tokens side by side: DCN-V2's cross, then linear compression.

    Args:
        tokens: int >= 1. Number of output tokens.
        rank: int >= 1. Inner width r of the cross.

    Call arguments:
        x: Tensor (batch, n, dim).

    Returns:
        Tensor (batch, tokens, dim).

    Raises:
        ValueError: if an argument is below 1.

    Source: arXiv 2203.11014 and 2008.13535.

    >>> CrossTokens(tokens=5, rank=2)(keras.ops.ones((2, 3, 4))).shape
    TensorShape([2, 5, 4])
    """

    def __init__(self, *, tokens: PositiveInt, rank: PositiveInt, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: Shape) -> None:
        width = input_shape[1] * input_shape[2]
        self.cross = Cross(rank=self.rank, name="cross", dtype=self.dtype_policy)
        self.cross.build((None, width), (None, width))
        self.compress = TokenProjection(tokens=self.tokens, name="compress", dtype=self.dtype_policy)
        self.compress.build(input_shape)

    def call(self, x: Tensor) -> Tensor:
        n, dim = x.shape[1:]
        # (batch, n, dim) -> (batch, n * dim), and back
        flat = ops.reshape(x, (-1, n * dim))
        return self.compress(ops.reshape(self.cross(flat, flat), (-1, n, dim)))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.tokens, input_shape[2])


@keras.saving.register_keras_serializable("mixrank")
class AttentionTokens(Layer):
    """`Y = W_m TransformerEncoderLayer(X)`: self-attention among tokens and an FFN, then linear compression.

    Args:
        tokens: int >= 1. Number of output tokens.
        heads: int >= 1, a divisor of dim. Attention heads.

    Call arguments:
        x: Tensor (batch, n, dim).

    Returns:
        Tensor (batch, tokens, dim).

    Raises:
        ValueError: if an argument is below 1, or `heads` does not divide dim.

    Source: arXiv 2203.11014 and 1706.03762.

    >>> AttentionTokens(tokens=5, heads=2)(keras.ops.ones((2, 3, 4))).shape
    TensorShape([2, 5, 4])
    """

    def __init__(self, *, tokens: PositiveInt, heads: PositiveInt = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: Shape) -> None:
        policy = {"dtype": self.dtype_policy}
        self.encode = PostNormBlock(
            mixing=SelfAttention(heads=self.heads, name="mixing", **policy),
            ffn=SharedFFN(name="ffn", **policy),
            name="encode",
            **policy,
        )
        self.encode.build(input_shape)
        self.compress = TokenProjection(tokens=self.tokens, name="compress", **policy)
        self.compress.build(input_shape)

    def call(self, x: Tensor) -> Tensor:
        return self.compress(self.encode(x))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.tokens, input_shape[2])


@keras.saving.register_keras_serializable("mixrank")
class DeepTokens(Layer):
    """`Y = reshape(W MLP(x) + b, tokens x dim)`, x the tokens side by side: a plain network.

    Args:
        tokens: int >= 1. Number of output tokens.
        units: widths of the MLP's hidden ReLU layers; its last layer is linear.

    Call arguments:
        x: Tensor (batch, n, dim).

    Returns:
        Tensor (batch, tokens, dim).

    Raises:
        ValueError: if an argument is below 1.

    >>> DeepTokens(tokens=5, units=(6,))(keras.ops.ones((2, 3, 4))).shape
    TensorShape([2, 5, 4])
    """

    def __init__(self, *, tokens: PositiveInt, units: tuple[PositiveInt, ...] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: Shape) -> None:
        width = input_shape[1] * input_shape[2]
        self.hidden = MLP(units=self.units, name="hidden", dtype=self.dtype_policy)
        self.hidden.build((None, width))
        self.expand = keras.layers.Dense(self.tokens * input_shape[2], name="expand", dtype=self.dtype_policy)
        self.expand.build(self.hidden.compute_output_shape((None, width)))

    def call(self, x: Tensor) -> Tensor:
        n, dim = x.shape[1:]
        # (batch, n, dim) -> (batch, n * dim); (batch, tokens * dim) -> (batch, tokens, dim)
        return ops.reshape(self.expand(self.hidden(ops.reshape(x, (-1, n * dim)))), (-1, self.tokens, dim))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.tokens, input_shape[2])


@register(
    title="DHEN: A Deep and Hierarchical Ensemble Network for Large-Scale Click-Through Rate Prediction",
    arxiv="2203.11014",
)
class DHEN(FieldBackbone):
    """`X' = LN(Ensemble_i(Interaction_i(X)) + ShortCut(X))`, L times; all tokens side by side are the representation.

    X holds one token per field. Each interaction makes l = `num_tokens` tokens of X, and an ensemble puts those of all
    interactions one after the other, or adds them up. The shortcut maps the number of tokens of the input to that of
    the output and is left out where they are equal.

    Args:
        dim: int >= 1, a multiple of `attention_heads`. Token width d.
        num_layers: int >= 1. Layers N.
        interactions: those of every layer, at least one: dot for the inner products of all pairs of tokens, compressed
            and through an MLP; cross for DCN-V2's cross; attention for a Transformer's encoder layer; linear for
            weighted sums of tokens; mlp for a plain network on all tokens.
        ensemble: concat for the tokens of all interactions one after the other, sum for their sum.
        num_tokens: int >= 1. Tokens of each interaction, l.
        rank: int >= 1. Inner products that dot keeps of each token.
        cross_rank: int >= 1. Inner width of cross.
        mlp_units: widths of the hidden layers in dot and mlp.
        attention_heads: int >= 1. Heads of attention.
        pooling: mean, or target for attention from the candidate; makes a field of each history.
        head_units: widths of the hidden layers of every task's head; empty is logistic regression.

    Call arguments:
        features, histories, scenario, request_of: as in `Backbone`; the scenario is read as a feature only.

    Returns:
        Tensor (batch, tokens * dim), tokens = num_tokens, times the number of interactions with concat.

    Raises:
        ValueError: a value out of bounds, no interaction, or heads that do not divide `dim`.

    As in the paper, except:
        a field's vector is mapped to `dim` by a linear layer of its own, numbers included;
        dot is WuKong's factorization machine block, in the place of AdvancedDLRM, which is not published;
        the cross is of low rank and keeps its own residual; there is no convolution, since fields have no order;
        the ensembles are concatenation and sum, without the weighted sum;
        histories, which the paper does not have, enter pooled.

    Source: arXiv 2203.11014.
    """

    def __init__(
        self,
        *,
        dim: PositiveInt = 64,
        num_layers: PositiveInt = 3,
        interactions: tuple[Literal["dot", "cross", "attention", "linear", "mlp"], ...] = (
            "dot",
            "cross",
            "attention",
            "linear",
        ),
        ensemble: Literal["concat", "sum"] = "concat",
        num_tokens: PositiveInt = 20,
        rank: PositiveInt = 8,
        cross_rank: PositiveInt = 32,
        mlp_units: tuple[PositiveInt, ...] = (512, 256),
        attention_heads: PositiveInt = 4,
        pooling: Literal["mean", "target"] = "mean",
        head_units: tuple[PositiveInt, ...] = (128,),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not interactions:
            raise ValueError("`interactions` must name at least one, received ()")
        check_divides(dim, "`dim`", attention_heads=attention_heads)

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        policy = {"dtype": self.dtype_policy}
        widths = self.field_widths(self.widths)
        self.tokenizer = FieldTokens(dim=self.dim, name="tokenizer", **policy)
        self.tokenizer.build([(None, width) for width in widths])
        shape, self.layers = (None, len(widths), self.dim), []
        for index in range(self.num_layers):
            layer = EnsembleLayer(
                interactions=tuple(self._interaction(kind, i) for i, kind in enumerate(self.interactions)),
                ensemble=self.ensemble,
                name=f"layer_{index}",
                **policy,
            )
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
            self.layers.append(layer)

    def _interaction(self, kind: Interaction, index: int) -> Layer:
        """A new layer (batch, n, dim) -> (batch, num_tokens, dim)."""
        options = {"tokens": self.num_tokens, "name": f"{kind}_{index}", "dtype": self.dtype_policy}
        match kind:
            case "dot":
                return FactorizationBlock(rank=self.rank, units=self.mlp_units, **options)
            case "cross":
                return CrossTokens(rank=self.cross_rank, **options)
            case "attention":
                return AttentionTokens(heads=self.attention_heads, **options)
            case "linear":
                return TokenProjection(**options)
            case "mlp":
                return DeepTokens(units=self.mlp_units, **options)

    @property
    def tokens_of_a_layer(self) -> int:
        """Tokens after every layer."""
        return self.num_tokens * (len(self.interactions) if self.ensemble == "concat" else 1)

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
        return ops.reshape(x, (-1, self.tokens_of_a_layer * self.dim))

    def width(self, widths: Widths) -> int:
        return self.tokens_of_a_layer * self.dim

    def _count_interaction(self, kind: Interaction, n: int) -> Part:
        """Parameters and FLOPs of one interaction of n tokens."""
        d, tokens = self.dim, self.num_tokens
        # W_m, which cross and attention end in.
        compress = Part("", n * tokens, 2 * n * tokens * d)
        match kind:
            case "dot":
                found = count_factorization(n, d, tokens, self.rank, self.mlp_units)
            case "cross":
                products = 2 * n * d * self.cross_rank
                found = Part("", products + n * d + compress.parameters, 2 * products + compress.flops)
            case "attention":
                # Projections and FFN with the biases of the latter; two norms.
                parameters, biases, norms = 4 * d * d + 8 * d * d, 5 * d, 4 * d
                flops = 2 * (n * parameters + 2 * n * n * d)
                found = Part("", parameters + biases + norms + compress.parameters, flops + compress.flops)
            case "linear":
                found = compress
            case "mlp":
                found = dense_part("", [n * d, *self.mlp_units, tokens * d])
        return found._replace(name=f"layers: {kind}")

    def count(self, widths: Widths) -> list[Part]:
        fields, d, out = self.field_widths(widths), self.dim, self.tokens_of_a_layer
        parts = [*self.count_fields(widths), count_field_tokens(fields, d)]
        n = len(fields)
        for _ in range(self.num_layers):
            shortcut = n * out if n != out else 0
            parts += [self._count_interaction(kind, n) for kind in self.interactions]
            parts += [Part("layers: shortcut", shortcut, 2 * d * shortcut), Part("layers: norms", 2 * d, 0)]
            n = out
        return parts


@keras.saving.register_keras_serializable("mixrank")
class EnsembleLayer(Layer):
    """`LN(Ensemble_i(Interaction_i(X)) + ShortCut(X))`: one layer of DHEN.

    Args:
        interactions: layers (batch, n, dim) -> (batch, tokens, dim), all with the same number of tokens.
        ensemble: concat for the tokens of all one after the other, sum for their sum.

    Call arguments:
        x: Tensor (batch, n, dim).

    Returns:
        Tensor (batch, tokens * interactions, dim) with concat, (batch, tokens, dim) with sum.

    Source: arXiv 2203.11014.

    >>> layers = (TokenProjection(tokens=2), DeepTokens(tokens=2))
    >>> EnsembleLayer(interactions=layers)(keras.ops.ones((5, 3, 6))).shape
    TensorShape([5, 4, 6])
    """

    def __init__(
        self, *, interactions: tuple[keras.Layer, ...], ensemble: Literal["concat", "sum"] = "concat", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: Shape) -> None:
        policy = {"dtype": self.dtype_policy}
        for interaction in self.interactions:
            # One that comes from a file is built already.
            if not interaction.built:
                interaction.build(input_shape)
        shape = self.compute_output_shape(input_shape)
        self.shortcut = None
        if shape[1] != input_shape[1]:
            self.shortcut = TokenProjection(tokens=shape[1], name="shortcut", **policy)
            self.shortcut.build(input_shape)
        self.norm = keras.layers.LayerNormalization(epsilon=1e-5, name="norm", **policy)
        self.norm.build(shape)

    def call(self, x: Tensor) -> Tensor:
        found = [interaction(x) for interaction in self.interactions]
        update = ops.concatenate(found, axis=1) if self.ensemble == "concat" else sum(found)
        return self.norm(update + (x if self.shortcut is None else self.shortcut(x)))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        shapes = [interaction.compute_output_shape(input_shape) for interaction in self.interactions]
        tokens = sum(shape[1] for shape in shapes) if self.ensemble == "concat" else shapes[0][1]
        return (input_shape[0], tokens, input_shape[2])
