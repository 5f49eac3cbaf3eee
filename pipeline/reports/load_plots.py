"""Plots of a load test, drawn as those of a run's report are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup

from pipeline.reports.plots import RUN_COLOURS, altair, svg
from serving.load_result import PERCENTILES, Closed, Result

# Most points of a line.
POINTS = 200


def percentiles_over_load(results: Sequence[Result]) -> Markup | None:
    """Latency percentiles over clients or rate; None if nothing was answered."""
    points = [
        {"load": result.load.amount, "percentile": name, "latency": 1000 * result.percentile(percent)}
        for result in results
        if len(result.latencies)
        for name, percent in PERCENTILES.items()
    ]
    if not points:
        return None
    alt = altair()
    chart = alt.Chart(pd.DataFrame(points)).mark_line(point={"size": 40}, strokeWidth=2)
    title = "clients" if isinstance(results[0].load, Closed) else "requests per second asked for"
    chart = chart.encode(
        x=alt.X(
            "load:Q", scale=alt.Scale(type="log", nice=False), title=title, axis=alt.Axis(values=_amounts(results))
        ),
        y=alt.Y("latency:Q", scale=alt.Scale(type="log", nice=False), title="latency, ms"),
        color=_colours("percentile", list(PERCENTILES)),
    )
    return svg(chart.properties(width=470, height=260), "Latency over load")


def distribution(results: Sequence[Result]) -> Markup | None:
    """The share of requests that took longer than a time, one line per load; None if nothing was answered.

    Both axes are logarithmic: the slowest in a hundred and in a thousand take as much room as the other ninety.
    """
    points = []
    for result in results:
        count = len(result.latencies)
        if not count:
            continue
        # Dense towards the slowest; the slowest of all ends the line.
        ranks = count - np.unique(np.geomspace(1, count, POINTS).round().astype(int))
        points += [
            {"load": str(result.load), "latency": 1000 * result.latencies[rank], "slower": (count - rank) / count}
            for rank in ranks
        ]
    if not points:
        return None
    alt = altair()
    chart = alt.Chart(pd.DataFrame(points)).mark_line(strokeWidth=2, point={"size": 12})
    chart = chart.encode(
        x=alt.X("latency:Q", scale=alt.Scale(type="log", nice=False), title="latency, ms", axis=alt.Axis(tickCount=6)),
        y=alt.Y(
            "slower:Q",
            scale=alt.Scale(type="log", domainMax=1),
            title="share of requests at least as slow",
            axis=alt.Axis(format="~%", values=[10.0**power for power in range(-6, 1)]),
        ),
        color=_colours("load", list(dict.fromkeys(str(result.load) for result in results))),
    )
    return svg(chart.properties(width=470, height=260), "Distribution of latencies")


def _amounts(results: Sequence[Result]) -> list[float]:
    return sorted({result.load.amount for result in results})


def _colours(field: str, names: list[str]) -> object:
    alt = altair()
    colours = [RUN_COLOURS[position % len(RUN_COLOURS)] for position in range(len(names))]
    legend = alt.Legend(title=None, orient="top") if len(names) > 1 else None
    return alt.Color(f"{field}:N", scale=alt.Scale(domain=names, range=colours), sort=names, legend=legend)
