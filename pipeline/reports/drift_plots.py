"""Plots of a drift report, drawn as those of a run's report are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from mixrank.pipeline.reports.plots import BASELINE_COLOUR, RUN_COLOURS, altair, svg
from mixrank.serving.drift import by_name, common, value_shares

SIDES = ("baseline", "new")
VALUES, BINS = 8, 40


def scores(baseline: pd.DataFrame, new: pd.DataFrame, tasks: Sequence[str]) -> Markup | None:
    """Share of rows per bin of every task's score; None if no task has scores on both sides."""
    points = []
    for task in tasks:
        column = f"score_{task}"
        if column in baseline and column in new:
            values = [side[column].dropna().to_numpy() for side in (baseline, new)]
            edges = np.linspace(0, max(1e-6, *(side.max(initial=0) for side in values)), BINS + 1)
            for side, part in zip(SIDES, values, strict=True):
                share = np.histogram(part, edges)[0] / max(1, len(part))
                points += [
                    {"task": task, "side": side, "score": middle, "share": value}
                    for middle, value in zip((edges[:-1] + edges[1:]) / 2, share, strict=True)
                ]
    if not points:
        return None
    alt = altair()
    chart = alt.Chart(pd.DataFrame(points)).mark_area(opacity=0.4, interpolate="step", line={"strokeWidth": 1.5})
    chart = chart.encode(
        x=alt.X("score:Q", title="score"),
        y=alt.Y("share:Q", stack=None, axis=alt.Axis(format="%"), title="share of rows"),
        color=_colours(alt),
    ).properties(width=470, height=190)
    return svg(
        chart.facet(alt.Facet("task:N", title=None), columns=2).resolve_scale(x="independent", y="independent"),
        "Scores, baseline and new",
    )


def features(baseline: Any, new: Any, names: Sequence[str]) -> list[tuple[str, Markup]]:
    """A plot per column: shares of its most frequent values, or the density of a number.

    Args:
        baseline, new: TFDV statistics.
        names: columns that both have; one whose kind differs or that has no values is left out.
    """
    drawn = []
    for name in names:
        sides = [by_name(statistics)[name] for statistics in (baseline, new)]
        kinds = {side.WhichOneof("stats") for side in sides}
        if len(kinds) == 1 and all(common(side).tot_num_values for side in sides):
            drawn.append((name, _numbers(name, sides) if kinds == {"num_stats"} else _values(name, sides)))
    return drawn


def _values(name: str, sides: Sequence[Any]) -> Markup:
    shares = [value_shares(side) for side in sides]
    # The most frequent values of both sides, taken in turn.
    ranked = zip(*(list(share)[:VALUES] + [None] * VALUES for share in shares), strict=False)
    order = list(dict.fromkeys(value for pair in ranked for value in pair if value is not None))[:VALUES]
    points = [
        {"value": value or "(empty)", "side": side, "share": share.get(value, 0.0)}
        for value in order
        for side, share in zip(SIDES, shares, strict=True)
    ]
    alt = altair()
    chart = alt.Chart(pd.DataFrame(points)).mark_bar()
    chart = chart.encode(
        y=alt.Y("value:N", sort=[value or "(empty)" for value in order], title=None),
        yOffset=alt.YOffset("side:N", sort=list(SIDES)),
        x=alt.X("share:Q", axis=alt.Axis(format="%", tickCount=5), title="share of values"),
        color=_colours(alt),
    )
    return svg(chart.properties(width=330, height=alt.Step(10)), name)


def _numbers(name: str, sides: Sequence[Any]) -> Markup:
    """Quantiles of both sides: where the lines part, the numbers do."""
    points = []
    for title, side in zip(SIDES, sides, strict=True):
        (quantiles,) = (h for h in side.num_stats.histograms if h.type == h.QUANTILES)
        edges = [quantiles.buckets[0].low_value, *(bucket.high_value for bucket in quantiles.buckets)]
        points += [
            {"side": title, "share": place / (len(edges) - 1), "value": value} for place, value in enumerate(edges)
        ]
    alt = altair()
    chart = alt.Chart(pd.DataFrame(points)).mark_line(point={"size": 28}, strokeWidth=2)
    chart = chart.encode(
        x=alt.X("value:Q", scale=alt.Scale(type="symlog"), title="value", axis=alt.Axis(tickCount=5)),
        y=alt.Y("share:Q", axis=alt.Axis(format="%"), title="values below"),
        color=_colours(alt),
    )
    return svg(chart.properties(width=330, height=160), name)


def _colours(alt: Any) -> Any:
    scale = alt.Scale(domain=list(SIDES), range=[BASELINE_COLOUR, RUN_COLOURS[1]])
    return alt.Color("side:N", scale=scale, sort=list(SIDES), legend=alt.Legend(title=None, orient="top"))
