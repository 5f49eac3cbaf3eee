"""Confidence intervals by resampling users: what the metrics would be had other users come."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixrank.components.metrics import auc_by_group, log_losses

# Elements of the largest work array, 32 MB.
BLOCK = 4_000_000


def draw_users(num_users: int, *, resamples: int = 200, seed: int = 0) -> NDArray[np.int32]:
    """How often each user is drawn when as many users as there are are drawn with replacement.

    Returns:
        `(resamples, num_users)`, rows sum to `num_users`.
    """
    rng = np.random.default_rng(seed)
    drawn = np.zeros((resamples, num_users), np.int32)
    for row in drawn:
        row += np.bincount(rng.integers(0, num_users, num_users), minlength=num_users).astype(np.int32)
    return drawn


def resampled_metrics(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], users: NDArray[np.int64], drawn: NDArray[np.int32]
) -> dict[str, NDArray[np.float64]]:
    """AUC, GAUC, log loss and calibration of every resample; NaN where a resample has one class only.

    All rows of a user come and go together, since they are not independent of each other. The same `drawn` for two
    models gives paired resamples.

    Args:
        labels: 0 or 1, `(rows,)`.
        probabilities: `(rows,)`.
        users: column of each row's user in `drawn`, `(rows,)`.
        drawn: `(resamples, users)`, from `draw_users`.

    Returns:
        metric -> `(resamples,)`.
    """
    size = drawn.shape[1]
    weights = drawn.astype(np.float64)
    rows = np.bincount(users, minlength=size)
    groups = auc_by_group(labels, probabilities, users)
    mixed = ~np.isnan(groups.auc)
    columns = np.unique(users)[mixed]

    def ratio(upper: NDArray[Any], lower: NDArray[Any], among: NDArray[Any]) -> NDArray[np.float64]:
        below = among @ lower
        return np.divide(among @ upper, below, out=np.full(len(below), np.nan), where=below > 0)

    return {
        "auc": _weighted_auc(labels, probabilities, users, drawn),
        "gauc": ratio((groups.auc * groups.rows)[mixed], groups.rows[mixed], weights[:, columns]),
        "log_loss": ratio(np.bincount(users, log_losses(labels, probabilities), size), rows, weights),
        "calibration": ratio(np.bincount(users, probabilities, size), np.bincount(users, labels, size), weights),
    }


def percentile_interval(values: NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of the resamples; (NaN, NaN) unless nine in ten of them have a value."""
    finite = values[np.isfinite(values)]
    if len(finite) < 0.9 * max(1, len(values)):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _weighted_auc(
    labels: NDArray[np.int64], scores: NDArray[np.float64], users: NDArray[np.int64], drawn: NDArray[np.int32]
) -> NDArray[np.float64]:
    order = np.argsort(scores, kind="stable")
    s, y, u = scores[order], labels[order].astype(np.float64), users[order]
    starts = np.flatnonzero(np.append(True, s[1:] != s[:-1]))
    found = np.full(len(drawn), np.nan)
    step = max(1, BLOCK // max(1, len(s)))
    for at in range(0, len(drawn), step):
        weight = drawn[at : at + step, u].astype(np.float64)
        # (resamples, distinct scores)
        positive = np.add.reduceat(weight * y, starts, axis=1)
        negative = np.add.reduceat(weight * (1 - y), starts, axis=1)
        beaten = np.cumsum(negative, axis=1) - negative / 2
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        wins = (positive * beaten).sum(axis=1)
        found[at : at + step] = np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return found
