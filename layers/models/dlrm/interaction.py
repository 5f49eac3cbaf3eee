"""Pairwise products of vectors."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from mixrank.layers.base import Layer, Shape, Tensor


@keras.saving.register_keras_serializable("mixrank")
class DotInteraction(Layer):
    """`p = {<v_i, v_j>, j < i}`: the inner product of every pair of vectors; DLRM.

    The pairs come row by row: (1, 0), (2, 0), (2, 1), (3, 0), and so on.

    Call arguments:
        tokens: Tensor (batch, n, dim).

    Returns:
        Tensor (batch, pairs), pairs = n (n - 1) / 2.

    Source: arXiv 1906.00091.

    >>> DotInteraction()(keras.ops.ones((2, 4, 3))).shape
    TensorShape([2, 6])
    """

    def build(self, input_shape: Shape) -> None:
        n = input_shape[1]
        rows, columns = np.tril_indices(n, -1)
        self.chosen = (rows * n + columns).astype("int32")

    def call(self, tokens: Tensor) -> Tensor:
        n = tokens.shape[1]
        products = ops.matmul(tokens, ops.transpose(tokens, (0, 2, 1)))
        # (batch, n, n) -> (batch, n * n)
        return ops.take(ops.reshape(products, (-1, n * n)), self.chosen, axis=1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], input_shape[1] * (input_shape[1] - 1) // 2)
