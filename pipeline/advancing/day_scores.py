"""What a day said about the model before it, in a few numbers that stay when the day's rows are removed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mixrank.schemas.naming import Declaration

if TYPE_CHECKING:
    import pandas as pd

    from mixrank.schemas import FeatureSpec, Label


class TaskScores(Declaration):
    """A task's rows of a day.

    Args:
        rows: those with a label.
        users: whose rows they are.
        mean_label: weighted as the task is; None without rows.
        mean_score: the same of the scores of the model before the day.
        intervals: metric -> its 95 % interval by resampled users, where it has one.
    """

    rows: int
    users: int
    mean_label: float | None
    mean_score: float | None
    intervals: dict[str, tuple[float, float]]


class DayScores(Declaration):
    """A day's rows, all tasks.

    Args:
        users: of the day.
        tasks: task -> its rows.
        unknown: feature -> share of its values that the vocabulary does not hold.
    """

    users: int
    tasks: dict[str, TaskScores]
    unknown: dict[str, float]


def day_scores(model_run: Path, spec: FeatureSpec) -> DayScores:
    """The numbers of a day whose rows the model before it has scored.

    Args:
        model_run: folder of the day's training.
        spec: columns of a row.
    """
    from mixrank.components.training import PROGRESSIVE
    from mixrank.pipeline.reports import read_unknown_ids
    from mixrank.schemas.arrow import read_frame

    frame = read_frame(model_run / PROGRESSIVE)
    counts = read_unknown_ids(model_run)
    return DayScores(
        users=int(frame[spec.user.name].nunique()),
        tasks={label.name: _task_scores(frame, label, spec) for label in spec.labels},
        unknown={name: each["unknown"] / each["values"] for name, each in counts.items() if each["values"]},
    )


def _task_scores(frame: pd.DataFrame, label: Label, spec: FeatureSpec) -> TaskScores:
    import numpy as np

    from mixrank.components.metrics import Rows, mean
    from mixrank.pipeline.reports import draw_users, percentile_interval, resampled_metrics

    rows = Rows.of(frame, label.name, spec)
    users, groups = np.unique(rows.groups, return_inverse=True)
    if not len(users):
        return TaskScores(rows=0, users=0, mean_label=None, mean_score=None, intervals={})
    samples = resampled_metrics(label.kind, replace(rows, groups=groups), draw_users(len(users)))
    intervals = {name: percentile_interval(values) for name, values in samples.items()}
    means = [mean(values, rows.weights) for values in (rows.labels, rows.scores)]
    mean_label, mean_score = (value if np.isfinite(value) else None for value in means)
    return TaskScores(
        rows=len(groups),
        users=len(users),
        mean_label=mean_label,
        mean_score=mean_score,
        intervals={name: ends for name, ends in intervals.items() if np.isfinite(ends).all()},
    )
