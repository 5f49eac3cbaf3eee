"""Ids to vectors: one table per feature, the pooling of several values, and the mask of a history."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import Layer, Part, Shape, Tensor
from mixrank.layers.tokens.rows import RowsNormal, gather, placed
from mixrank.schemas import SeveralPooling

Storage = Literal["float32", "bfloat16", "int8"]
# Stands for minus infinity.
LOWEST = -1e9


def quantized(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`round(127 e / max|e|)` of every row (rows, dim), and the scales `max|e| / 127` (rows, 1)."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    # A row of zeros stays one, whatever its scale.
    scale = np.where(largest > 0, largest / 127, 1.0)
    return np.round(rows / scale), scale


class StoredRows(Layer):
    """The rows of one or several tables in one variable, in a storage of their own; a subclass says how many.

    Args:
        dim, storage: as in `IdEmbedding`.

    Attributes:
        rows: int. Number of rows, known before `build`.
    """

    rows: int

    def __init__(self, *, dim: PositiveInt, storage: Storage = "float32", **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: Any) -> None:
        # Without autocast, or mixed precision would copy the whole table in every step.
        with placed():
            self.embeddings = self.add_weight(
                shape=(self.rows, self.dim),
                initializer=RowsNormal() if self.storage == "float32" else "zeros",
                dtype=self.storage,
                trainable=self.storage == "float32",
                name="embeddings",
                autocast=False,
            )
        if self.storage == "int8":
            self.scale = self.add_weight(
                shape=(self.rows, 1), initializer="ones", trainable=False, name="scale", autocast=False
            )

    def vectors(self, places: Tensor) -> Tensor:
        """The rows at `places`, each in [0, rows), in the layer's compute type."""
        found = ops.cast(gather(self.embeddings, places), self.compute_dtype)
        if self.storage == "int8":
            found = found * ops.cast(gather(self.scale, places), self.compute_dtype)
        return found

    def parts(self) -> list[Part]:
        """Parameters of the rows, scales included; a lookup costs no multiply-add."""
        return [Part("embeddings", self.rows * (self.dim + (self.storage == "int8")), 0)]


@keras.saving.register_keras_serializable("mixrank")
class IdEmbedding(StoredRows):
    """`e = table[min(id, size - 1)]`: one vector per id.

    Ids beyond the table would raise on CPU and give zeros on GPU, so they take the last row, an out-of-vocabulary
    bucket. Row 0 is the vector of a missing value. Rows start as N(0, 0.05).

    Args:
        size: int >= 1. Number of ids, 0 included.
        dim: int >= 1. Width of a vector.
        storage: float32 to be trained; bfloat16 and int8 hold a trained table in a half and about a quarter of the
            memory. int8 keeps `round(127 e / max|e|)` and the scale `max|e| / 127` of each row.

    Call arguments:
        ids: int tensor of any shape.

    Returns:
        Tensor (*ids.shape, dim).

    Raises:
        ValueError: if `size` or `dim` is below 1, or for an unknown `storage`.

    >>> IdEmbedding(size=7, dim=4)(keras.ops.array([[1, 2, 9]])).shape
    TensorShape([1, 3, 4])
    """

    def __init__(self, *, size: PositiveInt, dim: PositiveInt, storage: Storage = "float32", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows = self.size

    def call(self, ids: Tensor) -> Tensor:
        return self.vectors(ops.clip(ids, 0, self.size - 1))

    def store(self, table: Any) -> None:
        """Takes a trained table over into this layer's storage.

        Args:
            table: float array (size, dim).
        """
        table = np.asarray(table, "float32")
        if self.storage == "int8":
            table, scale = quantized(table)
            self.scale.assign(scale)
        self.embeddings.assign(table)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape, self.dim)


@keras.saving.register_keras_serializable("mixrank")
class ValuePooling(Layer):
    """The vectors of a row's several values as one, over the second to last axis; zeros where there is no value.

    With m_t = 1 where the id is not 0, and w_t the weights, 1 where none are given:

        mean       sum_t m_t w_t x_t / sum_t m_t w_t
        sum        sum_t m_t w_t x_t
        sqrtn      sum_t m_t w_t x_t / sqrt(sum_t m_t w_t^2), as large for many independent x_t as for few
        max        the largest of each coordinate, over the t with m_t = 1; it takes no weights
        attention  sum_t a_t x_t with a_t = m_t w_t exp(q . x_t) / sum_s m_s w_s exp(q . x_s)

    The query q of "attention" is a weight (Z. Yang et al., "Hierarchical Attention Networks for Document
    Classification", NAACL 2016, equations 6 and 7, without the hidden layer); it starts at zero, which is the mean.

    Args:
        pooling: one of the above.

    Call arguments:
        x: Tensor (..., values, dim).
        ids: int tensor (..., values); 0 marks padding.
        weights: None, or tensor (..., values) of numbers >= 0.

    Returns:
        Tensor (..., dim).

    Raises:
        ValueError: for an unknown `pooling`.

    >>> ValuePooling(pooling="sum")(keras.ops.ones((2, 3, 4)), keras.ops.array([[1, 2, 0], [0, 0, 0]])).shape
    TensorShape([2, 4])
    """

    def __init__(self, *, pooling: SeveralPooling = "mean", **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, x_shape: Shape, ids_shape: Shape, weights_shape: Shape | None = None) -> None:
        if self.pooling == "attention":
            self.query = self.add_weight(shape=(x_shape[-1],), initializer="zeros", name="query")

    def call(self, x: Tensor, ids: Tensor, weights: Tensor | None = None) -> Tensor:
        # (..., values) -> (..., values, 1)
        present = ops.expand_dims(ops.not_equal(ids, 0), axis=-1)
        if self.pooling == "max":
            # Finite in every precision, or a row without values would have no gradient.
            largest = ops.max(ops.where(present, x, ops.cast(LOWEST, x.dtype)), axis=-2)
            return ops.where(ops.any(present, axis=-2), largest, ops.zeros_like(largest))
        shares = ops.cast(present, x.dtype)
        if weights is not None:
            shares = shares * ops.cast(ops.expand_dims(weights, axis=-1), x.dtype)
        if self.pooling == "attention":
            scores = ops.sum(x * self.query, axis=-1, keepdims=True)
            shares = shares * ops.softmax(ops.where(present, scores, ops.cast(LOWEST, x.dtype)), axis=-2)
        total = ops.sum(x * shares, axis=-2)
        if self.pooling == "sum":
            return total
        whole = ops.sum(shares * shares if self.pooling == "sqrtn" else shares, axis=-2)
        whole = ops.where(whole > 0, whole, ops.ones_like(whole))
        return total / (ops.sqrt(whole) if self.pooling == "sqrtn" else whole)

    def parts(self) -> list[Part]:
        """The query, which belongs to the table."""
        return [Part("embeddings", self.query.shape[0], 0)] if self.pooling == "attention" else []

    def compute_output_shape(self, x_shape: Shape, ids_shape: Shape, weights_shape: Shape | None = None) -> Shape:
        return (*x_shape[:-2], x_shape[-1])


@keras.saving.register_keras_serializable("mixrank")
class HistoryMask(Layer):
    """True where a history slot holds an event: any of its fields has an id other than 0.

    Call arguments:
        fields: list of int tensors (batch, length) or (batch, length, values).
        valid: None, or the bool tensor (batch, length) of the whole history, outside of which nothing counts; with
            one field the mask then tells which events have it.

    Returns:
        bool tensor (batch, length).

    >>> HistoryMask()([keras.ops.array([[5, 3, 0], [0, 0, 0]])]).shape
    TensorShape([2, 3])
    """

    def call(self, fields: list[Tensor], valid: Tensor | None = None) -> Tensor:
        present = [ops.not_equal(ids, 0) for ids in fields]
        present = [ops.any(mask, axis=-1) if len(mask.shape) == 3 else mask for mask in present]
        result = present[0]
        for mask in present[1:]:
            result = ops.logical_or(result, mask)
        return result if valid is None else ops.logical_and(result, valid)

    def compute_output_spec(self, fields: list[Tensor], valid: Tensor | None = None) -> Tensor:
        return keras.KerasTensor(fields[0].shape[:2], dtype="bool")
