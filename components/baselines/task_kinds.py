"""The baselines of a task, by its kind. `mixrank.schemas.task_kinds` says what its labels are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier

from mixrank.components.baselines.additive import AdditiveLogOdds, constant_rate


class TaskBaselines(NamedTuple):
    """Baselines of the tasks of a kind.

    Attributes:
        additive: makes the model that adds up what scenario, user and item say alone.
        trees: settings of scikit-learn's histogram gradient boosting -> boosted trees, to be fitted.
        predict: fitted trees, table of features -> predictions, `(rows,)`.
        constant: labels `(rows,)` -> the one prediction if nothing else can be learned from them, or None.
    """

    additive: Callable[[], AdditiveLogOdds]
    trees: Callable[..., BaseEstimator]
    predict: Callable[[Any, pd.DataFrame], NDArray[np.float64]]
    constant: Callable[[NDArray[Any]], float | None]


TASK_BASELINES = {
    "binary": TaskBaselines(
        additive=AdditiveLogOdds,
        trees=HistGradientBoostingClassifier,
        predict=lambda trees, table: trees.predict_proba(table)[:, 1],
        constant=constant_rate,
    ),
}
