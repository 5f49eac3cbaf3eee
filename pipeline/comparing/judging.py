"""The numbers of one training: every metric per task, over all rows and inside the main scenarios."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mixrank.pipeline.reports import MIN_OF_CLASS, OVERALL, exact_metrics
from mixrank.schemas import FeatureSpec

# A scenario with a smaller share of the rows is not shown: its metrics move more with the seed than with the model.
MAIN_SHARE = 0.05


def judge(spec: FeatureSpec, predictions: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Metrics of predictions as `mixrank.components.training.predictions.predict` gives them.

    Returns:
        task -> "overall" or the scenario as text -> metric -> value. A main scenario has at least `MAIN_SHARE` of the
        rows, and enough rows with either label.
    """
    _, users = np.unique(predictions[spec.user.name].to_numpy(), return_inverse=True)
    scenario = predictions[spec.scenario.name].astype(str).to_numpy()
    values, counts = np.unique(scenario, return_counts=True)
    largest = sorted(zip(-counts, values, strict=True))
    slices: list[tuple[str, Any]] = [(OVERALL, np.arange(len(predictions)))]
    slices += [
        (value, np.flatnonzero(scenario == value)) for rows, value in largest if -rows >= MAIN_SHARE * len(predictions)
    ]
    found: dict[str, dict[str, dict[str, float]]] = {}
    for task in spec.tasks:
        labels = predictions[f"label_{task}"].to_numpy(np.int64)
        scores = predictions[f"score_{task}"].to_numpy(np.float64)
        found[task] = {
            name: exact_metrics(labels[rows], scores[rows], users[rows])
            for name, rows in slices
            if min(labels[rows].sum(), len(rows) - labels[rows].sum()) >= MIN_OF_CLASS
        }
    return found
