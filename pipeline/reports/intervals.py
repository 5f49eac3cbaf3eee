"""Confidence intervals by resampling users: how the metrics would vary with other users."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mixrank.components.metrics import Rows, reported


def draw_users(num_users: int, *, resamples: int = 200, seed: int = 0) -> NDArray[np.int32]:
    """Number of times each user is drawn, in `resamples` draws of `num_users` users with replacement.

    Returns:
        `(resamples, num_users)`, rows sum to `num_users`.
    """
    rng = np.random.default_rng(seed)
    drawn = np.zeros((resamples, num_users), np.int32)
    for row in drawn:
        row += np.bincount(rng.integers(0, num_users, num_users), minlength=num_users).astype(np.int32)
    return drawn


def resampled_metrics(kind: str, rows: Rows, drawn: NDArray[np.int32]) -> dict[str, NDArray[np.float64]]:
    """Every metric of every resample; NaN where it has no value, such as the AUC of one class.

    All rows of a user come and go together, since they are not independent of each other. The same `drawn` for two
    models gives paired resamples.

    Args:
        kind: of the task, as in `Label.kind`.
        rows: their groups are columns of `drawn`, users.
        drawn: `(resamples, users)`, from `draw_users`.

    Returns:
        metric -> `(resamples,)`.
    """
    times, known = drawn.astype(np.float64), reported(kind, requests=rows.requests is not None)
    return {metric.name: metric.of_resamples(rows, times) for metric in known if metric.of_resamples}


def percentile_interval(values: NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of the resamples; (NaN, NaN) unless nine in ten of them have a value."""
    finite = values[np.isfinite(values)]
    if len(finite) < 0.9 * max(1, len(values)):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
