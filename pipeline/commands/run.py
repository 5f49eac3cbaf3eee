"""`mixrank run`, `train`, `incumbent` and `report`: from a log to a judged model."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from mixrank.pipeline.commands.terminal import console, errors, guarded, needs

Config = Annotated[
    str, typer.Argument(help="A YAML file, or the name of a shipped config (movielens, kuairand, simulated).")
]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override, such as train.epochs=2; repeatable.")]


@guarded
@needs("pipeline")
def run(config: Config, overrides: Overrides = None) -> None:
    """Run the whole pipeline: raw log to a judged, pushed model and a report."""
    from mixrank.pipeline.config import load_config

    settings = load_config(config, overrides or [])
    settings.load_dataset(), settings.data_dir()
    errors.print(f"run folder {settings.run_dir}; details in {settings.run_dir}/run.log", style="dim", soft_wrap=True)
    errors.print("loading TensorFlow and TFX ...", style="dim")
    from mixrank.pipeline.reports import write_baseline
    from mixrank.pipeline.runners import run_local

    began = time.monotonic()
    result = run_local(settings)
    write_baseline(settings.run_dir)
    page = _report([settings.run_dir], settings.run_dir / "report.html")
    errors.print(f"all components: {time.monotonic() - began:.0f} s", style="dim")
    console.print(f"report: {page}", soft_wrap=True)
    if not result["blessed"]:
        errors.print("\n[bold red]the model was not pushed:[/]")
        for reason in result["reasons"]:
            errors.print(f"  {reason}", markup=False, soft_wrap=True)
        errors.print(f"next: look at the report, then  mixrank run {config} --set train.epochs=...", markup=False)
        raise typer.Exit(1)
    console.print(f"pushed: {result['pushed']}", soft_wrap=True)
    console.print("\nnext:")
    console.print(
        f"  mixrank report {settings.run_dir}          # this table and the HTML report again", soft_wrap=True
    )
    console.print(
        f"  mixrank train {config} --set train.epochs=5   # a fast loop on the transformed rows", soft_wrap=True
    )
    console.print("  mixrank models hemix                       # parameters and presets", soft_wrap=True)


@guarded
@needs("pipeline")
def train(config: Config, overrides: Overrides = None) -> None:
    """Train on the rows that the last `run` of this config transformed, without the other components."""
    from mixrank.pipeline.config import load_config

    settings = load_config(config, overrides or [])
    errors.print("loading TensorFlow ...", style="dim")
    from mixrank.pipeline.fast_loop import train_only

    folder = train_only(settings)
    page = _report([folder], folder / "report.html")
    console.print(f"report: {page}", soft_wrap=True)
    console.print(f"next:\n  mixrank report {settings.run_dir} {folder}   # side by side with the run", soft_wrap=True)


@guarded
@needs("pipeline")
def incumbent(
    config: Config,
    model: Annotated[str, typer.Option(help="dlrm or dcn.")] = "dlrm",
    overrides: Overrides = None,
) -> None:
    """Train TensorFlow Recommenders' DLRM or DCN on the last run's rows, one model per task, to compare with."""
    from mixrank.pipeline.config import load_config
    from mixrank.pipeline.fast_loop import last_run

    settings = load_config(config, overrides or [])
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
    page = _report([settings.run_dir, folder], folder / "report.html")
    console.print(f"report: {page}", soft_wrap=True)
    console.print("next:\n  mixrank report RUN...   # this table for any runs side by side", soft_wrap=True)
    console.print(f"  {folder} is this one's folder", soft_wrap=True)


@guarded
@needs("pipeline")
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    output: Annotated[Path | None, typer.Option(help="HTML file; report.html in the first folder if left out.")] = None,
) -> None:
    """Write the HTML report of one or several runs, and print their metrics."""
    page = _report(runs, output or runs[0] / "report.html")
    console.print(f"report: {page}", soft_wrap=True)


def _report(runs: list[Path], page: Path) -> Path:
    from mixrank.pipeline.reports import metrics_table, write_report

    write_report(runs, page)
    console.print(metrics_table(runs))
    return page
