"""The block of MTmixAtt: mix tokens, then dense and scenario experts, under one of four norms."""

from __future__ import annotations

from typing import Any, Literal

import keras

from mixrank.layers.base import Layer, Shape, Tensor

Norm = Literal["pre", "pre_l", "post", "post_r"]
Compose = Literal["parallel", "sequential"]


@keras.saving.register_keras_serializable("mixrank")
class MultiMixBlock(Layer):
    """`U = LN(X + Mix(X))`, `Y = LN(U + Dense(U) + Sparse(U, c))`, output `Y + X`: the block of MTmixAtt.

    That is norm post_r. post leaves out `+ X`; pre and pre_l are `U = X + Mix(LN(X))`, `Y = U + E(LN(U))`, E the
    experts, and differ in a norm after the last block, which is the model's.

    Args:
        mixing: Layer (batch, tokens, dim) -> the same shape.
        dense: Layer of the same kind, or None.
        sparse: Layer (x, scenario's vector, scenario) -> the shape of x, or None.
        norm: pre, pre_l, post or post_r.
        compose: parallel adds both experts, sequential feeds the dense ones' output to the sparse ones.

    Call arguments:
        x: Tensor (batch, tokens, dim).
        vector: Tensor (batch, width), the scenario's vector.
        scenario: int tensor (batch,).

    Returns:
        Tensor (batch, tokens, dim).

    Raises:
        ValueError: an unknown `norm` or `compose`.

    Source: arXiv 2510.15286.

    >>> block = MultiMixBlock(mixing=TokenMixing(), dense=SharedFFN(), sparse=None)
    >>> block(keras.ops.ones((5, 3, 6)), keras.ops.ones((5, 2)), keras.ops.ones(5, "int32")).shape
    TensorShape([5, 3, 6])
    """

    def __init__(
        self,
        *,
        mixing: keras.Layer,
        dense: keras.Layer | None,
        sparse: keras.Layer | None,
        norm: Norm = "post_r",
        compose: Compose = "parallel",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def build(self, x_shape: Shape, vector_shape: Shape, scenario_shape: Shape | None = None) -> None:
        for name in ("mixing_norm", "expert_norm"):
            norm = keras.layers.LayerNormalization(epsilon=1e-5, name=name, dtype=self.dtype_policy)
            setattr(self, name, norm)
            norm.build(x_shape)
        self.mixing.build(x_shape)
        if self.dense is not None:
            self.dense.build(x_shape)
        if self.sparse is not None:
            self.sparse.build(x_shape, vector_shape, scenario_shape)

    def experts(self, x: Tensor, vector: Tensor, scenario: Tensor) -> Tensor:
        """Sum, or chain, of dense and sparse experts."""
        if self.sparse is None:
            return x * 0 if self.dense is None else self.dense(x)
        if self.dense is None:
            return self.sparse(x, vector, scenario)
        dense = self.dense(x)
        if self.compose == "sequential":
            return self.sparse(dense, vector, scenario)
        return dense + self.sparse(x, vector, scenario)

    def call(self, x: Tensor, vector: Tensor, scenario: Tensor) -> Tensor:
        if self.norm in ("pre", "pre_l"):
            u = x + self.mixing(self.mixing_norm(x))
            return u + self.experts(self.expert_norm(u), vector, scenario)
        u = self.mixing_norm(x + self.mixing(x))
        y = u + self.experts(u, vector, scenario)
        if self.norm == "post":
            return self.expert_norm(y)
        return self.expert_norm(y) + x

    def compute_output_shape(self, x_shape: Shape, vector_shape: Shape, scenario_shape: Shape | None = None) -> Shape:
        return x_shape
