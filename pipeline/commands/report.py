"""`mixrank report`, `mixrank history`, `mixrank importance`: what runs, days and single features gave."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    require,
)

if TYPE_CHECKING:
    from mixrank.pipeline.advancing import DayRecord
    from mixrank.pipeline.config import RunConfig
    from mixrank.pipeline.run_record import RunRecord


@guarded
@needs("pipeline")
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    output: Annotated[
        Path | None, typer.Option(help="HTML file to write (default: report.html in the first folder).")
    ] = None,
    slices: Annotated[
        list[str] | None,
        typer.Option(
            "--slice", help="Judge also by this feature or history; repeatable (default: the config's `slices`)."
        ),
    ] = None,
    wait: Wait = False,
) -> None:
    """Write the HTML report of one or more runs, and print their metrics."""
    with nullcontext() if output else alone(runs[0], "report", wait):
        page = show_report(runs, output or runs[0] / "report.html", slices or [])
    console.print(f"report: {page}", soft_wrap=True)


def show_report(runs: list[Path], page: Path, slices: Sequence[str] = ()) -> Path:
    """Writes the page of some runs and prints their metrics, by some columns besides the scenario."""
    from mixrank.pipeline.reports import RunFolder, metrics_tables, summarise_log, write_report

    write_report(runs, page, slices)
    for table in metrics_tables(runs, slices):
        console.print(table)
    for run in map(RunFolder.load, runs):
        for heading, text in summarise_log(run):
            console.print(f"{run.name + ' ' if len(runs) > 1 else ''}{heading}: {text}", soft_wrap=True)
    return page


@guarded
@needs("pipeline")
def history(
    config: Config,
    output: Annotated[
        Path | None, typer.Option(help="HTML file to write (default: history.html in the run folder).")
    ] = None,
    models_config: Annotated[
        Path | None,
        typer.Option(
            help="models.config of the servers (default: that of `advance.deploy`, or the one beside the versions)."
        ),
    ] = None,
    log: Annotated[
        bool, typer.Option("--log", help="Log to MLflow what is not there yet: the run, its days and this page.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Print all days that `mixrank advance` has taken, and write a page: metrics, gates, drift, cost, versions."""
    from mixrank.pipeline.config import load_config

    settings, again = load_config(config, overrides or []), arguments(config, overrides)
    if log and settings.mlflow is None:
        raise ValueError("`--log` needs a section `mlflow` in the config, or --set mlflow.tracking_uri=...")
    mlflow = MlflowLog(settings, again) if log else None
    errors.print("reading the days ...", style="dim")
    from mixrank.pipeline.advancing import DAYS, days_done
    from mixrank.pipeline.fast_loop import find_run
    from mixrank.pipeline.history import days_table, served_versions, write_history
    from mixrank.schemas.stores import is_url

    run = find_run(settings)
    records = days_done(settings.run_dir / DAYS)
    if not records:
        none = f"no day after the run is done yet; take those of the log: mixrank advance {again}"
        if mlflow is None:
            raise ValueError(none)
        if not mlflow.add(run):
            raise typer.Exit(1)
        console.print(none, soft_wrap=True)
        return
    if is_url(settings.push_place):
        settings.open_stores()
    deployed = settings.advance.deploy
    if models_config is None and deployed and deployed.models_config and Path(deployed.models_config).is_file():
        models_config = Path(deployed.models_config)
    served = served_versions(settings.push_place, models_config, deployed.model if deployed else None)
    file = output or settings.run_dir / "history.html"
    write_history(settings.name, records, run.spec, served, file)
    console.print(days_table(records, run.spec, served))
    for note in served.notes:
        console.print(note, soft_wrap=True)
    for record in records:
        for reason in record.held:
            errors.print(f"{record.day} was held back: {reason}", style="yellow", soft_wrap=True)
    console.print(f"report: {file}", soft_wrap=True)
    if mlflow is not None and not mlflow.add(run, records, [file]):
        raise typer.Exit(1)
    console.print(f"next:\n  mixrank advance {again}   # the days that have come since", soft_wrap=True)


class MlflowLog:
    """What a command logs to MLflow, if its config wants it; a server that is down is a warning, not its end.

    Args:
        settings: the config; without a section `mlflow` nothing is logged.
        again: its arguments on the command line, for the command that makes up for a failure.

    Raises:
        ValueError: if the config wants it and it is not installed.
    """

    def __init__(self, settings: RunConfig, again: str) -> None:
        self.settings, self.again = settings, again
        self.down = False
        if settings.mlflow is not None:
            require("mlflow", "`mlflow` in the config")

    def add(self, run: RunRecord, days: Sequence[DayRecord] = (), pages: Sequence[Path] = ()) -> bool:
        """Logs what is not logged yet; after a failure nothing more.

        Args:
            run, days, pages: as in `log_to_mlflow`.

        Returns:
            Whether it is all there.
        """
        if self.settings.mlflow is None or self.down:
            return False
        from mixrank.pipeline.tracking import log_to_mlflow

        try:
            said = log_to_mlflow(self.settings.mlflow, run, self.settings.run_dir, days, pages)
        # Whatever MLflow, its libraries and the network raise; what the command has done is done.
        except Exception as error:
            self.down = True
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            errors.print(
                f"not logged to MLflow at {self.settings.mlflow.tracking_uri}: {reason}. Nothing else is lost; log it "
                f"when the server answers:\n  mixrank history {self.again} --log",
                style="yellow",
                soft_wrap=True,
            )
            return False
        console.print(f"MLflow: {said}", soft_wrap=True)
        return True


@guarded
@needs("pipeline")
def importance(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    features: Annotated[
        list[str] | None,
        typer.Argument(
            help="Features and histories, or history.feature; those with commas between them change together "
            "(default: the scenario, each feature of the row and each history alone)."
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Number of evaluation rows to take at most.")] = 20_000,
    permutations: Annotated[int, typer.Option(min=1, help="Number of permutations of each group.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of rows, permutations and intervals.")] = 0,
    wait: Wait = False,
) -> None:
    """Measure what a run's model loses when the values of each feature change rows, with intervals over users."""
    with alone(run, "importance", wait):
        from mixrank.pipeline import reports
        from mixrank.pipeline.run_record import RunRecord

        record = RunRecord.read(run)
        groups = reports.feature_groups(record.spec, features or [])
        if record.export is None:
            raise ValueError(f"run {record.name} has no exported model to ask")
        columns, truth = reports.read_rows(record.spec, record.rows.examples_of("eval"), rows, seed)
        found = reports.measure_importance(
            record.spec,
            columns,
            truth,
            reports.scorer(record.export),
            groups,
            permutations=permutations,
            seed=seed,
            say=lambda line: errors.print(line, style="dim", soft_wrap=True),
        )
        file = reports.write_importance(run, found)
    for task, metric, each in reports.by_measure(found):
        console.print(reports.importance_table(task, metric, each))
    console.print(f"importance: {file}", soft_wrap=True)
    console.print(f"next:\n  mixrank report {run}   # the page shows it", soft_wrap=True)
