"""The baselines of a task, by its kind. `mixrank.schemas.task_kinds` says what its labels are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from mixrank.components.baselines.additive import AdditiveLogOdds, AdditiveMean, constant_mean, constant_rate
from mixrank.schemas.task_kinds import COUNT, LABEL_KINDS, NUMBERS


class TaskBaselines(NamedTuple):
    """Baselines of the tasks of a kind.

    Attributes:
        additive: makes the model that adds up what scenario, user and item say alone.
        trees: settings of scikit-learn's histogram gradient boosting -> boosted trees, to be fitted.
        predict: fitted trees, table of features -> predictions, `(rows,)`.
        constant: labels `(rows,)` -> the one prediction if nothing else can be learned from them, or None.
    """

    additive: Callable[[], AdditiveLogOdds | AdditiveMean]
    trees: Callable[..., BaseEstimator]
    predict: Callable[[Any, pd.DataFrame], NDArray[np.float64]]
    constant: Callable[[NDArray[Any]], float | None]


def _of_numbers(kind: str) -> TaskBaselines:
    """Of labels that are numbers: means, and trees of squared error; of counts, of Poisson's."""
    least = LABEL_KINDS[kind].low
    loss = "poisson" if kind == COUNT.name else "squared_error"
    return TaskBaselines(
        additive=partial(AdditiveMean, least=least),
        trees=partial(HistGradientBoostingRegressor, loss=loss),
        predict=lambda trees, table: np.maximum(trees.predict(table), least),
        constant=constant_mean,
    )


TASK_BASELINES = {
    "binary": TaskBaselines(
        additive=AdditiveLogOdds,
        trees=HistGradientBoostingClassifier,
        predict=lambda trees, table: trees.predict_proba(table)[:, 1],
        constant=constant_rate,
    ),
    **{kind: _of_numbers(kind) for kind in NUMBERS},
}
