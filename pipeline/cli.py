"""The `mixrank` command.

TensorFlow and TFX take many seconds to import, so they are imported inside the commands that need them.
"""

from __future__ import annotations

import logging
import os
import warnings

import typer

from mixrank.pipeline.commands import (
    compare,
    drift,
    inspect,
    kubeflow,
    parity,
    predict,
    rollout,
    run,
    score,
    serve,
    simulate,
    submit,
)

app = typer.Typer(
    help="Ranking models from raw impression logs: train, judge, push, serve, score.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

PANELS = {
    "Train and judge": (run.run, run.train, compare.compare, compare.tune, run.incumbent, run.report),
    "Look": (inspect.features, inspect.schema, inspect.models, inspect.doctor, simulate.simulate),
    "Serve": (serve.serve, predict.predict, parity.parity, rollout.deploy),
    "Score and watch": (score.score, drift.drift),
    "Kubeflow": (kubeflow.compile_, submit.submit),
}
for panel, commands in PANELS.items():
    for command in commands:
        # Python has a function of its own named compile.
        app.command(command.__name__.rstrip("_").replace("_", "-"), rich_help_panel=panel)(command)
app.add_typer(rollout.rollout, name="rollout", rich_help_panel="Serve")


def main() -> None:
    """Console entry point."""
    # What libraries say to their own developers; a run keeps it in its run.log.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in (None, "tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="google|tensorflow|tfx|keras|jax|apache_beam")
    warnings.filterwarnings("ignore", category=FutureWarning)
    app()


if __name__ == "__main__":
    main()
