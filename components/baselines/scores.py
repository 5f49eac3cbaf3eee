"""Scores of the baselines on the evaluation rows, fitted on the rows that a model is trained on.

Both write a Parquet file with the columns that identify a row and `score_<output>` of each output of a task, of every
row of the evaluation split, in the order of its files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mixrank.components.baselines.boosted_trees import BoostedTrees
from mixrank.components.baselines.example_arrays import read_columns, read_examples
from mixrank.components.baselines.task_kinds import TASK_BASELINES
from mixrank.components.examples import local_days
from mixrank.schemas import CalendarDay, Dataset, FeatureSpec
from mixrank.schemas.files import write_atomically


def fit_additive(spec: FeatureSpec, patterns: Mapping[str, str], splits: Sequence[str], target: Path) -> Path:
    """Fits what scenario, user and item say alone, and scores the evaluation rows.

    Args:
        spec: columns of a row.
        patterns: split -> files of joined rows, as in `read_columns`.
        splits: those to fit on, as far as the log has them.
        target: Parquet file to write; replaced if it exists.
    """
    keys = [spec.scenario.name, spec.user.name, spec.item.name]
    wanted = [*keys, spec.time.name, *spec.tasks, *spec.row_weights, *spec.mature]
    parts = [read_columns(spec, patterns[split], wanted) for split in splits if split in patterns]
    training = {name: pd.concat([pd.Series(part[name]) for part in parts]).to_numpy() for name in wanted}
    evaluated = read_columns(spec, patterns["eval"], list(dict.fromkeys([*wanted, *spec.key_columns])))
    scores = {}
    for label in spec.labels:
        model = TASK_BASELINES[label.kind].additive(label.classes)
        rows = label.counted(training)
        weights = spec.weights_of(label, training)
        weights = None if weights is None else weights[rows]
        model.fit({key: training[key][rows] for key in keys}, training[label.name][rows], weights)
        scores[label.name] = model.predict({key: evaluated[key] for key in keys})
    return _write(spec, evaluated, scores, target)


def fit_boosted_trees(dataset: Dataset, patterns: Mapping[str, str], splits: Sequence[str], target: Path) -> Path:
    """Grows trees, and scores the evaluation rows.

    Days are those of the dataset's real-time window, or of UTC if that window is not a day. Every training row counts
    as earlier than the evaluation rows, as it does for the model.

    Args:
        dataset: the declaration.
        patterns, splits, target: as in `fit_additive`.

    Raises:
        ValueError: if the rows are gone.
    """
    spec = dataset.spec
    rows = read_examples(spec, [patterns[split] for split in (*splits, "eval") if split in patterns])
    training = rows.between(0, rows.ends[-2])
    window = dataset.source.window
    calendar = window if isinstance(window, CalendarDay) else CalendarDay()
    days = local_days(training.columns[spec.time.name], calendar.timezone, calendar.starts_at).astype(np.int64)
    scores = BoostedTrees(spec).fit(training, days).predict(rows.between(rows.ends[-2], rows.ends[-1]))
    return _write(spec, read_columns(spec, patterns["eval"], spec.key_columns), scores, target)


def _write(spec: FeatureSpec, columns: Mapping[str, Any], scores: Mapping[str, Any], target: Path) -> Path:
    found = {name: columns[name] for name in spec.key_columns}
    for label in spec.labels:
        answers = np.reshape(scores[label.name], (len(scores[label.name]), -1))
        # No baseline has ranks.
        found |= {f"score_{output}": own for output, own in zip(label.outputs, answers.T, strict=False)}
    frame = pd.DataFrame(found)
    write_atomically(target, lambda path: frame.to_parquet(path, index=False))
    return target
