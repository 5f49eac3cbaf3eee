"""Numbers of a comparison table: means, spreads, improvements, tests and slopes over finished trainings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mixrank.components.metrics import Metric, find_metric, headlines
from mixrank.pipeline.comparing.significance import Slope, holm, paired_t_test, slope, t_test
from mixrank.pipeline.comparing.trial_plan import Trial
from mixrank.pipeline.config import Budget, Table
from mixrank.pipeline.reports import OVERALL
from mixrank.schemas.task_kinds import LABEL_KINDS


@dataclass(frozen=True)
class Spread:
    """A metric over the seeds: mean and sample standard deviation (NaN of one seed), and the values."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float:
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else math.nan


@dataclass
class Row:
    """One variant at one budget.

    Attributes:
        name: of the variant.
        budget: it was scaled to, or None.
        trained: the seeds that are done, in the order of the metrics' values.
        wanted: how many trainings there should be.
        metrics: (task, slice, metric) -> spread over the seeds.
        relative: task -> relative improvement of the mean of the primary metric over the reference's (HeMix, Eq. 25).
        p_value: task -> p of the primary metric against the best other variant with several seeds of the same budget,
            or against the reference, as the table says; not adjusted.
        adjusted: the same by Holm's method, over all variants and tasks of the budget.
        paired: task -> p of the same comparison, seed by seed, not adjusted.
        result: what one of the trainings said of its size.
        costs: speed, or empty before it is measured.
        peak_mb: largest memory of a training process.
        codes: fingerprints of the code that trained.
    """

    name: str
    budget: Budget
    trained: tuple[int, ...]
    wanted: int
    metrics: dict[tuple[str, str, str], Spread]
    result: dict[str, Any]
    costs: dict[str, Any]
    peak_mb: float
    codes: set[str]
    relative: dict[str, float] = field(default_factory=dict)
    p_value: dict[str, float] = field(default_factory=dict)
    adjusted: dict[str, float] = field(default_factory=dict)
    paired: dict[str, float] = field(default_factory=dict)

    @property
    def seeds(self) -> tuple[int, int]:
        """Trainings that are done, and how many there should be."""
        return len(self.trained), self.wanted

    def by_seed(self, key: tuple[str, str, str]) -> dict[int, float]:
        """Seed -> a metric."""
        return dict(zip(self.trained, self.metrics[key].values, strict=True))


@dataclass(frozen=True)
class Results:
    """A table with its numbers.

    Attributes:
        table: what was compared.
        parts: budget -> its rows, those without a finished training left out.
        missing: titles of trainings that are not done.
        slopes: (variant, task, metric) -> change per tenfold size.
    """

    table: Table
    parts: dict[Budget, list[Row]]
    missing: list[str]
    slopes: dict[tuple[str, str, str], Slope]

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(task for rows in self.parts.values() for row in rows for task, _, _ in row.metrics))

    @property
    def codes(self) -> set[str]:
        """Fingerprints of the code that trained the table; the report notes more than one."""
        return {code for rows in self.parts.values() for row in rows for code in row.codes}


def collect(table: Table, trials: Sequence[Trial]) -> Results:
    """Reads what is done of a table's trainings."""
    parts: dict[Budget, list[Row]] = {}
    for budget in table.budgets:
        rows = []
        for variant in table.variants:
            own = [trial for trial in trials if (trial.variant, trial.budget) == (variant.name, budget)]
            if done := [(trial, result) for trial in own if (result := trial.result)]:
                rows.append(_row(variant.name, budget, len(own), done))
        _judge(rows, table)
        parts[budget] = rows
    missing = [trial.title for trial in trials if trial.result is None]
    return Results(table, parts, missing, _slopes(parts) if table.scaling else {})


def _row(name: str, budget: Budget, wanted: int, done: Sequence[tuple[Trial, dict[str, Any]]]) -> Row:
    results = [result for _, result in done]
    first = results[0]["metrics"]
    # A training from before a metric was added lacks it.
    metrics = {
        (task, part, metric): Spread(tuple(result["metrics"][task][part][metric] for result in results))
        for task, slices in first.items()
        for part, values in slices.items()
        for metric in values
        if all(metric in result["metrics"][task][part] for result in results)
    }
    return Row(
        name=name,
        budget=budget,
        trained=tuple(trial.seed for trial, _ in done),
        wanted=wanted,
        metrics=metrics,
        result=results[0],
        costs=done[0][0].costs or {},
        peak_mb=max(result["peak_mb"] for result in results),
        codes={result["code"] for result in results},
    )


def _judge(rows: list[Row], table: Table) -> None:
    """Adds what needs the other rows of a part: improvements and tests, by AUC over all rows."""
    base = next((row for row in rows if row.name == table.reference), None)
    standards = [row for row in rows if row is base or table.tested == "best"]
    tasks = list(dict.fromkeys(task for row in rows for task, _, _ in row.metrics))
    tests: list[tuple[Row, str]] = []
    for task in tasks:
        metric = judged_by(rows, task)
        key = (task, OVERALL, metric.name)
        for row in rows:
            if base is not None and (relative := metric.relative):
                row.relative[task] = relative(row.metrics[key].mean, base.metrics[key].mean)
            # A variant with one training cannot be tested, however good it is.
            if others := [other for other in standards if other is not row and other.seeds[0] > 1]:
                best = max(others, key=lambda other: other.metrics[key].mean)
                row.p_value[task] = t_test(row.metrics[key].values, best.metrics[key].values)
                row.paired[task] = paired_t_test(row.by_seed(key), best.by_seed(key))
                tests.append((row, task))
    for (row, task), adjusted in zip(tests, holm([row.p_value[task] for row, task in tests]), strict=True):
        row.adjusted[task] = adjusted


def judged_by(rows: Sequence[Row], task: str) -> Metric:
    """The metric by which a task is compared: the first headline metric of its kind."""
    known = {metric for row in rows for name, part, metric in row.metrics if name == task and part == OVERALL}
    return next(metric for metric in headlines(*LABEL_KINDS, requests=True) if metric.name in known)


def _slopes(parts: dict[Budget, list[Row]]) -> dict[tuple[str, str, str], Slope]:
    points: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for rows in parts.values():
        for row in rows:
            for (task, part, metric), spread in row.metrics.items():
                if part == OVERALL and find_metric(metric).relative:
                    found = points.setdefault((row.name, task, metric), [])
                    found += [(row.result["dense_parameters"], value) for value in spread.values]
    fitted = {}
    for key, pairs in points.items():
        sizes, values = zip(*pairs, strict=True)
        if len(values) >= 3 and len(set(sizes)) >= 2:
            fitted[key] = slope(sizes, values)
    return fitted
