"""A day beside the days before it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Literal

from mixrank.components.metrics import Metric, reported
from mixrank.pipeline.advancing import DayRecord
from mixrank.pipeline.reports import Estimate
from mixrank.schemas import FeatureSpec

# A week, so that its weekdays even out.
USUAL_DAYS = 7


def shown_metrics(spec: FeatureSpec, records: Sequence[DayRecord]) -> dict[str, list[Metric]]:
    """Task -> headline metrics that any day has."""
    known = {(task, name) for record in records for task, found in record.metrics.items() for name in found}
    found = {
        label.name: [
            metric
            for metric in reported(label.kind, requests=spec.request is not None)
            if metric.headline and (label.name, metric.name) in known
        ]
        for label in spec.labels
    }
    return {task: metrics for task, metrics in found.items() if metrics}


def estimate(record: DayRecord, task: str, metric: str) -> Estimate:
    """A metric of a day; NaN where it has none."""
    value = record.metrics.get(task, {}).get(metric)
    scores = record.scores.tasks.get(task) if record.scores else None
    if value is None:
        return Estimate(math.nan)
    return Estimate(value, *(scores.intervals.get(metric, ()) if scores else ()))


def differences(days: Sequence[Estimate]) -> list[Estimate]:
    """Every day minus the last one before it that has a value; NaN for the first.

    The interval of a difference comes from those of the two days, taken as independent: the limits' squared distances
    add up (Zou and Donner, 2008, "Construction of confidence limits about effect measures", Eq. 9). The rows of two
    days are different ones; users who are in both make the true interval narrower.

    >>> change = differences([Estimate(0.70, 0.67, 0.73), Estimate(0.75, 0.71, 0.79)])[1]
    >>> round(change.value, 4), round(change.low, 4), round(change.high, 4)
    (0.05, 0.0, 0.1)
    """
    found, before = [], Estimate(math.nan)
    for day in days:
        change = day.value - before.value
        low = change - math.hypot(day.value - day.low, before.high - before.value)
        high = change + math.hypot(day.high - day.value, before.value - before.low)
        found.append(Estimate(change, low, high))
        if not math.isnan(day.value):
            before = day
    return found


def against_usual(
    records: Sequence[DayRecord], of_day: Callable[[DayRecord], float | None]
) -> list[tuple[float, float]]:
    """A quantity of every day, and its difference from the median of the days before; NaN where there is none.

    Args:
        records: days, ascending.
        of_day: day -> quantity; None where it has none.
    """
    found: list[tuple[float, float]] = []
    for record in records:
        value = of_day(record)
        value = math.nan if value is None else value
        usual = [each for each, _ in found[-USUAL_DAYS:] if not math.isnan(each)]
        found.append((value, value - statistics.median(usual) if usual else math.nan))
    return found


def mean_of(record: DayRecord, task: str, column: Literal["label", "score"]) -> float | None:
    """Mean label or score of a task's rows; None of a day that was not scored."""
    found = record.scores.tasks.get(task) if record.scores else None
    return getattr(found, f"mean_{column}") if found else None


def ratio_of_means(record: DayRecord, task: str) -> float | None:
    """Mean score over mean label: the calibration; None where the mean label is not positive."""
    label, score = mean_of(record, task, "label"), mean_of(record, task, "score")
    return None if score is None or label is None or label <= 0 else score / label


def unknown_of(record: DayRecord, feature: str) -> float | None:
    """Share of a feature's values that the vocabulary does not hold; None of a day that was not scored."""
    return record.scores.unknown.get(feature) if record.scores else None


def unknown_shares(records: Sequence[DayRecord]) -> dict[str, float]:
    """Feature with unknown values -> its largest share of a day; the largest first."""
    largest: dict[str, float] = {}
    for record in records:
        for name, share in (record.scores.unknown if record.scores else {}).items():
            largest[name] = max(share, largest.get(name, 0.0))
    return {name: share for name, share in sorted(largest.items(), key=lambda pair: -pair[1]) if share}
