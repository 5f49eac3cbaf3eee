"""Days as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mixrank.pipeline.advancing import DayRecord
from mixrank.pipeline.history.versions_served import Served, version_of

if TYPE_CHECKING:
    from rich.table import Table

    from mixrank.schemas import FeatureSpec


def days_table(records: Sequence[DayRecord], spec: FeatureSpec, served: Served | None = None) -> Table:
    """The days, newest last, with what the model before each had on it.

    Args:
        records: at least one day, ascending.
        spec: columns of a row.
        served: what servers load, or None to leave it out.
    """
    from rich.table import Table

    from mixrank.pipeline.history.day_changes import estimate, shown_metrics
    from mixrank.pipeline.reports import number

    metrics = [
        (task, metric) for task, of_task in shown_metrics(spec, records).items() for metric in of_task
        if metric.higher_is_better is not None
    ]  # fmt: skip
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("day", no_wrap=True)
    for name in ("rows", *(f"{task} {metric.narrow_heading}" for task, metric in metrics), "seconds"):
        table.add_column(name, justify="right")
    for name in ("pushed", *(["served"] if served else [])):
        table.add_column(name)
    for record in records:
        values = [number(estimate(record, task, metric.name).value) for task, metric in metrics]
        pushed = "held back" if record.held else version_of(record.pushed or "-")
        places = [served.of(record.pushed)] if served else []
        table.add_row(record.day, f"{record.rows:,}", *values, f"{sum(record.seconds.values()):.0f}", pushed, *places)
    return table
