"""TokenMixer-Large: mixing that is reverted, so that tokens keep their meaning through many layers."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops
from pydantic import NonNegativeInt, PositiveInt

from mixrank.layers.backbone import Features, FieldBackbone, Histories, Widths, register
from mixrank.layers.base import DropoutRate, Layer, Part, Shape, Tensor, check_divides, dense_part
from mixrank.layers.mixing import PerTokenSwiGLU, block_transpose, inverse_block_transpose
from mixrank.layers.tokens import EvenSplit, InteractThenSplit

PRESETS = {
    # For examples and one small log: trains in minutes on two CPU cores.
    "tiny": {"dim": 32, "num_tokens": 7, "mixing_heads": 8, "num_layers": 2, "expansion": 1, "head_units": (32,)},
    # Of RankMixer small's size; the paper's own begin at 500 M and leave tokens and layers open.
    "small": {"dim": 512, "num_tokens": 15, "mixing_heads": 16, "num_layers": 4, "expansion": 1},
}
SCALED = {"dim": ("mixing_heads",)}

# W_down of a block starts at this times its usual scale, so that a fresh block is close to the identity.
START = 0.01


@keras.saving.register_keras_serializable("mixrank")
class MixAndRevert(Layer):
    """`M = Mix(X)`, `R = Revert(M + f(N(M)))`, `X' = X + g(N(R))`; TokenMixer-Large's block.

    Mix is the block transpose of T tokens into H, Revert its inverse; f and g are SwiGLU with matrices per token, N an
    RMSNorm. The residual joins the block's own input, so that place t holds the same token before and after.

    Args:
        heads: int >= 1, a divisor of dim. Mixed tokens H.
        expansion: int >= 1. Hidden width of both SwiGLU over the width of their tokens.
        dropout: float in [0, 1). Share of the block's update dropped in training.

    Call arguments:
        x: Tensor (batch, tokens, dim).

    Returns:
        Tensor (batch, tokens, dim).

    Raises:
        ValueError: if `heads` does not divide dim.

    Source: arXiv 2602.06563.

    >>> MixAndRevert(heads=2)(keras.ops.ones((3, 5, 4))).shape
    TensorShape([3, 5, 4])
    """

    def __init__(
        self,
        *,
        heads: PositiveInt,
        expansion: PositiveInt = 1,
        dropout: DropoutRate = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: Shape) -> None:
        tokens, dim = input_shape[1:]
        check_divides(dim, heads=self.heads)
        policy = {"dtype": self.dtype_policy}
        mixed = (None, self.heads, tokens * (dim // self.heads))
        self.mixed_norm = keras.layers.RMSNormalization(epsilon=1e-6, name="mixed_norm", **policy)
        self.norm = keras.layers.RMSNormalization(epsilon=1e-6, name="norm", **policy)
        self.mixed_ffn = PerTokenSwiGLU(units=self.expansion * mixed[2], start=START, name="mixed_ffn", **policy)
        self.ffn = PerTokenSwiGLU(units=self.expansion * dim, start=START, name="ffn", **policy)
        for layer, shape in ((self.mixed_norm, mixed), (self.mixed_ffn, mixed), (self.norm, input_shape)):
            layer.build(shape)
        self.ffn.build(input_shape)
        self.drop = keras.layers.Dropout(self.dropout, name="drop", **policy) if self.dropout else None

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        mixed = block_transpose(x, self.heads)
        mixed = mixed + self.mixed_ffn(self.mixed_norm(mixed))
        update = self.ffn(self.norm(inverse_block_transpose(mixed, x.shape[1])))
        return x + (update if self.drop is None else self.drop(update, training=training))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


@register(title="TokenMixer-Large: Scaling Up Large Ranking Models in Industrial Recommenders", arxiv="2602.06563")
class TokenMixerLarge(FieldBackbone):
    """`X^0 = [global; x_1, ..., x_T]`, L blocks that mix and revert, the global token after an RMSNorm.

    x_t are equal pieces of all fields side by side, each projected to the width D by a matrix of its own; the global
    token is an MLP of all fields.

    Args:
        dim: int >= 1, a multiple of `mixing_heads`. Token width D.
        num_tokens: int >= 1. Tokens T besides the global one.
        mixing_heads: int >= 1. Mixed tokens H.
        num_layers: int >= 0. Number of blocks, L.
        expansion: int >= 1. Hidden width of every SwiGLU over the width of its tokens.
        interval: int >= 0. Every so many blocks the tokens from as many blocks before are added, but not after the last
            block; 0 never does.
        readout: the global token, or the mean over tokens as an ablation.
        dropout: float in [0, 1). Share of each block's update dropped in training.
        pooling: mean, or target for attention from the candidate; makes a field of each history.
        head_units: widths of the hidden layers of every task's head; empty is logistic regression.

    Call arguments:
        features, histories, scenario, request_of: as in `Backbone`; the scenario is read as a feature only.

    Returns:
        Tensor (batch, dim).

    Raises:
        ValueError: a value out of bounds, or heads that do not divide `dim`.

    As in the paper, except:
        tokens are even pieces of the fields, where the paper groups features by hand;
        the SwiGLU are dense, without its sparse experts, and shallow blocks have no logits of their own;
        `dropout` is an addition, off by default.

    Source: arXiv 2602.06563.
    """

    def __init__(
        self,
        *,
        dim: PositiveInt = 512,
        num_tokens: PositiveInt = 15,
        mixing_heads: PositiveInt = 16,
        num_layers: NonNegativeInt = 4,
        expansion: PositiveInt = 1,
        interval: NonNegativeInt = 2,
        readout: Literal["global", "mean"] = "global",
        dropout: DropoutRate = 0.0,
        pooling: Literal["mean", "target"] = "mean",
        head_units: tuple[PositiveInt, ...] = (128,),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_divides(dim, "`dim`", mixing_heads=mixing_heads)

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        policy = {"dtype": self.dtype_policy}
        width = (None, sum(self.field_widths(self.widths)))
        self.tokenizer = EvenSplit(tokens=self.num_tokens, dim=self.dim, name="tokenizer", **policy)
        self.global_token = InteractThenSplit(tokens=1, dim=self.dim, units=(self.dim,), name="global", **policy)
        self.tokenizer.build(width)
        self.global_token.build(width)
        shape = (None, 1 + self.num_tokens, self.dim)
        self.blocks = []
        for index in range(self.num_layers):
            block = MixAndRevert(
                heads=self.mixing_heads,
                expansion=self.expansion,
                dropout=self.dropout,
                name=f"block_{index}",
                **policy,
            )
            block.build(shape)
            self.blocks.append(block)
        self.norm = keras.layers.RMSNormalization(epsilon=1e-6, name="norm", **policy)
        self.norm.build(shape)

    def call(
        self,
        features: Features,
        histories: Histories,
        scenario: Tensor,
        request_of: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        fields = ops.concatenate(self.fields(features, histories, request_of), axis=-1)
        x = before = ops.concatenate([self.global_token(fields), self.tokenizer(fields)], axis=1)
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, training=training)
            if self.interval and number % self.interval == 0 and number < self.num_layers:
                x = before = x + before
        x = self.norm(x)
        return x[:, 0] if self.readout == "global" else ops.mean(x, axis=1)

    def width(self, widths: Widths) -> int:
        return self.dim

    def count(self, widths: Widths) -> list[Part]:
        d, t, n = self.dim, 1 + self.num_tokens, self.num_layers
        width = sum(self.field_widths(widths))
        piece = -(-width // self.num_tokens)
        mixed = t * (d // self.mixing_heads)
        swiglu = 3 * self.expansion * (self.mixing_heads * mixed * mixed + t * d * d)
        return [
            *self.count_fields(widths),
            Part("tokenizer", self.num_tokens * (piece * d + d), 2 * self.num_tokens * piece * d),
            dense_part("global token", [width, d, d]),
            Part("blocks: SwiGLU", n * swiglu, 2 * n * swiglu),
            Part("norms", n * (mixed + d) + d, 0),
        ]
