"""Baselines of a run, fitted on its rows: additive log-odds as the floor, boosted trees as the bar.

Both write a Parquet file with user, item, time and `score_<task>` of every row of the evaluation split, in the order of
its files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mixrank.components.baselines import TASK_BASELINES, BoostedTrees, read_columns, read_examples
from mixrank.components.examples import local_days
from mixrank.pipeline.run_record import RunRecord
from mixrank.schemas import CalendarDay, Dataset
from mixrank.schemas.files import write_atomically

BASELINE_FILE = "baseline.parquet"


def fit_additive(run: RunRecord, target: Path) -> Path:
    """Fits what scenario, user and item say alone on the rows that the model was trained on.

    Args:
        run: a finished run.
        target: Parquet file to write; replaced if it exists.

    Raises:
        ValueError: if nothing can be learned from the labels of a task, such as equal ones.
    """
    spec = run.spec
    keys = [spec.scenario.name, spec.user.name, spec.item.name]
    wanted = [*keys, spec.time.name, *spec.tasks]
    parts = [read_columns(spec, run.rows.examples_of(split), wanted) for split in run.splits]
    training = {name: pd.concat([pd.Series(part[name]) for part in parts]).to_numpy() for name in wanted}
    evaluated = read_columns(spec, run.rows.examples_of("eval"), wanted)
    scores = {}
    for label in spec.labels:
        model = TASK_BASELINES[label.kind].additive()
        model.fit({key: training[key] for key in keys}, training[label.name])
        scores[label.name] = model.predict({key: evaluated[key] for key in keys})
    return _write(run, evaluated, scores, target)


def fit_boosted_trees(run: RunRecord, dataset: Dataset, target: Path) -> Path:
    """Grows trees on the rows that the model was trained on.

    Days are those of the dataset's real-time window, or of UTC if that window is not a day. Every training row counts
    as earlier than the evaluation rows, as it does for the model.

    Args:
        run: a finished run.
        dataset: of that run.
        target: Parquet file to write; replaced if it exists.

    Raises:
        ValueError: if the rows are gone, or nothing can be learned from the labels of a task, such as equal ones.
    """
    spec = run.spec
    rows = read_examples(spec, [run.rows.examples_of(split) for split in (*run.splits, "eval")])
    training = rows.between(0, rows.ends[-2])
    window = dataset.source.window
    calendar = window if isinstance(window, CalendarDay) else CalendarDay()
    days = local_days(training.columns[spec.time.name], calendar.timezone, calendar.starts_at).astype(np.int64)
    scores = BoostedTrees(spec).fit(training, days).predict(rows.between(rows.ends[-2], rows.ends[-1]))
    keys = (spec.user.name, spec.item.name, spec.time.name)
    return _write(run, read_columns(spec, run.rows.examples_of("eval"), keys), scores, target)


def _write(run: RunRecord, columns: Mapping[str, Any], scores: Mapping[str, Any], target: Path) -> Path:
    keys = (run.spec.user.name, run.spec.item.name, run.spec.time.name)
    frame = pd.DataFrame({name: columns[name] for name in keys} | {f"score_{task}": s for task, s in scores.items()})
    write_atomically(target, lambda path: frame.to_parquet(path, index=False))
    return target
