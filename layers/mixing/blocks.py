"""The frame that token-mixing blocks share: mix tokens, transform channels, each with residual and norm."""

from __future__ import annotations

from typing import Any

import keras
from pydantic import PositiveInt

from mixrank.layers.base import Activation, DropoutRate, Layer, Shape, Tensor
from mixrank.layers.mixing.ffn import PerTokenFFN
from mixrank.layers.mixing.token_mixing import HeteroMixing


class _Block(Layer):
    """`Z = LN(mixing(X) + X)`, `X' = LN(ffn(Z) + Z)`; a subclass gives `mixing`, `ffn`, `dropout`, `skip`, `norm`."""

    def build(self, input_shape: Shape) -> None:
        self.mixing_norm = self.ffn_norm = None
        for name, layer in (("mixing_norm", self.mixing), ("ffn_norm", self.ffn)):
            if self.norm:
                norm = keras.layers.LayerNormalization(epsilon=1e-5, name=name, dtype=self.dtype_policy)
                setattr(self, name, norm)
                norm.build(input_shape)
            if not layer.built:
                layer.build(input_shape)
        self.drop = keras.layers.Dropout(self.dropout, name="drop", dtype=self.dtype_policy) if self.dropout else None

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        for layer, norm in ((self.mixing, self.mixing_norm), (self.ffn, self.ffn_norm)):
            update = layer(x)
            if self.drop is not None:
                update = self.drop(update, training=training)
            x = update + x if self.skip else update
            x = x if norm is None else norm(x)
        return x

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


@keras.saving.register_keras_serializable("mixrank")
class PostNormBlock(_Block):
    """`Z = LN(mixing(X) + X)`, `X' = LN(ffn(Z) + Z)`; HeMix equations (11), (12), (18) and (21), RankMixer (1).

    Args:
        mixing: Layer (batch, tokens, dim) -> the same shape, which mixes tokens.
        ffn: Layer of the same kind, which transforms each token.
        dropout: float in [0, 1). Share of both sub-layers' outputs that is dropped in training.
        skip: bool. Whether X and Z are added; off is an ablation.
        norm: bool. Whether LN is applied; off is an ablation.

    Call arguments:
        x: Tensor (batch, tokens, dim).

    Returns:
        Tensor (batch, tokens, dim).

    Source: arXiv 2602.09387 and 2507.15551.

    >>> PostNormBlock(mixing=TokenMixing(), ffn=SharedFFN())(keras.ops.ones((5, 3, 6))).shape
    TensorShape([5, 3, 6])
    """

    def __init__(
        self,
        *,
        mixing: keras.Layer,
        ffn: keras.Layer,
        dropout: DropoutRate = 0.0,
        skip: bool = True,
        norm: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)


@keras.saving.register_keras_serializable("mixrank")
class HeteroMixerBlock(_Block):
    """`Z = LN(HeteroMixing(X) + X)`, `X' = LN(HeteroFFN(Z) + Z)`; HeMix equations (11) to (21).

    HeteroFFN is a feed-forward network with weights of each token, `PerTokenFFN`.

    Args:
        heads: int >= 1, a divisor of dim. Mixed tokens H of `HeteroMixing`.
        rank: int >= 1. Inner width r of `HeteroMixing`.
        expansion: int >= 1. Hidden width of the FFN over dim, k.
        activation: Name or function in the FFN.
        dropout: float in [0, 1). Share of both sub-layers' outputs that is dropped in training.

    Call arguments:
        x: Tensor (batch, tokens, dim).

    Returns:
        Tensor (batch, tokens, dim).

    Raises:
        ValueError: if `heads` does not divide dim, or `rank` is not below tokens * dim / heads.

    Source: arXiv 2602.09387.

    >>> HeteroMixerBlock(heads=2, rank=3)(keras.ops.ones((5, 7, 4))).shape
    TensorShape([5, 7, 4])
    """

    def __init__(
        self,
        *,
        heads: PositiveInt,
        rank: PositiveInt,
        expansion: PositiveInt = 4,
        activation: Activation = "relu",
        dropout: DropoutRate = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        policy = {"dtype": self.dtype_policy}
        self.mixing = HeteroMixing(heads=heads, rank=rank, name="mixing", **policy)
        self.ffn = PerTokenFFN(expansion=expansion, activation=activation, name="ffn", **policy)
        self.skip = self.norm = True


@keras.saving.register_keras_serializable("mixrank")
class PreNormBlock(PostNormBlock):
    """`Z = X + mixing(LN(X))`, `X' = Z + ffn(LN(Z))`; the sum is not normalized, so a stack ends in a norm of its own.

    Arguments, input and output are those of `PostNormBlock`.

    Source: arXiv 2105.01601 and 2002.04745.

    >>> PreNormBlock(mixing=TokenMixing(), ffn=SharedFFN())(keras.ops.ones((5, 3, 6))).shape
    TensorShape([5, 3, 6])
    """

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        for layer, norm in ((self.mixing, self.mixing_norm), (self.ffn, self.ffn_norm)):
            update = layer(x if norm is None else norm(x))
            if self.drop is not None:
                update = self.drop(update, training=training)
            x = update + x if self.skip else update
        return x
