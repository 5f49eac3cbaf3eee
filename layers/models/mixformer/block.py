"""One block of MixFormer: heads mix, transform, read the history, and transform again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import keras
from pydantic import PositiveInt

from mixrank.layers.base import Layer, Shape, Tensor
from mixrank.layers.mixing import PerTokenSwiGLU, SwiGLU
from mixrank.layers.models.mixformer.cross_attention import PerHeadCrossAttention
from mixrank.layers.models.mixformer.head_mixing import HeadAttention, HeadMixing

Norm = Literal["pre_rms", "post_ln"]


def new_norm(kind: Norm, **kwargs: Any) -> keras.Layer:
    """An RMSNorm for pre_rms, a LayerNorm for post_ln; both over the last axis."""
    if kind == "pre_rms":
        return keras.layers.RMSNormalization(epsilon=1e-6, **kwargs)
    return keras.layers.LayerNormalization(epsilon=1e-5, **kwargs)


def residual(kind: Norm, norm: keras.Layer, update: Callable[[list], list], sides: list) -> list:
    """`x + update(norm(x))` for pre_rms, `norm(x + update(x))` for post_ln, on each of several tensors."""
    if kind == "pre_rms":
        return [change + x for change, x in zip(update([norm(x) for x in sides]), sides, strict=True)]
    return [norm(change + x) for change, x in zip(update(sides), sides, strict=True)]


def each(layers: list, sides: list) -> list:
    """Every layer on its own tensor."""
    return [layer(x) for layer, x in zip(layers, sides, strict=True)]


@keras.saving.register_keras_serializable("mixrank")
class MixFormerBlock(Layer):
    """`P = Mix(Norm(X)) + X`, `q_i = f_i(Norm(p_i)) + p_i`, `z_i = Attn_i(q_i, H) + q_i`, `o_i = g_i(Norm(z_i)) + z_i`.

    MixFormer equations (3), (4), (6)-(8) and (9): query mixer, cross attention and output fusion. f_i and g_i are
    SwiGLU with matrices of head i. A norm has one gain per channel, shared by the heads.

    The heads come as one side, or as two: user heads, which see neither the candidate nor item heads, and item heads.
    Every side has weights of its own, as every head has; the first of two is computed once per request.

    Args:
        query_units: int >= 1 or None. Hidden width of f_i; None leaves f_i and its norm out.
        fusion_units: int >= 1. Hidden width of g_i.
        head_mixing: block for `HeadMixing`, self_attention for `HeadAttention`, none for neither of them.
        attention_heads: int >= 1. Heads of `HeadAttention`.
        fusion: per_head, or shared for one g for all heads.
        attention_norm: bool. Whether queries and items are normalized before their scores.
        norm: pre_rms for an RMSNorm before each sub-layer, post_ln for a LayerNorm after its residual.

    Call arguments:
        sides: list of one tensor (batch, heads, dim), or of two: (requests, N_U, dim) and (batch, N - N_U, dim).
        items: Tensor (requests, length, heads, dim), the history after this layer's sequence FFN, for all heads.
        valid: bool tensor (requests, length).
        request_of: None, or int tensor (batch,): the index of each candidate's request. Without it every candidate is a
            request.

    Returns:
        List of tensors of the shapes of `sides`.

    Raises:
        ValueError: a width below 1, or one that the number of heads does not divide.

    Source: arXiv 2602.14110.

    >>> block = MixFormerBlock(query_units=5, fusion_units=5)
    >>> sides = [keras.ops.ones((2, 3, 6))]
    >>> block(sides, keras.ops.ones((2, 4, 3, 6)), keras.ops.ones((2, 4), "bool"))[0].shape
    TensorShape([2, 3, 6])
    """

    def __init__(
        self,
        *,
        query_units: PositiveInt | None,
        fusion_units: PositiveInt,
        head_mixing: Literal["block", "none", "self_attention"] = "block",
        attention_heads: PositiveInt = 4,
        fusion: Literal["per_head", "shared"] = "per_head",
        attention_norm: bool = False,
        norm: Norm = "pre_rms",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def build(
        self, sides_shape: list[Shape], items_shape: Shape, valid_shape: Shape, request_of_shape: Shape | None = None
    ) -> None:
        policy: dict[str, Any] = {"dtype": self.dtype_policy}
        shapes = [tuple(shape) for shape in sides_shape]
        names = ["heads"] if len(shapes) == 1 else ["user_heads", "item_heads"]
        self.mixing: Any = None
        if self.head_mixing == "block":
            self.mixing = HeadMixing(name="mixing", **policy)
        elif self.head_mixing == "self_attention":
            self.mixing = HeadAttention(heads=self.attention_heads, name="mixing", **policy)
        if self.mixing is not None:
            self.mixing.build(shapes)
            self.mixing_norm = self._norm("mixing_norm", shapes)
        self.query = []
        if self.query_units is not None:
            self.query = [PerTokenSwiGLU(units=self.query_units, name=f"query_{name}", **policy) for name in names]
            self.query_norm = self._norm("query_norm", shapes)
        self.attention = [
            PerHeadCrossAttention(norm=self.attention_norm, name=f"attention_{name}", **policy) for name in names
        ]
        if self.fusion == "shared":
            self.fuse = [SwiGLU(units=self.fusion_units, name="fusion", **policy)] * len(shapes)
        else:
            self.fuse = [PerTokenSwiGLU(units=self.fusion_units, name=f"fusion_{name}", **policy) for name in names]
        self.fusion_norm = self._norm("fusion_norm", shapes)
        for ffns in (self.query, self.fuse):
            for ffn, shape in zip(ffns, shapes, strict=False):
                if not ffn.built:
                    ffn.build(shape)
        for attention, shape in zip(self.attention, shapes, strict=True):
            attention.build(shape, (*items_shape[:2], *shape[1:]), valid_shape)

    def _norm(self, name: str, shapes: list[Shape]) -> keras.Layer:
        norm = new_norm(self.norm, name=name, dtype=self.dtype_policy)
        norm.build(shapes[0])
        return norm

    def call(self, sides: list[Tensor], items: Tensor, valid: Tensor, request_of: Tensor | None = None) -> list[Tensor]:
        if self.mixing is not None:
            sides = residual(self.norm, self.mixing_norm, lambda xs: self.mixing(xs, request_of), sides)
        if self.query:
            sides = residual(self.norm, self.query_norm, lambda xs: each(self.query, xs), sides)
        sides = self._attend(sides, items, valid, request_of)
        return residual(self.norm, self.fusion_norm, lambda xs: each(self.fuse, xs), sides)

    def _attend(self, sides: list, items: Tensor, valid: Tensor, request_of: Tensor | None) -> list[Tensor]:
        found, start = [], 0
        for index, (attention, x) in enumerate(zip(self.attention, sides, strict=True)):
            stop = start + x.shape[1]
            # Only the last side has candidates; user heads have one row per request, as the history has.
            names = request_of if index == len(sides) - 1 else None
            found.append(attention(x, items[:, :, start:stop], valid, names))
            start = stop
        return found

    def compute_output_shape(
        self, sides_shape: list[Shape], items_shape: Shape, valid_shape: Shape, request_of_shape: Shape | None = None
    ) -> list[Shape]:
        return sides_shape
