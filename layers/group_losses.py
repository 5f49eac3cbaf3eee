"""Losses of the order of rows inside a group, a user or a request, beside the loss of each row.

They are Keras losses of labels `(batch, 2)`, whose second column is the number of a row's group in the batch, and
logits `(batch,)` or `(batch, 1)`. A row with an unknown label, NaN, is in no pair and no list, and its own loss is 0.
Each is

    L = (1 - alpha) mean_i l(y_i, z_i) + alpha R

with the binary cross-entropy l, which keeps the logits those of probabilities, and a loss R of the order.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from mixrank.layers.task_kinds import TASK_KINDS

# Added to logits of rows outside a group: their exponential is 0.
FAR = -1e9


class GroupLoss(keras.losses.Loss):
    """`L` above; a subclass says what `R` is.

    Args:
        alpha: float in [0, 1]. Share of the order in the loss.
    """

    def __init__(self, alpha: float = 0.5, **options: Any) -> None:
        if not 0 <= alpha <= 1:
            raise ValueError(f"`alpha` of {type(self).__name__} must be in [0, 1], received {alpha}")
        super().__init__(**options)
        self.alpha = alpha
        self.of_a_row = TASK_KINDS["binary"].loss()

    def call(self, y_true: Any, y_pred: Any) -> Any:
        z = ops.reshape(y_pred, (-1,))
        y, group = ops.cast(y_true[:, 0], z.dtype), y_true[:, 1]
        known = ops.isfinite(y)
        y = ops.where(known, y, 0.0)
        same = ops.logical_and(group[:, None] == group[None, :], ops.logical_and(known[:, None], known[None, :]))
        mask = ops.cast(known, z.dtype)
        each = mask * self.of_a_row.call(y[:, None], z[:, None])
        return (1 - self.alpha) * each + self.alpha * self.of_order(y, z, same, mask)

    def of_order(self, y: Any, z: Any, same: Any, known: Any) -> Any:
        """Values per row `(batch,)` whose mean is R.

        Args:
            y, z: labels and logits, `(batch,)`; y is 0 where it is not known.
            same: whether two known rows are of one group, bool `(batch, batch)`.
            known: 1.0 where the label is known, `(batch,)`.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha": self.alpha}


def _share(values: Any, count: Any) -> Any:
    """Values whose mean is `sum / count`; 0 where there is nothing to count."""
    rows = ops.cast(ops.shape(values)[0], values.dtype)
    return values * rows / ops.maximum(count, 1.0)


@keras.saving.register_keras_serializable("mixrank")
class PairwiseLoss(GroupLoss):
    """`R = mean over the pairs of a group with y_i > y_j of log(1 + e^-(z_i - z_j))`.

    RankNet (Burges et al., ICML 2005) beside the cross-entropy (Li et al., "Click-through Prediction for Advertising in
    Twitter Timeline", KDD 2015, section 4.3).
    """

    def of_order(self, y: Any, z: Any, same: Any, known: Any) -> Any:
        pairs = ops.cast(ops.logical_and(same, y[:, None] > y[None, :]), z.dtype)
        lost = ops.sum(pairs * ops.softplus(z[None, :] - z[:, None]), axis=1)
        return _share(lost, ops.sum(pairs))


@keras.saving.register_keras_serializable("mixrank")
class ListwiseLoss(GroupLoss):
    """`R = mean over the positives of -log(e^z_i / sum_j e^z_j)`, j the rows of the group.

    The softmax cross-entropy of ListNet (Cao et al., ICML 2007) for binary labels.
    """

    def of_order(self, y: Any, z: Any, same: Any, known: Any) -> Any:
        return _share(y * -_log_softmax(z, same), ops.sum(y))


@keras.saving.register_keras_serializable("mixrank")
class JointLoss(GroupLoss):
    """`R = mean over the rows of -log(e^(s_i z_i / 2) / sum_j e^(s_i z_j / 2))`, s_i = 1 of positives, -1 of others.

    JRC (Sheng et al., "Joint Optimization of Ranking and Calibration with Contextualized Hybrid Model", KDD 2023) with
    the two logits z / 2 and -z / 2, whose softmax is the probability that z stands for.
    """

    def of_order(self, y: Any, z: Any, same: Any, known: Any) -> Any:
        value = -(y * _log_softmax(z / 2, same) + (known - y) * _log_softmax(-z / 2, same))
        return _share(value, ops.sum(known))


def _log_softmax(z: Any, same: Any) -> Any:
    """Log of each row's share in its group, `(batch,)`; 0 for a row that is in none."""
    inside = ops.where(same, z[None, :], ops.cast(FAR, z.dtype))
    alone = ops.logical_not(ops.any(same, axis=1))
    return ops.where(alone, ops.zeros_like(z), z - ops.logsumexp(inside, axis=1))
