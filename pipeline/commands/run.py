"""`mixrank run`: from a raw log to a judged, pushed model; and `mixrank check`, its first step, by itself."""

from __future__ import annotations

import json as json_text
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mixrank.pipeline.commands.report import MlflowLog, show_report
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
from mixrank.schemas.safe_text import safe_values
from mixrank.schemas.stores import is_url

# Of 1, an error, it is told apart by schedulers.
STOPS = 2


@guarded
@needs("pipeline")
def run(config: Config, overrides: Overrides = None, wait: Wait = False) -> None:
    """Run the whole pipeline: from a raw log to a judged, pushed model and a report."""
    from mixrank.pipeline.checking import check_before_run, check_declarations
    from mixrank.pipeline.config import load_config

    settings = load_config(config, overrides or [])
    mlflow = MlflowLog(settings, arguments(config, overrides))
    # What is wrong is said at once, before TensorFlow is imported.
    dataset = check_declarations(settings)
    errors.print(f"run folder {settings.run_dir}; details in {settings.run_dir}/run.log", style="dim", soft_wrap=True)
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with alone(settings.run_dir, "run", wait):
        errors.print("checking a sample of the log ...", style="dim")
        if not check_before_run(settings, dataset, errors):
            errors.print(
                f"next:\n  mixrank check {arguments(config, overrides)}   # all about this log", soft_wrap=True
            )
            raise typer.Exit(1)
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
    mlflow.add(record)
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
        _print_next(
            errors,
            (f"train {again} --set model.name=...", "another model on the same rows; `mixrank models` lists them"),
            (f"train {again} --set train.epochs=...", "other settings on the same rows"),
            (f"tune {again} {settings.model.name}", "a search for settings"),
        )
        raise typer.Exit(1)
    console.print(f"pushed: {record.pushed}", soft_wrap=True)
    _print_next(
        console,
        (f"report {shlex.quote(str(settings.run_dir))}", "this table and the HTML report again"),
        (f"train {again} --set train.epochs=5", "a fast loop on the transformed rows"),
        (f"models {settings.model.name}", "parameters and presets"),
    )


def _print_next(to: Console, *commands: tuple[str, str]) -> None:
    to.print("\nnext:")
    for command, why in commands:
        to.print(f"  mixrank {command}   # {why}", soft_wrap=True)


@guarded
@needs("pipeline")
def check(
    config: Config,
    full: Annotated[bool, typer.Option("--full", help="Read every row (default: a sample).")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
    html: Annotated[Path | None, typer.Option(help="HTML file to write, with plots.")] = None,
    overrides: Overrides = None,
) -> None:
    """Check a log against its declaration, in seconds; exit code 0: a run would not stop, 2: it would, 1: error."""
    from mixrank.pipeline.checking import check_declarations, check_log, print_check, write_check_page
    from mixrank.pipeline.config import load_config

    settings = load_config(config, overrides or [])
    dataset = check_declarations(settings)
    with errors.status("reading"):
        found = check_log(settings, dataset, full=full)
    if html is not None:
        write_check_page(found, dataset.spec, html)
    if json:
        sys.stdout.write(json_text.dumps(safe_values(found.model_dump(mode="json")), indent=1) + "\n")
    else:
        print_check(found, dataset.spec, console)
    if html is not None:
        (errors if json else console).print(f"report: {html}", soft_wrap=True)
    stops = found.of_level("stop")
    if not json:
        again = arguments(config, overrides)
        said = {0: "nothing stops a run", 1: "1 finding stops a run"}
        console.print(said.get(len(stops), f"{len(stops)} findings stop a run"))
        follow = f"check {again} --html check.html" if stops and html is None else f"run {again}"
        console.print(f"next:\n  mixrank {follow}", soft_wrap=True)
    if stops:
        raise typer.Exit(STOPS)
