"""`mixrank compare`: which architecture for this log."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

import typer

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

Jobs = Annotated[
    int | None, typer.Option(min=1, help="Number of trainings at a time (default: one per core, or one per GPU).")
]


@guarded
@needs("pipeline")
def compare(
    config: Config,
    tables: Annotated[
        list[str] | None,
        typer.Argument(
            help="Tables to fill: models, hemix, blocks, mtmixatt, mixformer, scaling, or your own (default: models)."
        ),
    ] = None,
    budgets: Annotated[
        list[str] | None,
        typer.Option(
            "--budget", help="Take only this size of the tables, such as 250K; repeatable (default: all sizes)."
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="Train the config's model without this feature or history, or without several with commas between "
            "them, and with all; repeatable."
        ),
    ] = None,
    jobs: Jobs = None,
    speed: Annotated[
        bool, typer.Option(help="Measure speed after the trainings, one model at a time; needs a quiet machine.")
    ] = True,
    report_only: Annotated[
        bool, typer.Option(help="Write the report of the finished trainings; start no training.")
    ] = False,
    overrides: Overrides = None,
    wait: Wait = False,
) -> None:
    """Train several models with the same settings and seeds on the last run's rows, and compare them.

    After an interruption, run the same command again to resume.
    """
    from mixrank.pipeline.config import load_config

    settings = load_config(config, overrides or [])
    # A report alone reads what is done, whoever is at work.
    with nullcontext() if report_only else alone(settings.run_dir, "compare", wait):
        from mixrank.pipeline.comparing import Comparison, processes

        named = tables or ([] if without else ["models"])
        comparison = Comparison.of(settings, named, budgets or [], without or [])
        failed: dict[str, str] = {}
        if not report_only:
            parallel = processes(jobs)
            errors.print(comparison.outline(parallel), style="dim", soft_wrap=True)
            failed = comparison.train(parallel, say, speed=speed)
        if failed and not comparison.begun:
            _fail(failed)
        page, markdown, grids = comparison.report()
    for grid in grids:
        console.print(grid.table())
    console.print(f"report: {page}\n        {markdown}", soft_wrap=True)
    _fail(failed)
    console.print("next:")
    again = arguments(config, overrides)
    for command, why in (
        (f"tune {again}", "the same small search for every model"),
        (f"run {again} --set model.name=...", "the pipeline with your choice"),
    ):
        console.print(f"  mixrank {command}   # {why}", soft_wrap=True)


@guarded
@needs("pipeline")
def tune(
    config: Config,
    models: Annotated[list[str] | None, typer.Argument(help="Models to search for (default: all).")] = None,
    draws: Annotated[
        int, typer.Option(min=1, help="Number of random draws per model, besides the config's own settings.")
    ] = 6,
    budget: Annotated[
        str | None, typer.Option(help="Dense parameters of every model, such as 250K (default: as the config has it).")
    ] = None,
    jobs: Jobs = None,
    overrides: Overrides = None,
    wait: Wait = False,
) -> None:
    """Search training settings: the same random draws for every model, judged on the validation split.

    After an interruption, run the same command again to resume.
    """
    from mixrank.pipeline.config import load_config

    settings = load_config(config, overrides or [])
    with alone(settings.run_dir, "tune", wait):
        from mixrank.components.training import parse_count
        from mixrank.layers import registry
        from mixrank.pipeline.comparing import (
            FOLDER,
            as_yaml,
            best,
            drawn_grid,
            processes,
            run_jobs,
            search_grid,
            search_settings,
            training_jobs,
        )
        from mixrank.pipeline.fast_loop import last_run
        from mixrank.schemas.files import write_text_atomically

        earlier, _ = last_run(settings)
        names = models or list(dict.fromkeys([*registry.names(), settings.model.name]))
        found = search_settings(settings, earlier, names, draws, parse_count(budget))
        folder = settings.run_dir / FOLDER
        console.print(drawn_grid(found).table())
        say(f"{len(found)} trainings in {folder}, judged on the validation split")
        failed = run_jobs(training_jobs([draw.trial for draw in found]), parallel=processes(jobs), say=say)
        console.print(search_grid(found).table())
        text = as_yaml(best(found))
        file = folder / "tuned.yaml"
        write_text_atomically(file, text)
    console.print(text, soft_wrap=True)
    _fail(failed)
    console.print(
        f"next:\n  put this into the config ({file} holds it), then  mixrank compare {arguments(config, overrides)}",
        soft_wrap=True,
    )


def _fail(failed: dict[str, str]) -> None:
    if not failed:
        return
    errors.print(f"\n{len(failed)} failed:", style="bold red")
    for title, reason in failed.items():
        errors.print(f"  {title}: {reason}", soft_wrap=True)
    errors.print("next: mend it and give the same command again; what is done stays done")
    raise typer.Exit(1)


def say(line: str) -> None:
    """One line of progress."""
    errors.print(line, soft_wrap=True)
