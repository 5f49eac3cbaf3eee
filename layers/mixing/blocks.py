"""The frame that token-mixing blocks share: mix tokens, transform channels, each with residual and norm."""

from __future__ import annotations

import keras


@keras.saving.register_keras_serializable("mixrank")
class PostNormBlock(keras.Layer):
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
    """

    def __init__(
        self,
        *,
        mixing: keras.Layer,
        ffn: keras.Layer,
        dropout: float = 0.0,
        skip: bool = True,
        norm: bool = True,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.mixing = mixing
        self.ffn = ffn
        self.dropout = dropout
        self.skip = skip
        self.norm = norm

    def build(self, input_shape) -> None:
        self.mixing_norm = self.ffn_norm = None
        for name, layer in (("mixing_norm", self.mixing), ("ffn_norm", self.ffn)):
            if self.norm:
                norm = keras.layers.LayerNormalization(epsilon=1e-5, name=name, dtype=self.dtype_policy)
                setattr(self, name, norm)
                norm.build(input_shape)
            if not layer.built:
                layer.build(input_shape)
        self.drop = keras.layers.Dropout(self.dropout, name="drop", dtype=self.dtype_policy) if self.dropout else None

    def call(self, x, training=False):
        for layer, norm in ((self.mixing, self.mixing_norm), (self.ffn, self.ffn_norm)):
            update = layer(x)
            if self.drop is not None:
                update = self.drop(update, training=training)
            x = update + x if self.skip else update
            x = x if norm is None else norm(x)
        return x

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "mixing": keras.saving.serialize_keras_object(self.mixing),
            "ffn": keras.saving.serialize_keras_object(self.ffn),
            "dropout": self.dropout,
            "skip": self.skip,
            "norm": self.norm,
        }

    @classmethod
    def from_config(cls, config: dict) -> PostNormBlock:
        parts = {name: keras.saving.deserialize_keras_object(config[name]) for name in ("mixing", "ffn")}
        return cls(**{**config, **parts})


@keras.saving.register_keras_serializable("mixrank")
class PreNormBlock(PostNormBlock):
    """`Z = X + mixing(LN(X))`, `X' = Z + ffn(LN(Z))`; the sum is not normalized, so a stack ends in a norm of its own.

    Arguments, input and output are those of `PostNormBlock`.

    Source: arXiv 2105.01601 and 2002.04745.
    """

    def call(self, x, training=False):
        for layer, norm in ((self.mixing, self.mixing_norm), (self.ffn, self.ffn_norm)):
            update = layer(x if norm is None else norm(x))
            if self.drop is not None:
                update = self.drop(update, training=training)
            x = update + x if self.skip else update
        return x
