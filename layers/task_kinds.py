"""Kinds of tasks: their losses and links. `mixrank.schemas.task_kinds` holds the values of their labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops


class TaskKind(NamedTuple):
    """Loss and link of the tasks of a kind.

    Attributes:
        loss: makes the Keras loss (labels, logits) that a task is trained by.
        link: logits -> predictions, tensor to tensor of the same shape.
        loss_metric: metric of `mixrank.components.metrics` that is the mean of the loss.
    """

    loss: Callable[[], keras.losses.Loss]
    link: Callable[[Any], Any]
    loss_metric: str


TASK_KINDS = {
    "binary": TaskKind(lambda: keras.losses.BinaryCrossentropy(from_logits=True), ops.sigmoid, "log_loss"),
}
