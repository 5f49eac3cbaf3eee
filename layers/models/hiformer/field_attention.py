"""Attention among unlike tokens: projections per token, or of all tokens to all."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import Layer, Shape, Tensor
from mixrank.layers.mixing import PerTokenDense, attend, split_heads


@keras.saving.register_keras_serializable("mixrank")
class CompositeProjection(Layer):
    """`[y_1, ..., y_n] = concat(x_1, ..., x_L) A B`: every output reads every token; Hiformer's composite projection.

    A is (L * dim, rank) and B (rank, n * units); without a rank there is one matrix in their place.

    Args:
        tokens: int >= 1. Number of output vectors n.
        units: int >= 1. Width of an output vector.
        rank: int >= 1, or None for the full matrix.

    Call arguments:
        x: Tensor (batch, L, dim).

    Returns:
        Tensor (batch, tokens, units).

    Raises:
        ValueError: if an argument is below 1.

    Source: arXiv 2311.05884.

    >>> CompositeProjection(tokens=2, units=6, rank=5)(keras.ops.ones((7, 3, 4))).shape
    TensorShape([7, 2, 6])
    """

    def __init__(
        self, *, tokens: PositiveInt, units: PositiveInt, rank: PositiveInt | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: Shape) -> None:
        self.input_width = input_shape[1] * input_shape[2]
        widths = [self.tokens * self.units] if self.rank is None else [self.rank, self.tokens * self.units]
        self.factors, width = [], self.input_width
        for index, units in enumerate(widths):
            dense = keras.layers.Dense(units, use_bias=False, name=f"factor_{index}", dtype=self.dtype_policy)
            dense.build((None, width))
            self.factors.append(dense)
            width = units

    def call(self, x: Tensor) -> Tensor:
        # (batch, L, dim) -> (batch, L * dim)
        x = ops.reshape(x, (-1, self.input_width))
        for dense in self.factors:
            x = dense(x)
        # (batch, tokens * units) -> (batch, tokens, units)
        return ops.reshape(x, (-1, self.tokens, self.units))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.tokens, self.units)


@keras.saving.register_keras_serializable("mixrank")
class FieldAttention(Layer):
    """`o_i = concat_h(softmax_j(q_i^h . k_j^h / sqrt(d_k)) v_j^h) W_i`, the attention of Hiformer.

    Heterogeneous: `q_i = x_i Q_i`, `k_j = x_j K_j`, `v_j = x_j V_j` with matrices of each token. Composite: queries,
    keys and values are each a `CompositeProjection` of all tokens. W_i belongs to token i. There are no biases.

    Args:
        heads: int >= 1.
        key_dim: int >= 1. Width d_k of a head's query and key.
        value_dim: int >= 1. Width d_v of a head's value.
        composite: bool. Composite or heterogeneous projections.
        key_rank: int >= 1, or None for full matrices. Rank of composite queries and keys, all heads together.
        value_rank: int >= 1, or None. Rank of composite values.
        num_queries: int >= 1, or None for all. Only the first tokens ask; what others would ask is not computed.

    Call arguments:
        x: Tensor (batch, tokens, dim).

    Returns:
        Tensor (batch, num_queries or tokens, dim).

    Raises:
        ValueError: if an argument is below 1 or there are fewer tokens than queries.

    Source: arXiv 2311.05884.

    >>> FieldAttention(heads=2, key_dim=3, value_dim=5, num_queries=1)(keras.ops.ones((7, 3, 4))).shape
    TensorShape([7, 1, 4])
    """

    def __init__(
        self,
        *,
        heads: PositiveInt,
        key_dim: PositiveInt,
        value_dim: PositiveInt,
        composite: bool = True,
        key_rank: PositiveInt | None = None,
        value_rank: PositiveInt | None = None,
        num_queries: PositiveInt | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: Shape) -> None:
        tokens, dim = input_shape[1:]
        self.queries = self.num_queries or tokens
        if self.queries > tokens:
            raise ValueError(f"`num_queries` must be at most the number of tokens {tokens}, received {self.queries}")
        keys, values = self.heads * self.key_dim, self.heads * self.value_dim
        self.query = self._projection("query", self.queries, keys, self.key_rank)
        self.key = self._projection("key", tokens, keys, self.key_rank)
        self.value = self._projection("value", tokens, values, self.value_rank)
        self.query.build(input_shape if self.composite else (None, self.queries, dim))
        self.key.build(input_shape)
        self.value.build(input_shape)
        self.output_projection = PerTokenDense(dim, use_bias=False, name="output", dtype=self.dtype_policy)
        self.output_projection.build((None, self.queries, values))

    def _projection(self, name: str, tokens: int, units: int, rank: int | None) -> keras.Layer:
        if self.composite:
            return CompositeProjection(tokens=tokens, units=units, rank=rank, name=name, dtype=self.dtype_policy)
        return PerTokenDense(units, use_bias=False, name=name, dtype=self.dtype_policy)

    def call(self, x: Tensor) -> Tensor:
        queries = self.query(x if self.composite else x[:, : self.queries])
        queries, keys, values = (split_heads(y, self.heads) for y in (queries, self.key(x), self.value(x)))
        return self.output_projection(attend(queries, keys, values, None))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.num_queries or input_shape[1], input_shape[2])

    def count(self, tokens: int, dim: int) -> tuple[int, int]:
        """Parameters, and multiply-adds of matrix products per sample; works before `build`.

        Args:
            tokens, dim: of the input.
        """
        asking, keys, values = self.num_queries or tokens, self.heads * self.key_dim, self.heads * self.value_dim
        parameters = asking * values * dim
        for number, units, rank in (
            (asking, keys, self.key_rank),
            (tokens, keys, self.key_rank),
            (tokens, values, self.value_rank),
        ):
            if not self.composite:
                parameters += number * dim * units
            elif rank is None:
                parameters += tokens * dim * number * units
            else:
                parameters += tokens * dim * rank + rank * number * units
        # Every weight is used once; scores and the weighted sum come on top.
        return parameters, parameters + asking * tokens * (keys + values)
