"""Search in a long history: the events that are most relevant to the candidate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import Layer, Part, Tensor
from mixrank.layers.tokens.interest import cosines

Search = Literal["hard", "soft"]
# Steps between opposite and equal vectors: far above what rounding changes, so that it does not decide between events.
_STEPS = 10_000


@keras.saving.register_keras_serializable("mixrank")
class HardRelevance(Layer):
    """`r_t = sum_f [a value of the candidate in field f is one of event t]`: hard search, SIM equation (1).

    Ids are compared, no vectors. 0 is a missing value, which is like no other. Of a field with several values one in
    common is enough. Where SIM has one field, the category, several are counted.

    Call arguments:
        candidate: list of int tensors (batch,) or (batch, values), one per field f.
        events: list of int tensors (batch, length) or (batch, length, values) in the same order, or (1, length, ...)
            for one request.
        valid: bool tensor (batch, length), or (1, length); False marks padding.

    Returns:
        int32 tensor (batch, length); 0 for padding and for an event without anything in common.

    Raises:
        ValueError: if candidate and events have not the same number of fields, or no field.

    Source: arXiv 2006.05639.

    >>> candidate, events = [keras.ops.array([5])], [keras.ops.array([[5, 3, 5, 0]])]
    >>> HardRelevance()(candidate, events, keras.ops.ones((1, 4), "bool")).numpy().tolist()
    [[1, 0, 1, 0]]
    """

    def build(self, candidate_shape: Any, events_shape: Any, valid_shape: Any) -> None:
        if len(candidate_shape) != len(events_shape) or not candidate_shape:
            raise ValueError(
                "`candidate` and `events` must have the same fields, received "
                f"{len(candidate_shape)} and {len(events_shape)}"
            )

    def call(self, candidate: Sequence[Tensor], events: Sequence[Tensor], valid: Tensor) -> Tensor:
        fields = sum(ops.cast(_in_common(*pair), "int32") for pair in zip(candidate, events, strict=True))
        return fields * ops.cast(valid, "int32")

    def compute_output_spec(self, candidate: Sequence[Tensor], events: Sequence[Tensor], valid: Tensor) -> Tensor:
        return keras.KerasTensor((candidate[0].shape[0], events[0].shape[1]), dtype="int32")


def _in_common(candidate: Tensor, events: Tensor) -> Tensor:
    """(batch,) or (batch, m), and (batch or 1, length) or (batch or 1, length, n) -> bool (batch, length)."""
    candidate = candidate if len(candidate.shape) == 2 else candidate[:, None]
    events = events if len(events.shape) == 3 else events[:, :, None]
    # (batch, 1, m, 1) and (batch, length, 1, n)
    own, theirs = candidate[:, None, :, None], events[:, :, None, :]
    return ops.any(ops.logical_and(ops.equal(own, theirs), ops.not_equal(own, 0)), axis=(2, 3))


@keras.saving.register_keras_serializable("mixrank")
class SoftRelevance(Layer):
    """`r_t = sum_f m_ft cos(c_f, e_ft)` as an integer: soft search among the vectors that both have, SIM equation (1).

    c_f is the candidate's vector of field f, e_ft that of event t from the same table, m_ft 0 where the event lacks the
    field. Integers run from 1, all vectors opposite, to 10,001, all equal, so that events whose vectors are equal are
    so whatever a matrix product rounds. Vectors learn nothing from the search, only from what reads its result.

    Call arguments:
        candidate: list of tensors (batch, width), one per field f.
        events: list of tensors (batch, length, width) in the same order, or (1, length, width) for one request.
        known: list of bool tensors (batch, length), or (1, length), in the same order; False where an event lacks the
            field, and for padding.

    Returns:
        int32 tensor (batch, length); 0 for padding and for an event that lacks every field.

    Raises:
        ValueError: if candidate and events have not the same fields, or no field.

    As in the paper, except: the vectors are compared as they are, without the projections that a second loss trains.

    Source: arXiv 2006.05639; without projections as in arXiv 2108.04468.

    >>> layer = SoftRelevance()
    >>> layer([keras.ops.ones((1, 2))], [keras.ops.ones((1, 3, 2))], [keras.ops.ones((1, 3), "bool")]).numpy().tolist()
    [[10001, 10001, 10001]]
    """

    def build(self, candidate_shape: Any, events_shape: Any, known_shape: Any) -> None:
        own, theirs = [[shape[-1] for shape in shapes] for shapes in (candidate_shape, events_shape)]
        if own != theirs or not own:
            raise ValueError(f"`candidate` and `events` must have the same fields, received the widths {own}, {theirs}")
        self.fields, self.length = tuple(own), events_shape[0][1]

    def call(self, candidate: Sequence[Tensor], events: Sequence[Tensor], known: Sequence[Tensor]) -> Tensor:
        fields = zip(candidate, events, known, strict=True)
        total = sum(ops.cast(m, "float32") * cosines(c, e) for c, e, m in fields)
        # (batch, length): the mean from -1 to 1 to steps from 0 on.
        level = ops.round((total / len(self.fields) + 1) * (_STEPS / 2))
        found = ops.any(ops.stack(list(known), axis=0), axis=0)
        return (ops.cast(level, "int32") + 1) * ops.cast(found, "int32")

    def compute_output_spec(
        self, candidate: Sequence[Tensor], events: Sequence[Tensor], known: Sequence[Tensor]
    ) -> Tensor:
        return keras.KerasTensor((candidate[0].shape[0], events[0].shape[1]), dtype="int32")

    def parts(self) -> list[Part]:
        """Parameters and FLOPs."""
        return [count_search(self.fields, self.length)]


def count_search(fields: Sequence[int], length: int) -> Part:
    """Parameters and FLOPs of `SoftRelevance`; `HardRelevance` has none.

    Args:
        fields: widths of the shared fields.
        length: of the history.
    """
    return Part("history search", 0, 2 * length * sum(fields))


def most_relevant(
    items: Tensor, relevance: Tensor, top_k: PositiveInt, request_of: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The events of the highest relevance, most relevant first and the newest first among equals; SIM's general search.

    Args:
        items: Tensor (batch, length, width), newest event first; (requests, ...) with `request_of`.
        relevance: int32 tensor (batch, length), from 0 to 10,001; 0 marks an event that is not to be found.
        top_k: int >= 1. Events wanted.
        request_of: None, or int tensor (batch,): the index of each candidate's request.

    Returns:
        Tensor (batch, min(top_k, length), width), and bool tensor (batch, min(top_k, length)): which of them were
        found, since there may be fewer.

    Raises:
        ValueError: if the history is too long for events to be told apart, above some 200,000 events.

    Source: arXiv 2006.05639.
    """
    length, width = items.shape[1:]
    if length * (_STEPS + 2) >= 2**31:
        raise ValueError(
            f"a history must have at most {2**31 // (_STEPS + 2)} events to be searched, received {length}"
        )
    # All different, so that no sort can exchange two of them.
    order = relevance * length + ops.arange(length - 1, -1, -1, dtype="int32")
    best, places = ops.top_k(order, min(top_k, length))
    request = ops.arange(ops.shape(places)[0], dtype="int32") if request_of is None else ops.cast(request_of, "int32")
    # (requests, length, width) -> (requests * length, width), of which each candidate takes its own.
    rows = ops.cast(places, "int32") + length * request[:, None]
    return ops.take(ops.reshape(items, (-1, width)), rows, axis=0), ops.greater_equal(best, length)
