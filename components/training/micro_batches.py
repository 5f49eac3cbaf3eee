"""Training step with micro-batches: a replica computes its rows in parts and updates the weights once at the end.

Keras' own `gradient_accumulation_steps` updates inside a branch, where tf.distribute cannot synchronize replicas, and
keeps a dense copy of every embedding table. Here a step is still one update, so schedules, rounds and the order of rows
are those of the whole batch, and replicas exchange their gradients once.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class MicroBatched(keras.Model):
    """A wrapper whose training step computes a batch in parts; create it inside the strategy's scope.

    Loss and gradients are means over the parts; they equal those of the whole batch unless a layer looks at more
    than one row at a time.

    Args:
        model: built; its weights are trained.
        parts: int >= 1. Micro-batches per step; must divide the rows of a replica.
        several_workers: whether the strategy spans several processes.
    """

    def __init__(self, model: keras.Model, parts: int = 1, several_workers: bool = False) -> None:
        super().__init__(name="micro_batched")
        self.model = model
        self.parts = parts
        self.several_workers = several_workers
        self.built = True

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.model(inputs, training=training)

    def train_step(self, data: tuple[Any, Any]) -> dict[str, tf.Tensor]:
        gradients: list[Any] = []
        for part in range(self.parts):
            # Without this dependency all parts would run at the same time and fill the memory.
            with tf.control_dependencies([tf.identity(v) for v in tf.nest.flatten(gradients, expand_composites=True)]):
                inputs, labels = tf.nest.map_structure(lambda x, part=part: _part(x, part, self.parts), data)
            with tf.GradientTape() as tape:
                outputs = self(inputs, training=True)
                loss = self.compute_loss(inputs, labels, outputs, training=True)
                scaled = self.optimizer.scale_loss(loss)
            found = tape.gradient(scaled, self.trainable_weights)
            gradients = [_add(a, b) for a, b in zip(gradients, found, strict=True)] if part else found
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            self._loss_tracker.update_state(loss * replicas, sample_weight=tf.shape(tf.nest.flatten(inputs)[0])[0])
            logs = self.compute_metrics(inputs, labels, outputs)
        self.optimizer.apply([_over(g, self.parts) for g in gradients], self.trainable_weights)
        # Keras averages the workers' results along an axis, but a scalar has none.
        return {name: value[None] if self.several_workers else value for name, value in logs.items()}

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # Keras learns the shapes of a batch from its mean over the replicas, which fails across workers.
        del data_batch
        strategy = self.distribute_strategy
        for _, _, batches in iterator:
            first = keras.tree.map_structure(lambda value: strategy.experimental_local_results(value)[0], next(batches))
            with strategy.scope():
                self._symbolic_build(data_batch=first)
            break


def _part(rows: tf.Tensor, part: int, parts: int) -> tf.Tensor:
    return tf.identity(tf.split(rows, parts)[part])


def _add(a: Any, b: Any) -> Any:
    if a is None or b is None:
        return b if a is None else a
    if isinstance(a, tf.IndexedSlices):
        return tf.IndexedSlices(tf.concat([a.values, b.values], 0), tf.concat([a.indices, b.indices], 0), a.dense_shape)
    return a + b


def _over(gradient: Any, parts: int) -> Any:
    if gradient is None or parts == 1:
        return gradient
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(gradient.values / parts, gradient.indices, gradient.dense_shape)
    return gradient / parts
