"""`mixrank drift`: served or logged rows against what the model was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mixrank.pipeline.commands.terminal import console, errors, guarded, needs

ALARM = 3


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
