"""Pairwise products of vectors."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("mixrank")
class DotInteraction(keras.Layer):
    """`p = {<v_i, v_j>, j < i}`: the inner product of every pair of vectors; DLRM.

    The pairs come row by row: (1, 0), (2, 0), (2, 1), (3, 0), and so on; with `keep_self` (0, 0), (1, 0), (1, 1), ...

    Args:
        keep_self: bool. Whether the product of a vector with itself is kept.

    Call arguments:
        tokens: Tensor (batch, n, dim).

    Returns:
        Tensor (batch, pairs), pairs = n (n - 1) / 2, or n (n + 1) / 2 with `keep_self`.

    Source: arXiv 1906.00091.

    >>> DotInteraction()(keras.ops.ones((2, 4, 3))).shape
    TensorShape([2, 6])
    """

    def __init__(self, *, keep_self: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.keep_self = keep_self

    def pairs(self, n: int) -> int:
        """Number of products among n vectors."""
        return n * (n + 1) // 2 if self.keep_self else n * (n - 1) // 2

    def build(self, input_shape) -> None:
        n = input_shape[1]
        rows, columns = np.tril_indices(n, 0 if self.keep_self else -1)
        self.chosen = (rows * n + columns).astype("int32")

    def call(self, tokens):
        n = tokens.shape[1]
        products = ops.matmul(tokens, ops.transpose(tokens, (0, 2, 1)))
        # (batch, n, n) -> (batch, n * n)
        return ops.take(ops.reshape(products, (-1, n * n)), self.chosen, axis=1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.pairs(input_shape[1]))

    def get_config(self) -> dict:
        return {**super().get_config(), "keep_self": self.keep_self}
