"""`mixrank parity`: every way to score a row gives the same score, or the command fails."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from mixrank.pipeline.commands.terminal import Unverified, console, errors, guarded, needs

if TYPE_CHECKING:
    import numpy as np

    from mixrank.pipeline.reports import RunFolder


@guarded
@needs("pipeline")
def parity(
    run: Annotated[Path, typer.Argument(help="A run's folder, or a model's folder together with --examples.")],
    examples: Annotated[
        str | None, typer.Option(help="Pattern of TFRecord files with joined rows (default: those of the run).")
    ] = None,
    rows: Annotated[int, typer.Option(help="Number of rows to compare, from the first.", min=1)] = 512,
    tolerance: Annotated[
        float, typer.Option(help="Maximum difference between two predictions; above 1, relative to their size.", min=0)
    ] = 1e-5,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Server to ask, http://host:8501 or grpc://host:8500; repeatable (default: start one here)."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the model on those servers (default: the folder's name).")
    ] = None,
    unverified: Unverified = False,
) -> None:
    """Compare in-memory Keras, SavedModel, REST, gRPC and Beam, row by row."""
    from mixrank.pipeline.reports import RunFolder
    from mixrank.pipeline.run_record import is_run
    from mixrank.serving.base import check_sums, find_version, is_version, load_spec

    found_run = RunFolder.load(run) if is_run(run) else None
    if found_run is None:
        if examples is None:
            raise ValueError(f"{run} is not a run folder; for a model's folder, name the rows: --examples 'FILES*'")
        version, pattern = find_version(run), examples
    else:
        exported = found_run.record.local_model
        if exported is None:
            raise ValueError(f"{run} has no exported model: `mixrank tfrs-baseline` trains without an export")
        version = exported
        pattern = examples or found_run.record.rows.examples_of("eval")
    load_spec(version)
    if not unverified:
        check_sums(version)
    errors.print("loading TensorFlow and Beam ...", style="dim")
    from mixrank.serving.parity import parity as compare

    taken, in_memory = _rows(version, pattern, rows, found_run)
    reference, found = compare(
        version,
        taken,
        in_memory=in_memory,
        targets=target or (),
        name=name or (version.parent.name if is_version(version) else version.name),
        say=lambda line: errors.print(line, style="dim", soft_wrap=True),
    )
    table = Table("scored by", "task", "rows", "largest difference", "", title=f"against {reference}")
    failed = [each for each in found if not each.largest <= tolerance]
    for each in found:
        verdict = (
            Text("same", "green") if each.largest <= tolerance else Text(f"differs, first in row {each.row}", "red")
        )
        largest = "no number" if math.isnan(each.largest) else f"{each.largest:.1e}"
        table.add_row(each.way, each.task, f"{each.rows:,}", largest, verdict)
    console.print(table)
    if failed:
        worst = failed[0]
        raise ValueError(
            f"{len(failed)} of {len(found)} comparisons differ by more than {tolerance:g}: {worst.way} first"
        )
    console.print(f"all {len(found)} comparisons agree to {tolerance:g}")
    following = (
        f"mixrank deploy {version.parent}   # files for a model server"
        if is_version(version)
        else f"mixrank rollout push FOLDER {version}   # a numbered version of it, for a model server"
    )
    console.print(f"next:\n  {following}", soft_wrap=True)


def _rows(
    version: Path, pattern: str, count: int, run: RunFolder | None
) -> tuple[list[bytes], dict[str, np.ndarray] | None]:
    """Serialized rows, and the scores that the model in the Trainer's memory gave them."""
    from mixrank.schemas.encode import decode
    from mixrank.schemas.raw import files_at
    from mixrank.serving.base import load_spec

    files = files_at(pattern).files
    for file in files:
        if file.format != "tfrecord":
            raise ValueError(
                f"{file.path} is {file.format}; --examples takes TFRecord files, as ExampleGen writes them"
            )
    examples = list(islice((record for file in files for block in file.records(count) for record in block), count))
    if not examples:
        raise ValueError(f"{pattern} holds no rows")
    if run is None:
        return examples, None
    # Rows that share a key cannot be told apart.
    known = run.predictions.drop_duplicates(run.keys, keep=False).set_index(run.keys)
    spec = load_spec(version)
    keys = [tuple(row[key] for key in run.keys) for row in (decode(spec, example) for example in examples)]
    kept = [position for position, key in enumerate(keys) if key in known.index]
    if 2 * len(kept) < len(examples) or not kept:
        raise ValueError(
            f"only {len(kept)} of {len(examples)} rows of {pattern} are among the predictions of {run.path}; "
            f"the model's scores in memory are known for those alone"
        )
    scores = known.loc[[keys[position] for position in kept]]
    return [examples[position] for position in kept], {
        name: scores[f"score_{name}"].to_numpy() for name in run.record.spec.outputs
    }
