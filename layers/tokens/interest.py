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
    """`s_f = log(1 + sum_t m_ft exp(k_f (cos(c_f, e_ft) - 1)))`: how many events are like the candidate in field f.

    c_f is the candidate's vector of the field, e_ft that of event t from the same table, m_ft 1 for an event that has
    the field and 0 where it is missing, as in padding: a candidate without a tag is not like events without one. An
    event of the candidate's own id has the cosine 1 whatever the table holds, so that "the user has had
    this before" is seen from the first step on, of ids that training hardly touched as well: s_f is the logarithm of
    1 + how often. What else is alike, and how sharply that counts (k_f), is learned. A softmax over the events would
    forget how well the best of them fits.

    The vectors themselves learn nothing from their likeness: on KuaiRand, where repeats are rare, that cost GAUC.

    Args:
        sharpness: float > 0. k_f before training.

    Call arguments:
        candidate: list of tensors (batch, width), one per field f.
        events: list of tensors (batch, length, width) in the same order, or (1, length, width) for one request.
        known: list of bool tensors (batch, length), or (1, length), in the same order; False where an event lacks the
            field, and for padding.

    Returns:
        Tensor (batch, fields).

    Raises:
        ValueError: if candidate and events have not the same fields, or no field.

    Source: none; the candidate in the events' own space and the intensity are what made HeMix learn exact repeats, see
    its page.

    >>> vectors, events = [keras.ops.ones((2, 3))], [keras.ops.ones((2, 5, 3))]
    >>> TargetInterest()(vectors, events, [keras.ops.ones((2, 5), "bool")]).shape
    TensorShape([2, 1])
    """

    def __init__(self, *, sharpness: PositiveFloat = 8.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, candidate_shape: Any, events_shape: Any, known_shape: Any) -> None:
        own, theirs = [[shape[-1] for shape in shapes] for shapes in (candidate_shape, events_shape)]
        if own != theirs or not own:
            raise ValueError(f"`candidate` and `events` must have the same fields, received the widths {own}, {theirs}")
        self.fields, self.length = tuple(own), events_shape[0][1]
        start = keras.initializers.Constant(self.sharpness)
        self.sharpness_of = self.add_weight(shape=(len(own), 1), initializer=start, name="sharpness")

    def call(self, candidate: Sequence[Tensor], events: Sequence[Tensor], known: Sequence[Tensor]) -> Tensor:
        # (batch, fields, length)
        alike = ops.stack([cosines(*pair) for pair in zip(candidate, events, strict=True)], axis=1)
        sharpness = ops.cast(self.sharpness_of, "float32")
        near = ops.exp(sharpness * (ops.stop_gradient(alike) - 1)) * ops.cast(ops.stack(list(known), axis=1), "float32")
        return ops.cast(ops.log1p(ops.sum(near, axis=-1)), self.compute_dtype)

    def compute_output_shape(self, candidate_shape: Any, events_shape: Any, known_shape: Any) -> Shape:
        return (candidate_shape[0][0], len(candidate_shape))

    def parts(self) -> list[Part]:
        """Parameters and FLOPs."""
        return [count_interest(self.fields, self.length)]


def cosines(candidate: Tensor, events: Tensor) -> Tensor:
    """Cosine of each candidate's vector with that of each event, in float32; 0 for a vector without a direction.

    Args:
        candidate: Tensor (batch, width).
        events: Tensor (batch, length, width), or (1, length, width) for one request.

    Returns:
        Tensor (batch, length).
    """
    candidate, events = _direction(candidate), _direction(events)
    if events.shape[0] == 1:
        return ops.matmul(candidate, ops.transpose(events[0]))
    return ops.squeeze(ops.matmul(events, candidate[:, :, None]), axis=-1)


def _direction(x: Tensor) -> Tensor:
    x = ops.cast(x, "float32")
    return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=-1, keepdims=True), _SHORT))


def count_interest(fields: Sequence[int], length: int) -> Part:
    """Parameters and FLOPs of `TargetInterest`.

    Args:
        fields: widths of the shared fields.
        length: of the history.
    """
    return Part("target interest", len(fields), 2 * length * sum(fields))
