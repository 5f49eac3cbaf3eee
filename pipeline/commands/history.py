"""`mixrank history`: all days that `mixrank advance` has taken."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mixrank.pipeline.commands.terminal import Config, Overrides, arguments, console, errors, guarded, needs


@guarded
@needs("pipeline")
def history(
    config: Config,
    output: Annotated[
        Path | None, typer.Option(help="HTML file to write (default: history.html in the run folder).")
    ] = None,
    models_config: Annotated[
        Path | None,
        typer.Option(help="models.config of the servers (default: the one in the folder of the pushed versions)."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Print all days that `mixrank advance` has taken, and write a page: metrics, gates, drift, cost, versions."""
    from mixrank.pipeline.advancing import DAYS, days_done
    from mixrank.pipeline.config import load_config
    from mixrank.pipeline.fast_loop import find_run
    from mixrank.pipeline.history import days_table, served_versions, write_history

    settings = load_config(config, overrides or [])
    run, again = find_run(settings), arguments(config, overrides)
    records = days_done(settings.run_dir / DAYS)
    if not records:
        raise ValueError(f"no day after the run is done yet; take those of the log: mixrank advance {again}")
    settings.open_stores()
    served = served_versions(settings.push_place, models_config)
    file = output or settings.run_dir / "history.html"
    write_history(settings.name, records, run.spec, served, file)
    console.print(days_table(records, run.spec, served))
    for note in served.notes:
        console.print(note, soft_wrap=True)
    for record in records:
        for reason in record.held:
            errors.print(f"{record.day} was held back: {reason}", style="yellow", soft_wrap=True)
    console.print(f"report: {file}", soft_wrap=True)
    console.print(f"next:\n  mixrank advance {again}   # the days that have come since", soft_wrap=True)
