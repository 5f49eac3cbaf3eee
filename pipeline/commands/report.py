"""`mixrank report`: metrics of runs, in the terminal and as a page."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from mixrank.pipeline.commands.terminal import Wait, alone, console, guarded, needs


@guarded
@needs("pipeline")
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    output: Annotated[
        Path | None, typer.Option(help="HTML file to write (default: report.html in the first folder).")
    ] = None,
    wait: Wait = False,
) -> None:
    """Write the HTML report of one or more runs, and print their metrics."""
    with nullcontext() if output else alone(runs[0], "report", wait):
        page = show_report(runs, output or runs[0] / "report.html")
    console.print(f"report: {page}", soft_wrap=True)


def show_report(runs: list[Path], page: Path) -> Path:
    """Writes the page of some runs and prints their metrics."""
    from mixrank.pipeline.reports import RunFolder, metrics_tables, summarise_log, write_report

    write_report(runs, page)
    for table in metrics_tables(runs):
        console.print(table)
    for run in map(RunFolder.load, runs):
        for heading, text in summarise_log(run):
            console.print(f"{run.name + ' ' if len(runs) > 1 else ''}{heading}: {text}", soft_wrap=True)
    return page
