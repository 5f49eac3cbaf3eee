"""Scores of another model beside the Trainer's, row by row."""

from __future__ import annotations

import pandas as pd

from mixrank.schemas import FeatureSpec

# Of a row among those that share its keys: no column of a log has such a name.
TURN = "#"


def scores_beside(predictions: pd.DataFrame, found: pd.DataFrame, spec: FeatureSpec, name: str) -> pd.DataFrame:
    """`score_<task>` of another model, in the order of the Trainer's predictions.

    Args:
        predictions: of the Trainer, with user, item and time.
        found: scores with the same keys, in any order.
        spec: columns of a row.
        name: of the scores, for errors.

    Raises:
        ValueError: if its keys are not those of the predictions.
    """
    keys = [spec.user.name, spec.item.name, spec.time.name]
    own = predictions[keys]
    if not found[keys].reset_index(drop=True).equals(own.reset_index(drop=True)):
        # A key can occur more than once; its n-th row then belongs to the n-th row of the other scores.
        own, found = (frame.assign(**{TURN: frame.groupby(keys).cumcount()}) for frame in (own, found))
        found = own.merge(found, on=[*keys, TURN], how="left")
    scores = found[[f"score_{task}" for task in spec.tasks if f"score_{task}" in found]].reset_index(drop=True)
    if scores.isna().to_numpy().any():
        count = int(scores.isna().any(axis=1).sum())
        raise ValueError(f"{name} has no score for {count} of the {len(own)} rows of predictions.parquet")
    return scores
