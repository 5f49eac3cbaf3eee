"""`mixrank train` and `mixrank tfrs-baseline`: models on the rows that the last run transformed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from mixrank.pipeline.commands.report import show_report
from mixrank.pipeline.commands.terminal import Config, Overrides, Wait, alone, console, errors, guarded, needs


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
