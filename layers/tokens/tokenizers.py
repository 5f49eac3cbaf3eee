"""Feature vectors to tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import Activation, Layer, Part, Shape, Tensor, dense_part
from mixrank.layers.mixing import PerTokenDense


@keras.saving.register_keras_serializable("mixrank")
class InteractThenSplit(Layer):
    """`h = MLP(e)`, `X = Split(h, tokens)`: features interact before they are cut into tokens; HeMix equation (2).

    Args:
        tokens: int >= 1. Number of tokens.
        dim: int >= 1. Width of a token.
        units: widths of hidden layers; the last layer, of width tokens * dim, is linear.
        activation: Name or function of the hidden layers' activation.

    Call arguments:
        x: Tensor (batch, width), all feature vectors side by side.

    Returns:
        Tensor (batch, tokens, dim).

    Raises:
        ValueError: if `tokens` or `dim` is below 1.

    Source: arXiv 2602.09387; without hidden layers it is the AutoSplit of arXiv 2510.26104.

    >>> InteractThenSplit(tokens=3, dim=4)(keras.ops.ones((2, 7))).shape
    TensorShape([2, 3, 4])
    """

    def __init__(
        self,
        *,
        tokens: PositiveInt,
        dim: PositiveInt,
        units: tuple[PositiveInt, ...] = (),
        activation: Activation = "relu",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: Shape) -> None:
        self.hidden = [
            keras.layers.Dense(
                width,
                activation=self.activation,
                kernel_initializer="he_normal",
                name=f"hidden_{index}",
                dtype=self.dtype_policy,
            )
            for index, width in enumerate(self.units)
        ]
        self.split = keras.layers.Dense(self.tokens * self.dim, name="split", dtype=self.dtype_policy)
        for dense in (*self.hidden, self.split):
            dense.build(input_shape)
            input_shape = (*input_shape[:-1], dense.units)

    def call(self, x: Tensor) -> Tensor:
        for dense in self.hidden:
            x = dense(x)
        # (batch, tokens * dim) -> (batch, tokens, dim)
        return ops.reshape(self.split(x), (-1, self.tokens, self.dim))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.tokens, self.dim)


@keras.saving.register_keras_serializable("mixrank")
class EvenSplit(Layer):
    """`x_j = W_j e[d (j - 1) : d j]`, d = width / tokens: equal slices, each with a projection of its own.

    MixFormer equation (2), RankMixer equation (2). A width that `tokens` does not divide is padded with zeros.

    Args:
        tokens: int >= 1. Number of tokens.
        dim: int >= 1. Width of a token.
        use_bias: bool. Whether a bias per token is added.

    Call arguments:
        x: Tensor (batch, width), all feature vectors side by side.

    Returns:
        Tensor (batch, tokens, dim).

    Raises:
        ValueError: if `tokens` or `dim` is below 1.

    Source: arXiv 2602.14110 and 2507.15551.

    >>> EvenSplit(tokens=3, dim=4)(keras.ops.ones((2, 7))).shape
    TensorShape([2, 3, 4])
    """

    def __init__(self, *, tokens: PositiveInt, dim: PositiveInt, use_bias: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: Shape) -> None:
        self.slice = -(-input_shape[-1] // self.tokens)
        self.padding = self.slice * self.tokens - input_shape[-1]
        self.project = PerTokenDense(self.dim, use_bias=self.use_bias, name="project", dtype=self.dtype_policy)
        self.project.build((None, self.tokens, self.slice))

    def call(self, x: Tensor) -> Tensor:
        x = ops.pad(x, ((0, 0), (0, self.padding)))
        # (batch, tokens * slice) -> (batch, tokens, slice)
        return self.project(ops.reshape(x, (-1, self.tokens, self.slice)))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.tokens, self.dim)


@keras.saving.register_keras_serializable("mixrank")
class FieldTokens(Layer):
    """`x_i = W_i e_i + b_i`: one token per feature vector, all of one width; MTmixAtt equation (2).

    Args:
        dim: int >= 1. Width of a token.
        units: widths of hidden ReLU layers before, each with weights per field.

    Call arguments:
        vectors: list of tensors (batch, width_i).

    Returns:
        Tensor (batch, fields, dim).

    Raises:
        ValueError: if `dim` is below 1.

    Source: arXiv 2510.15286.

    >>> FieldTokens(dim=4)([keras.ops.ones((2, 3)), keras.ops.ones((2, 1))]).shape
    TensorShape([2, 2, 4])
    """

    def __init__(self, *, dim: PositiveInt, units: tuple[PositiveInt, ...] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, vectors_shape: list[Shape]) -> None:
        widths = [shape[-1] for shape in vectors_shape]
        # Fields of one width go through one batched product; tiny products one by one would cost more than their work.
        self.by_width = {width: [i for i, w in enumerate(widths) if w == width] for width in sorted(set(widths))}
        order = [i for fields in self.by_width.values() for i in fields]
        self.back = [order.index(i) for i in range(len(widths))]
        self.chains = {}
        for width, fields in self.by_width.items():
            shape, chain = (len(fields), None, width), []
            for index, units in enumerate((*self.units, self.dim)):
                last = index == len(self.units)
                dense = PerTokenDense(
                    units,
                    activation=None if last else "relu",
                    kernel_initializer="glorot_uniform" if last else "he_normal",
                    token_leading=True,
                    name=f"width_{width}_{index}",
                    dtype=self.dtype_policy,
                )
                dense.build(shape)
                shape = (len(fields), None, units)
                chain.append(dense)
            self.chains[str(width)] = chain

    def call(self, vectors: list[Tensor]) -> Tensor:
        tokens = []
        for width, fields in self.by_width.items():
            # (fields, batch, width)
            x = ops.stack([vectors[i] for i in fields], axis=0)
            for dense in self.chains[str(width)]:
                x = dense(x)
            # Not x[i]: the gradient of every such slice is as large as x.
            tokens += ops.unstack(x, axis=0)
        return ops.stack([tokens[i] for i in self.back], axis=1)

    def compute_output_shape(self, vectors_shape: list[Shape]) -> Shape:
        return (vectors_shape[0][0], len(vectors_shape), self.dim)


def count_field_tokens(widths: tuple[int, ...], dim: int, units: tuple[int, ...] = ()) -> Part:
    """Parameters and FLOPs of `FieldTokens`.

    Args:
        widths: width of every field.
        dim, units: as in `FieldTokens`.
    """
    chains = [dense_part("", [width, *units, dim]) for width in widths]
    return Part("tokenizer", sum(chain.parameters for chain in chains), sum(chain.flops for chain in chains))


def merge_adjacent(items: Tensor, valid: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """`[e_1, ..., e_K], [e_(K+1), ..., e_2K], ...`: every `size` adjacent events side by side; LONGER's token merge.

    A last piece that lacks events, and events that are padding, are zeros. A piece with an event is valid.

    Args:
        items: Tensor (batch, length, width).
        valid: bool tensor (batch, length).
        size: int >= 1. Events of a piece, K.

    Returns:
        Tensor (batch, ceil(length / size), size * width) and bool tensor (batch, ceil(length / size)).

    Source: arXiv 2505.04421.
    """
    if size == 1:
        return items, valid
    length, width = items.shape[1:]
    pieces, merged = merged_shape(length, width, size)
    missing = pieces * size - length
    items = ops.where(valid[:, :, None], items, ops.zeros((), items.dtype))
    items = ops.pad(items, ((0, 0), (0, missing), (0, 0)))
    valid = ops.pad(valid, ((0, 0), (0, missing)), constant_values=False)
    # (batch, pieces * size, ...) -> (batch, pieces, ...)
    return ops.reshape(items, (-1, pieces, merged)), ops.any(ops.reshape(valid, (-1, pieces, size)), axis=-1)


def merged_shape(length: int, width: int, size: int) -> tuple[int, int]:
    """Length and width of a history after `merge_adjacent`."""
    return -(-length // size), width * size


def merged_shapes(histories: Mapping[str, tuple[int, int]], size: int) -> dict[str, tuple[int, int]]:
    """Lengths and widths of all histories after `merge_adjacent`.

    Args:
        histories: key -> (length, width of an item).
        size: as in `merge_adjacent`.

    >>> merged_shapes({"before": (7, 6), "within": (3, 9)}, 2)
    {'before': (4, 12), 'within': (2, 18)}
    """
    return {key: merged_shape(*shape, size) for key, shape in histories.items()}
