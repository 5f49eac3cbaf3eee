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


def smoothed_cross_entropy(epsilon: float = 0.1) -> keras.losses.Loss:
    """Cross entropy of `y (1 - epsilon) + epsilon / 2` (Szegedy et al. 2016, section 7), from logits.

    Args:
        epsilon: float between 0 and 1.
    """
    if not 0 < epsilon < 1:
        raise ValueError(f"`epsilon` of label smoothing must be above 0 and below 1, received {epsilon}")
    return keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=epsilon)


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


@keras.saving.register_keras_serializable("mixrank")
class HuberLoss(_OfNumbers):
    """`e^2 / 2` for errors e = |y - z| up to delta, `delta (e - delta / 2)` beyond: outliers count less than squared.

    Args:
        delta: float > 0. In units of the label's `scale`.
    """

    def __init__(self, delta: float = 1.0, **options: Any) -> None:
        if not delta > 0:
            raise ValueError(f"`delta` of the Huber loss must be > 0, received {delta}")
        super().__init__(**options)
        self.delta = delta

    def of_rows(self, y: Any, z: Any) -> Any:
        error = ops.abs(y - z)
        near = ops.minimum(error, self.delta)
        return near * (error - 0.5 * near)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "delta": self.delta}


@keras.saving.register_keras_serializable("mixrank")
class QuantileLoss(_OfNumbers):
    """`max(q (y - z), (q - 1) (y - z))`: z is the q-quantile of y (Koenker, Bassett 1978).

    Args:
        q: float above 0 and below 1; 0.5 is the median.
    """

    def __init__(self, q: float = 0.5, **options: Any) -> None:
        if not 0 < q < 1:
            raise ValueError(f"`q` of the quantile loss must be above 0 and below 1, received {q}")
        super().__init__(**options)
        self.q = q

    def of_rows(self, y: Any, z: Any) -> Any:
        return ops.maximum(self.q * (y - z), (self.q - 1) * (y - z))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "q": self.q}


def _exp(z: Any) -> Any:
    return ops.exp(ops.minimum(z, LARGEST))


def product_logit(a: Any, b: Any) -> Any:
    """The logit of `sigmoid(a) sigmoid(b)`: `-logsumexp(-a, -b, -a - b)`, which neither over- nor underflows.

    Args:
        a, b: float32 tensors of one shape.
    """
    return -ops.logsumexp(ops.stack([-a, -b, -a - b], axis=-1), axis=-1)


TASK_KINDS = {
    "binary": TaskKind(lambda: keras.losses.BinaryCrossentropy(from_logits=True), ops.sigmoid, "log_loss"),
    "regression": TaskKind(SquaredError, lambda z: z, "mse"),
    "log_regression": TaskKind(SquaredLogError, lambda z: ops.expm1(ops.minimum(z, LARGEST)), "msle"),
    "count": TaskKind(PoissonLoss, _exp, "poisson_loss"),
    "watch_time": TaskKind(WeightedLogistic, _exp, "watch_loss"),
}
