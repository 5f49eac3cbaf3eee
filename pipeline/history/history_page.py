"""All days of a run as an HTML page that needs no network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from mixrank.components.metrics import Metric
from mixrank.pipeline.advancing import DayRecord
from mixrank.pipeline.history import plots
from mixrank.pipeline.history.day_changes import (
    USUAL_DAYS,
    against_usual,
    differences,
    estimate,
    mean_of,
    ratio_of_means,
    shown_metrics,
    unknown_of,
    unknown_shares,
)
from mixrank.pipeline.history.versions_served import Served, version_of
from mixrank.pipeline.reports import Estimate, fill, number, seconds, signed
from mixrank.schemas import FeatureSpec
from mixrank.schemas.files import write_text_atomically

# Days that a table shows at once; older ones are folded.
OPEN_DAYS = 31


class Days(NamedTuple):
    """A table of days.

    Attributes:
        heads: of the columns besides the day.
        rows: day and its cells, newest first.
    """

    heads: list[str]
    rows: list[tuple[str, list[Any]]]


class TaskDays(NamedTuple):
    """A task over all days.

    Attributes:
        name: of the task.
        metrics: those that are shown.
        table: value, and difference from the day before, of each metric.
        plots: one per metric.
        means: plot of mean label and mean score, or None.
        drift: mean label, mean score and calibration, each with its difference from the median of the days before.
    """

    name: str
    metrics: list[Metric]
    table: Days
    plots: list[Markup]
    means: Markup | None
    drift: Days


def write_history(name: str, records: Sequence[DayRecord], spec: FeatureSpec, served: Served, output: Path) -> None:
    """Writes the page, whole or not at all.

    Args:
        name: of the run.
        records: at least one day, ascending.
        spec: columns of a row.
        served: what servers load.
        output: HTML file.
    """
    values = {
        "name": name,
        "spec": spec,
        "days": list(reversed(records)),
        "served": served,
        "tasks": [_task(records, task, metrics) for task, metrics in shown_metrics(spec, records).items()],
        "vocabularies": _vocabularies(records),
        "cost": _cost(records),
        "unknown": _unknown(records),
        "unknown_plot": plots.unknown_over_days(records),
        "rows_plot": plots.rows_over_days(records),
        "seconds_plot": plots.seconds_over_days(records),
        "pushed_on": {version_of(each.pushed): each.day for each in records if each.pushed},
        "version_of": version_of,
        "usual_days": USUAL_DAYS,
        "open_days": OPEN_DAYS,
        "nan": math.isnan,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    filters = {each.__name__: each for each in (number, signed, seconds)}
    write_text_atomically(output, fill("history.html", values, filters))


def _task(records: Sequence[DayRecord], task: str, metrics: list[Metric]) -> TaskDays:
    columns: dict[str, Sequence[Estimate]] = {}
    for metric in metrics:
        values = [estimate(record, task, metric.name) for record in records]
        columns |= {metric.heading: values, f"Δ {metric.narrow_heading}": differences(values)}
    drawn = [plots.metric_over_days(records, task, metric) for metric in metrics]
    drift = {
        "Mean label": against_usual(records, lambda each: mean_of(each, task, "label")),
        "Mean score": against_usual(records, lambda each: mean_of(each, task, "score")),
        "Calibration": against_usual(records, lambda each: ratio_of_means(each, task)),
    }
    return TaskDays(
        name=task,
        metrics=metrics,
        table=_table(records, columns),
        plots=[plot for plot in drawn if plot is not None],
        means=plots.means_over_days(records, task),
        drift=_table(records, drift),
    )


def _unknown(records: Sequence[DayRecord]) -> Days:
    """Share of unknown values, and its difference from the days before, of every feature that has some; most first."""
    names = unknown_shares(records)
    return _table(records, {name: against_usual(records, partial(unknown_of, feature=name)) for name in names})


def _vocabularies(records: Sequence[DayRecord]) -> Days:
    """What became of every vocabulary that can grow, as the record of a day has it; None where it has nothing."""
    names = dict.fromkeys(name for record in records for name in record.vocabularies)
    return _table(records, {name: [record.vocabularies.get(name) for record in records] for name in names})


def _cost(records: Sequence[DayRecord]) -> Days:
    steps = dict.fromkeys(step for record in records for step in record.seconds)
    columns = {step: [record.seconds.get(step, math.nan) for record in records] for step in steps}
    return _table(records, {"all": [sum(record.seconds.values()) for record in records], **columns})


def _table(records: Sequence[DayRecord], columns: Mapping[str, Sequence[Any]]) -> Days:
    cells = [list(row) for row in zip(*columns.values(), strict=True)] if columns else [[] for _ in records]
    return Days(list(columns), [(record.day, row) for record, row in zip(records, cells, strict=True)][::-1])
