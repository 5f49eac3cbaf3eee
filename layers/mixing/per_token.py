"""A dense layer with a kernel per token."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import Activation, Initializer, Layer, PerToken, Shape, Tensor


@keras.saving.register_keras_serializable("mixrank")
class PerTokenDense(Layer):
    """`y_t = activation(x_t W_t + b_t)`, with kernel W_t and bias b_t of token t alone.

    The kernels are one stacked weight (tokens, inputs, units). The product runs token-leading, as one batched matrix
    product over (tokens, batch, inputs); on CPU the einsum `bti,tio->bto` is as fast forward but much slower backward
    (`benchmarks/token_matmul.py`).

    Args:
        units: int >= 1. Width of the output.
        activation: Name or function of the activation; None is the identity.
        use_bias: bool. Whether to add b_t.
        kernel_initializer: Initializer of one token's kernel.
        token_leading: bool. Whether input and output are (tokens, batch, width), which saves the two transposes
            between layers that follow each other.

    Call arguments:
        x: Tensor (batch, tokens, inputs), or (tokens, batch, inputs) if `token_leading`.

    Returns:
        Tensor (batch, tokens, units), or (tokens, batch, units) if `token_leading`.

    Raises:
        ValueError: if `units` is below 1, or the number of tokens or inputs is not static.

    >>> PerTokenDense(5)(keras.ops.ones((2, 3, 4))).shape
    TensorShape([2, 3, 5])
    """

    def __init__(
        self,
        units: PositiveInt,
        *,
        activation: Activation = None,
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        token_leading: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: Shape) -> None:
        tokens, inputs = input_shape[0 if self.token_leading else 1], input_shape[2]
        if tokens is None or inputs is None:
            raise ValueError(f"layer `{self.name}` needs a static number of tokens and inputs, received {input_shape}")
        self.kernel = self.add_weight(
            shape=(tokens, inputs, self.units), initializer=PerToken(self.kernel_initializer), name="kernel"
        )
        if self.use_bias:
            self.bias = self.add_weight(shape=(tokens, 1, self.units), initializer="zeros", name="bias")

    def call(self, x: Tensor) -> Tensor:
        # (batch, tokens, inputs) -> (tokens, batch, inputs)
        y = ops.matmul(x if self.token_leading else ops.transpose(x, (1, 0, 2)), self.kernel)
        if self.use_bias:
            y = y + self.bias
        y = self.activation(y)
        # (tokens, batch, units) -> (batch, tokens, units)
        return y if self.token_leading else ops.transpose(y, (1, 0, 2))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:2], self.units)
