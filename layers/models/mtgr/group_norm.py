"""Layer normalization with gain and bias of each group of tokens."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import Layer, Shape, Tensor


@keras.saving.register_keras_serializable("mixrank")
class GroupLayerNorm(Layer):
    """`y_t = g_c (x_t - mean(x_t)) / sqrt(var(x_t) + epsilon) + b_c`, c the group of token t.

    Tokens of different kinds, such as fields of a user and items of a history, are brought to one scale each by
    parameters of their own.

    Args:
        sizes: number of tokens of each group, in the order of the tokens.
        epsilon: float > 0.

    Call arguments:
        x: Tensor (batch, sum of sizes, dim).

    Returns:
        Tensor (batch, sum of sizes, dim).

    Raises:
        ValueError: if the sizes do not add up to the number of tokens, or one is below 1.

    Source: arXiv 2505.18654.

    >>> GroupLayerNorm(sizes=(2, 1))(keras.ops.ones((5, 3, 4))).shape
    TensorShape([5, 3, 4])
    """

    def __init__(self, *, sizes: tuple[PositiveInt, ...], epsilon: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: Shape) -> None:
        tokens, dim = input_shape[1:]
        if tokens != sum(self.sizes):
            raise ValueError(f"`sizes` must add up to the number of tokens {tokens}, received {self.sizes}")
        self.groups = [group for group, size in enumerate(self.sizes) for _ in range(size)]
        self.normalize = keras.layers.LayerNormalization(
            epsilon=self.epsilon, center=False, scale=False, name="normalize", dtype=self.dtype_policy
        )
        self.normalize.build(input_shape)
        self.gain = self.add_weight(shape=(len(self.sizes), dim), initializer="ones", name="gain")
        self.bias = self.add_weight(shape=(len(self.sizes), dim), initializer="zeros", name="bias")

    def call(self, x: Tensor) -> Tensor:
        # (groups, dim) -> (tokens, dim)
        gain, bias = (ops.take(parameter, self.groups, axis=0) for parameter in (self.gain, self.bias))
        return self.normalize(x) * gain + bias

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape
