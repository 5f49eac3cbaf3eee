"""A GRU whose update gate is scaled, event by event."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import Layer, Shape, Tensor, per_candidate


@keras.saving.register_keras_serializable("mixrank")
class AttentionalGRU(Layer):
    """`h_t = (1 - a_t u_t) * h_{t-1} + a_t u_t * h~_t`, h_0 = 0: AUGRU, DIEN equations (11) and (12).

    With the gates of equations (2) to (4),

        u_t  = sigmoid(W_u x_t + U_u h_{t-1} + b_u)
        r_t  = sigmoid(W_r x_t + U_r h_{t-1} + b_r)
        h~_t = tanh(W_h x_t + r_t * (U_h h_{t-1}) + b_h).

    A weight of 0 leaves the state as it is, and weights of 1 give the GRU of equation (5), so that a mask for weights
    gives a GRU that passes over padding. States are float32: they add up small steps, which bfloat16 would lose.

    Args:
        units: int >= 1. Width of the state.
        sequences: bool. Whether the states of all events are returned, or the last one.

    Call arguments:
        x: Tensor (batch, length, width), or (requests, length, width) with `request_of`, oldest event first.
        weights: Tensor (batch, length) of a_t, in [0, 1].
        request_of: None, or int tensor (batch,): the index of each candidate's request.

    Returns:
        Tensor (batch, length, units) with `sequences`, else (batch, units).

    Raises:
        ValueError: if `units` is below 1.

    Source: arXiv 1809.03672.

    >>> AttentionalGRU(units=4)(keras.ops.ones((2, 5, 3)), keras.ops.ones((2, 5))).shape
    TensorShape([2, 4])
    """

    def __init__(self, *, units: PositiveInt, sequences: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, x_shape: Shape, weights_shape: Shape) -> None:
        # W_u, W_r and W_h side by side: what does not depend on a state is computed for all events at once.
        self.input_gates = keras.layers.Dense(3 * self.units, name="input_gates", dtype=self.dtype_policy)
        self.input_gates.build(x_shape)
        cell = _Cell(units=self.units, name="cell", dtype="float32")
        self.loop = keras.layers.RNN(cell, return_sequences=self.sequences, name="loop", dtype="float32")
        self.loop.build((None, x_shape[1], 3 * self.units + 1))

    def call(self, x: Tensor, weights: Tensor, request_of: Tensor | None = None) -> Tensor:
        gates = per_candidate(self.input_gates(x), request_of)
        # (batch, length) -> (batch, length, 1)
        steps = [ops.cast(gates, "float32"), ops.cast(weights, "float32")[:, :, None]]
        return ops.cast(self.loop(ops.concatenate(steps, axis=-1)), self.compute_dtype)

    def compute_output_shape(
        self, x_shape: Shape, weights_shape: Shape, request_of_shape: Shape | None = None
    ) -> Shape:
        return (*weights_shape, self.units) if self.sequences else (weights_shape[0], self.units)


class _Cell(Layer):
    """One step: (batch, 3 * units + 1) and the state before -> the state."""

    def __init__(self, *, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    @property
    def state_size(self) -> int:
        return self.units

    def build(self, input_shape: Shape, states_shape: Any = None) -> None:
        self.recurrent_kernel = self.add_weight(
            shape=(self.units, 3 * self.units), initializer="orthogonal", name="recurrent_kernel"
        )

    def call(self, inputs: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        (h,) = states
        gates, weight = inputs[:, :-1], inputs[:, -1:]
        of_update, of_reset, of_candidate = ops.split(gates, 3, axis=-1)
        by_update, by_reset, by_candidate = ops.split(ops.matmul(h, self.recurrent_kernel), 3, axis=-1)
        update = weight * ops.sigmoid(of_update + by_update)
        candidate = ops.tanh(of_candidate + ops.sigmoid(of_reset + by_reset) * by_candidate)
        h = h + update * (candidate - h)
        return h, [h]
