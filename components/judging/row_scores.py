"""Scores of another model beside the Trainer's, row by row."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mixrank.schemas import FeatureSpec

# Of a row among those that share its keys, and in its table: no column of a log has such a name.
TURN, PLACE = "#", "@"


def scores_beside(predictions: pd.DataFrame, found: pd.DataFrame, spec: FeatureSpec, name: str) -> pd.DataFrame:
    """`score_<output>` of another model, in the order of the Trainer's predictions.

    Args:
        predictions: of the Trainer, with the columns that identify a row.
        found: scores with the same keys, in any order.
        spec: columns of a row.
        name: of the scores, for errors.

    Raises:
        ValueError: if its keys are not those of the predictions.
    """
    own = predictions
    columns = [f"score_{name}" for name in spec.outputs if f"score_{name}" in found]
    # What is not there, at -1, has no score.
    scores = found[columns].reset_index(drop=True).reindex(rows_beside(predictions, found, spec)).reset_index(drop=True)
    if scores.isna().to_numpy().any():
        count = int(scores.isna().any(axis=1).sum())
        raise ValueError(f"{name} has no score for {count} of the {len(own)} rows of predictions.parquet")
    return scores


def rows_beside(predictions: pd.DataFrame, found: pd.DataFrame, spec: FeatureSpec) -> NDArray[np.int64]:
    """Position in `found` of each row of the Trainer's predictions, -1 where it is not there.

    Args:
        predictions, found: with the columns that identify a row.
        spec: columns of a row.
    """
    keys = spec.key_columns
    own, other = (frame[keys].reset_index(drop=True) for frame in (predictions, found))
    if other.equals(own):
        return np.arange(len(own))
    # A key can occur more than once; its n-th row then belongs to the n-th row of the other.
    own, other = (frame.assign(**{TURN: frame.groupby(keys).cumcount()}) for frame in (own, other))
    places = own.merge(other.assign(**{PLACE: np.arange(len(other))}), on=[*keys, TURN], how="left")[PLACE]
    return places.fillna(-1).to_numpy(np.int64)
