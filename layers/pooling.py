"""A history to one vector."""

from __future__ import annotations

from typing import Literal

import keras
from keras import ops

from layers.counts import Part, dense_part
from layers.requests import per_candidate

Pooling = Literal["mean", "target"]


@keras.saving.register_keras_serializable("mixrank")
class MeanPooling(keras.Layer):
    """`sum_t m_t s_t / max(1, sum_t m_t)`; an empty history gives zeros.

    Call arguments:
        items: Tensor (batch, length, width), or (requests, ...) with `rows`.
        valid: bool tensor (batch, length).
        query: not read; the mean does not depend on the candidate.
        rows: None, or int tensor (batch,): the request of each candidate.

    Returns:
        Tensor (batch, width).
    """

    def build(self, items_shape, valid_shape) -> None:
        self.width = items_shape[-1]

    def call(self, items, valid, query=None, rows=None):
        # (requests, length) -> (requests, length, 1)
        weights = ops.cast(valid[:, :, None], items.dtype)
        mean = ops.sum(items * weights, axis=1) / ops.maximum(ops.sum(weights, axis=1), 1)
        return per_candidate(mean, rows)


@keras.saving.register_keras_serializable("mixrank")
class TargetAttention(keras.Layer):
    """`sum_t m_t a(q, s_t) s_t` with `a = MLP([q, s_t, q - s_t, q * s_t])` and `q = W c`: Deep Interest Network.

    As in the paper the weights are not normalized, so that the strength of an interest survives. The query, wider or
    narrower than an item, is first mapped to its width.

    Args:
        units: widths of the hidden ReLU layers of a.

    Call arguments:
        items: Tensor (batch, length, width), or (requests, ...) with `rows`.
        valid: bool tensor (batch, length).
        query: Tensor (batch, query width), the candidate's vectors side by side.
        rows: None, or int tensor (batch,): the request of each candidate.

    Returns:
        Tensor (batch, width); zeros for an empty history.

    Source: arXiv 1706.06978, with ReLU for the paper's Dice.
    """

    def __init__(self, *, units: tuple[int, ...] = (32,), **kwargs) -> None:
        super().__init__(**kwargs)
        if any(width < 1 for width in units):
            raise ValueError(f"`units` must all be at least 1, received {tuple(units)}")
        self.units = tuple(units)

    def build(self, items_shape, valid_shape, query_shape) -> None:
        width = items_shape[-1]
        policy = {"dtype": self.dtype_policy}
        self.query = keras.layers.Dense(width, name="query", **policy)
        self.query.build(query_shape)
        self.hidden = [
            keras.layers.Dense(u, activation="relu", kernel_initializer="he_normal", name=f"hidden_{i}", **policy)
            for i, u in enumerate(self.units)
        ]
        self.weight = keras.layers.Dense(1, name="weight", **policy)
        shape = (None, None, 4 * width)
        for dense in (*self.hidden, self.weight):
            dense.build(shape)
            shape = (None, None, dense.units)

    def call(self, items, valid, query, rows=None):
        items, valid = per_candidate(items, rows), per_candidate(valid, rows)
        # (batch, width) -> (batch, length, width)
        q = ops.broadcast_to(self.query(query)[:, None, :], ops.shape(items))
        x = ops.concatenate([q, items, q - items, q * items], axis=-1)
        for dense in (*self.hidden, self.weight):
            x = dense(x)
        weights = x * ops.cast(valid[:, :, None], x.dtype)
        return ops.sum(items * weights, axis=1)

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
    project = dense_part("", [query, width])
    weigh = dense_part("", [4 * width, *units, 1], rows=length)
    products = 2 * length * width
    return Part("history pooling", project.parameters + weigh.parameters, project.flops + weigh.flops + products)
