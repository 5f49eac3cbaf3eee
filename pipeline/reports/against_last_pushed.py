"""The numbers of a report: every metric per task and scenario, with intervals, beside the baseline and TFMA."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mixrank.components.judging import Slice
from mixrank.components.metrics import Rows, answers_in, measure, reported, weights_in
from mixrank.pipeline.reports.intervals import draw_users, percentile_interval, resampled_metrics
from mixrank.pipeline.reports.run_folder import RunFolder
from mixrank.pipeline.reports.slices import slices_of
from mixrank.pipeline.reports.task_kinds import TASK_REPORTS
from mixrank.schemas import Label
from mixrank.serving.base import differences

OVERALL = "overall"
# With fewer rows an interval is wider than any difference between models.
MIN_ROWS = 100
TFMA_TOLERANCE = 1e-3
RESAMPLES = 200


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class SliceScores:
    """All numbers of one task in one slice of the evaluation rows.

    Attributes:
        task: task name.
        slice: "overall" or the raw scenario value as text.
        title: what to call the slice.
        rows, positives, users: counts.
        model: metric -> estimate; empty if the slice is not judged.
        baseline: the same for the additive baseline; empty if there is none.
        trees: the same for boosted trees.
        difference: metric -> model minus baseline, from paired resamples.
        relative: metric -> relative improvement over the baseline (HeMix, Eq. 25), of the metrics that have one.
        why: why the slice is not judged, or why it has no GAUC.
    """

    task: str
    slice: str
    title: str
    rows: int
    positives: int
    users: int
    model: dict[str, Estimate] = field(default_factory=dict)
    baseline: dict[str, Estimate] = field(default_factory=dict)
    difference: dict[str, Estimate] = field(default_factory=dict)
    relative: dict[str, float] = field(default_factory=dict)
    why: str = ""
    trees: dict[str, Estimate] = field(default_factory=dict)


def compare(run: RunFolder, *, resamples: int = RESAMPLES, seed: int = 0) -> list[SliceScores]:
    """Judges a run on its predictions: per task, all rows together and then every scenario by falling size.

    Args:
        run: the run.
        resamples: int >= 0. Bootstrap resamples of users behind every interval; 0 for no intervals.
        seed: of the bootstrap; equal seeds give equal reports.
    """
    frame = run.predictions
    scenario = frame[run.scenario].to_numpy()
    sizes = frame[run.scenario].value_counts()
    names = {**run.scenario_labels, **{value: value for value in sizes.index if value not in run.scenario_labels}}
    slices = [(OVERALL, "all rows", scenario != "")]
    slices += [
        (value, names[value], scenario == value)
        for value in sorted(names, key=lambda value: (-sizes.get(value, 0), value))
    ]
    return _judged(run, slices, resamples, seed)


def compare_slices(
    run: RunFolder, slices: Sequence[Slice], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, list[SliceScores]]:
    """Judges a run on the slices by each of some columns, as `compare` judges its scenarios.

    Args:
        run, resamples, seed: as in `compare`.
        slices: as in `slices_of`.
    """
    found = slices_of(run, slices) if slices else {}
    return {
        name: _judged(run, [(part.title, part.title, part.inside) for part in parts], resamples, seed)
        for name, parts in found.items()
    }


def _judged(
    run: RunFolder, slices: Sequence[tuple[str, str, NDArray[np.bool_]]], resamples: int, seed: int
) -> list[SliceScores]:
    """Every task on every slice: its value, its title, and whether each row is inside."""
    frame, spec = run.predictions, run.record.spec
    _, users = np.unique(frame[run.keys[0]].to_numpy(), return_inverse=True)
    drawn = draw_users(int(users.max()) + 1, resamples=resamples, seed=seed)
    requests = None if spec.request is None else frame[spec.request.name].to_numpy()
    found = []
    for task in spec.labels:
        labels, weights = frame[f"label_{task.name}"].to_numpy(), weights_in(frame, task.name)
        frames = [frame, *(each for each in (run.baseline, run.trees) if each is not None)]
        columns = [answers_in(each, task).astype(np.float64) for each in frames]
        for value, title, inside in slices:
            if value == OVERALL and task.given is not None:
                title = f"given {task.given}"
            counted = np.flatnonzero(inside & ~np.isnan(labels))
            rows = [
                Rows.of_answers(labels, column, users, task.classes, requests=requests, weights=weights).take(counted)
                for column in columns
            ]
            found.append(_judge(task, value, title, rows, drawn))
    return found


def disagreements(run: RunFolder, scores: list[SliceScores]) -> list[tuple[SliceScores, str, float, float]]:
    """(slice, metric, exact value, TFMA's value) wherever the two differ by more than `TFMA_TOLERANCE`.

    A slice that TFMA does not have is left out: it keeps unknown scenarios apart, which predictions pool.
    """
    found = []
    for row in scores:
        for metric, estimate in row.model.items():
            theirs = run.tfma.get((row.task, row.slice, metric), estimate.value)
            if not math.isnan(estimate.value) and not differences(theirs, estimate.value) <= TFMA_TOLERANCE:
                found.append((row, metric, estimate.value, theirs))
    return found


def _judge(task: Label, value: str, title: str, columns: list[Rows], drawn: NDArray[np.int32]) -> SliceScores:
    """Judges a slice by its rows with the scores of the model, and of the baselines where there are any."""
    labels = columns[0].labels
    rows, positives = len(labels), int((labels > 0).sum())
    counts = (task.name, value, title, rows, positives, len(np.unique(columns[0].groups)))
    if rows < MIN_ROWS:
        return SliceScores(*counts, why=f"only {rows} rows" if rows else "no rows")
    if unjudged := TASK_REPORTS[task.kind].unjudged(labels):
        return SliceScores(*counts, why=unjudged)
    exact = [exact_metrics(task.kind, column) for column in columns]
    samples = [resampled_metrics(task.kind, column, drawn) for column in columns]
    none = np.full(len(drawn), np.nan)
    estimates = [
        {metric: Estimate(value, *percentile_interval(sample.get(metric, none))) for metric, value in values.items()}
        for values, sample in zip(exact, samples, strict=True)
    ]
    why = "no GAUC: no user has both outcomes" if math.isnan(exact[0].get("gauc", 0.0)) else ""
    if len(columns) == 1:
        return SliceScores(*counts, model=estimates[0], why=why)
    difference = {
        metric: Estimate(
            value - exact[1][metric],
            *percentile_interval(samples[0].get(metric, none) - samples[1].get(metric, none)),
        )
        for metric, value in exact[0].items()
    }
    relative = {
        metric.name: metric.relative(exact[0][metric.name], exact[1][metric.name])
        for metric in reported(task.kind, requests=columns[0].requests is not None)
        if metric.relative
    }
    trees = estimates[2] if len(estimates) > 2 else {}
    return SliceScores(*counts, estimates[0], estimates[1], difference, relative, why, trees)


def exact_metrics(kind: str, rows: Rows) -> dict[str, float]:
    """Metric -> value of a page's metrics of a kind of task; the groups of the rows are users."""
    return measure(rows, reported(kind, requests=rows.requests is not None))
