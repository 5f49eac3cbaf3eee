"""The `mixrank` command.

A command's module is imported when that command is called. `mixrank --help` reads the help lines from the modules'
source text, so it imports none of them.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from functools import cache
from importlib import import_module
from pathlib import Path
from shutil import get_terminal_size
from textwrap import wrap
from typing import Any

import typer
from typer.core import TyperGroup

from mixrank.pipeline import commands
from mixrank.schemas.safe_text import brief, safe

# Panel -> command -> `module.function`, in the order of the help page.
PANELS = {
    "Train and judge": {
        "init": "init.init",
        "run": "run.run",
        "advance": "train.advance",
        "history": "report.history",
        "train": "train.train",
        "compare": "compare.compare",
        "tune": "compare.tune",
        "tfrs-baseline": "train.tfrs_baseline",
        "report": "report.report",
        "importance": "report.importance",
    },
    "Look": {
        "check": "run.check",
        "features": "inspect.features",
        "schema": "inspect.schema",
        "models": "inspect.models",
        "heads": "inspect.heads",
        "doctor": "inspect.doctor",
        "simulate": "simulate.simulate",
    },
    "Serve": {
        "serve": "serve.serve",
        "predict": "predict.predict",
        "parity": "parity.parity",
        "deploy": "rollout.deploy",
        "rollout": "rollout.rollout",
    },
    "Score and watch": {
        "score": "score.score",
        "popularity": "score.popularity",
        "drift": "drift.drift",
        "join-feedback": "drift.join_feedback",
    },
    "Kubeflow": {"compile": "kubeflow.compile_spec", "submit": "kubeflow.submit"},
}
# A command of commands: its module has an `app`, whose callback is the function above.
GROUPS = ("rollout", "simulate")
COMMANDS = {name: path for panel in PANELS.values() for name, path in panel.items()}


class LazyGroup(TyperGroup):
    """Imports a command to call it, not to list it."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Prints the page as Typer does with Rich, which takes longer to import than all else."""
        width = get_terminal_size().columns
        options: list[Any] = self.get_params(ctx)
        panels = {"Options": [("/".join(each.opts), each.help) for each in options]}
        for panel, listed in PANELS.items():
            panels[panel] = [(name, help_line(path)) for name, path in listed.items()]
        left = max(len(name) for rows in panels.values() for name, _ in rows)
        usage = typer.style("Usage: ", fg="yellow") + typer.style(ctx.command_path, bold=True)
        lines = ["", f" {usage} {' '.join(self.collect_usage_pieces(ctx))}", "", f" {self.help}", ""]
        side = typer.style("│", dim=True)
        for title, rows in panels.items():
            lines.append(typer.style(f"╭─ {title} ".ljust(width - 1, "─") + "╮", dim=True))
            for name, text in rows:
                for number, line in enumerate(wrap(text, width - left - 6)):
                    shown = typer.style(("" if number else name).ljust(left), fg="cyan", bold=True)
                    lines.append(f"{side} {shown}  {line.ljust(width - left - 6)} {side}")
            lines.append(typer.style("╰" + "─" * (width - 2) + "╯", dim=True))
        typer.echo("\n".join(lines), color=ctx.color)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed and load_command(str(name)), rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            # A wrong use of the command line, which repeats what was given.
            if isinstance(text := getattr(error, "message", None), str):
                error.message = brief(safe(text))  # type: ignore[attr-defined]
            raise


def load_command(name: str) -> Any:
    """The click command of that name, from its module."""
    module, function = COMMANDS[name].split(".")
    imported = import_module(f"{commands.__name__}.{module}")
    if name in GROUPS:
        return typer.main.get_command(imported.app)
    single = typer.Typer(add_completion=False)
    single.command(name)(getattr(imported, function))
    return typer.main.get_command(single)


def help_line(path: str) -> str:
    """The first line of a command's docstring.

    Args:
        path: `module.function`.

    >>> help_line("inspect.doctor")
    'Check this machine: Python, packages, devices, memory, disk.'
    """
    module, function = path.split(".")
    (folder,) = commands.__path__
    found = re.search(rf'^def {function}\(.*?"""(.*?)(?:"""|$)', _source(Path(folder, f"{module}.py")), re.M | re.S)
    if found is None:
        raise ValueError(f"commands/{module}.py has no function {function}")
    return found[1]


@cache
def _source(file: Path) -> str:
    return file.read_text()


app = typer.Typer(
    cls=LazyGroup,
    help="Ranking models from raw impression logs: train, judge, push, serve, score.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for name in COMMANDS:
    app.command(name)(lambda: None)


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
