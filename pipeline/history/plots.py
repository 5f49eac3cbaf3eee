"""Plots over days, drawn as those of a run's report are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from markupsafe import Markup

from mixrank.components.metrics import Metric
from mixrank.pipeline.advancing import DayRecord
from mixrank.pipeline.history.day_changes import estimate, mean_of, unknown_of, unknown_shares
from mixrank.pipeline.reports import RUN_COLOURS, altair, svg

MEANS: tuple[Literal["label"], Literal["score"]] = ("label", "score")
TAKEN, HELD = "taken", "held back"
WIDTH, HEIGHT = 420, 150
MOST_LABELS = 8
# Features with the largest share of unknown values.
MOST_FEATURES = 6


def metric_over_days(records: Sequence[DayRecord], task: str, metric: Metric) -> Markup | None:
    """A metric of every day with its interval; None if no day has it."""
    points = []
    for record in records:
        found = estimate(record, task, metric.name)
        if not math.isnan(found.value):
            ends = {} if math.isnan(found.low) else {"low": found.low, "high": found.high}
            points.append({"day": record.day, "value": found.value, "is": HELD if record.held else TAKEN, **ends})
    if not points:
        return None
    alt = altair()
    base = alt.Chart(alt.Data(values=points)).encode(x=_days(alt, records))
    scale = alt.Scale(zero=False, nice=True)
    y = alt.Y("value:Q", scale=scale, title=metric.heading + (f", {metric.unit}" if metric.unit else ""))
    layers = [base.mark_line(color=RUN_COLOURS[0], opacity=0.4).encode(y=y)]
    if any("low" in point for point in points):
        ranges = base.transform_filter("isValid(datum.low)").mark_rule(color=RUN_COLOURS[0], strokeWidth=2)
        layers.append(ranges.encode(y=alt.Y("low:Q", scale=scale), y2="high:Q"))
    layers.append(base.mark_point(filled=True, size=45, opacity=1).encode(y=y, color=_outcome(alt, points)))
    chart = alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)
    return svg(chart, f"{metric.title} of {task} by day")


def means_over_days(records: Sequence[DayRecord], task: str) -> Markup | None:
    """Mean label and mean score of every day; None if no day was scored."""
    points = [
        {"day": record.day, "mean": column, "value": value}
        for record in records
        for column in MEANS
        if (value := mean_of(record, task, column)) is not None
    ]
    if not points:
        return None
    return _lines(
        records, points, "mean", list(MEANS), f"mean of {task}", f"Mean label and mean score of {task} by day"
    )


def rows_over_days(records: Sequence[DayRecord]) -> Markup:
    """Rows of every day."""
    points = [{"day": each.day, "rows": each.rows, "is": HELD if each.held else TAKEN} for each in records]
    alt = altair()
    chart = alt.Chart(alt.Data(values=points)).mark_bar()
    chart = chart.encode(
        x=_days(alt, records), y=alt.Y("rows:Q", title="rows", axis=alt.Axis(tickCount=5)), color=_outcome(alt, points)
    )
    return svg(chart.properties(width=WIDTH, height=HEIGHT), "Rows by day")


def seconds_over_days(records: Sequence[DayRecord]) -> Markup | None:
    """Seconds of every step of every day; None if no step took any."""
    points = [
        {"day": record.day, "step": step, "seconds": seconds, "order": order}
        for record in records
        for order, (step, seconds) in enumerate(record.seconds.items())
        if seconds
    ]
    if not points:
        return None
    alt = altair()
    steps = list(dict.fromkeys(step for record in records for step in record.seconds))
    chart = alt.Chart(alt.Data(values=points)).mark_bar()
    chart = chart.encode(
        x=_days(alt, records),
        y=alt.Y("seconds:Q", title="seconds", axis=alt.Axis(tickCount=5)),
        color=alt.Color(
            "step:N",
            scale=alt.Scale(domain=steps, scheme="tableau10"),
            sort=steps,
            legend=alt.Legend(title=None, columns=4),
        ),
        order=alt.Order("order:Q"),
    )
    return svg(chart.properties(width=WIDTH, height=HEIGHT), "Seconds of every step by day")


def unknown_over_days(records: Sequence[DayRecord]) -> Markup | None:
    """Share of values that the vocabulary does not hold, of the features that have most; None if none has any."""
    names = list(unknown_shares(records))[:MOST_FEATURES]
    points = [
        {"day": record.day, "feature": name, "value": share}
        for record in records
        for name in names
        if (share := unknown_of(record, name)) is not None
    ]
    if not points:
        return None
    return _lines(records, points, "feature", names, "unknown values", "Unknown values by day", format="%")


def _lines(
    records: Sequence[DayRecord],
    points: list[dict[str, Any]],
    field: str,
    names: list[str],
    title: str,
    alternative: str,
    **axis: Any,
) -> Markup:
    alt = altair()
    scale = alt.Scale(domain=names, range=list(RUN_COLOURS[: len(names)]))
    chart = alt.Chart(alt.Data(values=points)).mark_line(strokeWidth=2, point={"size": 40})
    chart = chart.encode(
        x=_days(alt, records),
        y=alt.Y("value:Q", scale=alt.Scale(zero=False), title=title, axis=alt.Axis(tickCount=5, **axis)),
        color=alt.Color(f"{field}:N", scale=scale, sort=names, legend=alt.Legend(title=None, columns=3)),
    )
    return svg(chart.properties(width=WIDTH, height=HEIGHT), alternative)


def _days(alt: Any, records: Sequence[DayRecord]) -> Any:
    """The axis of days: one band for each, and not more labels than fit."""
    days = [record.day for record in records]
    every = -(-len(days) // MOST_LABELS)
    axis = alt.Axis(values=days[::every], labelAngle=0, labelExpr="slice(datum.value, 5)")
    return alt.X("day:O", sort=None, scale=alt.Scale(domain=days), axis=axis, title=None)


def _outcome(alt: Any, points: Sequence[dict[str, Any]]) -> Any:
    """Colour of a day; a legend where one was held back."""
    legend = alt.Legend(title=None) if any(point["is"] == HELD for point in points) else None
    scale = alt.Scale(domain=[TAKEN, HELD], range=[RUN_COLOURS[0], RUN_COLOURS[4]])
    return alt.Color("is:N", scale=scale, legend=legend)
