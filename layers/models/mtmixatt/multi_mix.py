"""The block of MTmixAtt: mix tokens, then dense and scenario experts, under one of four norms."""

from __future__ import annotations

from typing import Any, Literal, get_args

import keras

Norm = Literal["pre", "pre_l", "post", "post_r"]
Compose = Literal["parallel", "sequential"]


@keras.saving.register_keras_serializable("mixrank")
class MultiMixBlock(keras.Layer):
    """`U = LN(X + Mix(X))`, `Y = LN(U + Dense(U) + Sparse(U, c))`, output `Y + X`: the block of MTmixAtt.

    That is norm post_r. post leaves out `+ X`; pre and pre_l are `U = X + Mix(LN(X))`, `Y = U + E(LN(U))`, E the
    experts, and differ in a norm after the last block, which is the model's.

    Args:
        mixing: Layer (batch, tokens, dim) -> the same shape.
        dense: Layer of the same kind, or None.
        sparse: Layer (x, scenario's vector, scenario) -> the shape of x, or None.
        norm: pre, pre_l, post or post_r.
        inside: bool. For post_r, whether X is added before the second norm: `LN(U + E(U) + X)`.
        compose: parallel adds both experts, sequential feeds the dense ones' output to the sparse ones.

    Call arguments:
        x: Tensor (batch, tokens, dim).
        vector: Tensor (batch, width), the scenario's vector.
        scenario: int tensor (batch,).

    Returns:
        Tensor (batch, tokens, dim).

    Raises:
        ValueError: an unknown `norm` or `compose`, or `inside` with another norm than post_r.

    Source: arXiv 2510.15286.
    """

    def __init__(
        self,
        *,
        mixing: keras.Layer,
        dense: keras.Layer | None,
        sparse: keras.Layer | None,
        norm: Norm = "post_r",
        inside: bool = False,
        compose: Compose = "parallel",
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        for name, value, known in (("norm", norm, get_args(Norm)), ("compose", compose, get_args(Compose))):
            if value not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}, received {value!r}")
        if inside and norm != "post_r":
            raise ValueError(f'`inside` belongs to `norm` = "post_r", received {norm!r}')
        self.mixing = mixing
        self.dense = dense
        self.sparse = sparse
        self.norm = norm
        self.inside = inside
        self.compose = compose

    def build(self, x_shape, vector_shape, scenario_shape=None) -> None:
        for name in ("mixing_norm", "expert_norm"):
            norm = keras.layers.LayerNormalization(epsilon=1e-5, name=name, dtype=self.dtype_policy)
            setattr(self, name, norm)
            norm.build(x_shape)
        self.mixing.build(x_shape)
        if self.dense is not None:
            self.dense.build(x_shape)
        if self.sparse is not None:
            self.sparse.build(x_shape, vector_shape, scenario_shape)

    def experts(self, x, vector, scenario):
        """Sum, or chain, of dense and sparse experts."""
        if self.sparse is None:
            return x * 0 if self.dense is None else self.dense(x)
        if self.dense is None:
            return self.sparse(x, vector, scenario)
        dense = self.dense(x)
        if self.compose == "sequential":
            return self.sparse(dense, vector, scenario)
        return dense + self.sparse(x, vector, scenario)

    def call(self, x, vector, scenario):
        if self.norm in ("pre", "pre_l"):
            u = x + self.mixing(self.mixing_norm(x))
            return u + self.experts(self.expert_norm(u), vector, scenario)
        u = self.mixing_norm(x + self.mixing(x))
        y = u + self.experts(u, vector, scenario)
        if self.norm == "post":
            return self.expert_norm(y)
        return self.expert_norm(y + x) if self.inside else self.expert_norm(y) + x

    def compute_output_shape(self, x_shape, vector_shape, scenario_shape=None):
        return x_shape

    def get_config(self) -> dict[str, Any]:
        layers = {name: getattr(self, name) for name in ("mixing", "dense", "sparse")}
        return {
            **super().get_config(),
            **{name: layer and keras.saving.serialize_keras_object(layer) for name, layer in layers.items()},
            **{name: getattr(self, name) for name in ("norm", "inside", "compose")},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MultiMixBlock:
        layers = {name: config[name] for name in ("mixing", "dense", "sparse")}
        built = {name: layer and keras.saving.deserialize_keras_object(layer) for name, layer in layers.items()}
        return cls(**{**config, **built})
