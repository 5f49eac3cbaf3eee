"""A history to one vector."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import Layer, Part, Shape, Tensor, dense_part, per_candidate, shared_by_candidates

Pooling = Literal["mean", "target"]
# Hidden layers of target attention in all models.
HIDDEN = (32,)


def masked_mean(items: Tensor, valid: Tensor) -> Tensor:
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
class MeanPooling(Layer):
    """The mean of a history's events; an empty history gives zeros.

    Call arguments:
        items: Tensor (batch, length, width), or (requests, ...) with `request_of`.
        valid: bool tensor (batch, length).
        query: not read; the mean does not depend on the candidate.
        request_of: None, or int tensor (batch,): the index of each candidate's request.

    Returns:
        Tensor (batch, width).

    >>> MeanPooling()(keras.ops.ones((2, 5, 4)), keras.ops.ones((2, 5), "bool")).shape
    TensorShape([2, 4])
    """

    def build(self, items_shape: Shape, valid_shape: Shape, query_shape: Shape | None = None) -> None:
        """Nothing to create."""

    def call(
        self, items: Tensor, valid: Tensor, query: Tensor | None = None, request_of: Tensor | None = None
    ) -> Tensor:
        return per_candidate(masked_mean(items, valid), request_of)

    def compute_output_shape(
        self,
        items_shape: Shape,
        valid_shape: Shape,
        query_shape: Shape | None = None,
        request_of_shape: Shape | None = None,
    ) -> Shape:
        return ((request_of_shape or items_shape)[0], items_shape[-1])


@keras.saving.register_keras_serializable("mixrank")
class TargetAttention(Layer):
    """`sum_t m_t a(q, s_t) s_t` with `a = MLP([q, s_t, q * s_t])` and `q = W c + b`: Deep Interest Network.

    As in the paper the weights are not normalized, so that the strength of an interest survives. The query, wider or
    narrower than an item, is first mapped to its width. The share of the first product that sees only the query or only
    the item is computed once per row or once per item of a request.

    Args:
        units: widths of the hidden ReLU layers of a.

    Call arguments:
        items: Tensor (batch, length, width), or (requests, ...) with `request_of`.
        valid: bool tensor (batch, length).
        query: Tensor (batch, query width), the candidate's vectors side by side.
        request_of: None, or int tensor (batch,): the index of each candidate's request.

    Returns:
        Tensor (batch, width); zeros for an empty history.

    Raises:
        ValueError: if a width is below 1.

    Source: arXiv 1706.06978, with ReLU for the paper's Dice and `q * s_t` for its outer product.

    >>> layer = TargetAttention(units=(6,))
    >>> layer(keras.ops.ones((2, 5, 4)), keras.ops.ones((2, 5), "bool"), keras.ops.ones((2, 3))).shape
    TensorShape([2, 4])
    """

    def __init__(self, *, units: tuple[PositiveInt, ...] = HIDDEN, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, items_shape: Shape, valid_shape: Shape, query_shape: Shape) -> None:
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

    def call(self, items: Tensor, valid: Tensor, query: Tensor, request_of: Tensor | None = None) -> Tensor:
        first, *rest = self.dense
        by_query, by_item, by_product = ops.split(ops.convert_to_tensor(first.kernel), 3, axis=0)
        q = self.query(query)
        of_items = shared_by_candidates(ops.matmul(items, by_item), request_of)
        items, valid = shared_by_candidates(items, request_of), shared_by_candidates(valid, request_of)
        # (batch, units) -> (batch, 1, units)
        of_query = (ops.matmul(q, by_query) + first.bias)[:, None, :]
        x = first.activation(of_query + of_items + ops.matmul(q[:, None, :] * items, by_product))
        for dense in rest:
            x = dense(x)
        # (batch, length, 1) -> (batch, 1, length)
        weights = ops.transpose(x * ops.cast(valid[:, :, None], x.dtype), (0, 2, 1))
        return ops.squeeze(ops.matmul(weights, items), axis=1)

    def compute_output_shape(
        self, items_shape: Shape, valid_shape: Shape, query_shape: Shape, request_of_shape: Shape | None = None
    ) -> Shape:
        return (query_shape[0], items_shape[-1])


def history_pooling(pooling: Pooling, **kwargs: Any) -> Layer:
    """A layer (items, valid, query, request_of) -> (batch, width).

    Args:
        pooling: "mean", or "target" for attention from the candidate.
    """
    return TargetAttention(**kwargs) if pooling == "target" else MeanPooling(**kwargs)


def count_pooling(pooling: Pooling, length: int, width: int, query: int) -> Part:
    """Parameters and FLOPs of one history's pooling.

    Args:
        pooling: as in `history_pooling`.
        length, width: of the history.
        query: width of the candidate's vectors.
    """
    if pooling == "mean":
        return Part("history pooling", 0, 0)
    first, *rest = (*HIDDEN, 1)
    project, split = dense_part("", [query, width]), dense_part("", [3 * width, first])
    weigh = dense_part("", [first, *rest], rows=length)
    # The first layer's thirds: the query's once, the item's and the product's for every event; then the weighted sum.
    products = width * first + 2 * length * width * first + length * width
    parameters = project.parameters + split.parameters + weigh.parameters
    return Part("history pooling", parameters, project.flops + 2 * products + weigh.flops)
