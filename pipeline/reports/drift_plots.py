"""Plot of a drift report, drawn as those of a run's report are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup

from mixrank.pipeline.reports.pages import BASELINE_COLOUR, RUN_COLOURS, altair, svg

SIDES = ("baseline", "new")
BINS = 40


def scores(baseline: pd.DataFrame, new: pd.DataFrame, tasks: Sequence[str]) -> Markup | None:
    """Share of rows per bin of every task's score; None if no task has scores on both sides."""
    points = []
    for task in tasks:
        column = f"score_{task}"
        if column in baseline and column in new:
            values = [side[column].dropna().to_numpy() for side in (baseline, new)]
            low, high = (f([f(side, initial=0) for side in values]) for f in (np.min, np.max))
            edges = np.linspace(low, max(low + 1e-6, high), BINS + 1)
            for side, part in zip(SIDES, values, strict=True):
                share = np.histogram(part, edges)[0] / max(1, len(part))
                points += [
                    {"task": task, "side": side, "score": middle, "share": value}
                    for middle, value in zip((edges[:-1] + edges[1:]) / 2, share, strict=True)
                ]
    if not points:
        return None
    alt = altair()
    colours = alt.Scale(domain=list(SIDES), range=[BASELINE_COLOUR, RUN_COLOURS[1]])
    chart = alt.Chart(pd.DataFrame(points)).mark_area(opacity=0.4, interpolate="step", line={"strokeWidth": 1.5})
    chart = chart.encode(
        x=alt.X("score:Q", title="score"),
        y=alt.Y("share:Q", stack=None, axis=alt.Axis(format="%"), title="share of rows"),
        color=alt.Color("side:N", scale=colours, sort=list(SIDES), legend=alt.Legend(title=None, orient="top")),
    ).properties(width=470, height=190)
    return svg(
        chart.facet(alt.Facet("task:N", title=None), columns=2).resolve_scale(x="independent", y="independent"),
        "Scores, baseline and new",
    )
