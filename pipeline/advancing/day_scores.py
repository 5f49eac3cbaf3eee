"""What a day said about the model before it, in a few numbers that stay when the day's rows are removed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mixrank.schemas.naming import Declaration

if TYPE_CHECKING:
    import pandas as pd

    from mixrank.components.metrics import Rows
    from mixrank.schemas import FeatureSpec, Label

# Resampling takes about three seconds and 200 MB for so many users with so many rows.
MOST_USERS, MOST_ROWS = 50_000, 200_000
LEAST_USERS = 200


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

    rows = Rows.of(frame, label.name, spec)
    users = len(np.unique(rows.groups))
    means = [mean(values, rows.weights) for values in (rows.labels, rows.scores)]
    mean_label, mean_score = (value if np.isfinite(value) else None for value in means)
    return TaskScores(
        rows=len(rows.labels),
        users=users,
        mean_label=mean_label,
        mean_score=mean_score,
        intervals=_intervals(label.kind, rows, users) if users else {},
    )


def _intervals(kind: str, rows: Rows, users: int) -> dict[str, tuple[float, float]]:
    """95 % interval of every metric that has one.

    More than `MOST_USERS` users or `MOST_ROWS` rows are resampled in part, and the interval is narrowed to all: the
    error falls with the root of the number of users (Bickel, Götze and van Zwet, 1997, "Resampling fewer than n
    observations").
    """
    import numpy as np

    from mixrank.components.metrics import measure, reported
    from mixrank.pipeline.reports import draw_users, percentile_interval, resampled_metrics

    _, groups = np.unique(rows.groups, return_inverse=True)
    known = reported(kind, requests=rows.requests is not None)
    shift, shrink = {}, 1.0
    most = max(LEAST_USERS, min(MOST_USERS, users * MOST_ROWS // len(groups)))
    if users > most:
        chosen = np.zeros(users, bool)
        chosen[np.random.default_rng(0).permutation(users)[:most]] = True
        everything, inside = measure(rows, known), chosen[groups]
        rows = rows.take(inside)
        _, groups = np.unique(groups[inside], return_inverse=True)
        shrink, part = (most / users) ** 0.5, measure(rows, known)
        shift = {name: value - shrink * part[name] for name, value in everything.items()}
    samples = resampled_metrics(kind, replace(rows, groups=groups), draw_users(min(users, most)))
    found = {}
    for name, values in samples.items():
        low, high = (shift.get(name, 0.0) + shrink * end for end in percentile_interval(values))
        if np.isfinite(low) and np.isfinite(high):
            found[name] = (float(low), float(high))
    return found
