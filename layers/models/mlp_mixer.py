"""MLP-Mixer: one MLP across tokens and one across channels."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops
from pydantic import NonNegativeInt, PositiveInt

from mixrank.layers.backbone import Features, Histories, TokenBackbone, Widths, register
from mixrank.layers.base import Activation, DropoutRate, Layer, Part, Shape, Tensor
from mixrank.layers.mixing import PreNormBlock, SharedFFN

PRESETS = {
    # For examples and one small log: trains in minutes on two CPU cores.
    "tiny": {"dim": 64, "num_layers": 2, "head_units": (32,)},
    # Width and layers of hemix small; the paper's own sizes are for images.
    "small": {"dim": 256, "num_layers": 3, "token_expansion": 2, "expansion": 4},
}
SCALED = {"dim": (8,)}


@keras.saving.register_keras_serializable("mixrank")
class TokenMLP(Layer):
    """`Y = W_2 phi(W_1 X + b_1) + b_2` along the token axis, with the same weights for every channel.

    Args:
        expansion: int >= 1. Hidden width D_S over the number of tokens.
        activation: Name or function of phi.

    Call arguments:
        x: Tensor (batch, tokens, dim).

    Returns:
        Tensor (batch, tokens, dim).

    Raises:
        ValueError: if `expansion` is below 1.

    Source: arXiv 2105.01601.

    >>> TokenMLP(expansion=2)(keras.ops.ones((2, 3, 4))).shape
    TensorShape([2, 3, 4])
    """

    def __init__(self, *, expansion: PositiveInt = 2, activation: Activation = "gelu", **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: Shape) -> None:
        batch, tokens, dim = input_shape
        options = {"expansion": self.expansion, "activation": self.activation, "dtype": self.dtype_policy}
        self.mlp = SharedFFN(**options, name="mlp")
        self.mlp.build((batch, dim, tokens))

    def call(self, x: Tensor) -> Tensor:
        # (batch, tokens, dim) -> (batch, dim, tokens), and back
        return ops.transpose(self.mlp(ops.transpose(x, (0, 2, 1))), (0, 2, 1))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


@register(title="MLP-Mixer: An all-MLP Architecture for Vision", arxiv="2105.01601")
class MLPMixer(TokenBackbone):
    """`U = X + W_2 gelu(W_1 LN(X))` over tokens, `Y = U + W_4 gelu(W_3 LN(U))` over channels (1); L times, LN, mean.

    Args:
        dim: int >= 1. Token width D, the channels.
        tokenizer: fields for one token per field, or split for a linear map of all of them, cut into tokens.
        num_tokens: int >= 1. Tokens of the split; not read with fields.
        num_layers: int >= 0. Number of blocks, L.
        token_expansion: int >= 1. Hidden width of the token MLP over the number of tokens, D_S / T.
        expansion: int >= 1. Hidden width of the channel MLP over `dim`, D_C / D.
        dropout: float in [0, 1). Share of each sub-layer's output dropped in training.
        pooling: mean, or target for attention from the candidate; makes a field of each history.
        head_units: widths of the hidden layers of every task's head; empty is logistic regression.

    Call arguments:
        features, histories, scenario, request_of: as in `Backbone`; the scenario is read as a feature only.

    Returns:
        Tensor (batch, dim).

    Raises:
        ValueError: a value out of bounds.

    As in the paper, except:
        fields, or pieces of all of them, take the place of image patches, and have projections of their own;
        `dropout` is an addition, off by default.

    Source: arXiv 2105.01601.
    """

    def __init__(
        self,
        *,
        dim: PositiveInt = 256,
        tokenizer: Literal["fields", "split"] = "fields",
        num_tokens: PositiveInt = 16,
        num_layers: NonNegativeInt = 3,
        token_expansion: PositiveInt = 2,
        expansion: PositiveInt = 4,
        dropout: DropoutRate = 0.0,
        pooling: Literal["mean", "target"] = "mean",
        head_units: tuple[PositiveInt, ...] = (128,),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
        super().build(features_shape, histories_shape, scenario_shape)
        shape = (None, self.count_of_tokens(self.widths), self.dim)
        for block in self.blocks:
            block.build(shape)
        self.norm = keras.layers.LayerNormalization(epsilon=1e-5, name="norm", dtype=self.dtype_policy)
        self.norm.build(shape)

    def new_block(self, index: int) -> PreNormBlock:
        policy = {"dtype": self.dtype_policy}
        return PreNormBlock(
            mixing=TokenMLP(expansion=self.token_expansion, name="mixing", **policy),
            ffn=SharedFFN(expansion=self.expansion, activation="gelu", name="ffn", **policy),
            dropout=self.dropout,
            name=f"block_{index}",
            **policy,
        )

    def call(
        self,
        features: Features,
        histories: Histories,
        scenario: Tensor,
        request_of: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        x = self.tokens(features, histories, request_of)
        for block in self.blocks:
            x = block(x, training=training)
        return ops.mean(self.norm(x), axis=1)

    def count(self, widths: Widths) -> list[Part]:
        t, d = self.count_of_tokens(widths), self.dim
        s, c, layers = self.token_expansion * t, self.expansion * d, self.num_layers
        return [
            *self.count_tokenizer(widths),
            Part("blocks: mixing", layers * (2 * t * s + s + t), layers * 2 * d * 2 * t * s),
            Part("blocks: FFN", layers * (2 * d * c + c + d), layers * 2 * t * 2 * d * c),
            Part("norms", layers * 4 * d + 2 * d, 0),
        ]
