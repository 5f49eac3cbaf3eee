"""The baseline that needs no training: smoothed log-odds of scenario, user and item, added up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


class _Additive:
    """An overall prediction and an offset for every value of each key, added up."""

    def __init__(self, *, smoothing: float = 5.0) -> None:
        if not smoothing > 0:
            raise ValueError(f"`smoothing` must be > 0, received {smoothing}")
        self.smoothing = smoothing
        self.prior = float("nan")
        self.offsets: dict[str, tuple[NDArray[Any], NDArray[np.float64]]] = {}

    def _fit(
        self,
        keys: Mapping[str, ArrayLike],
        labels: ArrayLike,
        weights: ArrayLike | None,
        constant: Callable[[NDArray[Any]], float | None],
        scale: Callable[[Any], Any],
    ) -> None:
        y = np.asarray(labels, np.float64)
        if not len(y):
            raise ValueError("`labels` must have at least one row")
        w = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)
        if w.shape != y.shape or not w.min() >= 0 or not w.sum() > 0:
            raise ValueError(
                f"`weights` must be >= 0, above 0 in some row, and one per label {y.shape}; received shape {w.shape} "
                f"and a sum of {w.sum():g}"
            )
        # Smoothing is in rows of mean weight.
        w = w / w.mean()
        mean, same = float((w * y).mean()), constant(y[w > 0])
        self.prior = float(scale(mean if same is None else same))
        self.offsets = {}
        for name, column in keys.items():
            column = np.asarray(column)
            if column.shape != y.shape:
                raise ValueError(f"key `{name}` must have one value per label {y.shape}, received {column.shape}")
            values, code = np.unique(column, return_inverse=True)
            if same is not None:
                self.offsets[name] = (values, np.zeros(len(values)))
                continue
            count, total = np.bincount(code, w), np.bincount(code, w * y)
            smoothed = (total + self.smoothing * mean) / (count + self.smoothing)
            self.offsets[name] = (values, scale(smoothed) - self.prior)

    def _sum(self, keys: Mapping[str, ArrayLike]) -> Any:
        if not self.offsets:
            raise ValueError("`fit` must be called before `predict`")
        if missing := sorted(set(self.offsets) - set(keys)):
            raise ValueError(f"`keys` lacks {missing}, received {sorted(keys)}")
        score: Any = self.prior
        for name, (values, offset) in self.offsets.items():
            column = np.asarray(keys[name])
            at = np.minimum(np.searchsorted(values, column), len(values) - 1)
            score = score + np.where(values[at] == column, offset[at], 0.0)
        return score


class AdditiveLogOdds(_Additive):
    """Click rates of each key's value, smoothed towards the overall rate and added on the logit scale.

    `logit p = logit r + sum_k (logit r_k(v_k) - logit r)` with the overall rate r and
    `r_k(v) = (positives of v + m r) / (rows of v + m)` for the value v of key k. A value that was not seen adds 0.

    Args:
        smoothing: float > 0. Pseudo-count m, in rows.

    Raises:
        ValueError: if `smoothing` is not positive.

    >>> model = AdditiveLogOdds(smoothing=1.0).fit({"page": [0, 0, 1, 1]}, [1, 1, 0, 1])
    >>> model.predict({"page": [0, 1, 2]}).round(4)
    array([0.9167, 0.5833, 0.75  ])
    """

    def fit(
        self, keys: Mapping[str, ArrayLike], labels: ArrayLike, weights: ArrayLike | None = None
    ) -> AdditiveLogOdds:
        """Counts the training rows.

        Args:
            keys: name -> integer or text values, `(rows,)`.
            labels: of a binary task, `(rows,)`. Without both classes nothing can be said of a key: every row gets
                `(positives + 1/2) / (rows + 1)`.
            weights: of the rows, >= 0, `(rows,)`; None: each counts once.

        Raises:
            ValueError: without rows, if lengths differ, or if all weights are 0.
        """
        self._fit(keys, labels, weights, constant_rate, _logit)
        return self

    def predict(self, keys: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
        """Probability of every row, `(rows,)`.

        Args:
            keys: the same names as in `fit`.

        Raises:
            ValueError: before `fit`, or if a key is missing.
        """
        return np.asarray(1 / (1 + np.exp(-self._sum(keys))))


class AdditiveMean(_Additive):
    """The same of numbers: `p = m + sum_k (m_k(v_k) - m)` with the mean m of all labels and the smoothed means `m_k`.

    Args:
        smoothing: as in `AdditiveLogOdds`.
        least: float. No label is lower. If it is 0, no prediction is lower than a hundredth of m: to losses that take
            its logarithm a prediction of 0 is infinitely wrong.

    >>> AdditiveMean(smoothing=1.0).fit({"page": [0, 0, 1]}, [3.0, 6.0, 0.0]).predict({"page": [0, 1, 2]})
    array([4. , 1.5, 3. ])
    """

    def __init__(self, *, smoothing: float = 5.0, least: float = -math.inf) -> None:
        super().__init__(smoothing=smoothing)
        self.least = least

    def fit(self, keys: Mapping[str, ArrayLike], labels: ArrayLike, weights: ArrayLike | None = None) -> AdditiveMean:
        """Averages the training rows; arguments and errors as in `AdditiveLogOdds.fit`."""
        self._fit(keys, labels, weights, constant_mean, lambda mean: mean)
        return self

    def predict(self, keys: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
        """Prediction of every row, `(rows,)`; arguments and errors as in `AdditiveLogOdds.predict`."""
        return np.maximum(self._sum(keys), self.least if self.least < 0 else max(self.least, self.prior / 100))


class AdditiveClasses(AdditiveMean):
    """Probabilities of the classes of a label, as far from their shares as the mean of `AdditiveMean` asks.

    Of all probabilities with a mean p of the label those nearest to the shares `q_c` of the training rows are
    `p_c = q_c e^{t c} / sum_j q_j e^{t j}` (the minimum of the Kullback-Leibler divergence, Csiszar 1975); t is solved
    for. A share is `(rows of c + 1/2) / (rows + classes / 2)`, so that none is 0.

    Args:
        classes: values of the label, ascending.
        smoothing: as in `AdditiveLogOdds`.

    >>> AdditiveClasses((1, 2, 3)).fit({"page": [0, 0, 1]}, [1, 3, 3]).predict({"page": [0, 1]}).round(3)
    array([[2.238, 0.336, 0.09 , 0.574],
           [2.429, 0.248, 0.076, 0.676]])
    """

    def __init__(self, classes: Sequence[int], *, smoothing: float = 5.0) -> None:
        super().__init__(smoothing=smoothing, least=min(classes))
        self.classes = np.asarray(classes, np.float64)

    def fit(
        self, keys: Mapping[str, ArrayLike], labels: ArrayLike, weights: ArrayLike | None = None
    ) -> AdditiveClasses:
        """Counts the training rows; arguments and errors as in `AdditiveLogOdds.fit`."""
        super().fit(keys, labels, weights)
        y = np.asarray(labels)
        w = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)
        counts = np.array([w[y == value].sum() for value in self.classes]) / w.mean() + 0.5
        self.shares = counts / counts.sum()
        return self

    def predict(self, keys: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
        """Mean, then the probability of each class, `(rows, 1 + classes)`; errors as in `AdditiveLogOdds.predict`."""
        wanted = self._sum(keys)
        # Probabilities and mean on a grid of t, between which means are looked up.
        span = self.classes[-1] - self.classes[0]
        t = np.linspace(-20, 20, 8001)[:, None] / span * len(self.classes)
        weight = np.log(self.shares) + t * (self.classes - self.classes[0])
        grid = np.exp(weight - weight.max(axis=1, keepdims=True))
        grid /= grid.sum(axis=1, keepdims=True)
        means = grid @ self.classes
        shares = np.stack([np.interp(wanted, means, column) for column in grid.T], axis=1)
        return np.column_stack([shares @ self.classes, shares])


def constant_mean(labels: NDArray[Any]) -> float | None:
    """The label that all rows have, or None if they differ.

    >>> constant_mean(np.array([2.5, 2.5])), constant_mean(np.array([0, 1]))
    (2.5, None)
    """
    return float(labels[0]) if len(np.unique(labels)) == 1 else None


def constant_rate(labels: NDArray[Any]) -> float | None:
    """Probability of a positive after labels of one class, `(positives + 1/2) / (rows + 1)`; None if both occur.

    >>> constant_rate(np.zeros(4)), constant_rate(np.array([0, 1]))
    (0.1, None)
    """
    positives = float(labels.sum())
    return None if 0 < positives < len(labels) else (positives + 0.5) / (len(labels) + 1)


def _logit(rate: Any) -> Any:
    return np.log(rate) - np.log1p(-rate)
