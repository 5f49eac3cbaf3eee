"""Plots of a report, drawn by Vega-Lite into SVG so that the page needs no network and no script."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from mixrank.components.metrics import headlines, mean, primary, weights_in
from mixrank.pipeline.reports.pages import BASELINE_COLOUR, GRID, MUTED, RUN_COLOURS, altair, svg
from mixrank.pipeline.reports.run_folder import RunFolder, kinds_of

if TYPE_CHECKING:
    from mixrank.pipeline.reports.against_last_pushed import SliceScores

BASELINE = "baseline"
BINS = 15


def primary_by_scenario(runs: Sequence[RunFolder], scores: Sequence[list[SliceScores]]) -> Markup:
    """The primary metric with intervals of every judged scenario, one panel per task."""
    points, kinds = [], kinds_of(runs)
    titles = {task: primary(kind).title for task, kind in kinds.items()}
    one = len(set(titles.values())) == 1
    title = next(iter(titles.values())) if one else "metric"
    for run, rows in zip(runs, scores, strict=True):
        for row in rows:
            for name, estimates in ((run.name, row.model), (BASELINE, row.baseline if run is runs[0] else {})):
                if estimates:
                    panel = row.task if one else f"{titles[row.task]} of {row.task}"
                    points.append({"task": panel, "slice": row.title, "rows": row.rows, "model": name}
                                  | estimates[primary(kinds[row.task]).name].__dict__)  # fmt: skip
    frame = pd.DataFrame(points)
    order = list(dict.fromkeys(frame.sort_values("rows", ascending=False)["slice"]))
    names = _names(runs, BASELINE in set(frame["model"]))
    alt = altair()
    base = alt.Chart(frame).encode(
        y=alt.Y("slice:N", sort=order, title=None),
        yOffset=alt.YOffset("model:N", sort=names),
        color=_colours(names),
    )
    scale = alt.Scale(zero=False, nice=True)
    ranges = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", scale=scale, title=f"{title}, 95 % interval", axis=alt.Axis(tickCount=7)), x2="high:Q"
    )
    dots = base.mark_point(filled=True, size=55, opacity=1).encode(x=alt.X("value:Q", scale=scale))
    return svg(
        (ranges + dots)
        .properties(width=480, height=alt.Step(max(11, 24 // len(names))))
        .facet(alt.Facet("task:N", title=None))
        .resolve_scale(x="shared" if one else "independent"),
        f"{title} by scenario",
    )


def calibration_curve(runs: Sequence[RunFolder], tasks: Collection[str]) -> Markup:
    """Mean prediction against observed rate in bins of equal size; the diagonal is right."""
    return _square(_means(runs, tasks), "predicted", "observed", "mean prediction", "observed rate",
                   "Calibration curve", points=True)  # fmt: skip


def mean_by_prediction(runs: Sequence[RunFolder], tasks: Collection[str]) -> Markup:
    """Mean prediction against mean label in bins of equal size; the diagonal is right."""
    frame, alt = _means(runs, tasks), altair()
    names = sorted(dict.fromkeys(frame["model"]), key=lambda name: name == BASELINE)
    panels = []
    # Every task has a unit of its own.
    for task, own in frame.groupby("task", sort=False):
        values = own[["predicted", "observed"]].to_numpy()
        ends = [min(0.0, float(values.min())), 1.05 * float(values.max())]
        scale = alt.Scale(domain=ends, nice=False)
        lines = alt.Chart(own, title=str(task)).mark_line(strokeWidth=2, point={"size": 28})
        lines = lines.encode(
            x=alt.X("predicted:Q", scale=scale, title="mean prediction", axis=alt.Axis(tickCount=5)),
            y=alt.Y("observed:Q", scale=scale, title="mean label", axis=alt.Axis(tickCount=5)),
            color=_colours(names),
        )
        diagonal = alt.Chart(pd.DataFrame({"x": ends, "y": ends})).mark_line(color=MUTED, strokeDash=[4, 4])
        panels.append((diagonal.encode(x="x:Q", y="y:Q") + lines).properties(width=250, height=250))
    return svg(alt.hconcat(*panels), "Predicted and actual")


def _means(runs: Sequence[RunFolder], tasks: Collection[str]) -> pd.DataFrame:
    points = []
    for run, task, labels, predictions, weights in _columns(runs, tasks):
        order = np.argsort(predictions, kind="stable")
        for part in np.array_split(order, min(BINS, len(order))):
            points.append({"model": run, "task": task, "predicted": mean(predictions[part], weights[part]),
                           "observed": mean(labels[part], weights[part])})  # fmt: skip
    return pd.DataFrame(points)


def roc(runs: Sequence[RunFolder], tasks: Collection[str]) -> Markup:
    """True against false positive rate."""
    points = []
    for run, task, labels, scores, weights in _columns(runs, tasks):
        order = np.argsort(-scores, kind="stable")
        last_of_tie = np.append(np.diff(scores[order]) != 0, True)
        passed = [np.append(0, np.cumsum((weights * each)[order])[last_of_tie]) for each in (labels, 1 - labels)]
        hits, alarms = (each / each[-1] if each[-1] else each for each in passed)
        for x in np.linspace(0, 1, 101):
            points.append({"model": run, "task": task, "x": x, "y": np.interp(x, alarms, hits)})
    return _square(pd.DataFrame(points), "x", "y", "false positive rate", "true positive rate", "ROC curve")


def score_distribution(runs: Sequence[RunFolder], tasks: Collection[str]) -> Markup:
    """Share of positive and negative rows per bin of the predicted probability, one row of panels per run."""
    points = []
    edges = np.linspace(0, 1, 41)
    for run, task, labels, probabilities, weights in _columns(runs, tasks, with_baseline=False):
        for value, title in ((0, "label 0"), (1, "label 1")):
            own = labels == value
            mass = np.histogram(probabilities[own], edges, weights=weights[own])[0]
            share = mass / mass.sum() if mass.sum() else mass
            points += [
                {"model": run, "task": task, "label": title, "probability": (low + high) / 2, "share": part}
                for low, high, part in zip(edges[:-1], edges[1:], share, strict=True)
            ]
    alt = altair()
    chart = alt.Chart(pd.DataFrame(points)).mark_area(opacity=0.45, interpolate="step", line={"strokeWidth": 1.5})
    chart = chart.encode(
        x=alt.X("probability:Q", title="predicted probability"),
        y=alt.Y("share:Q", stack=None, axis=alt.Axis(format="%"), title="share of rows"),
        color=alt.Color("label:N", scale=alt.Scale(range=["#9aa3ad", "#2f6db3"]), title=None),
    ).properties(width=470, height=190)
    layout = {"column": alt.Column("task:N", title=None)}
    if len(runs) > 1:
        layout["row"] = alt.Row("model:N", title=None, sort=[run.name for run in runs])
    return svg(chart.facet(**layout), "Distribution of scores by label")


def training_curves(runs: Sequence[RunFolder]) -> Markup | None:
    """Training loss and validation metrics by samples trained on; None if no run logged its training."""
    points = []
    # The loss is already beside the training loss.
    shown = {
        "loss",
        *(metric.name for metric in headlines(*kinds_of(runs).values(), requests=True) if metric.name != "log_loss"),
    }
    for run in runs:
        for point in (point for entry in run.training for point in entry["curve"]):
            valid = {k: v for k, v in point["valid"].items() if k.rpartition(".")[2] in shown}
            values = {"training loss": point["loss"], **{f"validation {k}": v for k, v in valid.items()}}
            for metric, value in values.items():
                if math.isfinite(value):
                    points.append({"model": run.name, "samples": point["samples"], "metric": metric, "value": value})
    if not points:
        return None
    frame = pd.DataFrame(points)
    names = _names(runs, False)
    alt = altair()
    chart = alt.Chart(frame).mark_line(point={"size": 28}, strokeWidth=2)
    chart = chart.encode(
        x=alt.X("samples:Q", title="samples", axis=alt.Axis(tickCount=5, format="~s")),
        y=alt.Y("value:Q", scale=alt.Scale(zero=False), title=None),
        color=_colours(names),
    ).properties(width=300, height=160)
    metrics = list(dict.fromkeys(frame["metric"]))
    chart = chart.facet(alt.Facet("metric:N", sort=metrics, title=None), columns=3).resolve_scale(y="independent")
    return svg(chart, "Training curves")


def grouping(found: dict[str, Any]) -> Markup:
    """Weight of every feature in every token of a learned grouping.

    Args:
        found: fields and weights (tokens, fields), as in a model's insights.
    """
    rows = {str(token + 1): row for token, row in enumerate(found["weights"])}
    return _heat_map(rows, found["fields"], "token", "weight", "Features of every token")


def attention(found: dict[str, Any]) -> Markup:
    """Relative entropy of every query's attention.

    Args:
        found: columns and rows, as `attention` in a model's insights.
    """
    rows = {row["name"]: row["weights"] for row in found["rows"]}
    return _heat_map(rows, found["columns"], "query", "entropy", "Entropy of the attention", highest=1.0)


def _heat_map(
    rows: Mapping[str, Sequence[float | None]],
    columns: Sequence[str],
    of_row: str,
    value: str,
    title: str,
    highest: float | None = None,
) -> Markup:
    """One square per row and column, the darker the larger its value; white is 0, and None has no square."""
    points = [
        {"column": column, "row": name, "value": number}
        for name, row in rows.items()
        for column, number in zip(columns, row, strict=True)
        if number is not None
    ]
    alt = altair()
    scale = alt.Scale(range=["#ffffff", RUN_COLOURS[0]], domainMin=0)
    if highest is not None:
        scale = alt.Scale(range=["#ffffff", RUN_COLOURS[0]], domain=[0, highest])
    chart = alt.Chart(pd.DataFrame(points)).mark_rect(stroke=GRID, strokeWidth=0.5)
    chart = chart.encode(
        x=alt.X("column:N", sort=None, title=None, axis=alt.Axis(labelAngle=-60)),
        y=alt.Y("row:O", sort=None, title=of_row),
        color=alt.Color("value:Q", scale=scale, legend=alt.Legend(title=value, orient="right")),
    ).properties(width=alt.Step(18), height=alt.Step(18))
    return svg(chart, title)


def _columns(
    runs: Sequence[RunFolder], tasks: Collection[str], with_baseline: bool = True
) -> list[tuple[str, str, Any, Any, Any]]:
    """(model, task, labels, scores, weights of the rows) of every run, and of the first run's baseline."""
    found = []
    for run in runs:
        frames = [(run.name, run.predictions)]
        if with_baseline and run is runs[0] and run.baseline is not None:
            frames.append((BASELINE, run.baseline))
        for task in (task for task in run.tasks if task in tasks):
            labels = run.predictions[f"label_{task}"].to_numpy()
            known, weights = ~np.isnan(labels), weights_in(run.predictions, task)
            weights = np.ones(len(labels)) if weights is None else weights
            found += [
                (name, task, labels[known], frame[f"score_{task}"].to_numpy(np.float64)[known], weights[known])
                for name, frame in frames
            ]
    return found


def _square(
    frame: pd.DataFrame, x: str, y: str, x_title: str, y_title: str, title: str, points: bool = False
) -> Markup:
    alt = altair()
    names = sorted(dict.fromkeys(frame["model"]), key=lambda name: name == BASELINE)
    limit = 1.0 if not points else min(1.0, 1.05 * float(frame[[x, y]].to_numpy().max()))
    scale = alt.Scale(domain=[0, limit], nice=False)
    lines = alt.Chart(frame).mark_line(strokeWidth=2, point={"size": 28} if points else False)
    lines = lines.encode(
        x=alt.X(f"{x}:Q", scale=scale, title=x_title, axis=alt.Axis(tickCount=5)),
        y=alt.Y(f"{y}:Q", scale=scale, title=y_title, axis=alt.Axis(tickCount=5)),
        color=_colours(names),
    )
    diagonal = alt.Chart(frame).transform_aggregate(n="count()", groupby=["task"])
    diagonal = diagonal.mark_rule(color=MUTED, strokeDash=[4, 4], strokeWidth=1).encode(
        x=alt.datum(0), y=alt.datum(0), x2=alt.datum(limit), y2=alt.datum(limit)
    )
    return svg((diagonal + lines).properties(width=250, height=250).facet(alt.Facet("task:N", title=None)), title)


def _names(runs: Sequence[RunFolder], with_baseline: bool) -> list[str]:
    return [run.name for run in runs] + ([BASELINE] if with_baseline else [])


def _colours(names: list[str]) -> Any:
    alt = altair()
    coloured = [
        BASELINE_COLOUR if name == BASELINE else RUN_COLOURS[i % len(RUN_COLOURS)] for i, name in enumerate(names)
    ]
    legend = alt.Legend(title=None, orient="top") if len(names) > 1 else None
    return alt.Color("model:N", scale=alt.Scale(domain=names, range=coloured), sort=names, legend=legend)
