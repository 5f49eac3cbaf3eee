"""The loss that supervises every state of a history: it must tell the next event from others."""

from __future__ import annotations

import keras
from keras import ops

from mixrank.layers.base import Layer, Shape, Tensor


@keras.saving.register_keras_serializable("mixrank")
class NextEventLoss(Layer):
    """`L = -mean_t [log sigmoid(<h_t, W e_{t+1} + b>) + log(1 - sigmoid(<h_t, W e' + b>))]`; DIEN equation (6).

    The mean is over the pairs of a state and the event after it, of all rows. e' is drawn for each pair from all events
    of the batch, each as likely as any other; a draw that hits the very event e_{t+1} counts nowhere.

    Call arguments:
        states: Tensor (batch, length, dim), h_t.
        events: Tensor (batch, length, width), e_t, oldest first; at least two.
        valid: bool tensor (batch, length).

    Returns:
        float32 tensor (): the loss; 0 if no row has two events.

    Source: arXiv 1809.03672.

    >>> x = keras.ops.zeros((2, 5, 3))
    >>> NextEventLoss()(x, x, keras.ops.ones((2, 5), "bool")).shape
    TensorShape([])
    """

    def build(self, states_shape: Shape, events_shape: Shape, valid_shape: Shape) -> None:
        self.project = keras.layers.Dense(states_shape[-1], name="project", dtype=self.dtype_policy)
        self.project.build(events_shape)
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, states: Tensor, events: Tensor, valid: Tensor) -> Tensor:
        return self.loss(states, events, valid, self.draw(valid))

    def draw(self, valid: Tensor) -> Tensor:
        """Places in the batch, `row * length + t`, of an event for every pair.

        Args:
            valid: bool tensor (batch, length).

        Returns:
            int32 tensor (batch, length - 1).
        """
        rows, length = ops.shape(valid)[0], valid.shape[1]
        flat = ops.reshape(ops.cast(valid, "int32"), (-1,))
        # Places of events first, those of padding behind them.
        places = ops.cast(ops.argsort(-flat), "int32")
        events = ops.sum(flat)
        share = keras.random.uniform((rows, length - 1), dtype="float32", seed=self.seed_generator)
        drawn = ops.cast(share * ops.cast(events, "float32"), "int32")
        # A share just below 1 may be rounded up; a batch without events has the place 0, which counts nowhere.
        return ops.take(places, ops.clip(drawn, 0, ops.maximum(events - 1, 0)), axis=0)

    def loss(self, states: Tensor, events: Tensor, valid: Tensor, negatives: Tensor) -> Tensor:
        """The loss with given negatives.

        Args:
            states, events, valid: as in a call.
            negatives: as `draw` returns them.
        """
        rows, length, dim = ops.shape(events)[0], events.shape[1], states.shape[-1]
        known = self.project(events)
        # (batch, length, dim) -> (batch * length, dim)
        others = ops.take(ops.reshape(known, (-1, dim)), negatives, axis=0)
        before = ops.cast(states[:, :-1], "float32")
        right = ops.sum(before * ops.cast(known[:, 1:], "float32"), axis=-1)
        wrong = ops.sum(before * ops.cast(others, "float32"), axis=-1)
        pairs = ops.logical_and(valid[:, :-1], valid[:, 1:])
        places = ops.reshape(ops.arange(rows * length, dtype="int32"), (-1, length))
        unlike = ops.logical_and(pairs, negatives != places[:, 1:])
        each = ops.where(pairs, ops.softplus(-right), 0.0) + ops.where(unlike, ops.softplus(wrong), 0.0)
        return ops.sum(each) / ops.maximum(ops.sum(ops.cast(pairs, "float32")), 1.0)

    def compute_output_shape(self, states_shape: Shape, events_shape: Shape, valid_shape: Shape) -> Shape:
        return ()
