"""The two sides of a comparison: a run folder, a statistics file, or rows, each read into the same few things."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mixrank.pipeline.run_record import RunRecord, is_run
from mixrank.schemas import FeatureSpec
from mixrank.schemas.arrow import pa
from mixrank.serving.base import find_version, load_spec
from mixrank.serving.drift import LoggedRows, RowSummary, read_vocabularies, summarize

STATISTICS = (".pb", ".pbtxt")
# Reports how many rows of what were read so far.
Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Known:
    """Columns and vocabularies of the model that scored the rows.

    Args:
        spec: its columns.
        vocabularies: feature -> values, as `mixrank.serving.drift.row_summary.read_vocabularies` gives them.
    """

    spec: FeatureSpec
    vocabularies: Mapping[str, pa.Array]


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Args:
        name: what to call it.
        rows: rows counted for the features.
        statistics: TFDV statistics, or None without features.
        unseen: column -> (values outside the vocabulary, values).
        judged: scenario as text, `score_<task>`, `label_<task>`; may be empty.
        scores_from: file of the scores, if they are not those of the rows.
        notes: what a reader should know, one sentence each.
    """

    name: str
    rows: int
    statistics: Any
    unseen: Mapping[str, tuple[int, int]]
    judged: pd.DataFrame
    scores_from: Path | None = None
    notes: list[str] = field(default_factory=list)


def known_model(baseline: Path, model: Path | None) -> Known:
    """Spec and vocabularies: of a served version, or of the run that is the baseline.

    Args:
        baseline: a run folder, unless `model` is given.
        model: a SavedModel with `assets.extra/mixrank.json`, or a folder of versions (the newest is used).

    Raises:
        ValueError: if there is neither.
    """
    if model is not None:
        spec, version = load_spec(model), find_version(model)
        return Known(spec, read_vocabularies(spec, version / "assets"))
    if not is_run(baseline):
        raise ValueError(f"{baseline} is not a run folder: name the model that the rows were made for with --model")
    run = RunRecord.read(baseline)
    spec = run.spec
    return Known(spec, read_vocabularies(spec, run.rows.transform_graph / "transform_fn" / "assets"))


def read_baseline(path: Path, known: Known, progress: Progress) -> Side:
    """The baseline side of a comparison.

    Of a run folder: statistics of the training split, scores and labels of the evaluation split, unseen values of the
    validation split, since in the training split there are hardly any by construction.

    Raises:
        ValueError: if something is missing, naming the file.
    """
    if is_run(path):
        run = RunRecord.read(path)
        statistics = _load_statistics(run.rows.statistics / "Split-train" / "FeatureStats.pb")
        held_out = run.rows.examples / "Split-valid"
        later, _ = _rows(held_out, known, progress)
        file = run.model_run / "predictions.parquet"
        judged, _ = _rows(file, known, progress)
        size = int(statistics.datasets[0].num_examples)
        return Side(f"{run.name}, split train", size, statistics, later.unseen, judged.judged, file)
    if path.suffix in STATISTICS:
        statistics = _load_statistics(path)
        notes = ["the baseline is statistics alone: scores and unseen values were not compared"]
        return Side(path.name, int(statistics.datasets[0].num_examples), statistics, {}, pd.DataFrame(), notes=notes)
    return _of_rows(path, known, progress)


def read_new(path: Path, known: Known, split: str, progress: Progress) -> Side:
    """The rows to judge.

    Args:
        path: rows, a statistics file, or a run folder, whose `split` is read; its scores belong to the split `eval`.
        known: the model.
        split: split of a run folder.
        progress: called with the number of rows read.

    Raises:
        ValueError: if there are no rows.
    """
    if path.suffix in STATISTICS:
        statistics = _load_statistics(path)
        return Side(path.name, int(statistics.datasets[0].num_examples), statistics, {}, pd.DataFrame())
    if not is_run(path):
        return _of_rows(path, known, progress)
    run = RunRecord.read(path)
    side = _of_rows(run.rows.examples / f"Split-{split}", known, progress, f"{run.name}, split {split}")
    file = run.model_run / "predictions.parquet"
    if split != "eval" or not file.is_file():
        return side
    judged, _ = _rows(file, known, progress)
    return Side(side.name, side.rows, side.statistics, side.unseen, judged.judged, file, side.notes)


def _of_rows(path: Path, known: Known, progress: Progress, name: str = "") -> Side:
    found, ignored = _rows(path, known, progress)
    if not found.rows:
        raise ValueError(f"{path} has no rows")
    notes = [f"columns that the model does not know: {', '.join(sorted(ignored))}"] if ignored else []
    if found.statistics is None:
        notes.append(f"{path.name} holds scores and no features; only scores were compared")
    return Side(name or str(path), found.rows, found.statistics, found.unseen, found.judged, notes=notes)


def _rows(path: Path, known: Known, progress: Progress) -> tuple[RowSummary, set[str]]:
    rows = LoggedRows(path, known.spec)

    def counted() -> Iterator[pa.RecordBatch]:
        count = 0
        for batch in rows:
            count += batch.num_rows
            progress(path.name, count)
            yield batch

    return summarize(counted(), known.spec, known.vocabularies), rows.ignored


def _load_statistics(path: Path) -> Any:
    from google.protobuf import text_format
    from google.protobuf.message import DecodeError
    from tensorflow_metadata.proto.v0 import statistics_pb2

    if not path.is_file():
        raise ValueError(f"there are no statistics at {path}")
    try:
        if path.suffix == ".pbtxt":
            found = text_format.Parse(path.read_text(), statistics_pb2.DatasetFeatureStatisticsList())
        else:
            found = statistics_pb2.DatasetFeatureStatisticsList.FromString(path.read_bytes())
    except (DecodeError, text_format.ParseError) as error:
        raise ValueError(f"{path} holds no TFDV statistics: {error}") from None
    if len(found.datasets) != 1:
        raise ValueError(f"{path} must hold the statistics of one data set, holds {len(found.datasets)}")
    return found
