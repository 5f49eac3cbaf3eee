"""Feature vectors to tokens."""

from __future__ import annotations

import keras
from keras import ops


@keras.saving.register_keras_serializable("mixrank")
class InteractThenSplit(keras.Layer):
    """`h = MLP(e)`, `X = Split(h, tokens)`: features interact before they are cut into tokens; HeMix equation (2).

    Args:
        tokens: int >= 1. Number of tokens.
        dim: int >= 1. Width of a token.
        units: widths of hidden layers; the last layer, of width tokens * dim, is linear.
        activation: Name or function of the hidden layers' activation.

    Call arguments:
        x: Tensor (batch, width), all feature vectors side by side.

    Returns:
        Tensor (batch, tokens, dim).

    Raises:
        ValueError: if `tokens` or `dim` is below 1.

    Source: arXiv 2602.09387; without hidden layers it is the AutoSplit of arXiv 2510.26104.

    >>> InteractThenSplit(tokens=3, dim=4)(keras.ops.ones((2, 7))).shape
    TensorShape([2, 3, 4])
    """

    def __init__(self, *, tokens: int, dim: int, units: tuple[int, ...] = (), activation="relu", **kwargs) -> None:
        super().__init__(**kwargs)
        if tokens < 1 or dim < 1:
            raise ValueError(f"`tokens` and `dim` must be at least 1, received {tokens} and {dim}")
        self.tokens = tokens
        self.dim = dim
        self.units = tuple(units)
        self.activation = keras.activations.get(activation)

    def build(self, input_shape) -> None:
        self.hidden = [
            keras.layers.Dense(
                width,
                activation=self.activation,
                kernel_initializer="he_normal",
                name=f"hidden_{index}",
                dtype=self.dtype_policy,
            )
            for index, width in enumerate(self.units)
        ]
        self.split = keras.layers.Dense(self.tokens * self.dim, name="split", dtype=self.dtype_policy)
        for dense in (*self.hidden, self.split):
            dense.build(input_shape)
            input_shape = (*input_shape[:-1], dense.units)

    def call(self, x):
        for dense in self.hidden:
            x = dense(x)
        # (batch, tokens * dim) -> (batch, tokens, dim)
        return ops.reshape(self.split(x), (-1, self.tokens, self.dim))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.tokens, self.dim)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "tokens": self.tokens,
            "dim": self.dim,
            "units": list(self.units),
            "activation": keras.activations.serialize(self.activation),
        }
