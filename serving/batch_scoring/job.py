"""One run of batch scoring: plan, restart, pipeline, summary.

OUTPUT/scores/part-*.parquet   key columns and `score_<task>`, one file per work item
OUTPUT/dead_letter.jsonl       rows that were not scored: file, row, column, reason
OUTPUT/summary.json            the counts; written last, so its presence means that the run is complete
OUTPUT/_work/                  the manifest, and what each finished item counted
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions

from mixrank.schemas.files import locked, write_text_atomically
from mixrank.serving.base import check_sums, load_spec
from mixrank.serving.batch_scoring.counters import total
from mixrank.serving.batch_scoring.output import (
    SUMMARY,
    claim,
    collect,
    counts,
    digest,
    finished,
    stop_if_bad,
    sweep,
)
from mixrank.serving.batch_scoring.scorer import find_model
from mixrank.serving.batch_scoring.scoring_plan import (
    ROWS_PER_ITEM,
    Format,
    Item,
    find_files,
    input_identity,
    output_schema,
    plan,
)
from mixrank.serving.batch_scoring.work import SCORES, WORK, Score, Settings

RUNNER = "--runner=FnApiRunner"


@dataclass(frozen=True)
class Progress:
    """Progress of a run.

    Args:
        rows: rows scored so far in this run, in finished and unfinished items.
        items: finished items, including those of an earlier run.
        of: total number of items.
        seconds: since the pipeline began.
    """

    rows: int
    items: int
    of: int
    seconds: float


def score(
    model: Path,
    source: Path,
    output: Path,
    *,
    format: Format | None = None,
    keep: Sequence[str] = (),
    max_bad: float = 0.01,
    batch_size: int = 2048,
    rows_per_item: int = ROWS_PER_ITEM,
    beam_args: Sequence[str] = (),
    report: Callable[[Progress], None] = lambda progress: None,
    verified: bool = False,
) -> dict[str, Any]:
    """Scores every row of some files, or the rows that an interrupted run left unscored.

    Args:
        model: a version's folder, or a folder of versions (the newest is used).
        source: as in `plan.find_files`.
        output: folder to write; it may hold an unfinished or finished run of the same model, input and options.
        format: of the input files; inferred from their names if left out.
        keep: columns to copy to the output besides user, item, time and scenario.
        max_bad: float in [0, 1]. Share of the rows that may be bad.
        batch_size: int >= 1. Rows per call of the model.
        rows_per_item: int >= 1. Minimum rows of a Parquet file per work item, except for the last item of a file.
        beam_args: options of the Beam pipeline; `--runner=FnApiRunner` unless they name a runner.
        report: called with the progress about once a second.
        verified: bool. Refuse a model that is not as its SHA-256 sums say.

    Returns:
        The content of `summary.json`: `rows`, `bad`, `scores` (per task `mean`, `min`, `max`, `null`, `histogram`),
        `seconds`, `resumed_items`, `complete_before`, and where things lie.

    Raises:
        ValueError: if the model or the input cannot be used, `output` belongs to another run, a file cannot be read,
            or too many rows are bad. Finished files stay and are not scored again.
    """
    for name, value in (("batch_size", batch_size), ("rows_per_item", rows_per_item)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, received {value}")
    if not 0 <= max_bad <= 1:
        raise ValueError(f"`max_bad` must be a share between 0 and 1, received {max_bad}")
    model = find_model(model)
    if verified:
        check_sums(model)
    spec = load_spec(model)
    files = find_files(source.absolute(), format)
    items = plan(files, rows_per_item)
    kept = output_schema(spec, files, keep)
    for folder in (SCORES, WORK):
        (output / folder).mkdir(parents=True, exist_ok=True)
    with locked(output, "mixrank score"):
        claim(output, {"model": digest(model), "input": input_identity(items), "options": str(kept)})
        before = finished(output, items)
        if (output / SUMMARY).is_file() and len(before) == len(items):
            summary = json.loads((output / SUMMARY).read_text())
            stop_if_bad(summary, max_bad, output)
            return {**summary, "complete_before": True}
        (output / SUMMARY).unlink(missing_ok=True)
        sweep(output, items, before)
        began = time.monotonic()
        settings = Settings(
            model=str(model.absolute()),
            output=str(output.absolute()),
            keep=dict(zip(kept.names, kept.types, strict=True)),
            batch_size=batch_size,
            threads=_threads(beam_args),
        )
        with _reporting(output, items, before, report):
            _run(settings, [item for item in items if item.number not in before], beam_args)
        counted = counts(output, items)
        whole = total(counted, spec.outputs)
        collect(output, items)
        summary = {
            **whole,
            "model": str(model),
            "input": str(source),
            "files": len(files),
            "items": len(items),
            "resumed_items": len(before),
            "seconds": round(time.monotonic() - began, 2),
            "rows_scored_now": sum(count["rows"] for item, count in zip(items, counted, strict=True)
                                   if item.number not in before),
            "tasks": list(spec.tasks),
            "columns": [*kept.names, *(f"score_{task}" for task in spec.outputs)],
        }  # fmt: skip
        write_text_atomically(output / SUMMARY, json.dumps(summary, indent=1))
        stop_if_bad(summary, max_bad, output)
        return {**summary, "complete_before": False}


def _run(settings: Settings, items: Sequence[Item], beam_args: Sequence[str]) -> None:
    named = any(argument.startswith("--runner") for argument in beam_args)
    options = PipelineOptions([*([] if named else [RUNNER]), *beam_args])
    with beam.Pipeline(options=options) as pipeline:
        _ = pipeline | "Items" >> beam.Create(items, reshuffle=False) | Score(settings)


def _threads(beam_args: Sequence[str]) -> int | None:
    """Threads per worker process, so that several processes on this machine do not take each other's cores."""
    options = PipelineOptions(list(beam_args)).view_as(DirectOptions)
    workers = options.direct_num_workers
    if options.direct_running_mode != "multi_processing" or workers == 1:
        return None
    cores = len(os.sched_getaffinity(0))
    return max(1, cores // (workers or cores))


@contextmanager
def _reporting(
    output: Path, items: Sequence[Item], before: set[int], report: Callable[[Progress], None]
) -> Iterator[None]:
    began, over = time.monotonic(), threading.Event()
    rows: dict[int, int] = {}
    finished = set(before)

    def look() -> None:
        for item in items:
            if item.number in finished:
                continue
            for ending in ("json", "rows"):
                try:
                    text = (output / WORK / f"{item.name}.{ending}").read_text()
                    rows[item.number] = json.loads(text).get("rows", 0) if ending == "json" else int(text or 0)
                except FileNotFoundError:
                    continue
                if ending == "json":
                    finished.add(item.number)
                break
        report(Progress(sum(rows.values()), len(finished), len(items), time.monotonic() - began))

    def watch() -> None:
        while not over.wait(1.0):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
        over.set()
        watcher.join()
        look()
    finally:
        over.set()
        watcher.join()
