"""A check as an HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from mixrank.pipeline.checking import text_report
from mixrank.pipeline.checking.log_check import LogCheck
from mixrank.pipeline.reports import RUN_COLOURS, altair, fill, svg
from mixrank.schemas import SPLITS, FeatureSpec
from mixrank.schemas.files import write_text_atomically

MOST_BARS = 30


def write_check_page(check: LogCheck, spec: FeatureSpec, file: Path) -> None:
    """Writes the page, whole or not at all.

    Args:
        check: what was found.
        spec: of the log.
        file: HTML file.
    """
    values = {
        "check": check,
        "headline": text_report.headline(check),
        "outlook": text_report.outlook(check),
        "tables": [_cells(title, table) for title, table in text_report.tables(check, spec)],
        "plots": [plot for plot in (_days(check), _rates(check, spec), _distances(check), _missing(check)) if plot],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(file, fill("check.html", values))


def _cells(title: str, table: Any) -> dict[str, Any]:
    """Title, heads with their alignment, and rows of a table of the terminal."""
    return {
        "title": title,
        "heads": [(column.header, column.justify == "right") for column in table.columns],
        "rows": list(zip(*(list(column.cells) for column in table.columns), strict=True)),
    }


def _days(check: LogCheck) -> Markup | None:
    points = [
        {"day": day, "split": split, "rows": rows} for day, own in check.days.items() for split, rows in own.items()
    ]
    if not points:
        return None
    alt = altair()
    chart = alt.Chart(alt.Data(values=points)).mark_bar()
    chart = chart.encode(
        x=alt.X("utcyearmonthdate(day):T", axis=alt.Axis(format="%b %d"), title=None),
        y=alt.Y("rows:Q", title="rows"),
        color=_colours(alt, "split", list(check.splits)),
    )
    return svg(chart.properties(width=900, height=180), "Rows by day and split")


def _rates(check: LogCheck, spec: FeatureSpec) -> Markup | None:
    points = [
        {"label": label.name, "split": split, "scenario": scenario, "rate": found.positives / found.rows}
        for label in spec.labels
        for split, scenarios in check.figures.labels.get(label.name, {}).items()
        for scenario, found in scenarios.items()
        if found.rows
    ]
    if not points:
        return None
    alt = altair()
    chart = alt.Chart(alt.Data(values=points)).mark_point(filled=True, size=55, opacity=1)
    chart = chart.encode(
        x=alt.X("rate:Q", axis=alt.Axis(format="%"), title="rows with the label"),
        y=alt.Y("scenario:N", title=None, sort=list(text_report.scenario_rates(check, spec))),
        color=_colours(alt, "split", list(check.splits)),
    ).properties(width=380, height=alt.Step(18))
    return svg(chart.facet(alt.Facet("label:N", title=None), columns=2), "Label rates by scenario and split")


def _distances(check: LogCheck) -> Markup | None:
    points = [{"feature": d.feature, "split": d.split, "distance": d.distance} for d in check.drift[:MOST_BARS]]
    if not points:
        return None
    alt = altair()
    chart = alt.Chart(alt.Data(values=points)).mark_point(filled=True, size=55, opacity=1)
    chart = chart.encode(
        x=alt.X("distance:Q", title="distance from train"),
        y=alt.Y("feature:N", title=None, sort=list(dict.fromkeys(d.feature for d in check.drift))),
        color=_colours(alt, "split", list(check.splits)),
    )
    return svg(chart.properties(width=560, height=alt.Step(16)), "Drift of features from the training rows")


def _missing(check: LogCheck) -> Markup | None:
    shares = [
        (column.missing / column.rows, f"{column.table}: {column.column}") for column in check.columns if column.missing
    ]
    if not shares:
        return None
    points = [{"column": name, "missing": share} for share, name in sorted(shares, reverse=True)[:MOST_BARS]]
    alt = altair()
    chart = alt.Chart(alt.Data(values=points)).mark_bar(color=RUN_COLOURS[0])
    chart = chart.encode(
        x=alt.X("missing:Q", axis=alt.Axis(format="%"), title="rows without a value"),
        y=alt.Y("column:N", title=None, sort="-x"),
    )
    return svg(chart.properties(width=560, height=alt.Step(16)), "Missing values")


def _colours(alt: Any, field: str, names: list[str]) -> Any:
    colours = dict(zip(SPLITS, RUN_COLOURS, strict=False))
    scale = alt.Scale(domain=names, range=[colours[name] for name in names])
    return alt.Color(f"{field}:N", scale=scale, sort=names, legend=alt.Legend(title=None))
