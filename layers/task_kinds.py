"""Kinds of tasks: their losses and links. `mixrank.schemas.task_kinds` holds the values of their labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
from keras import ops

if TYPE_CHECKING:
    from mixrank.schemas import Label


class TaskKind(NamedTuple):
    """Loss and link of the tasks of a kind.

    Attributes:
        loss: makes the Keras loss (labels, logits) that a task is trained by; of a kind with classes from these.
        link: logits -> predictions, tensor to tensor of the same shape; those of watch_quantile are ranks. Of a kind
            with classes logits (batch, ...) -> the probability of each, (batch, classes).
        loss_metric: metric of `mixrank.components.metrics` that is the mean of the loss; of watch_quantile, whose loss
            is one of ranks, the mean absolute error.
    """

    loss: Callable[..., keras.losses.Loss]
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
# Between the logits of two levels, as far as float32 tells them apart.
LEAST_GAP = 1e-6


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

    A quantile of log(1 + y) is the logarithm of that of 1 + y. So the kinds whose predictions p are exponentials are
    learned by `log(1 + y)` and `log(1 + p)`, in which long times weigh no more than short ones.

    Args:
        q: float above 0 and below 1; 0.5 is the median.
        kind: of the task, "regression", "log_regression" or "watch_time".
    """

    def __init__(self, q: float = 0.5, kind: str = "regression", **options: Any) -> None:
        if not 0 < q < 1:
            raise ValueError(f"`q` of the quantile loss must be above 0 and below 1, received {q}")
        super().__init__(**options)
        self.q, self.kind = q, kind

    def of_rows(self, y: Any, z: Any) -> Any:
        if self.kind != "regression":
            y = ops.log1p(y)
        if self.kind == "watch_time":
            # log(1 + e^z)
            z = ops.softplus(z)
        return ops.maximum(self.q * (y - z), (self.q - 1) * (y - z))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "q": self.q, "kind": self.kind}


class _OfClasses(keras.losses.Loss):
    """Mean over the rows of a function of label `(batch, 1)` and logits `(batch, ...)` of a label with classes.

    Args:
        classes: values of the label, ascending.
    """

    def __init__(self, classes: Sequence[int], **options: Any) -> None:
        super().__init__(**options)
        self.classes = tuple(classes)

    def call(self, y_true, y_pred):
        own = ops.equal(ops.reshape(y_true, (-1, 1)), ops.convert_to_tensor([self.classes], y_true.dtype))
        return self.of_rows(ops.cast(own, y_pred.dtype), y_pred)

    def of_rows(self, own: Any, z: Any) -> Any:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "classes": self.classes}


@keras.saving.register_keras_serializable("mixrank")
class OrdinalLoss(_OfClasses):
    """`-log P(y)` of the proportional odds model (McCullagh 1980, "Regression Models for Ordinal Data", section 2).

    `P(y > c_k) = s(z_k)` with `z_k = f - theta_k` falling with k, s the logistic function, so that

        -log P(c_k) = softplus(-z_{k-1}) + softplus(z_k) - log(1 - e^{z_k - z_{k-1}})

    of which the terms with z_0 and z_K, beyond the first and the last class, are 0.
    """

    def of_rows(self, own: Any, z: Any) -> Any:
        above, below = ops.softplus(-z), ops.softplus(z)
        gap = ops.maximum(z[:, :-1] - z[:, 1:], LEAST_GAP)
        between = -ops.log(-ops.expm1(-gap))
        first, last = below[:, :1], above[:, -1:]
        inner = above[:, :-1] + below[:, 1:] + between
        return ops.sum(own * ops.concatenate([first, inner, last], axis=1), axis=1)


@keras.saving.register_keras_serializable("mixrank")
class MulticlassLoss(_OfClasses):
    """`-log P(y)` with `P(c_k) = e^{z_k} / sum_j e^{z_j}`: cross entropy of the softmax over the classes."""

    def of_rows(self, own: Any, z: Any) -> Any:
        return -ops.sum(own * ops.log_softmax(z, axis=1), axis=1)


def _of_levels(z: Any) -> Any:
    """Probability of each level from the logits of those above each: what falls from one to the next."""
    ends = ops.zeros_like(z[:, :1])
    # Both ends of the differences as small numbers: 1 - 0.99999 would keep no digits of the first levels.
    above, below = ops.sigmoid(z), ops.sigmoid(-z)
    falling = ops.concatenate([ends + 1, above], axis=1) - ops.concatenate([above, ends], axis=1)
    rising = ops.concatenate([below, ends + 1], axis=1) - ops.concatenate([ends, below], axis=1)
    low = ops.concatenate([z, ends - 1], axis=1) > 0
    return ops.maximum(ops.where(low, rising, falling), 0.0)


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
    # Labels are ranks here, numbers from 0 to 1: the logistic function of the logit is their mean.
    "watch_quantile": TaskKind(lambda: keras.losses.BinaryCrossentropy(from_logits=True), ops.sigmoid, "mae"),
    "ordinal": TaskKind(OrdinalLoss, _of_levels, "class_log_loss"),
    "multiclass": TaskKind(MulticlassLoss, lambda z: ops.softmax(z, axis=1), "class_log_loss"),
}


def new_loss(label: Label) -> keras.losses.Loss:
    """The loss of a label's kind."""
    kind = TASK_KINDS[label.kind]
    return kind.loss(label.classes) if label.classes else kind.loss()


def at_rank(ranks: Any, quantiles: Any) -> Any:
    """What stands at a rank in a table of quantiles, linear between two of them, (batch,).

    Args:
        ranks: float32 tensor (batch,), from 0 to 1.
        quantiles: float32 tensor (batch, quantiles + 1), or (1, quantiles + 1) for one request: those of 0, 1/Q, 2/Q,
            ..., 1.
    """
    last = quantiles.shape[1] - 1
    # How much of each quantile: 1 at its place, 0 at its neighbours' and beyond.
    away = ops.abs(ranks[:, None] * last - ops.arange(last + 1, dtype="float32"))
    return ops.sum(ops.maximum(1 - away, 0) * quantiles, axis=1)


def predicted(label: Label, logits: Any, row: Mapping[str, Any]) -> dict[str, Any]:
    """What a model answers for a task: each of `Label.outputs` -> tensor (batch,), in the label's own unit.

    Args:
        label: the task.
        logits: float32 tensor, as a ranker gives them for the task: (batch,), or (batch, ...) of a label with classes.
        row: column -> tensor of the transformed rows; `Label.quantiles` is read, if the label has it.
    """
    found = TASK_KINDS[label.kind].link(logits)
    if label.quantiles is not None:
        return dict(zip(label.outputs, (label.scale * at_rank(found, row[label.quantiles]), found), strict=True))
    if not label.classes:
        return {label.name: found if label.scale == 1 else label.scale * found}
    mean = ops.sum(found * ops.convert_to_tensor([label.classes], found.dtype), axis=1)
    return dict(zip(label.outputs, (mean, *(found[:, place] for place in range(len(label.classes)))), strict=True))
