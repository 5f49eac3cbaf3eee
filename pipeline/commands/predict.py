"""`mixrank predict`: scores for rows in a file, from a server or from a model's folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from mixrank.pipeline.commands.terminal import Unverified, console, errors, guarded, require

if TYPE_CHECKING:
    from mixrank.pipeline.request_files import Line
    from mixrank.serving.client import Client
    from mixrank.serving.export import LocalModel

# Rows per request, and rows of the table that a terminal shows.
BLOCK, SHOWN = 128, 20


@guarded
def predict(
    target: Annotated[
        str | None,
        typer.Argument(help="http://host:8501, grpc://host:8500, or the folder of a model to load in this process."),
    ] = None,
    rows: Annotated[
        str | None, typer.Argument(help="Rows: JSON lines, a .json file with a list of them, or - for standard input.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Name of the model on the server (default: the name of the --spec folder).")
    ] = None,
    rank: Annotated[
        bool, typer.Option("--rank", help='Each line is {"request": {...}, "candidates": [{...}, ...]}.')
    ] = False,
    version: Annotated[int | None, typer.Option(help="Version to ask (default: newest).")] = None,
    label: Annotated[str | None, typer.Option(help="Label of the version to ask, such as stable.")] = None,
    spec: Annotated[
        Path | None,
        typer.Option(help="Folder of the model; rows are checked and padded by its features before they are sent."),
    ] = None,
    deadline: Annotated[float, typer.Option(help=f"Seconds for a request of up to {BLOCK} rows.")] = 10.0,
    output: Annotated[Path | None, typer.Option(help="File to write (default: standard output).")] = None,
    drop_unknown: Annotated[
        bool, typer.Option("--drop-unknown", help="Drop fields that the model does not know.")
    ] = False,
    example: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Print example rows for the model in this folder, or with --rank a request, and stop."
        ),
    ] = None,
    count: Annotated[int, typer.Option(help="Rows, or candidates of the request, that --example prints.")] = 3,
    unverified: Unverified = False,
) -> None:
    """Score rows, or rank candidates: JSON lines in, JSON lines out."""
    from mixrank.pipeline.request_files import example_lines, read_lines

    if example is not None:
        for line in example_lines(example, rank, count):
            typer.echo(json.dumps(line))
        kind, option = ("requests", " --rank") if rank else ("rows", "")
        _next(
            f"mixrank predict --example {example}{option} > {kind}.jsonl",
            f"mixrank predict {example} {kind}.jsonl{option}",
            f"mixrank predict http://localhost:8501 {kind}.jsonl{option} --spec {example}   # from a server",
        )
        return
    if target is None or rows is None:
        raise ValueError(
            "name a target and the rows: mixrank predict TARGET ROWS.jsonl; "
            "example rows for a model: mixrank predict --example DIR"
        )
    if output is not None and not output.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {output.absolute().parent} to write {output.name} to")
    lines = read_lines(rows, rank)
    # Errors in the file or its first line are raised before TensorFlow is loaded.
    lines = chain([next(lines)], lines)
    with ExitStack() as stack:
        if "://" in target:
            scorer: Client | LocalModel = stack.enter_context(
                _client(target, model, version=version, label=label, spec=spec, deadline=deadline, drop=drop_unknown)
            )
        else:
            for option, value in {"--model": model, "--label": label, "--spec": spec}.items():
                if value is not None:
                    raise ValueError(f"{option} is for a server; {target} is a folder")
            scorer = _local(Path(target), version, drop_unknown, unverified)
        answers = _rank(scorer, lines) if rank else _score(scorer, lines)
        scored = _write(answers, output, rank)
    errors.print(f"{scored} {'requests' if rank else 'rows'} scored by {target}", style="dim", soft_wrap=True)
    if output is None:
        again = f"{target} {rows}{' --rank' if rank else ''}"
        _next(f"mixrank predict {again} --output scores.jsonl   # into a file, with the same options")
    elif "://" in target:
        _next(f"head -3 {output}")
    else:
        _next(f"mixrank serve {target}   # the same model over REST and gRPC")


def _client(
    target: str,
    model: str | None,
    *,
    version: int | None,
    label: str | None,
    spec: Path | None,
    deadline: float,
    drop: bool,
) -> Client:
    from mixrank.serving.base import is_version
    from mixrank.serving.client import Client

    if model is None and spec is None:
        raise ValueError("name the model: --model NAME, or --spec DIR, whose name is taken")
    if drop and spec is None:
        raise ValueError("--drop-unknown needs --spec DIR, which says what is known")
    if model is None and spec is not None:
        folder = spec.absolute()
        model = folder.parent.name if is_version(folder) else folder.name
    return Client(
        target,
        model or "",
        spec=spec,
        version=version,
        label=label,
        deadline=deadline,
        max_rows=BLOCK,
        unknown="drop" if drop else "refuse",
    )


def _local(folder: Path, version: int | None, drop: bool, unverified: bool) -> LocalModel:
    from mixrank.serving.base import check_sums, find_version, load_spec, versions

    if version is not None:
        found = versions(folder)
        if version not in found:
            there = ", ".join(map(str, found)) or "none"
            raise ValueError(f"there is no version {version} in {folder}; there are {there}")
        folder = found[version]
    load_spec(folder)
    if not unverified:
        check_sums(find_version(folder))
    require("layers", "scoring with a model's folder")
    errors.print("loading TensorFlow ...", style="dim")
    from mixrank.serving.export import LocalModel

    return LocalModel(folder, "drop" if drop else "refuse")


def _score(scorer: Client | LocalModel, lines: Iterator[Line]) -> Iterator[dict[str, float]]:
    from mixrank.serving.client import RowError

    while block := list(islice(lines, BLOCK)):
        try:
            scores = scorer.score([line.value for line in block])
        except RowError as error:
            raise ValueError(f"{block[error.position].where}: {error.problem}") from None
        except ValueError as error:
            last = f" to {block[-1].where.rpartition(' ')[2]}" if len(block) > 1 else ""
            raise ValueError(f"{block[0].where}{last}: {error}") from None
        yield from scores


def _rank(scorer: Client | LocalModel, lines: Iterator[Line]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            scores = scorer.rank(line.value["request"], line.value["candidates"])
        except ValueError as error:
            raise ValueError(f"{line.where}: {error}") from None
        first, *_ = scores[0]
        order = sorted(range(len(scores)), key=lambda position: -scores[position][first])
        yield {"scores": scores, "order": order}


def _write(answers: Iterator[dict[str, Any]], output: Path | None, rank: bool) -> int:
    """Writes answers where they are wanted, and says how many there were."""
    from mixrank.schemas.files import write_atomically

    if output is not None:
        count = 0

        def write(temporary: Path) -> None:
            nonlocal count
            with temporary.open("w") as file:
                count = _print(answers, file)

        write_atomically(output, write)
        return count
    if not console.is_terminal:
        return _print(answers, sys.stdout)
    whole = list(answers)
    cells = _ranked_cells(whole) if rank else _scored_cells(whole)
    header, *body = cells
    table = Table(*header)
    for row in body[:SHOWN]:
        table.add_row(*row)
    console.print(table)
    if len(body) > SHOWN:
        errors.print(f"the first {SHOWN} of {len(body)} lines; --output FILE has all", style="dim")
    return len(whole)


def _print(answers: Iterator[dict[str, Any]], file: TextIO) -> int:
    columns = (TextColumn("{task.completed} scored"), TimeElapsedColumn())
    # Bars and answers on one terminal would be in each other's way.
    silent = not errors.is_terminal or file.isatty()
    count = 0
    with Progress(*columns, console=errors, transient=True, disable=silent) as progress:
        bar = progress.add_task("", total=None)
        for answer in answers:
            file.write(json.dumps(answer) + "\n")
            count += 1
            progress.update(bar, completed=count)
    return count


def _scored_cells(answers: Sequence[Mapping[str, float]]) -> list[list[str]]:
    tasks = list(answers[0])
    cells = [[str(number), *(f"{answer[task]:.4f}" for task in tasks)] for number, answer in enumerate(answers, 1)]
    return [["row", *tasks], *cells]


def _ranked_cells(answers: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    tasks = list(answers[0]["scores"][0])
    return [["request", "place", "candidate", *tasks]] + [
        [str(number), str(place), str(position), *(f"{answer['scores'][position][task]:.4f}" for task in tasks)]
        for number, answer in enumerate(answers, 1)
        for place, position in enumerate(answer["order"], 1)
    ]


def _next(*commands: str) -> None:
    errors.print("\n  ".join(["next:", *commands]), soft_wrap=True)
