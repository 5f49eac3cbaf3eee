"""A number as an embedding, by soft discretization."""

from __future__ import annotations

from typing import Annotated, Any

import keras
from keras import ops
from pydantic import Field, PositiveFloat, PositiveInt

from mixrank.layers.base import Layer, Part, Shape, Tensor


@keras.saving.register_keras_serializable("mixrank")
class AutoDis(Layer):
    """AutoDis: the mean of H meta-embeddings of a number, with weights that depend on it.

        h = LeakyReLU(w x)
        z = h W + a h
        p = softmax(z / t)
        e = sum_k p_k M_k

    with w (H,), W (H, H) and the meta-embeddings M (H, dim). Where a flag says that the number is missing, e is a
    weight of its own instead.

    Args:
        dim: int >= 1. Width of the embedding.
        buckets: int >= 2. Number H of meta-embeddings.
        temperature: float > 0. t; the lower it is, the more one meta-embedding has all the weight.
        skip: float. a.

    Call arguments:
        x: Tensor (batch, 1), the number; or (batch, 2), 1 where it is missing, else 0, and the number.

    Returns:
        Tensor (batch, dim).

    Raises:
        ValueError: if an argument is out of bounds, or x has another width.

    Source: H. Guo et al., "An Embedding Learning Framework for Numerical Features in CTR Prediction", KDD 2021, arXiv
    2012.08986: automatic discretization, and the weighted average as aggregation. The paper leaves the slope of the
    LeakyReLU open, here 0.2, and has no missing numbers.

    >>> AutoDis(dim=4, buckets=8)(keras.ops.array([[0.0, -1.5], [1.0, 0.0]])).shape
    TensorShape([2, 4])
    """

    def __init__(
        self,
        *,
        dim: PositiveInt,
        buckets: Annotated[int, Field(ge=2)] = 16,
        temperature: PositiveFloat = 1.0,
        skip: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def build(self, x_shape: Shape) -> None:
        if x_shape[-1] not in (1, 2):
            raise ValueError(f"`x` of {self.name} must be (batch, 1) or (batch, 2), received {tuple(x_shape)}")
        size = self.buckets
        # A number of size 1 then tells the buckets apart from the start.
        self.scale = self.add_weight(
            shape=(size,), initializer=keras.initializers.RandomNormal(stddev=1.0), name="scale"
        )
        self.kernel = self.add_weight(shape=(size, size), initializer="glorot_uniform", name="kernel")
        spread = keras.initializers.RandomNormal(stddev=0.05)
        self.meta = self.add_weight(shape=(size, self.dim), initializer=spread, name="meta_embeddings")
        self.missing = None
        if x_shape[-1] == 2:
            self.missing = self.add_weight(shape=(self.dim,), initializer="zeros", name="missing")

    def call(self, x: Tensor) -> Tensor:
        h = ops.leaky_relu(x[:, -1:] * self.scale, negative_slope=0.2)
        z = ops.matmul(h, self.kernel) + self.skip * h
        # In float32, or a low temperature would leave nothing of the differences.
        weights = ops.softmax(ops.cast(z, "float32") / self.temperature, axis=-1)
        found = ops.matmul(ops.cast(weights, self.compute_dtype), self.meta)
        return found if self.missing is None else ops.where(x[:, :1] > 0.5, self.missing, found)

    def parts(self) -> list[Part]:
        """Parameters and FLOPs; the meta-embeddings count as embeddings that are multiplied."""
        size, dim = self.buckets, self.dim
        own = 0 if self.missing is None else dim
        return [Part("embeddings", size + size * size + size * dim + own, 2 * (size * size + size * dim))]

    def compute_output_shape(self, x_shape: Shape) -> Shape:
        return (x_shape[0], self.dim)
