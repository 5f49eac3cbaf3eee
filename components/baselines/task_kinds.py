"""The baselines of a task, by its kind. `mixrank.schemas.task_kinds` says what its labels are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier

from mixrank.components.baselines.additive import AdditiveLogOdds


class TaskBaselines(NamedTuple):
    """Baselines of the tasks of a kind.

    Attributes:
        additive: makes the model that adds up what scenario, user and item say alone.
        trees: settings of scikit-learn's histogram gradient boosting -> boosted trees, to be fitted.
        predict: fitted trees, table of features -> predictions, `(rows,)`.
        check: refuses labels `(rows,)` from which nothing can be learned, in an error that begins with a name.
    """

    additive: Callable[[], AdditiveLogOdds]
    trees: Callable[..., BaseEstimator]
    predict: Callable[[Any, pd.DataFrame], NDArray[np.float64]]
    check: Callable[[str, NDArray[Any]], None]


def _check_both_classes(name: str, labels: NDArray[Any]) -> None:
    rate = labels.mean() if len(labels) else np.nan
    if not 0 < rate < 1:
        raise ValueError(f"{name} must have both 0 and 1, received {len(labels)} rows with mean {rate}")


TASK_BASELINES = {
    "binary": TaskBaselines(
        additive=AdditiveLogOdds,
        trees=HistGradientBoostingClassifier,
        predict=lambda trees, table: trees.predict_proba(table)[:, 1],
        check=_check_both_classes,
    ),
}
