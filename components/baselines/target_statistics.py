"""Target statistics: mean labels of a value on earlier days, the only way in which a label may become a feature."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


class TargetStatistics:
    """Smoothed mean label and number of rows of each value, over the training rows of earlier days.

    `rate_d(v) = (s + m r_d) / (n + m)` with s the sum of the labels of the n training rows of value v on days before d,
    and r_d the mean label of all training rows on those days. A row of the first day, or without a value, has no rate;
    for an unseen value the rate is r_d. A row with several values gets their mean.

    Args:
        smoothing: float > 0. Pseudo-count m, in rows.

    Raises:
        ValueError: if `smoothing` is not positive.

    >>> statistics = TargetStatistics(smoothing=1.0).fit([7, 7, 8, 7], [0, 0, 0, 1], [[1], [0], [0], [1]])
    >>> rates, rows = statistics.transform([7, 8, 9], [1, 1, 1])
    >>> rates[:, 0].round(4), rows
    (array([0.4444, 0.1667, 0.3333]), array([2., 1., 0.]))
    """

    def __init__(self, *, smoothing: float = 10.0) -> None:
        if not smoothing > 0:
            raise ValueError(f"`smoothing` must be > 0, received {smoothing}")
        self.smoothing = smoothing
        self._fitted = False

    def fit(self, values: ArrayLike, days: ArrayLike, labels: ArrayLike) -> TargetStatistics:
        """Counts the training rows.

        Args:
            values: integers, `(rows,)`, or `(rows, length)` where every value counts; 0 is a missing value.
            days: integers, `(rows,)`.
            labels: finite numbers, `(rows, tasks)`.

        Raises:
            ValueError: without rows, if lengths differ, or a label is not finite.
        """
        v, d, y = _table(values), np.asarray(days), np.asarray(labels, np.float64)
        if y.ndim != 2 or not len(y):
            raise ValueError(f"`labels` must be (rows, tasks) with at least one row, received shape {y.shape}")
        if len(v) != len(y) or d.shape != (len(y),):
            raise ValueError(f"`values` and `days` must have {len(y)} rows, received shapes {v.shape} and {d.shape}")
        if not np.isfinite(y).all():
            raise ValueError(f"`labels` must be finite, received {y[~np.isfinite(y)][0]}")
        self._days, day = np.unique(d, return_inverse=True)
        self._width = len(self._days) + 1
        per_day = _sums(day, y, len(self._days))
        before = np.concatenate([np.zeros((1, per_day.shape[1])), per_day.cumsum(axis=0)])
        rows_before = before[:, :1]
        # (days + 1, tasks): rates over the days before each day; the last line is for all later days.
        self._rates = np.divide(before[:, 1:], rows_before, np.full_like(before[:, 1:], np.nan), where=rows_before > 0)
        row, column = np.nonzero(v)
        self._values, place = np.unique(v[row, column], return_inverse=True)
        self._at, at = np.unique(place * self._width + day[row], return_inverse=True)
        sums = np.concatenate([np.zeros((1, y.shape[1] + 1)), _sums(at, y[row], len(self._at)).cumsum(axis=0)])
        owner = self._at // self._width
        # Line i + 1 holds the sums of one value over its days up to that of entry i; line 0 those of an unseen one.
        self._sums = np.concatenate([sums[:1], sums[1:] - sums[np.searchsorted(owner, owner)]])
        self._fitted = True
        return self

    def transform(
        self, values: ArrayLike, days: ArrayLike | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Statistics of some rows from the days before each.

        Args:
            values: as in `fit`.
            days: integers, `(rows,)`; None for rows after all training days.

        Returns:
            Rates `(rows, tasks)`, NaN where there is none, and numbers of training rows `(rows,)`.

        Raises:
            ValueError: before `fit`, or if lengths differ.
        """
        if not self._fitted:
            raise ValueError("`fit` must be called before `transform`")
        v = _table(values)
        day = np.full(len(v), len(self._days)) if days is None else np.searchsorted(self._days, np.asarray(days))
        if day.shape != (len(v),):
            raise ValueError(f"`days` must have {len(v)} rows, received shape {day.shape}")
        rates, rows = np.zeros((len(v), self._rates.shape[1])), np.zeros(len(v))
        # Position by position: lists are short, and the sums of all positions at once would need much memory.
        for column in v.T:
            known = column != 0
            sums = self._sums_before(column, day)
            prior = self._rates[day]
            rate = (sums[:, 1:] + self.smoothing * prior) / (sums[:, :1] + self.smoothing)
            rates += np.where(known[:, None], rate, 0.0)
            rows += np.where(known, sums[:, 0], 0.0)
        count = np.count_nonzero(v, axis=1)
        rates = np.divide(rates, count[:, None], np.full_like(rates, np.nan), where=count[:, None] > 0)
        return rates, rows / np.maximum(count, 1)

    def _sums_before(self, values: NDArray[Any], day: NDArray[Any]) -> NDArray[np.float64]:
        """Rows and positives `(rows, 1 + tasks)` of each value on the training days before."""
        if not len(self._values):
            return np.zeros((len(values), self._sums.shape[1]))
        place = np.minimum(np.searchsorted(self._values, values), len(self._values) - 1)
        line = np.searchsorted(self._at, place * self._width + day)
        own = (line > 0) & (self._at[line - 1] // self._width == place) & (self._values[place] == values)
        return self._sums[np.where(own, line, 0)]


def _table(values: ArrayLike) -> NDArray[np.int64]:
    v = np.asarray(values)
    if v.ndim not in (1, 2) or (v.size and v.dtype.kind not in "iu"):
        raise ValueError(f"`values` must be integers of one or two axes, received {v.dtype} of shape {v.shape}")
    return v.reshape(len(v), -1).astype(np.int64) if v.size else np.zeros((len(v), v.ndim - 1), np.int64)


def _sums(group: NDArray[Any], labels: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Rows and positives `(size, 1 + tasks)` of each group."""
    positives = [np.bincount(group, weights=task, minlength=size) for task in labels.T]
    return np.stack([np.bincount(group, minlength=size).astype(np.float64), *positives], axis=1)
