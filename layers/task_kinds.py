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


# Of a logit whose exponential is a prediction: e^30 is 1e13, of whatever unit.
LARGEST = 30.0


class _OfNumbers(keras.losses.Loss):
    """Mean over the rows of a function of label and logit, both `(batch, 1)` or `(batch,)`."""

    def call(self, y_true, y_pred):
        y = ops.cast(y_true, y_pred.dtype)
        # Of labels (batch, 1) and logits (batch,) a difference would be (batch, batch).
        return ops.mean(self.of_rows(y, ops.reshape(y_pred, ops.shape(y))), axis=-1)

    def of_rows(self, y: Any, z: Any) -> Any:
        raise NotImplementedError


@keras.saving.register_keras_serializable("mixrank")
class SquaredError(_OfNumbers):
    """`(y - z)^2`: z is the mean of y."""

    def of_rows(self, y: Any, z: Any) -> Any:
        return ops.square(y - z)


@keras.saving.register_keras_serializable("mixrank")
class SquaredLogError(_OfNumbers):
    """`(log(1 + y) - z)^2`: z is the mean of log(1 + y), so that an error of a tenth costs the same at any size."""

    def of_rows(self, y: Any, z: Any) -> Any:
        return ops.square(ops.log1p(y) - z)


@keras.saving.register_keras_serializable("mixrank")
class PoissonLoss(_OfNumbers):
    """`exp(z) - y z`, the negative log-likelihood of a Poisson count less what does not depend on z."""

    def of_rows(self, y: Any, z: Any) -> Any:
        z = ops.minimum(z, LARGEST)
        return ops.exp(z) - y * z


@keras.saving.register_keras_serializable("mixrank")
class WeightedLogistic(_OfNumbers):
    """`y log(1 + e^-z) + log(1 + e^z)`: weighted logistic regression, whose odds `e^z` are the mean of y.

    As YouTube's (Covington, Adams, Sargin, RecSys 2016, section 4.2), where a row with a click weighs its watch time y
    and one without weighs 1, so that the odds are close to the mean where clicks are rare. Here every row counts once
    as a negative, too, and the odds are the mean itself.
    """

    def of_rows(self, y: Any, z: Any) -> Any:
        return y * ops.softplus(-z) + ops.softplus(z)


def _exp(z: Any) -> Any:
    return ops.exp(ops.minimum(z, LARGEST))


TASK_KINDS = {
    "binary": TaskKind(lambda: keras.losses.BinaryCrossentropy(from_logits=True), ops.sigmoid, "log_loss"),
    "regression": TaskKind(SquaredError, lambda z: z, "mse"),
    "log_regression": TaskKind(SquaredLogError, lambda z: ops.expm1(ops.minimum(z, LARGEST)), "msle"),
    "count": TaskKind(PoissonLoss, _exp, "poisson_loss"),
    "watch_time": TaskKind(WeightedLogistic, _exp, "watch_loss"),
}
