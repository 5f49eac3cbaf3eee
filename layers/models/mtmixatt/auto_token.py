"""Learned feature grouping: which features make up a token, and with what weight."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
from keras import ops
from pydantic import NonNegativeFloat, PositiveInt

from mixrank.layers.base import Layer, Part, Shape, Tensor

Grouping = Literal["learned", "random", "manual"]


@keras.saving.register_keras_serializable("mixrank")
class AutoToken(Layer):
    """`I_j = TopK(W_j)`, `w_j = softmax(W_j[I_j])`, `x_j = [w_j1 f_{I_j1}, ..., w_jk f_{I_jk}]`; MTmixAtt, after (2).

    W (tokens, fields) is learned and starts as N(0, 0.02). The choice itself has no gradient: a logit learns only while
    its field is among the k of its token, and a field that no token keeps is not read at all. So learned groups start
    from those that random would deal, which leave out as few fields as can be, unless `head_start` is 0. With
    `grouping` random or manual the fields of a token are fixed and only their weights are learned.

    The fields of a token stand in the order of their index, not of their logits, which learning may swap at any step:
    what follows reads each place by weights of its own.

    Args:
        tokens: int >= 1. Number of tokens, n_g.
        keep: int >= 1. Fields per token, k; at least 2 for `grouping` learned, or the softmax has nothing to weigh.
        grouping: learned top k (G2), random (G1): a shuffled deck of fields dealt out in turn, or manual (G3).
        groups: for manual, the field indices of every token, at most `keep` each; missing places are zeros.
        seed: int. Shuffles the deck of random groups and of the start of learned ones.
        head_start: float >= 0. For learned: the fields that random would deal to a token start at `head_start + |n|`,
            the others at `-|n|`, n drawn from N(0, 0.02). The larger, the longer learning takes to replace one. With 0
            all start at n, and the top k leave out a field with probability `(1 - keep / fields) ^ tokens`.
        frozen: constants stored by `freeze`, or None.

    Call arguments:
        x: Tensor (batch, fields, field width).

    Returns:
        Tensor (batch, tokens, keep * field width).

    Raises:
        ValueError: more kept fields than there are, or groups that do not fit tokens, fields or `keep`.

    Source: arXiv 2510.15286.

    >>> AutoToken(tokens=3, keep=2)(keras.ops.ones((5, 7, 4))).shape
    TensorShape([5, 3, 8])
    """

    def __init__(
        self,
        *,
        tokens: PositiveInt,
        keep: PositiveInt,
        grouping: Grouping = "learned",
        groups: tuple[tuple[int, ...], ...] = (),
        seed: int = 0,
        head_start: NonNegativeFloat = 0.05,
        frozen: dict[str, list] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_groups(grouping, groups, tokens, keep)

    def build(self, input_shape: Shape) -> None:
        fields = input_shape[1]
        if self.keep > fields:
            raise ValueError(f"a token cannot keep {self.keep} of {fields} fields; lower the fields per token")
        outside = [field for group in self.groups for field in group if not 0 <= field < fields]
        if outside:
            raise ValueError(f"`groups` must name fields from 0 to {fields - 1}, received {outside[0]}")
        self.fields = fields
        self.logits = self.add_weight(shape=(self.tokens, fields), initializer=self._start, name="logits")
        self.logits.trainable = self.frozen is None

    def _start(self, shape: Shape, dtype: str | None = None) -> Tensor:
        start = keras.initializers.RandomNormal(stddev=0.02)(shape, dtype=dtype)
        if self.grouping != "learned" or not self.head_start:
            return start
        dealt = np.zeros(shape, bool)
        np.put_along_axis(dealt, self._deal(), True, axis=1)
        size = ops.abs(start)
        return ops.where(dealt, self.head_start + size, -size)

    def _deal(self) -> np.ndarray:
        """A shuffled deck of fields dealt out in turn, and again from its top: int array (tokens, keep)."""
        deck = np.random.default_rng(self.seed).permutation(self.fields)
        return deck[np.arange(self.tokens * self.keep).reshape(self.tokens, self.keep) % self.fields]

    def _fixed(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Indices (tokens, keep) and which of them count, if the grouping is not learned."""
        if self.grouping == "learned":
            return None
        if self.grouping == "random":
            return self._deal(), np.ones((self.tokens, self.keep), bool)
        indices, valid = np.zeros((self.tokens, self.keep), int), np.zeros((self.tokens, self.keep), bool)
        for token, group in enumerate(self.groups):
            indices[token, : len(group)], valid[token, : len(group)] = group, True
        return indices, valid

    def selection(self) -> tuple[Tensor, Tensor]:
        """Fields that every token reads, and their weights.

        Returns:
            int tensor (tokens, keep) and float32 tensor (tokens, keep) whose rows add up to 1.
        """
        if self.frozen is not None:
            return ops.convert_to_tensor(self.frozen["indices"], "int32"), ops.convert_to_tensor(
                self.frozen["weights"], "float32"
            )
        logits = ops.cast(ops.convert_to_tensor(self.logits), "float32")
        fixed = self._fixed()
        if fixed is None:
            indices = ops.sort(ops.top_k(logits, self.keep)[1], axis=1)
            return indices, _weights(ops.take_along_axis(logits, indices, axis=1))
        indices, valid = ops.convert_to_tensor(fixed[0], "int32"), ops.convert_to_tensor(fixed[1])
        return indices, _weights(ops.where(valid, ops.take_along_axis(logits, indices, axis=1), -1e30))

    def call(self, x: Tensor) -> Tensor:
        indices, weights = self.selection()
        # (tokens, keep) -> (batch, tokens, keep, field width)
        kept = ops.reshape(
            ops.take(x, ops.reshape(indices, (-1,)), axis=1), (-1, self.tokens, self.keep, x.shape[-1])
        ) * ops.cast(weights[None, :, :, None], x.dtype)
        # (batch, tokens, keep, field width) -> (batch, tokens, keep * field width)
        return ops.reshape(kept, (-1, self.tokens, self.keep * x.shape[-1]))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.tokens, self.keep * input_shape[-1])

    def freeze(self) -> None:
        """Stores choice and weights as constants: the same output, without top k and softmax; kept in files.

        W stays as a weight that is no longer trained or read.
        """
        indices, weights = self.selection()
        self.frozen = {
            "indices": np.array(ops.convert_to_numpy(indices)).tolist(),
            "weights": np.array(ops.convert_to_numpy(weights)).tolist(),
        }
        self.logits.trainable = False

    def replaced(self) -> int | None:
        """How many of the fields dealt to tokens at the start learning has replaced by others; None without a deal."""
        if self.grouping != "learned" or not self.head_start:
            return None
        kept = np.array(ops.convert_to_numpy(self.selection()[0]))
        return sum(len(set(dealt) - set(now)) for dealt, now in zip(self._deal(), kept, strict=True))

    def weight_of_fields(self) -> np.ndarray:
        """The report: float array (tokens, fields), the weight of every field in every token, 0 where not kept."""
        indices, weights = (np.array(ops.convert_to_numpy(x)) for x in self.selection())
        found = np.zeros((self.tokens, self.fields))
        # A padded place of a manual group repeats field 0 with weight 0.
        np.add.at(found, (np.arange(self.tokens)[:, None], indices), weights)
        return found


def _weights(logits: Tensor) -> Tensor:
    """Softmax over the last axis; Keras' own warns where a token keeps one field."""
    powers = ops.exp(logits - ops.stop_gradient(ops.max(logits, axis=-1, keepdims=True)))
    return powers / ops.sum(powers, axis=-1, keepdims=True)


def check_groups(grouping: str, groups: tuple, tokens: int, keep: int) -> None:
    """Refuses manual groups that do not fit.

    Args:
        grouping, groups, tokens, keep: as in `AutoToken`; fields may still be names.

    Raises:
        ValueError: groups without manual grouping, another number than tokens, or an empty, too large or repeating one.
    """
    if (grouping == "manual") != bool(groups):
        raise ValueError(f'`groups` belong to `grouping` = "manual", received {grouping!r} and {len(groups)} groups')
    if groups and len(groups) != tokens:
        raise ValueError(f"`groups` must name the fields of each of the {tokens} tokens, received {len(groups)} groups")
    for group in groups:
        if not 1 <= len(group) <= keep or len(set(group)) < len(group):
            raise ValueError(f"each of `groups` must hold 1 to {keep} different fields, received {tuple(group)}")


def count_auto_token(tokens: int, fields: int) -> Part:
    """Parameters and FLOPs of `AutoToken`.

    Args:
        tokens, fields: numbers of both.
    """
    return Part("auto token", tokens * fields, 0)
