"""`mixrank report` and `mixrank importance`: metrics of runs, and what each feature is worth to a model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from mixrank.pipeline.commands.terminal import Wait, alone, console, errors, guarded, needs


@guarded
@needs("pipeline")
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    output: Annotated[
        Path | None, typer.Option(help="HTML file to write (default: report.html in the first folder).")
    ] = None,
    slices: Annotated[
        list[str] | None,
        typer.Option(
            "--slice", help="Judge also by this feature or history; repeatable (default: the config's `slices`)."
        ),
    ] = None,
    wait: Wait = False,
) -> None:
    """Write the HTML report of one or more runs, and print their metrics."""
    with nullcontext() if output else alone(runs[0], "report", wait):
        page = show_report(runs, output or runs[0] / "report.html", slices or [])
    console.print(f"report: {page}", soft_wrap=True)


def show_report(runs: list[Path], page: Path, slices: Sequence[str] = ()) -> Path:
    """Writes the page of some runs and prints their metrics, by some columns besides the scenario."""
    from mixrank.pipeline.reports import RunFolder, metrics_tables, summarise_log, write_report

    write_report(runs, page, slices)
    for table in metrics_tables(runs, slices):
        console.print(table)
    for run in map(RunFolder.load, runs):
        for heading, text in summarise_log(run):
            console.print(f"{run.name + ' ' if len(runs) > 1 else ''}{heading}: {text}", soft_wrap=True)
    return page


@guarded
@needs("pipeline")
def importance(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    features: Annotated[
        list[str] | None,
        typer.Argument(
            help="Features and histories, or history.feature; those with commas between them change together "
            "(default: the scenario, each feature of the row and each history alone)."
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Number of evaluation rows to take at most.")] = 20_000,
    permutations: Annotated[int, typer.Option(min=1, help="Number of permutations of each group.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of rows, permutations and intervals.")] = 0,
    wait: Wait = False,
) -> None:
    """Measure what a run's model loses when the values of each feature change rows, with intervals over users."""
    with alone(run, "importance", wait):
        from mixrank.pipeline import reports
        from mixrank.pipeline.run_record import RunRecord

        record = RunRecord.read(run)
        groups = reports.feature_groups(record.spec, features or [])
        if record.export is None:
            raise ValueError(f"run {record.name} has no exported model to ask")
        columns, truth = reports.read_rows(record.spec, record.rows.examples_of("eval"), rows, seed)
        found = reports.measure_importance(
            record.spec,
            columns,
            truth,
            reports.scorer(record.export),
            groups,
            permutations=permutations,
            seed=seed,
            say=lambda line: errors.print(line, style="dim", soft_wrap=True),
        )
        file = reports.write_importance(run, found)
    for task, metric, each in reports.by_measure(found):
        console.print(reports.importance_table(task, metric, each))
    console.print(f"importance: {file}", soft_wrap=True)
    console.print(f"next:\n  mixrank report {run}   # the page shows it", soft_wrap=True)
