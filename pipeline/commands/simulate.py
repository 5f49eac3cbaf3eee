"""`mixrank simulate`: a log whose click probabilities are known, and the best metrics that a model can reach on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.progress import track
from rich.table import Table

from mixrank.pipeline.commands.terminal import console, errors, guarded, needs
from mixrank.schemas.safe_text import shown

if TYPE_CHECKING:
    from mixrank.schemas.simulation import Simulation


@guarded
@needs("pipeline")
def simulate(
    folder: Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")],
    users: Annotated[int | None, typer.Option(help="Number of users.", show_default="3000")] = None,
    items: Annotated[int | None, typer.Option(help="Number of items.", show_default="100")] = None,
    days: Annotated[int | None, typer.Option(help="Number of days; the last is 2024-06-30.", show_default="10")] = None,
    impressions: Annotated[
        float | None, typer.Option(help="Mean number of impressions per user and day.", show_default="12")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed; equal options and seeds give equal files.", show_default="0")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting of the simulation, such as intent=0 or tastes=6; repeatable."),
    ] = None,
) -> None:
    """Write a simulated log, and print the best metrics that any model can reach on its last two days."""
    from mixrank.components.judging import attainable
    from mixrank.components.metrics import headlines
    from mixrank.schemas.datasets import load
    from mixrank.schemas.simulation import read_blocks, write_log
    from mixrank.schemas.task_kinds import BINARY

    given = {"users": users, "items": items, "days": days, "impressions": impressions, "seed": seed}
    settings = _settings({key: value for key, value in given.items() if value is not None}, overrides or [])
    write_log(folder, settings, lambda parts: track(parts, description="drawing users", console=errors))

    rows, clicks = 0, 0
    for events in read_blocks(folder):
        rows += len(events)
        clicks += int(events.click.sum())
    console.print(
        f"{rows:,} impressions of {settings.items:,} items by {settings.users:,} users on {settings.days} days, "
        f"{clicks / max(rows, 1):.1%} clicked"
    )
    shown = headlines(BINARY.name, requests=False)
    table = Table("click, as predicted by a reader", *(metric.title for metric in shown), title="what can be attained")
    for name, found in attainable(folder, load("simulated").spec).items():
        table.add_row(name, *(f"{found[metric.name]:.4f}" for metric in shown))
    console.print(table)
    console.print(f"next:\n  mixrank run simulated --set data={folder}", soft_wrap=True)


def _settings(values: dict[str, Any], overrides: list[str]) -> Simulation:
    from mixrank.schemas.simulation import Simulation

    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ValueError(f"--set takes key=value, received {shown(override)}")
        values[key] = yaml.safe_load(text)
    return Simulation(**values)
