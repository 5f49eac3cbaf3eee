"""`mixrank simulate`: logs whose labels follow known laws, and the best metrics that a model can reach on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
import yaml
from rich.progress import track
from rich.table import Table

from mixrank.pipeline.commands.terminal import console, errors, guarded, needs
from mixrank.schemas.safe_text import shown

if TYPE_CHECKING:
    from mixrank.schemas.naming import Declaration

    Settings = TypeVar("Settings", bound=Declaration)

app = typer.Typer(no_args_is_help=True, add_completion=False)

Folder = Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")]
Days = Annotated[int | None, typer.Option(help="Number of days; the last is 2024-06-30.", show_default="10")]
Seed = Annotated[int | None, typer.Option(help="Seed; equal options and seeds give equal files.", show_default="0")]


@app.callback()
def simulate() -> None:
    """Write a log that follows known laws, and the best metrics that a model can reach on it: clicks, repeat."""


@app.command()
@guarded
@needs("pipeline")
def clicks(
    folder: Folder,
    users: Annotated[int | None, typer.Option(help="Number of users.", show_default="3000")] = None,
    items: Annotated[int | None, typer.Option(help="Number of items.", show_default="100")] = None,
    days: Days = None,
    impressions: Annotated[
        float | None, typer.Option(help="Mean number of impressions per user and day.", show_default="12")
    ] = None,
    seed: Seed = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting of the simulation, such as intent=0 or tastes=6; repeatable."),
    ] = None,
) -> None:
    """Write clicks by taste, intent, scenario, quality and age, whose probabilities are known."""
    from mixrank.components.judging import attainable
    from mixrank.components.metrics import headlines
    from mixrank.schemas.datasets import load
    from mixrank.schemas.simulation import Simulation, read_blocks, write_log
    from mixrank.schemas.task_kinds import BINARY

    given = {"users": users, "items": items, "days": days, "impressions": impressions, "seed": seed}
    settings = _settings(Simulation, given, overrides)
    write_log(folder, settings, lambda parts: track(parts, description="drawing users", console=errors))

    rows, positive = 0, 0
    for events in read_blocks(folder):
        rows += len(events)
        positive += int(events.click.sum())
    console.print(
        f"{rows:,} impressions of {settings.items:,} items by {settings.users:,} users on {settings.days} days, "
        f"{positive / max(rows, 1):.1%} clicked"
    )
    named = headlines(BINARY.name, requests=False)
    table = Table("click, as predicted by a reader", *(metric.title for metric in named), title="what can be attained")
    for name, found in attainable(folder, load("simulated").spec).items():
        table.add_row(name, *(f"{found[metric.name]:.4f}" for metric in named))
    console.print(table)
    console.print(f"next:\n  mixrank run simulated --set data={folder}", soft_wrap=True)


@app.command()
@guarded
@needs("pipeline")
def repeat(
    folder: Folder,
    users: Annotated[int | None, typer.Option(help="Number of users.", show_default="2000")] = None,
    items: Annotated[int | None, typer.Option(help="Number of items.", show_default="3000")] = None,
    days: Days = None,
    impressions: Annotated[
        float | None, typer.Option(help="Mean number of impressions per user and day.", show_default="8")
    ] = None,
    seed: Seed = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting of the simulation, such as again=0.3 or wrong=0; repeatable."),
    ] = None,
) -> None:
    """Write purchases whose label says whether the user has had this very item before."""
    from mixrank.components.metrics import auc
    from mixrank.schemas.datasets import load
    from mixrank.schemas.simulation import Repeats, repeats_seen, write_repeats

    given = {"users": users, "items": items, "days": days, "impressions": impressions, "seed": seed}
    settings = _settings(Repeats, given, overrides)
    write_repeats(folder, settings, lambda users: track(users, description="drawing users", console=errors))

    lengths = {history.window: history.length for history in load("repeat").spec.histories}
    labels, seen, had = repeats_seen(folder, earlier=lengths["before"], today=lengths["within"])
    table = Table("bought, as predicted by who knows", "AUC", title="what can be attained on the last day")
    table.add_row("whether the item is one of the past", f"{auc(labels, had.astype(float)):.4f}")
    events = f"the newest {lengths['before']} events of earlier days and {lengths['within']} of the day"
    table.add_row(f"whether it is among {events}", f"{auc(labels, seen.astype(float)):.4f}")
    console.print(table)
    console.print(f"next:\n  mixrank run repeat --set data={folder}", soft_wrap=True)


def _settings(kind: type[Settings], given: dict[str, Any], overrides: list[str] | None) -> Settings:
    values = {key: value for key, value in given.items() if value is not None}
    for override in overrides or ():
        key, separator, text = override.partition("=")
        if not separator:
            raise ValueError(f"--set takes key=value, received {shown(override)}")
        values[key] = yaml.safe_load(text)
    return kind(**values)
