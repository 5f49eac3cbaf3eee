"""What a history says about the candidate: events that are like it in the fields that both have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops
from pydantic import PositiveFloat

from mixrank.layers.base import Layer, Part, Shape, Tensor

# Below this squared length a vector has no direction.
_SHORT = 1e-6


@keras.saving.register_keras_serializable("mixrank")
class TargetInterest(Layer):
    """`n_ft = m_t exp(k_f (cos(c_f, e_ft) - 1))`, `a_ft = n_ft / (1 + sum_u n_fu)`, `v_f = sum_t a_ft s_t`.

    c_f is the candidate's vector of field f, e_ft that of event t from the same table, s_t the whole event, m_t 1 for
    an event and 0 for padding. An event of the candidate's own id has the cosine 1 whatever the table holds, so that
    "the user has had this before" is seen from the first step on, of ids that training hardly touched as well; what
    else is alike, and how sharply that counts (k_f), is learned. The 1 in the sum is an event that is always there and
    says nothing: without anything alike v_f goes to 0. A softmax forgets how well the best event fits, so the layer
    also gives the strength of each field, `log(1 + sum_t n_ft)`: for equal ids the logarithm of 1 + how often.

    Args:
        sharpness: float > 0. k_f before training.

    Call arguments:
        candidate: list of tensors (batch, width), one per field f.
        events: list of tensors (batch, length, width) in the same order, or (1, length, width) for one request.
        items: Tensor (batch, length, item width), whole events, or (1, ...).
        valid: bool tensor (batch, length), or (1, length); False marks padding.

    Returns:
        Tensor (batch, fields * (1 + item width)): strengths, then the v_f.

    Raises:
        ValueError: if candidate and events have not the same fields, or no field.

    Source: none; the intensity and the candidate's query in the events' own space are those of HeMix's page.

    >>> vectors, events = [keras.ops.ones((2, 3))], [keras.ops.ones((2, 5, 3))]
    >>> TargetInterest()(vectors, events, keras.ops.ones((2, 5, 4)), keras.ops.ones((2, 5), "bool")).shape
    TensorShape([2, 5])
    """

    def __init__(self, *, sharpness: PositiveFloat = 8.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, candidate_shape: Any, events_shape: Any, items_shape: Shape, valid_shape: Shape) -> None:
        own, theirs = [[shape[-1] for shape in shapes] for shapes in (candidate_shape, events_shape)]
        if own != theirs or not own:
            raise ValueError(f"`candidate` and `events` must have the same fields, received the widths {own}, {theirs}")
        self.fields = tuple(own)
        self.items = tuple(items_shape[1:])
        start = keras.initializers.Constant(self.sharpness)
        self.sharpness_of = self.add_weight(shape=(len(own), 1), initializer=start, name="sharpness")

    def call(self, candidate: Sequence[Tensor], events: Sequence[Tensor], items: Tensor, valid: Tensor) -> Tensor:
        alike = ops.stack([_cosines(*pair) for pair in zip(candidate, events, strict=True)], axis=1)
        sharpness = ops.cast(self.sharpness_of, "float32")
        # (batch, fields, length)
        near = ops.exp(sharpness * (alike - 1)) * ops.cast(valid[:, None, :], "float32")
        total = 1 + ops.sum(near, axis=-1)
        weights = ops.cast(near / total[:, :, None], items.dtype)
        found = ops.matmul(weights, items[0] if items.shape[0] == 1 else items)
        found = ops.reshape(found, (-1, found.shape[1] * found.shape[2]))
        return ops.concatenate([ops.cast(ops.log(total), items.dtype), found], axis=-1)

    def compute_output_shape(
        self, candidate_shape: Any, events_shape: Any, items_shape: Shape, valid_shape: Shape
    ) -> Shape:
        return (candidate_shape[0][0], interest_width(len(candidate_shape), items_shape[-1]))

    def parts(self) -> list[Part]:
        """Parameters and FLOPs."""
        return [count_interest(self.fields, *self.items)]


def _cosines(candidate: Tensor, events: Tensor) -> Tensor:
    """(batch, width) and (batch or 1, length, width) -> (batch, length)."""
    candidate, events = _direction(candidate), _direction(events)
    if events.shape[0] == 1:
        return ops.matmul(candidate, ops.transpose(events[0]))
    return ops.squeeze(ops.matmul(events, candidate[:, :, None]), axis=-1)


def _direction(x: Tensor) -> Tensor:
    x = ops.cast(x, "float32")
    return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=-1, keepdims=True), _SHORT))


def interest_width(fields: int, width: int) -> int:
    """Width of what `TargetInterest` gives for a history whose events are `width` wide."""
    return fields * (1 + width)


def count_interest(fields: Sequence[int], length: int, width: int) -> Part:
    """Parameters and FLOPs of `TargetInterest`.

    Args:
        fields: widths of the shared fields.
        length, width: of the history.
    """
    return Part("target interest", len(fields), 2 * length * (sum(fields) + len(fields) * width))
