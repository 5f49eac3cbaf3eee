"""A comparison for people: grids of text for Markdown and the terminal, and an HTML page with plots."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mixrank.components.metrics import Metric, find_metric, headlines
from mixrank.pipeline.comparing.results import Results, Row, Spread, judged_by
from mixrank.pipeline.comparing.trial_plan import size
from mixrank.pipeline.config import Budget
from mixrank.pipeline.reports import OVERALL, RUN_COLOURS, altair, count, fill, number, percent, svg
from mixrank.schemas.files import write_text_atomically
from mixrank.schemas.task_kinds import LABEL_KINDS

if TYPE_CHECKING:
    from rich.table import Table as RichTable

# Baseline name -> task -> slice -> metric -> value.
Baselines = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]


@dataclass(frozen=True)
class Grid:
    """A table of text: the first column is left-aligned, the others are numbers.

    Attributes:
        title: what it shows.
        headers: of the columns.
        rows: cells.
        best: (row, column) of the cells to mark.
        notes: sentences below it.
    """

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]] = frozenset()
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """The grid as a Markdown table, marked cells in bold."""
        lines = [f"**{self.title}**", "", "| " + " | ".join(self.headers) + " |", "|---" * len(self.headers) + "|"]
        for index, row in enumerate(self.rows):
            cells = [f"**{cell}**" if (index, column) in self.best else cell for column, cell in enumerate(row)]
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", *self.notes] if self.notes else []
        return "\n".join(lines) + "\n"

    def table(self) -> RichTable:
        """The grid for the terminal, without its notes."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self.title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for column, header in enumerate(self.headers):
            # On a narrow terminal numbers wrap before their deviation; a number that is cut off would be useless.
            table.add_column(header, no_wrap=not column, justify="right" if column else "left")
        for index, row in enumerate(self.rows):
            table.add_row(*(Text(c, "bold" if (index, at) in self.best else "") for at, c in enumerate(row)))
        return table


def grids(results: Results, baselines: Baselines) -> list[Grid]:
    """Everything a table says, as grids: per budget quality by task, scenarios and costs; then slopes."""
    found = []
    for budget, rows in results.parts.items():
        if not rows:
            continue
        at = _at(budget)
        found += qualities(results, budget, baselines)
        found += _scenarios(results, rows, at)
        found.append(_costs(rows, at))
    if results.slopes:
        found.append(_scaling(results))
    return found


def qualities(results: Results, budget: Budget, baselines: Baselines) -> list[Grid]:
    """The metrics over all rows at one budget, a grid per task."""
    return [_quality(results, results.parts[budget], task, _at(budget), baselines) for task in results.tasks]


def write_pages(folder: Path, results: Mapping[str, Results], baselines: Baselines, about: str) -> tuple[Path, Path]:
    """Writes `report.html` and `report.md`, and `results.json` with every number.

    Args:
        folder: gets the files.
        results: name of a table -> its numbers.
        baselines: models that need no seeds.
        about: one line on data and protocol.

    Returns:
        The HTML page and the Markdown file.
    """
    drawn = {name: (each, grids(each, baselines), plots(each)) for name, each in results.items()}
    parts = [f"{about}\n"]
    for each, tables, _ in drawn.values():
        parts += [f"## {each.table.title}\n", *(grid.markdown() for grid in tables), *_remarks(each)]
    markdown = folder / "report.md"
    write_text_atomically(markdown, "\n".join(parts))
    file = folder / "report.html"
    text = fill("compare.html", {"about": about, "drawn": drawn, "remarks": _remarks})
    write_text_atomically(file, text)
    numbers = {"tables": {name: _as_json(each) for name, each in results.items()}, "baselines": baselines}
    write_text_atomically(folder / "results.json", json.dumps(numbers, indent=1))
    return file, markdown


def plots(results: Results) -> list[Any]:
    """AUC of every training, or lines over the size where the table scales."""
    points = [
        {"model": row.name, "budget": size(row.budget), "size": row.result["dense_parameters"], "task": task}
        | {metric.name: row.metrics[task, OVERALL, metric.name].values[index] for metric in _shown(results, task)}
        for rows in results.parts.values()
        for row in rows
        for task in results.tasks
        for index in range(row.seeds[0])
    ]
    if not points:
        return []
    frame = pd.DataFrame(points)
    if not results.table.scaling:
        rows = [row for part in results.parts.values() for row in part]
        metrics = {task: judged_by(rows, task) for task in results.tasks}
        return [
            _dots(frame[frame["task"].isin([task for task in metrics if metrics[task] is metric])], metric)
            for metric in dict.fromkeys(metrics.values())
        ]
    every = dict.fromkeys(metric for task in results.tasks for metric in _shown(results, task) if metric.relative)
    return [_lines(frame.dropna(subset=[metric.name]), metric) for metric in every]


def _dots(frame: pd.DataFrame, metric: Metric) -> Any:
    alt, frame = altair(), frame.copy()
    names = list(frame.groupby("model")[metric.name].mean().sort_values(ascending=not metric.higher_is_better).index)
    x = {"scale": alt.Scale(zero=False, nice=True), "axis": alt.Axis(tickCount=5, labelOverlap=True)}
    y = alt.Y("model:N", sort=names, title=None)
    base = alt.Chart(frame)
    dots = base.mark_point(size=40, opacity=0.7, color=RUN_COLOURS[0]).encode(
        x=alt.X(f"{metric.name}:Q", title=f"{metric.title} of each seed; the bar is the mean", **x), y=y
    )
    means = base.mark_tick(thickness=2, size=14, color=RUN_COLOURS[1]).encode(
        x=alt.X(f"mean({metric.name}):Q", **x), y=y
    )
    frame["panel"] = frame["task"] + (", " + frame["budget"] if frame["budget"].nunique() > 1 else "")
    # In the order of the tables: a line of panels for every size.
    panels = alt.Facet("panel:N", title=None, sort=list(dict.fromkeys(frame["panel"])))
    chart = (dots + means).properties(width=380, height=alt.Step(18)).facet(panels, columns=frame["task"].nunique())
    return svg(chart.resolve_scale(x="independent"), f"{metric.title} of every training")


def _lines(frame: pd.DataFrame, metric: Metric) -> Any:
    alt = altair()
    base = alt.Chart(frame).encode(
        x=alt.X(
            "size:Q",
            scale=alt.Scale(type="log", nice=False),
            title="dense parameters",
            axis=alt.Axis(format="~s", tickCount=3),
        ),
        color=alt.Color("model:N", title=None, scale=alt.Scale(range=list(RUN_COLOURS))),
    )
    y = alt.Y(f"{metric.name}:Q", scale=alt.Scale(zero=False), title=f"{metric.heading}, mean and every seed")
    mean = alt.Y(f"mean({metric.name}):Q", scale=alt.Scale(zero=False))
    chart = base.mark_point(size=25, opacity=0.5).encode(y=y) + base.mark_line().encode(y=mean)
    return svg(
        chart.properties(width=380, height=260).facet(alt.Facet("task:N", title=None)).resolve_scale(y="independent"),
        f"{metric.heading} over dense parameters",
    )


def _quality(results: Results, rows: Sequence[Row], task: str, at: str, baselines: Baselines) -> Grid:
    reference = results.table.reference
    shown, judged = _shown(results, task), judged_by(rows, task).title
    headers = ["model", *(metric.heading for metric in shown), "RelaImp", "p", "p (Holm)", "p (paired)"]
    if reference is None:
        headers.remove("RelaImp")
    cells = []
    for row in rows:
        own = [spread_text(row.metrics[task, OVERALL, metric.name]) for metric in shown]
        own += [percent(row.relative.get(task, math.nan))] if reference is not None else []
        own += [_p(found.get(task, math.nan)) for found in (row.p_value, row.adjusted, row.paired)]
        cells.append((row.name + _seeds(row), *own))
    best: set[tuple[int, int]] = set()
    for column, metric in enumerate(shown, start=1):
        several = any(row.seeds[0] > 1 for row in rows)
        means = [
            row.metrics[task, OVERALL, metric.name].mean if row.seeds[0] > 1 or not several else math.nan
            for row in rows
        ]
        best |= {(index, column) for index in _best(means, metric)}
    for name, tasks in baselines.items():
        values = tasks[task][OVERALL]
        numbers = [number(values.get(metric.name, math.nan)) for metric in shown]
        cells.append((name, *numbers, *["-"] * (len(headers) - 1 - len(shown))))
    tests = sum(not math.isnan(p) for row in rows for p in row.p_value.values())
    standard = reference if results.table.tested == "reference" else "the best other model"
    notes = [
        "Mean and standard deviation over the seeds."
        + (f" RelaImp: {judged} above 0.5 relative to that of {reference}." if reference else "")
        + f" p: Welch's two-tailed t-test of {judged} against {standard}"
        f" ({tests} tests at this size; Holm: adjusted for their number; paired: seed by seed, not adjusted)."
    ]
    return Grid(f"{task}{at}", tuple(headers), tuple(cells), frozenset(best), tuple(notes))


def _shown(results: Results, task: str) -> list[Metric]:
    """Headline metrics of a task that every training of a table has."""
    rows = [row for part in results.parts.values() for row in part]
    known = headlines(*LABEL_KINDS, requests=True)
    return [metric for metric in known if all((task, OVERALL, metric.name) in row.metrics for row in rows)]


def _best(means: Sequence[float], metric: Metric) -> list[int]:
    """Index of the best of the means that are known, if any is."""
    known = [mean for mean in means if not math.isnan(mean)]
    return [means.index(max(known) if metric.higher_is_better else min(known))] if known else []


def _scenarios(results: Results, rows: Sequence[Row], at: str) -> list[Grid]:
    """A grid for every metric; none for a log without scenarios."""
    parts = list(dict.fromkeys((t, part) for row in rows for t, part, _ in row.metrics if part != OVERALL))
    found = []
    for metric in dict.fromkeys(metric for task in results.tasks for metric in _shown(results, task)):
        columns = [(task, part) for task, part in parts if metric in _shown(results, task)]
        if not columns:
            continue
        headers = ("model", *(f"{task}, scenario {part}" for task, part in columns))
        cells = [(row.name, *(spread_text(row.metrics[t, part, metric.name]) for t, part in columns)) for row in rows]
        best = {
            (index, column)
            for column, (task, part) in enumerate(columns, start=1)
            for index in _best([row.metrics[task, part, metric.name].mean for row in rows], metric)
        }
        title = f"{metric.heading} inside the main scenarios{at}"
        found.append(Grid(title, headers, tuple(cells), frozenset(best)))
    return found


def _costs(rows: Sequence[Row], at: str) -> Grid:
    headers = ("model", "dense parameters", "FLOPs per row", "training samples/s", "ms, batch 1", "512", "peak MB")
    cells = []
    for row in rows:
        latency = row.costs.get("latency_ms", {})
        speed = row.costs.get("training_samples_per_second")
        times = [f"{latency[size]:.1f}" if size in latency else "-" for size in ("1", "512")]
        cells.append(
            (
                row.name,
                f"{row.result['dense_parameters']:,}",
                count(row.result["flops"]),
                f"{speed:,.0f}" if speed else "-",
                *times,
                f"{row.peak_mb:,.0f}",
            )
        )
    note = (
        "Training and forward pass on one cached batch of the log's rows with all cores and nothing beside it; "
        "memory of the whole training process."
    )
    return Grid(f"Size and speed{at}", headers, tuple(cells), notes=(note,))


def _scaling(results: Results) -> Grid:
    cells = [
        (name, task, find_metric(metric).heading, f"{s.value:+.4f}", f"{s.low:+.4f} to {s.high:+.4f}")
        for (name, task, metric), s in results.slopes.items()
    ]
    return Grid("Change per tenfold size", ("model", "task", "metric", "slope", "95 % interval"), tuple(cells))


def _remarks(results: Results) -> list[str]:
    found = []
    if results.missing:
        found.append(f"Not trained yet: {', '.join(results.missing)}.\n")
    if len(results.codes) > 1:
        found.append(f"Trained by {len(results.codes)} versions of the code; remove `trials/` to retrain all.\n")
    return found


def spread_text(spread: Spread) -> str:
    """`0.7553 ± 0.0004`."""
    return number(spread.mean) + ("" if math.isnan(spread.deviation) else f" ± {spread.deviation:.4f}")


def _at(budget: Budget) -> str:
    return "" if budget is None else f", {size(budget)} dense parameters"


def _seeds(row: Row) -> str:
    done, wanted = row.seeds
    return "" if done == wanted else f" ({done} of {wanted} seeds)"


def _p(value: float) -> str:
    if math.isnan(value):
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _as_json(results: Results) -> dict[str, Any]:
    return {
        "title": results.table.title,
        "missing": results.missing,
        "rows": [
            {
                "model": row.name,
                "budget": row.budget,
                "dense_parameters": row.result["dense_parameters"],
                "flops": row.result["flops"],
                "peak_mb": row.peak_mb,
                **row.costs,
                "metrics": {"/".join(key): list(spread.values) for key, spread in row.metrics.items()},
                "rela_imp": row.relative,
                "p": row.p_value,
                "p_holm": row.adjusted,
                "p_paired": row.paired,
            }
            for rows in results.parts.values()
            for row in rows
        ],
        "slopes": {"/".join(key): found._asdict() for key, found in results.slopes.items()},
    }
