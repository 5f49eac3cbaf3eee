"""`mixrank train` and `mixrank tfrs-baseline`: models on the rows that the last run transformed; `mixrank advance`."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixrank.pipeline.commands.report import MlflowLog, show_report
from mixrank.pipeline.commands.run import run as run_once
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

if TYPE_CHECKING:
    from mixrank.pipeline.advancing import Outcome

# Of 1, an error or a day that is held back, they are told apart by schedulers.
DEPLOY_EXITS = {"rolled back": 3, "undone": 4}


@guarded
@needs("pipeline")
def train(config: Config, overrides: Overrides = None, wait: Wait = False) -> None:
    """Train only, on the rows that the last `mixrank run` of this config transformed."""
    from mixrank.pipeline.config import load_config

    settings = load_config(config, overrides or [])
    with alone(settings.run_dir, "train", wait):
        errors.print("loading TensorFlow ...", style="dim")
        from mixrank.pipeline.fast_loop import train_only

        folder = train_only(settings)
        page = show_report([folder], folder / "report.html")
    console.print(f"report: {page}", soft_wrap=True)
    console.print(f"next:\n  mixrank report {settings.run_dir} {folder}   # side by side with the run", soft_wrap=True)


@guarded
@needs("pipeline")
def tfrs_baseline(
    config: Config,
    model: Annotated[str, typer.Option(help="dlrm or dcn.")] = "dlrm",
    overrides: Overrides = None,
    wait: Wait = False,
) -> None:
    """Train TensorFlow Recommenders' DLRM or DCN on the last run's rows for comparison, one model per task."""
    from mixrank.pipeline.config import load_config
    from mixrank.pipeline.fast_loop import last_run

    settings = load_config(config, overrides or [])
    with alone(settings.run_dir, "tfrs-baseline", wait):
        last_run(settings)
        errors.print("loading TensorFlow Recommenders in a process of its own ...", style="dim")
        arguments = [config, "--model", model, *(part for value in overrides or [] for part in ("--set", value))]
        # Legacy Keras must be chosen before TensorFlow is imported.
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "mixrank.pipeline.tfrs_baseline", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        if done.returncode:
            raise typer.Exit(1)
        folder = Path(done.stdout.splitlines()[-1])
        page = show_report([settings.run_dir, folder], folder / "report.html")
    console.print(f"report: {page}", soft_wrap=True)
    console.print("next:\n  mixrank report RUN...   # this table for any runs side by side", soft_wrap=True)
    console.print(f"  {folder} is this one's folder", soft_wrap=True)


@guarded
@needs("pipeline")
def advance(
    config: Config,
    until: Annotated[str | None, typer.Option(help="Last day to take, such as 2022-05-06 (default: all).")] = None,
    redo: Annotated[
        str | None, typer.Option(help="Take this day back, and all after it, and do them again with today's log.")
    ] = None,
    start: Annotated[bool, typer.Option("--start", help="Do the run first, where there is none yet.")] = False,
    served: Annotated[
        Path | None,
        typer.Option(help="Folder of joined feedback, a folder YYYY-MM-DD for a day: train on rows as served."),
    ] = None,
    deploy: Annotated[
        bool,
        typer.Option(
            "--deploy", help="Try the newest version on the server of `advance.deploy`; promote or roll back."
        ),
    ] = False,
    overrides: Overrides = None,
    wait: Wait = False,
) -> None:
    """Take every new day of the log: judge the last model on it, train on it, push; from where `mixrank run` ended.

    After an interruption, run the same command again to resume. Exit code 1: an error, or the newest day is held back;
    with --deploy, 3: the newest version was rolled back, 4: it could not be brought to the server.
    """
    from mixrank.components.examples import parse_days
    from mixrank.pipeline.config import load_config
    from mixrank.pipeline.fast_loop import last_run
    from mixrank.pipeline.run_record import is_run

    settings = load_config(config, overrides or [])
    for day in filter(None, (until, redo)):
        parse_days(day)
    mlflow = MlflowLog(settings, arguments(config, overrides))
    if deploy:
        from mixrank.pipeline.advancing import deploy_newest, deploy_settings

        deploy_settings(settings)
    if served is not None and not served.is_dir():
        raise ValueError(f"--served {served} is no folder; `mixrank join-feedback` writes one for each day into it")
    if start and not is_run(settings.run_dir):
        run_once(config, overrides, wait)
    with alone(settings.run_dir, "advance", wait):
        run, dataset = last_run(settings)
        errors.print("loading TensorFlow ...", style="dim")
        from mixrank.components.training import prepare_devices
        from mixrank.pipeline.advancing import Advance
        from mixrank.pipeline.history import days_table
        from mixrank.pipeline.runners import LOG_FILE, quiet

        prepare_devices(settings.train.replicas)
        days = Advance(settings, dataset, run, served=served)
        if moved := days.begin():
            errors.print(moved, style="yellow", soft_wrap=True)
        with quiet(settings.run_dir / f"advance-{LOG_FILE}"):
            if redo:
                days.say(f"taken back: {', '.join(days.redo(redo))}")
            waiting = days.waiting(until)
            for day, what in days.left_out().items():
                errors.print(f"{day} {what}; `--redo {day}` takes them", style="yellow", soft_wrap=True)
            for column in days.new_columns():
                errors.print(
                    f"the log has a new column `{column}`, which the dataset does not declare",
                    style="yellow",
                    soft_wrap=True,
                )
            if waiting:
                days.start()
            for number, day in enumerate(waiting, start=1):
                days.say(f"[{number}/{len(waiting)}] {day}")
                record = days.take(day)
                mlflow.add(run, days.done())
                for reason in record.held:
                    errors.print(f"{day} is held back: {reason}", style="bold red", soft_wrap=True)
            days.tidy()
        done = days.done()
        console.print(days_table(done, dataset.spec) if done else "no day is done yet")
        outcome = deploy_newest(settings, dataset.spec, done, days.folder, days.say) if deploy else None
    if outcome is not None:
        _show_outcome(outcome)
    again = arguments(config, overrides)
    given = ("" if served is None else f" --served {shlex.quote(str(served))}") + " --deploy" * deploy
    console.print(f"next:\n  mixrank advance {again}{given}   # tomorrow", soft_wrap=True)
    if done:
        console.print(f"  mixrank history {again}   # these days as a page", soft_wrap=True)
    # Until it is done again, so that a second attempt does not pass for a day that was taken.
    if done and done[-1].held:
        raise typer.Exit(1)
    if outcome is not None and outcome.verdict in DEPLOY_EXITS:
        raise typer.Exit(DEPLOY_EXITS[outcome.verdict])


def _show_outcome(outcome: Outcome) -> None:
    """What `--deploy` came to."""
    if outcome.version is None:
        console.print("no day has pushed a version to deploy")
    elif outcome.verdict == "promoted":
        console.print(f"version {outcome.version} is promoted")
    elif outcome.verdict in DEPLOY_EXITS:
        said = {
            "rolled back": f"version {outcome.version} is rolled back",
            "undone": f"version {outcome.version} is not deployed; the next `advance --deploy` goes on with it",
        }
        for reason in outcome.reasons:
            errors.print(f"{said[outcome.verdict]}: {reason}", style="bold red", soft_wrap=True)
