"""Mixing across feature heads, in one piece or with user heads kept free of the candidate."""

from __future__ import annotations

import keras
from keras import ops

from mixrank.layers.base import Layer, Shape, Tensor, per_candidate
from mixrank.layers.mixing import SelfAttention, TokenMixing, attend, block_transpose, split_heads


@keras.saving.register_keras_serializable("mixrank")
class HeadMixing(Layer):
    """`M * reshape(swap(reshape(X, N x N x D/N)), N x D)`: MixFormer's HeadMixing, equations (3), (10), (11).

    With one side M is all ones, and the layer is the block transpose of all N heads. With two, the heads of the first
    side, the user's, come first and M[i, j] = 0 if i < N_U and j >= N_U D / N: a user head joins only pieces of user
    heads. So the user's side needs no candidate, and is computed once per request. No parameters.

    Call arguments:
        sides: list of one tensor (batch, heads, dim), or of two: the user's (requests, N_U, dim) and the item's
            (batch, N - N_U, dim).
        request_of: None, or int tensor (batch,): the index of each candidate's request; of use with two sides only.

    Returns:
        List of tensors of the same shapes.

    Raises:
        ValueError: if the number of all heads does not divide dim.

    Source: arXiv 2602.14110.

    >>> HeadMixing()([keras.ops.ones((2, 1, 6)), keras.ops.ones((2, 2, 6))])[0].shape
    TensorShape([2, 1, 6])
    """

    def build(self, sides_shape: list[Shape], request_of_shape: Shape | None = None) -> None:
        self.heads = sum(shape[1] for shape in sides_shape)
        # Only its check of the width is wanted; it has no weights.
        TokenMixing().build((None, self.heads, sides_shape[0][2]))

    def call(self, sides: list[Tensor], request_of: Tensor | None = None) -> list[Tensor]:
        # (rows of the side, heads, heads of the side * dim / heads)
        pieces = [block_transpose(x, self.heads) for x in sides]
        if len(sides) == 1:
            return pieces
        user, item = pieces
        first, dim = sides[0].shape[1:]
        of_user = ops.pad(user[:, :first], ((0, 0), (0, 0), (0, dim - user.shape[2])))
        of_item = ops.concatenate([per_candidate(user[:, first:], request_of), item[:, first:]], axis=2)
        return [of_user, of_item]

    def compute_output_shape(self, sides_shape: list[Shape], request_of_shape: Shape | None = None) -> list[Shape]:
        return sides_shape


@keras.saving.register_keras_serializable("mixrank")
class HeadAttention(SelfAttention):
    """Self-attention in place of HeadMixing; an ablation of MixFormer.

    With two sides a user head attends to user heads only, an item head to all; keys and values of user heads are
    computed once per request.

    Args:
        heads: int >= 1. Attention heads, a divisor of dim.

    Call arguments:
        sides, request_of: as in `HeadMixing`.

    Returns:
        List of tensors of the same shapes.

    Raises:
        ValueError: if `heads` does not divide dim.

    Source: arXiv 2602.14110 and 1706.03762.

    >>> HeadAttention(heads=2)([keras.ops.ones((2, 1, 6)), keras.ops.ones((2, 2, 6))])[1].shape
    TensorShape([2, 2, 6])
    """

    def build(self, sides_shape: list[Shape], request_of_shape: Shape | None = None) -> None:  # type: ignore[override]
        super().build(sides_shape[0])

    def call(self, sides: list[Tensor], request_of: Tensor | None = None) -> list[Tensor]:
        query, key, value, output = self.projections
        keys, values = [key(x) for x in sides], [value(x) for x in sides]
        mixed = [self._mix(query(sides[0]), keys[0], values[0])]
        if len(sides) == 2:
            seen = [ops.concatenate([per_candidate(user, request_of), item], axis=1) for user, item in (keys, values)]
            mixed.append(self._mix(query(sides[1]), *seen))
        return [output(x) for x in mixed]

    def _mix(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        queries, keys, values = (split_heads(x, self.heads) for x in (queries, keys, values))
        return attend(queries, keys, values, None)

    def compute_output_shape(self, sides_shape: list[Shape], request_of_shape: Shape | None = None) -> list[Shape]:  # type: ignore[override]
        return sides_shape
