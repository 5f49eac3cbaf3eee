"""The baselines of a task, by its kind. `mixrank.schemas.task_kinds` says what its labels are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from mixrank.components.baselines.additive import (
    AdditiveClasses,
    AdditiveLogOdds,
    AdditiveMean,
    constant_mean,
    constant_rate,
)
from mixrank.schemas.task_kinds import CLASSES, COUNT, LABEL_KINDS, NUMBERS


class TaskBaselines(NamedTuple):
    """Baselines of the tasks of a kind.

    Attributes:
        additive: classes of the label -> the model that adds up what scenario, user and item say alone.
        trees: settings of scikit-learn's histogram gradient boosting -> boosted trees, to be fitted.
        predict: fitted trees, table of features, classes of the label -> predictions, `(rows,)`; with classes their
            mean and the probability of each, `(rows, 1 + classes)`.
        constant: labels `(rows,)`, classes -> the one prediction, `()` or `(1 + classes,)`, if nothing else can be
            learned from them, or None.
    """

    additive: Callable[[Sequence[int]], AdditiveLogOdds | AdditiveMean]
    trees: Callable[..., BaseEstimator]
    predict: Callable[[Any, pd.DataFrame, Sequence[int]], NDArray[np.float64]]
    constant: Callable[[NDArray[Any], Sequence[int]], Any]


def _of_numbers(kind: str) -> TaskBaselines:
    """Of labels that are numbers: means, and trees of squared error; of counts, of Poisson's."""
    least = LABEL_KINDS[kind].low
    loss = "poisson" if kind == COUNT.name else "squared_error"
    return TaskBaselines(
        additive=lambda classes: AdditiveMean(least=least),
        trees=partial(HistGradientBoostingRegressor, loss=loss),
        predict=lambda trees, table, classes: np.maximum(trees.predict(table), least),
        constant=lambda labels, classes: constant_mean(labels),
    )


def _class_shares(trees: Any, table: pd.DataFrame, classes: Sequence[int]) -> NDArray[np.float64]:
    shares = np.zeros((len(table), len(classes)))
    # A class that no training row has is none of the trees'.
    shares[:, np.searchsorted(classes, trees.classes_)] = trees.predict_proba(table)
    return np.column_stack([shares @ np.asarray(classes, np.float64), shares])


def _constant_class(labels: NDArray[Any], classes: Sequence[int]) -> NDArray[np.float64] | None:
    if (value := constant_mean(labels)) is None:
        return None
    # As of rates: a class that has not been seen is not impossible.
    shares = 0.5 + len(labels) * (np.asarray(classes) == value)
    shares = shares / shares.sum()
    return np.array([shares @ np.asarray(classes, np.float64), *shares])


TASK_BASELINES = {
    "binary": TaskBaselines(
        additive=lambda classes: AdditiveLogOdds(),
        trees=HistGradientBoostingClassifier,
        predict=lambda trees, table, classes: trees.predict_proba(table)[:, 1],
        constant=lambda labels, classes: constant_rate(labels),
    ),
    **{kind: _of_numbers(kind) for kind in NUMBERS if kind not in CLASSES},
    **dict.fromkeys(
        CLASSES,
        TaskBaselines(
            additive=AdditiveClasses,
            trees=HistGradientBoostingClassifier,
            predict=_class_shares,
            constant=_constant_class,
        ),
    ),
}
