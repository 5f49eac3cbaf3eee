"""Logged rows: `mixrank drift`, against what the model was trained on; `mixrank join-feedback`, with their outcomes."""

from __future__ import annotations

import glob
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixrank.pipeline.commands.terminal import Config, Overrides, arguments, console, errors, guarded, needs

if TYPE_CHECKING:
    from mixrank.components.feedback import Feedback, Skew

ALARM = 3
SKEW = "skew.json"


@guarded
@needs("pipeline")
def drift(
    baseline: Annotated[Path, typer.Argument(help="A run folder, a statistics file (.pb, .pbtxt), or rows.")],
    new: Annotated[
        Path, typer.Argument(help="Rows as TFRecord, Parquet, CSV or JSON lines, a file or a folder; or a run folder.")
    ],
    model: Annotated[
        Path | None,
        typer.Option(help="The exported model that scored the rows; required unless BASELINE is a run folder."),
    ] = None,
    split: Annotated[str, typer.Option(help="Split to judge, if NEW is a run folder.")] = "eval",
    limit: Annotated[
        list[str] | None, typer.Option(help="A limit, such as psi=0.3; repeatable. docs/drift.md lists them.")
    ] = None,
    min_rows: Annotated[int, typer.Option(min=0, help="Minimum rows for a distance to raise an alarm.")] = 1000,
    json: Annotated[Path | None, typer.Option(help="JSON file to write the findings to.")] = None,
    html: Annotated[Path | None, typer.Option(help="HTML file to write the report to.")] = None,
    statistics: Annotated[
        Path | None, typer.Option(help="File (.pb) to write the statistics of NEW to, for TFDV's visualize_statistics.")
    ] = None,
) -> None:
    """Compare served or logged rows with training; exit code 0: no alarm, 3: alarms, 1: error."""
    from mixrank.serving.drift import Limits

    limits = Limits.parse(limit or [])
    from mixrank.pipeline.reports import known_model, read_baseline, read_new

    known = known_model(baseline, model)
    errors.print("loading TensorFlow Data Validation ...", style="dim")
    from mixrank.pipeline.reports import compare, drift_table, write_json, write_page, write_statistics

    with errors.status("reading") as status:

        def progress(name: str, rows: int) -> None:
            status.update(f"reading {name}: {rows:,} rows")

        old = read_baseline(baseline, known, progress)
        fresh = read_new(new, known, split, progress)
        status.update("comparing")
        found = compare(old, fresh, known, limits, min_rows)
    console.print(f"{fresh.name}: {fresh.rows:,} rows", style="bold", soft_wrap=True)
    console.print(f"against {old.name}: {old.rows:,} rows", soft_wrap=True)
    console.print(drift_table(found))
    for note in found.notes:
        console.print(f"note: {note}", soft_wrap=True)
    if json is not None:
        write_json(found, json)
    if statistics is not None:
        write_statistics(fresh, statistics)
    if html is not None:
        write_page(found, known, html)
        console.print(f"report: {html}", soft_wrap=True)
    uncertain = f", {len(found.uncertain)} over the limit on too few rows" if found.uncertain else ""
    console.print(f"{len(found.alarms)} alarms of {len(found.findings)} measures{uncertain}")
    if html is None:
        from mixrank.pipeline.run_record import is_run

        chosen = {"--model": model, "--split": split if is_run(new) else None}
        given = "".join(f" {option} {value}" for option, value in chosen.items() if value is not None)
        console.print(f"next:\n  mixrank drift {baseline} {new}{given} --html drift.html", soft_wrap=True)
    if found.alarms:
        raise typer.Exit(ALARM)


@guarded
@needs("pipeline")
def join_feedback(
    config: Config,
    served: Annotated[
        list[str], typer.Option(help="Log of served requests: a file, a folder or a pattern; repeatable.")
    ],
    outcomes: Annotated[
        list[str], typer.Option(help="Table of outcomes with labels: a file, a folder or a pattern; repeatable.")
    ],
    within: Annotated[float, typer.Option(help="Hours from an impression to its last outcome.")],
    output: Annotated[Path, typer.Option(help="Folder to write; must not exist, or be empty.")],
    until: Annotated[
        str | None,
        typer.Option(
            help="Time up to which outcomes are known, such as 2026-05-06T00:00 (default: of the newest one)."
        ),
    ] = None,
    shown: Annotated[
        list[str] | None,
        typer.Option(help="Table with the impression_id of what users saw; repeatable (default: all that was scored)."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Folder with ExampleGen's examples of the same impressions, to compare with.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Join logged requests with their outcomes: rows that train as they were served, and what is left over."""
    from mixrank.pipeline.config import load_config
    from mixrank.schemas.files import write_text_atomically

    dataset = load_config(config, overrides or []).load_dataset()
    end = None if until is None else _milliseconds(until, dataset.spec.time.timezone)
    if against is not None and not against.exists():
        raise ValueError(f"--against {against} is neither a file nor a folder of files")
    logs = [path for source in served for path in _paths(source)]
    errors.print("loading TensorFlow ...", style="dim")
    from mixrank.components import feedback as joining

    with errors.status("reading") as status:
        found = joining.join_feedback(
            dataset.spec, logs, outcomes, output,
            within_hours=within, until_ms=end, shown=shown or (), say=status.update,
        )  # fmt: skip
        skew = None
        if against is not None and found.rows:
            skew = joining.compare_rows(dataset.spec, output, against, within_hours=within, say=status.update)
            write_text_atomically(output / SKEW, skew.model_dump_json(indent=1))
    _show_feedback(found)
    if skew is not None:
        _show_skew(skew)
    elif against is not None:
        errors.print("there are no rows to compare", style="yellow")
    console.print(f"{found.rows:,} rows to train on: {output}", soft_wrap=True)
    waiting = [name for name in ("served", "outcomes") if (output / "waiting" / name).is_dir()]
    if waiting:
        given = " ".join(f"--{name} {shlex.quote(str(output / 'waiting' / name))}" for name in waiting)
        console.print(f"for the next join, beside its own files: {given}", soft_wrap=True)
    if not found.rows:
        raise typer.Exit(1)
    again = arguments(config, overrides)
    console.print(
        f"next:\n  mixrank advance {again} --served {shlex.quote(str(output.parent))}"
        "   # each day with a folder of its name in it",
        soft_wrap=True,
    )


def _milliseconds(moment: str, timezone: str) -> int:
    from mixrank.schemas.arrow import pa
    from mixrank.schemas.raw import RawColumn, convert

    values, bad = convert(pa.array([moment]), RawColumn("until", "time", format="iso", timezone=timezone))
    if bad or values[0].as_py() is None:
        raise ValueError(f"--until must be a time such as 2026-05-06T00:00, received {moment!r}")
    return int(values[0].as_py())


def _paths(source: str) -> list[Path]:
    if Path(source).exists() or not glob.has_magic(source):
        return [Path(source)]
    found = sorted(map(Path, glob.glob(source)))
    if not found:
        raise ValueError(f"no file matches {source!r}")
    return found


def _show_feedback(found: Feedback) -> None:
    from rich.table import Table

    table = Table("", "what became of them", "count")
    for name, counts in (("impressions", found.served), ("outcomes", found.outcomes)):
        table.add_row(name, "all", f"{sum(counts.values()):,}", style="bold")
        for reason, count in counts.items():
            if count:
                table.add_row("", reason, f"{count:,}")
    console.print(table)
    if found.rows:
        positives = ", ".join(f"{name} {count:,} ({count / found.rows:.2%})" for name, count in found.positives.items())
        console.print(
            f"rows with an outcome: {found.with_outcome:,}; labels that are not 0: {positives}", soft_wrap=True
        )
    for name, count in found.missing.items():
        errors.print(f"{count:,} impressions lack `{name}`", style="yellow", soft_wrap=True)
    for what, names in (
        ("columns of the log that the spec does not know", found.ignored),
        ("columns of the spec that no logged row has", found.absent),
    ):
        if names:
            errors.print(f"{what}: {', '.join(names)}", style="yellow", soft_wrap=True)


def _show_skew(skew: Skew) -> None:
    from rich.table import Table

    console.print(
        f"features as served against those recomputed: {skew.matched:,} of {skew.served:,} rows found, "
        f"{skew.same_time:,} with the same time",
        soft_wrap=True,
    )
    differing = [column for column in skew.columns if column.equal < column.rows]
    if differing:
        table = Table("column", "rows that agree", "a row that does not", "served", "recomputed")
        for column in sorted(differing, key=lambda each: each.equal):
            for number, each in enumerate(column.first or ()):
                share = f"{column.equal:,} of {column.rows:,} ({column.equal / column.rows:.2%})"
                head = ("", "") if number else (column.name, share)
                table.add_row(*head, each.row, each.served, each.recomputed)
        console.print(table)
    console.print(f"{len(skew.columns) - len(differing)} of {len(skew.columns)} columns agree in all rows")
