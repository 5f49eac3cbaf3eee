"""A chain of dense layers."""

from __future__ import annotations

from typing import Any

import keras
from pydantic import PositiveInt

from mixrank.layers.base import Activation, DropoutRate, Layer, Shape, Tensor


@keras.saving.register_keras_serializable("mixrank")
class MLP(Layer):
    """`h_l = phi(W_l h_{l-1} + b_l)`, phi after every layer, the last one included.

    Args:
        units: widths of the layers; none is the identity.
        activation: Name or function of phi.
        dropout: float in [0, 1). Share of each layer's output dropped in training.

    Call arguments:
        x: Tensor (..., width).

    Returns:
        Tensor (..., units[-1]).

    Raises:
        ValueError: if a width is below 1 or `dropout` is out of bounds.

    >>> MLP(units=(5, 3))(keras.ops.ones((2, 4))).shape
    TensorShape([2, 3])
    """

    def __init__(
        self,
        *,
        units: tuple[PositiveInt, ...],
        activation: Activation = "relu",
        dropout: DropoutRate = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: Shape) -> None:
        self.dense = []
        for index, width in enumerate(self.units):
            dense = keras.layers.Dense(
                width,
                activation=self.activation,
                kernel_initializer="he_normal",
                name=f"dense_{index}",
                dtype=self.dtype_policy,
            )
            dense.build(input_shape)
            input_shape = (*input_shape[:-1], width)
            self.dense.append(dense)
        self.drop = [
            keras.layers.Dropout(self.dropout, name=f"drop_{index}", dtype=self.dtype_policy)
            for index in range(len(self.units) if self.dropout else 0)
        ]

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        for index, dense in enumerate(self.dense):
            x = dense(x)
            if self.drop:
                x = self.drop[index](x, training=training)
        return x

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.units[-1] if self.units else input_shape[-1])
