"""A history to one vector."""

from __future__ import annotations

from typing import Literal

import keras
from keras import ops

from mixrank.layers.base import Part, check_units, dense_part, per_candidate, shared_by_candidates

Pooling = Literal["mean", "target"]


def masked_mean(items, valid):
    """`sum_t m_t s_t / max(1, sum_t m_t)`, in float32, since bfloat16 cannot count to 257.

    Args:
        items: Tensor (batch, length, width).
        valid: bool tensor (batch, length).

    Returns:
        Tensor (batch, width) of the items' type; zeros where nothing is valid.
    """
    # (batch, length) -> (batch, length, 1)
    weights = ops.cast(valid[:, :, None], "float32")
    total = ops.sum(ops.cast(items, "float32") * weights, axis=1)
    return ops.cast(total / ops.maximum(ops.sum(weights, axis=1), 1), items.dtype)


@keras.saving.register_keras_serializable("mixrank")
class MeanPooling(keras.Layer):
    """The mean of a history's events; an empty history gives zeros.

    Call arguments:
        items: Tensor (batch, length, width), or (requests, ...) with `rows`.
        valid: bool tensor (batch, length).
        query: not read; the mean does not depend on the candidate.
        rows: None, or int tensor (batch,): the request of each candidate.

    Returns:
        Tensor (batch, width).
    """

    def build(self, items_shape, valid_shape, query_shape=None) -> None:
        """Nothing to create."""

    def call(self, items, valid, query=None, rows=None):
        return per_candidate(masked_mean(items, valid), rows)

    def compute_output_shape(self, items_shape, valid_shape, query_shape=None, rows_shape=None):
        return ((rows_shape or items_shape)[0], items_shape[-1])


@keras.saving.register_keras_serializable("mixrank")
class TargetAttention(keras.Layer):
    """`sum_t m_t a(q, s_t) s_t` with `a = MLP([q, s_t, q * s_t])` and `q = W c + b`: Deep Interest Network.

    As in the paper the weights are not normalized, so that the strength of an interest survives. The query, wider or
    narrower than an item, is first mapped to its width. The share of the first product that sees only the query or only
    the item is computed once per row or once per item of a request.

    Args:
        units: widths of the hidden ReLU layers of a.

    Call arguments:
        items: Tensor (batch, length, width), or (requests, ...) with `rows`.
        valid: bool tensor (batch, length).
        query: Tensor (batch, query width), the candidate's vectors side by side.
        rows: None, or int tensor (batch,): the request of each candidate.

    Returns:
        Tensor (batch, width); zeros for an empty history.

    Raises:
        ValueError: if a width is below 1.

    Source: arXiv 1706.06978, with ReLU for the paper's Dice and `q * s_t` for its outer product.

    >>> layer = TargetAttention(units=(6,))
    >>> layer(keras.ops.ones((2, 5, 4)), keras.ops.ones((2, 5), "bool"), keras.ops.ones((2, 3))).shape
    TensorShape([2, 4])
    """

    def __init__(self, *, units: tuple[int, ...] = (32,), **kwargs) -> None:
        super().__init__(**kwargs)
        check_units(units=units)
        self.units = tuple(units)

    def build(self, items_shape, valid_shape, query_shape) -> None:
        width = items_shape[-1]
        policy = {"dtype": self.dtype_policy}
        self.query = keras.layers.Dense(width, name="query", **policy)
        self.query.build(query_shape)
        hidden = [
            keras.layers.Dense(u, activation="relu", kernel_initializer="he_normal", name=f"hidden_{i}", **policy)
            for i, u in enumerate(self.units)
        ]
        self.dense = [*hidden, keras.layers.Dense(1, name="weight", **policy)]
        shape = (None, None, 3 * width)
        for dense in self.dense:
            dense.build(shape)
            shape = (None, None, dense.units)

    def call(self, items, valid, query, rows=None):
        first, *rest = self.dense
        by_query, by_item, by_product = ops.split(ops.convert_to_tensor(first.kernel), 3, axis=0)
        q = self.query(query)
        of_items = shared_by_candidates(ops.matmul(items, by_item), rows)
        items, valid = shared_by_candidates(items, rows), shared_by_candidates(valid, rows)
        # (batch, units) -> (batch, 1, units)
        of_query = (ops.matmul(q, by_query) + first.bias)[:, None, :]
        x = first.activation(of_query + of_items + ops.matmul(q[:, None, :] * items, by_product))
        for dense in rest:
            x = dense(x)
        # (batch, length, 1) -> (batch, 1, length)
        weights = ops.transpose(x * ops.cast(valid[:, :, None], x.dtype), (0, 2, 1))
        return ops.squeeze(ops.matmul(weights, items), axis=1)

    def compute_output_shape(self, items_shape, valid_shape, query_shape, rows_shape=None):
        return (query_shape[0], items_shape[-1])

    def get_config(self) -> dict:
        return {**super().get_config(), "units": list(self.units)}


def history_pooling(pooling: Pooling, units: tuple[int, ...], **kwargs) -> keras.Layer:
    """A layer (items, valid, query, rows) -> (batch, width).

    Args:
        pooling: "mean", or "target" for attention from the candidate.
        units: hidden layers of target attention.
    """
    return TargetAttention(units=units, **kwargs) if pooling == "target" else MeanPooling(**kwargs)


def count_pooling(pooling: Pooling, units: tuple[int, ...], length: int, width: int, query: int) -> Part:
    """Parameters and FLOPs of one history's pooling.

    Args:
        pooling, units: as in `history_pooling`.
        length, width: of the history.
        query: width of the candidate's vectors.
    """
    if pooling == "mean":
        return Part("history pooling", 0, 0)
    first, *rest = (*units, 1)
    project, split = dense_part("", [query, width]), dense_part("", [3 * width, first])
    weigh = dense_part("", [first, *rest], rows=length)
    # The first layer's thirds: the query's once, the item's and the product's for every event; then the weighted sum.
    products = width * first + 2 * length * width * first + length * width
    parameters = project.parameters + split.parameters + weigh.parameters
    return Part("history pooling", parameters, project.flops + 2 * products + weigh.flops)
