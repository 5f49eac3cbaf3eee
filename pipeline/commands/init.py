"""`mixrank init`: the first declaration and config of a log, from its files."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixrank.pipeline.commands.terminal import console, errors, guarded, needs

if TYPE_CHECKING:
    from mixrank.pipeline.starting import Question, Started, Tables


@guarded
@needs("pipeline")
def init(
    logs: Annotated[
        list[str], typer.Argument(metavar="LOG...", help="Files, folders or object-store prefixes that hold the log.")
    ],
    name: Annotated[str, typer.Option(help="Name of the log, of its run, and of the two files.")] = "my_log",
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Take every guess (default: ask what is in doubt, in a terminal).")
    ] = False,
    user: Annotated[
        str | None, typer.Option(help="Column that says who saw an item, or `none` (default: a guess).")
    ] = None,
    item: Annotated[str | None, typer.Option(help="Column that says what was shown (default: a guess).")] = None,
    time_column: Annotated[
        str | None, typer.Option("--time", help="Column that says when it was shown (default: a guess).")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="Column to predict; repeatable (default: a guess).")] = None,
    scenario: Annotated[
        str | None, typer.Option(help="Column that says where it was shown, or `none` (default: a guess).")
    ] = None,
) -> None:
    """Write a declaration and a config for a log, from what its files look like."""
    from mixrank.pipeline.starting import Answers, check_name, look, start

    began = time.monotonic()
    check_name(name, Path())
    told = {"user": user, "item": item, "time": time_column, "scenario": scenario}
    columns: dict[str, tuple[str, ...]] = {about: (column,) for about, column in told.items() if column is not None}
    if label:
        columns["label"] = tuple(label)
    tables = look(logs)
    _show_tables(tables)
    asks = not yes and sys.stdin.isatty() and sys.stdout.isatty()
    command = f"mixrank init {' '.join(map(shlex.quote, logs))}"
    started = start(tables, name, Path(), Answers(columns, ask if asks else None), command)
    _show(started)
    errors.print(f"{time.monotonic() - began:.1f} s", style="dim")


def _show_tables(tables: Tables) -> None:
    from rich.table import Table

    shown = Table("table", "files", "rows", "columns", title=tables.folder)
    for found in tables.found:
        about = "" if found.rows == found.sampled else "about "
        shown.add_row(found.name, str(len(found.files)), f"{about}{found.rows:,}", ", ".join(found.columns))
    console.print(shown)
    for line in tables.skipped:
        errors.print(f"passed over: {line}", style="dim", soft_wrap=True)


def ask(question: Question) -> str:
    """Asks in the terminal; an empty answer is the guess."""
    from rich.prompt import Prompt

    console.print(question.text, soft_wrap=True)
    if question.choices:
        console.print(f"  or: {', '.join(question.choices)}", soft_wrap=True)
    return Prompt.ask(f"  {question.about}", default=question.guess, console=console).strip()


def _show(started: Started) -> None:
    plan = started.plan
    console.print(
        f"wrote {started.declaration}: {len(plan.spec.inputs)} features, {len(plan.spec.histories)} histories, "
        f"{len(plan.source.joins)} joined tables"
    )
    console.print(f"wrote {started.config}")
    if plan.doubts:
        console.print(f"\nlook at these lines, marked `# ?` in {started.declaration}:")
        for doubt in plan.doubts:
            console.print(f"  {doubt}", soft_wrap=True)
    console.print("\nnext:")
    for command, why in (
        (f"check {shlex.quote(str(started.config))}", "the log against its declaration, on a sample"),
        (f"run {shlex.quote(str(started.config))}", "train, judge and push a model"),
    ):
        console.print(f"  mixrank {command}   # {why}", soft_wrap=True)
