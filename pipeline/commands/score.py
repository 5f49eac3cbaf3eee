"""`mixrank score`: files in, one score per task and row out; `mixrank popularity`: a log in, a day's rates out."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress as Bar
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from mixrank.pipeline.commands.terminal import Config, Overrides, Unverified, console, errors, guarded, needs
from mixrank.pipeline.named_secrets import check_options, resolve
from mixrank.schemas import stores
from mixrank.schemas.safe_text import shown
from mixrank.schemas.stores import check_url, is_url

if TYPE_CHECKING:
    from mixrank.serving.batch_scoring import Progress

BLOCKS = " ▁▂▃▄▅▆▇█"


@guarded
@needs("pipeline")
def score(
    model: Annotated[Path, typer.Argument(help="Folder of a version, or a folder of versions (the newest is used).")],
    source: Annotated[
        Path | None, typer.Argument(metavar="INPUT", help="A file, a folder or a pattern; not with --dataset.")
    ] = None,
    output: Annotated[Path | None, typer.Argument(help="Folder to write; an unfinished run in it is resumed.")] = None,
    format: Annotated[
        str | None, typer.Option(help="parquet, csv, tsv, json (lines) or tfrecord (default: by the files' names).")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Column to copy besides user, item, time and scenario; repeatable.")
    ] = None,
    max_bad: Annotated[float, typer.Option(help="Maximum share of bad rows.")] = 0.01,
    batch_size: Annotated[int, typer.Option(help="Rows per call of the model.")] = 2048,
    rows_per_item: Annotated[
        int, typer.Option(help="Minimum rows of a Parquet file per output file; files are cut at row groups.")
    ] = 250_000,
    dataset: Annotated[
        str | None, typer.Option(help="Dataset that declares a raw log to score; the arguments are then MODEL OUTPUT.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Folder with the raw log's files, here or at s3://, gs:// or hdfs://.")
    ] = None,
    days: Annotated[
        str | None, typer.Option(help="Days of the raw log to score, such as 2022-05-05..2022-05-06 (default: all).")
    ] = None,
    beam: Annotated[
        list[str] | None,
        typer.Option(
            help="Option of the Beam pipeline, such as --beam=--runner=FnApiRunner; "
            "name a secret by env:NAME or file:PATH."
        ),
    ] = None,
    unverified: Unverified = False,
) -> None:
    """Score Parquet, CSV, JSON lines or TFRecord files with a pushed model on Beam; run it again to resume."""
    from mixrank.components.examples import parse_days
    from mixrank.serving.batch_scoring import FORMATS

    source, output = _places(source, output, dataset, data, days)
    window = None if days is None else parse_days(days)
    if format is not None and format not in FORMATS:
        raise ValueError(f"--format must be one of {', '.join(FORMATS)}, received {shown(format)}")
    arguments = resolve(check_options(beam or [], "--beam"))
    stores.configure(arguments)
    if data is not None and is_url(data):
        data = check_url(data, "--data")
        stores.names(data)
    errors.print("loading TensorFlow and Beam ...", style="dim")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from mixrank.serving.base import check_sums
    from mixrank.serving.batch_scoring import find_model
    from mixrank.serving.batch_scoring import score as run

    if dataset is not None:
        if not unverified:
            # Before the log is joined, which takes long.
            check_sums(find_model(model))
        source = _join_log(dataset, data, window, output, arguments)
    assert source is not None
    with Bar(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=errors) as bar:
        task = bar.add_task("planning")

        def report(progress: Progress) -> None:
            speed = progress.rows / progress.seconds if progress.seconds else 0.0
            said = f"{progress.rows:,} rows, {speed:,.0f} rows/s, {progress.items} of {progress.of} parts done"
            bar.update(task, description=said)

        summary = run(
            model,
            source,
            output,
            format=format,
            keep=keep or [],
            max_bad=max_bad,
            batch_size=batch_size,
            rows_per_item=rows_per_item,
            beam_args=arguments,
            report=report,
            verified=not unverified,
        )
    _print(summary, output)


@guarded
@needs("pipeline")
def popularity(
    config: Config,
    output: Annotated[Path, typer.Argument(help="Folder to write, one for each day.")],
    day: Annotated[
        str | None, typer.Option(help="Day of the requests, such as 2022-05-07 (default: that after the newest event).")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Write what requests of a day carry of popularity: a table per feature, from all days of the log before."""
    from mixrank.components.examples import parse_days
    from mixrank.pipeline.config import load_config

    if day is not None and len(set(parse_days(day))) > 1:
        raise ValueError(f"--day must be a single day, received {shown(day)}")
    settings = load_config(config, overrides or [])
    dataset = settings.load_dataset()
    settings.open_stores()
    errors.print("loading TFX and Beam, counting ...", style="dim")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from mixrank.components.examples import write_popularity

    found = write_popularity(dataset, settings.data_dir(), output, day, resolve(settings.beam))
    table = Table("feature", "requests of", "values")
    for name, each in found.items():
        table.add_row(name, each["day"], f"{each['values']:,}")
    console.print(table)
    say = partial(console.print, soft_wrap=True)
    say(f"wrote {output}; the popularity of a value that a table lacks is 0")
    first = next(iter(found))
    say(f"next:\n  python -c \"import pandas; print(pandas.read_parquet('{output}/{first}.parquet'))\"")


def _places(
    source: Path | None, output: Path | None, dataset: str | None, data: str | None, days: str | None
) -> tuple[Path | None, Path]:
    """INPUT and OUTPUT; a raw log's input is in its options, so that its one folder is the output."""
    if dataset is None:
        if data is not None or days is not None:
            raise ValueError("--data and --days belong to a raw log: name it by --dataset")
        if source is None or output is None:
            raise ValueError("MODEL INPUT OUTPUT are needed, or MODEL OUTPUT with --dataset and --data")
        return source, output
    if data is None:
        raise ValueError("--dataset needs --data, the folder with the raw log's files")
    if source is None or output is not None:
        raise ValueError("a raw log is scored by: mixrank score MODEL OUTPUT --dataset NAME --data DIR")
    return None, source


def _join_log(
    dataset: str, data: str | None, window: tuple[str, str] | None, output: Path, arguments: list[str]
) -> Path:
    from mixrank.components.examples import write_examples
    from mixrank.schemas import datasets

    assert data is not None
    found = datasets.load(dataset)
    errors.print("joining the log and cutting its histories ...", style="dim")
    return write_examples(found, data, output / "examples", window, arguments)


def _print(summary: dict[str, Any], output: Path) -> None:
    table = Table("task", "rows", "mean", "least", "most", "null", "scores from 0 to 1")
    for task, scores in summary["scores"].items():
        numbers = [scores[name] for name in ("mean", "min", "max")]
        table.add_row(
            task,
            f"{sum(scores['histogram']):,}",
            *("-" if number is None else f"{number:.4f}" for number in numbers),
            f"{scores['null']:,}",
            sparkline(scores["histogram"]),
        )
    console.print(table)
    say = partial(console.print, soft_wrap=True)
    if summary["complete_before"]:
        say(f"already complete: {output} holds the scores of this model and input")
    else:
        speed = summary["rows_scored_now"] / max(summary["seconds"], 1e-9)
        say(
            f"{summary['rows']:,} rows, {summary['bad']:,} bad; scored {summary['rows_scored_now']:,} now "
            f"in {summary['seconds']:.1f} s, {speed:,.0f} rows/s; {summary['resumed_items']} of {summary['items']} "
            f"parts were there",
        )
    say(f"wrote {output}/scores, {output}/summary.json")
    say("next:")
    if summary["bad"]:
        say(f"  head {output}/dead_letter.jsonl   # the rows that were left out, and why")
    say(
        f"  python -c \"import pandas; print(pandas.read_parquet('{output}/scores').describe())\"",
    )


def sparkline(counts: list[int]) -> str:
    """A histogram in one line.

    >>> sparkline([0, 1, 8])
    ' ▁█'
    """
    most = max(counts, default=0) or 1
    # A bin with a single row must not look empty.
    return "".join(BLOCKS[0 if not count else max(1, round(count / most * 8))] for count in counts)
