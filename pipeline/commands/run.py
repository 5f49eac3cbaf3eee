"""`mixrank run`: from a raw log to a judged, pushed model."""

from __future__ import annotations

import shlex
import time

import typer

from mixrank.pipeline.commands.report import show_report
from mixrank.pipeline.commands.terminal import (
    Config,
    Overrides,
    Wait,
    alone,
    arguments,
    console,
    errors,
    guarded,
    needs,
)
from mixrank.schemas.stores import is_url


@guarded
@needs("pipeline")
def run(config: Config, overrides: Overrides = None, wait: Wait = False) -> None:
    """Run the whole pipeline: from a raw log to a judged, pushed model and a report."""
    from mixrank.components.examples import find_tables
    from mixrank.pipeline.config import load_config

    settings = load_config(config, overrides or [])
    # What is wrong is said at once, before TensorFlow is imported.
    dataset = settings.load_dataset()
    settings.open_stores()
    find_tables(dataset, settings.data_dir())
    errors.print(f"run folder {settings.run_dir}; details in {settings.run_dir}/run.log", style="dim", soft_wrap=True)
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with alone(settings.run_dir, "run", wait):
        errors.print("loading TensorFlow and TFX ...", style="dim")
        from mixrank.pipeline.runners import run_local
        from mixrank.pipeline.stored_runs import store_run

        began = time.monotonic()
        record = run_local(settings, dataset)
        errors.print(f"all components: {time.monotonic() - began:.0f} s", style="dim")
        page = show_report([settings.run_dir], settings.run_dir / "report.html")
        stored = store_run(record, settings.run_dir, settings.output) if is_url(settings.output) else None
    console.print(f"report: {page}", soft_wrap=True)
    if stored is not None:
        console.print(f"stored: {stored}", soft_wrap=True)
    again = arguments(config, overrides)
    judgement = record.judgement
    assert judgement is not None
    for title, lines in (("passed by chance", judgement.by_chance), ("allowed by the config", judgement.allowed)):
        for line in lines:
            errors.print(f"{title}: {line}", style="yellow", soft_wrap=True)
    if judgement.reasons:
        errors.print("\nthe model was not pushed:", style="bold red")
        for reason in judgement.reasons:
            errors.print(f"  {reason}", soft_wrap=True)
        errors.print(f"next: look at the report, then  mixrank run {again} --set train.epochs=...", soft_wrap=True)
        raise typer.Exit(1)
    console.print(f"pushed: {record.pushed}", soft_wrap=True)
    console.print("\nnext:")
    for command, why in (
        (f"report {shlex.quote(str(settings.run_dir))}", "this table and the HTML report again"),
        (f"train {again} --set train.epochs=5", "a fast loop on the transformed rows"),
        (f"models {settings.model.name}", "parameters and presets"),
    ):
        console.print(f"  mixrank {command}   # {why}", soft_wrap=True)
