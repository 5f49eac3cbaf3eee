"""One work item: read a piece of a file, check, score, write one Parquet file, count.

    OUTPUT/scores/part-00003.parquet     appears only when all its rows are written
    OUTPUT/_work/part-00003.jsonl        bad rows of the item
    OUTPUT/_work/part-00003.json         counts; written last, so its presence means that the item is finished
    OUTPUT/_work/part-00003.rows         rows so far, while the item is running

Only items and their counts pass through Beam, never rows.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np

from mixrank.schemas import FeatureSpec
from mixrank.schemas.arrow import pa, pq
from mixrank.schemas.encode import columns
from mixrank.schemas.files import write_atomically, write_text_atomically
from mixrank.schemas.raw import dead_letter
from mixrank.serving.batch_scoring.counters import Counters
from mixrank.serving.batch_scoring.row_files import Rows, read_rows
from mixrank.serving.batch_scoring.scoring_plan import Item

SCORES, WORK = "scores", "_work"
# Rows per row group of the output.
GROUP_ROWS = 65_536
HEARTBEAT_S = 1.0


@dataclass(frozen=True)
class Settings:
    """Settings shared by all work items of a run.

    Args:
        model: SavedModel.
        output: folder of the run.
        keep: column copied to the output -> its Arrow type.
        batch_size: int >= 1. Rows per call of the model.
        threads: int or None. Threads per operation of the model in each process; None leaves it to TensorFlow.
    """

    model: str
    output: str
    keep: Mapping[str, pa.DataType]
    batch_size: int = 2048
    threads: int | None = None


class Score(beam.PTransform):
    """Work items -> counts of each, as JSON; the scores themselves go to files.

    Args:
        settings: of the run.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    def expand(self, items: Any) -> Any:
        return items | "SpreadItems" >> beam.Reshuffle() | "ScoreItem" >> beam.ParDo(ScoreItem(self._settings))


class ScoreItem(beam.DoFn):
    """Scores one work item; if it cannot be read, its counts hold the reason under `error`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def setup(self) -> None:
        from mixrank.serving.batch_scoring.scorer import load

        self._model = load(self._settings.model, self._settings.threads)

    def process(self, item: Item) -> Iterator[dict[str, Any]]:
        work = Path(self._settings.output, WORK)
        try:
            counts = self._score(item, work)
        except ValueError as error:
            counts = {"error": str(error) if item.file.path in str(error) else f"{item.file.path}: {error}"}
        finally:
            (work / f"{item.name}.rows").unlink(missing_ok=True)
        beam.metrics.Metrics.counter("mixrank", "rows").inc(counts.get("rows", 0))
        beam.metrics.Metrics.counter("mixrank", "bad_rows").inc(counts.get("bad", 0))
        write_text_atomically(work / f"{item.name}.json", json.dumps(counts))
        yield counts

    def _score(self, item: Item, work: Path) -> dict[str, Any]:
        counters = Counters(self._model.spec.outputs)
        target = Path(self._settings.output, SCORES, f"{item.name}.parquet")
        letters = work / f"{item.name}.jsonl"
        write_atomically(
            target, lambda scores: write_atomically(letters, lambda bad: self._write(item, scores, bad, counters))
        )
        return counters.to_json()

    def _write(self, item: Item, scores: Path, bad: Path, counters: Counters) -> None:
        spec, work = self._model.spec, Path(self._settings.output, WORK)
        schema = pa.schema([*self._settings.keep.items(), *((f"score_{task}", pa.float32()) for task in spec.outputs)])
        beat = 0.0
        with pq.ParquetWriter(scores, schema) as writer, bad.open("w") as letters:
            waiting: list[pa.Table] = []
            for batch in _read(item, spec, self._settings):
                scored = (
                    self._model.score_examples(batch.examples, list(self._settings.keep))
                    if batch.rows is None
                    else self._model.score_rows(batch.rows, len(batch.numbers))
                )
                waiting.append(_table(schema, scored.kept, scored.scores))
                for position, (column, reason) in sorted(scored.bad.items()):
                    number, value = int(batch.numbers[position]), batch.value(position, column)
                    letters.write(_line(dead_letter(item.file.path, number, column or None, value, reason)))
                for number, text, reason in batch.torn:
                    letters.write(_line(dead_letter(item.file.path, number, None, text, reason)))
                counters.add(scored.scores, len(scored.bad) + len(batch.torn))
                if sum(table.num_rows for table in waiting) >= GROUP_ROWS:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting = []
                if time.monotonic() - beat > HEARTBEAT_S:
                    beat = time.monotonic()
                    (work / f"{item.name}.rows").write_text(str(counters.rows))
            if waiting:
                writer.write_table(pa.concat_tables(waiting))


def _table(schema: pa.Schema, kept: Mapping[str, pa.Array], scores: Mapping[str, np.ndarray]) -> pa.Table:
    arrays = dict(kept)
    for task, values in scores.items():
        arrays[f"score_{task}"] = pa.array(values, pa.float32(), mask=~np.isfinite(values))
    return pa.Table.from_arrays([arrays[name] for name in schema.names], schema=schema)


def _line(letter: dict[str, Any]) -> str:
    return json.dumps(letter) + "\n"


@dataclass
class Batch:
    """Rows of a file that are scored in one call: either examples or columns.

    Args:
        numbers: int array. Number of each row in its file, from 1.
        examples: object array of serialized tf.Examples.
        rows: checked columns, None for examples.
        table: the columns as the file has them, None for examples.
        torn: (row, text, reason) of rows that could not be parsed.
    """

    numbers: np.ndarray
    examples: np.ndarray = field(default_factory=lambda: np.zeros(0, object))
    rows: Rows | None = None
    table: pa.Table | None = None
    torn: list[tuple[int, str, str]] = field(default_factory=list)

    def value(self, position: int, column: str) -> Any:
        """The value of a row as the file has it, None if there is none."""
        if self.table is None or column not in self.table.column_names:
            return None
        return self.table[column][position]


def _read(item: Item, spec: FeatureSpec, settings: Settings) -> Iterator[Batch]:
    return ahead(_examples(item, settings) if item.file.format == "tfrecord" else _tables(item, spec, settings))


def _examples(item: Item, settings: Settings) -> Iterator[Batch]:
    before = 0
    for examples in item.file.records(settings.batch_size):
        yield Batch(np.arange(before + 1, before + 1 + len(examples)), np.array(examples, object))
        before += len(examples)


def _tables(item: Item, spec: FeatureSpec, settings: Settings) -> Iterator[Batch]:
    known, file = columns(spec), item.file
    names = list(dict.fromkeys([*(column.name for column in known), *settings.keep]))
    if file.format != "json":
        # Any line of JSON may bring a column that the lines before it do not have.
        names = [name for name in file.schema().names if name in names]
    for batch in file.read(names, item.piece, settings.batch_size):
        rows = read_rows(known, settings.keep, batch.table)
        yield Batch(batch.rows, rows=rows, table=batch.table, torn=batch.bad)


def ahead(batches: Iterator[Batch], depth: int = 2) -> Iterator[Batch]:
    """The same batches, prepared in a separate thread while the model scores earlier ones."""
    ready: queue.Queue[Any] = queue.Queue(depth)
    stopped = threading.Event()

    def put(what: Any) -> bool:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(what, timeout=0.1)
                return True
        return False

    def make() -> None:
        try:
            for batch in batches:
                if not put((batch, None)):
                    return
            put((None, None))
        except BaseException as error:
            put((None, error))

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            batch, error = ready.get()
            if error is not None:
                raise error
            if batch is None:
                return
            yield batch
    finally:
        stopped.set()
        thread.join()
