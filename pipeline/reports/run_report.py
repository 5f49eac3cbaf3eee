"""A run, or several side by side, as one HTML page that needs no network, and as a table in the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mixrank.components.judging import Slice
from mixrank.components.metrics import Metric, primary, reported
from mixrank.pipeline.reports.against_last_pushed import (
    MIN_ROWS,
    OVERALL,
    RESAMPLES,
    SliceScores,
    compare,
    compare_slices,
    disagreements,
)
from mixrank.pipeline.reports.importance import by_measure, read_importance
from mixrank.pipeline.reports.log_summary import summarise_log
from mixrank.pipeline.reports.pages import fill
from mixrank.pipeline.reports.run_folder import RunFolder, kinds_of
from mixrank.pipeline.reports.task_kinds import MIN_OF_CLASS, TASK_REPORTS, Plot
from mixrank.schemas.files import write_text_atomically

if TYPE_CHECKING:
    from markupsafe import Markup
    from rich.table import Table


def write_report(run_dirs: Sequence[Path], output: Path, slices: Sequence[str] = ()) -> dict[str, Any]:
    """Writes the HTML report of some runs.

    Every metric is computed exactly from the runs' `predictions.parquet`; intervals come from resampling users.

    Args:
        run_dirs: run folders, at least one; the baseline is that of the first.
        output: HTML file to write.
        slices: features and histories to judge by, besides the scenario and those that the first run's config names.

    Returns:
        {"output": path, "runs": [{"name", "tasks": task -> slice -> metric -> value, "disagreements": count}]}.

    Raises:
        ValueError: if there is no run, two runs have one name, or a run folder is incomplete.
    """
    runs = _load(run_dirs)
    scores = [compare(run) for run in runs]
    page = render(runs, scores, _sliced(runs, slices))
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(output, page)
    return {
        "output": str(output),
        "runs": [
            {
                "name": run.name,
                "tasks": {
                    task: {
                        row.slice: {metric: estimate.value for metric, estimate in row.model.items()}
                        for row in rows
                        if row.task == task and row.model
                    }
                    for task in run.tasks
                },
                "disagreements": len(disagreements(run, rows)),
            }
            for run, rows in zip(runs, scores, strict=True)
        ],
    }


def metrics_tables(run_dirs: Sequence[Path], slices: Sequence[str] = ()) -> list[Table]:
    """The same metrics, without intervals, for the terminal: a table for the tasks that have the same ones.

    Args:
        run_dirs, slices: as in `write_report`.

    Raises:
        ValueError: as in `write_report`.
    """
    runs = _load(run_dirs)
    parts = {runs[0].scenario: [compare(run, resamples=0) for run in runs], **_sliced(runs, slices, resamples=0)}
    by_metrics: dict[tuple[Metric, ...], list[str]] = {}
    for task, kind in kinds_of(runs).items():
        shown = tuple(metric for metric in reported(kind, requests=_with_requests(runs)) if metric.headline)
        by_metrics.setdefault(shown, []).append(task)
    return [
        _metrics_table(runs, column, scores, tasks, shown)
        for column, scores in parts.items()
        for shown, tasks in by_metrics.items()
    ]


def _sliced(
    runs: Sequence[RunFolder], slices: Sequence[str], resamples: int = RESAMPLES
) -> dict[str, list[list[SliceScores]]]:
    """Column -> scores of each run on the slices by it."""
    given = [Slice.model_validate(Slice.of(each)) for each in (*runs[0].record.config.get("slices", ()), *slices)]
    # Edges that the config declares hold for a name of the command line, too.
    wanted = {each.column: each for each in reversed(given)}
    columns = list(dict.fromkeys(each.column for each in given))
    found = [compare_slices(run, [wanted[name] for name in columns], resamples=resamples) for run in runs]
    return {name: [each[name] for each in found] for name in columns}


def _metrics_table(
    runs: Sequence[RunFolder],
    column: str,
    scores: Sequence[list[SliceScores]],
    tasks: Sequence[str],
    shown: Sequence[Metric],
) -> Table:
    from rich import box
    from rich.table import Table

    several, first = len(runs) > 1, next(metric for metric in shown if metric.higher_is_better is not None)
    # Names of runs are long; numbers keep the table within 80 columns.
    numbers = {run.name: str(position) for position, run in enumerate(runs, start=1)}
    based = any(row.baseline for rows in scores for row in rows)
    barred = any(row.trees for rows in scores for row in rows)
    table = Table(
        title=runs[0].record.spec.name,
        box=box.SIMPLE_HEAD,
        caption_justify="left",
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name in ("task", column, *(("run",) if several else ())):
        table.add_column(name, no_wrap=True)
    # Short enough for 80 columns.
    titles = [metric.narrow_heading for metric in shown]
    for name in ("rows", *titles, *(("Base", "RelaImp") if based else ()), *(("Trees",) if barred else ())):
        table.add_column(name, justify="right", no_wrap=True)
    skipped: dict[str, set[str]] = {}
    for group in side_by_side(scores):
        for run, row in zip(runs, group, strict=True):
            if row is None or row.task not in tasks:
                continue
            if not row.model:
                skipped.setdefault(f"{row.title}: {row.why}", set()).add(row.task)
                continue
            cells = [row.task, row.title, *([numbers[run.name]] if several else []), f"{row.rows:,}"]
            cells += [number(row.model[metric.name].value) for metric in shown]
            if based:
                cells += (
                    [number(row.baseline[first.name].value), percent(row.relative.get(first.name, math.nan))]
                    if row.baseline
                    else ["-"] * 2
                )
            if barred:
                cells.append(number(row.trees[first.name].value) if row.trees else "-")
            table.add_row(*cells, style="bold" if row.slice == OVERALL else None)
    notes = [f"run {position}: {name}" for name, position in numbers.items()] if several else []
    notes += [f"Base: {first.title} of the additive baseline"] if based else []
    notes += [f"Trees: {first.title} of boosted trees"] if barred else []
    if skipped:
        named = (why if len(of) == len(tasks) else f"{why} ({', '.join(sorted(of))})" for why, of in skipped.items())
        notes.append("not judged: " + "; ".join(named))
    table.caption = "\n".join(notes)
    return table


def render(
    runs: Sequence[RunFolder],
    scores: Sequence[list[SliceScores]],
    sliced: Mapping[str, Sequence[list[SliceScores]]] = MappingProxyType({}),
) -> str:
    """The page as text; names from data are escaped by the template."""
    from mixrank.pipeline.reports import plots

    judged = any(row.model for rows in scores for row in rows)
    kinds, requests = kinds_of(runs), _with_requests(runs)
    values = {
        "runs": runs,
        "tasks": list(kinds),
        "groups": side_by_side(scores),
        "sliced": {column: side_by_side(each) for column, each in sliced.items()},
        "metrics_of": {task: reported(kind, requests=requests) for task, kind in kinds.items()},
        "primary_of": {task: primary(kind) for task, kind in kinds.items()},
        "requests": requests,
        "numbers": any(not label.is_flag for run in runs for label in run.record.spec.labels),
        "titles": {metric.name: metric.heading for metric in reported(*kinds.values(), requests=True)},
        "overall": OVERALL,
        "resamples": RESAMPLES,
        "min_rows": MIN_ROWS,
        "min_of_class": MIN_OF_CLASS,
        "agreement": [_agreement(run, rows) for run, rows in zip(runs, scores, strict=True)],
        "configs": [json.dumps(run.record.config, indent=2, ensure_ascii=False) for run in runs],
        "scenario_plot": plots.primary_by_scenario(runs, scores) if judged else None,
        "quality_plots": _quality_plots(runs),
        "training_plot": plots.training_curves(runs),
        "gated": [run for run in runs if run.record.judgement and run.record.judgement.gates],
        "summaries": [summarise_log(run) for run in runs],
        "insights": [run.model.get("insights", {}) for run in runs],
        "importance": [list(by_measure(read_importance(run.path))) for run in runs],
        "grouping_plot": plots.grouping,
        "attention_plot": plots.attention,
        "nan": math.isnan,
        "alike": _unjudged_for_one_reason,
    }
    filters = {each.__name__: each for each in (number, signed, percent, count, seconds)}
    return fill("report.html", values, filters)


def side_by_side(scores: Sequence[list[SliceScores]]) -> list[list[SliceScores | None]]:
    """One list per (task, slice), in the order of the first run that has it, with one entry per run."""
    tables = [{(row.task, row.slice): row for row in rows} for rows in scores]
    return [[table.get(key) for table in tables] for key in dict.fromkeys(key for table in tables for key in table)]


def number(value: float) -> str:
    """Four digits after the point, fewer of large numbers; "-" for NaN."""
    if math.isnan(value):
        return "-"
    digits = 4 if abs(value) < 10 else 2 if abs(value) < 1000 else 0
    return f"{value:,.{digits}f}"


def signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.4f}"


def percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:+.1f} %"


def count(value: float) -> str:
    """Thousands, millions and billions shortened from a million on."""
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:,.0f}"


def seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 60 else f"{int(value // 60)} min {value % 60:.0f} s"


def _with_requests(runs: Sequence[RunFolder]) -> bool:
    """Whether all runs can be judged per request."""
    return all(run.record.spec.request is not None for run in runs)


def _unjudged_for_one_reason(group: list[SliceScores | None]) -> bool:
    return all(row and not row.model for row in group) and len({row.why for row in group if row}) == 1


def _agreement(run: RunFolder, rows: list[SliceScores]) -> dict[str, Any]:
    pairs = [
        (row, metric, estimate.value, run.tfma[row.task, row.slice, metric])
        for row in rows
        for metric, estimate in row.model.items()
        if (row.task, row.slice, metric) in run.tfma and not math.isnan(estimate.value)
    ]
    return {
        "compared": len(pairs),
        "largest": max((abs(ours - theirs) for _, _, ours, theirs in pairs), default=math.nan),
        "overall": [pair for pair in pairs if pair[0].slice == OVERALL],
        "differ": disagreements(run, rows),
    }


def _quality_plots(runs: Sequence[RunFolder]) -> list[tuple[Plot, Markup]]:
    """The plots of every kind of task that the runs have."""
    tasks: dict[str, set[str]] = {}
    for kind, names in (pair for run in runs for pair in run.record.spec.tasks_by_kind.items()):
        tasks.setdefault(kind, set()).update(names)
    return [(plot, plot.draw(runs, names)) for kind, names in tasks.items() for plot in TASK_REPORTS[kind].plots]


def _load(run_dirs: Sequence[Path]) -> list[RunFolder]:
    runs = [RunFolder.load(Path(path)) for path in run_dirs]
    if not runs:
        raise ValueError("`run_dirs` must name at least one run folder")
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise ValueError(f"`run_dirs` must have distinct run names, received {names}")
    return runs
