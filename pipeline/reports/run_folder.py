"""Reader of a run folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel

from mixrank.pipeline.run_record import RunRecord
from mixrank.schemas.arrow import read_frame
from mixrank.schemas.naming import readable


@dataclass(frozen=True)
class RunFolder:
    """A finished run: its record and the files it points to, read when asked for.

    Args:
        path: folder with `run.json`.
        record: what the run was.
    """

    path: Path
    record: RunRecord

    @classmethod
    def load(cls, path: Path) -> RunFolder:
        """A run folder as `RunRecord.read` finds it.

        Raises:
            ValueError: if there is no record of a run.
        """
        return cls(Path(path), RunRecord.read(path))

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.record.spec.tasks

    @property
    def scenario(self) -> str:
        return self.record.spec.scenario.name

    @property
    def scenario_labels(self) -> dict[str, str]:
        """Raw scenario value, as text -> display name."""
        scenario = self.record.spec.scenario
        return {str(value): scenario.label_of(value) for value in scenario.values}

    @property
    def keys(self) -> list[str]:
        """Columns that identify a row: user, item and time."""
        spec = self.record.spec
        return [spec.user.name, spec.item.name, spec.time.name]

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """One row per evaluation example: keys, time, scenario as text, `label_<task>`, `score_<task>`.

        Raises:
            ValueError: if the file or one of its columns is missing.
        """
        file = self.record.model_run / "predictions.parquet"
        if not file.is_file():
            raise ValueError(f"run {self.name}: {file} does not exist")
        frame = read_frame(file)
        wanted = [self.scenario, *(f"{kind}_{task}" for task in self.tasks for kind in ("label", "score"))]
        if missing := sorted(set(wanted) - set(frame.columns)):
            raise ValueError(f"{file} lacks columns {missing}, found {list(frame.columns)}")
        if frame.empty:
            raise ValueError(f"{file} has no rows")
        return frame.assign(**{self.scenario: frame[self.scenario].astype(str)})

    @cached_property
    def baseline(self) -> pd.DataFrame | None:
        """`score_<task>` of the additive baseline, row by row beside `predictions`; None if there is none.

        Raises:
            ValueError: if its keys are not those of the predictions.
        """
        file = self.path / "baseline.parquet"
        return self.scores_beside(file) if file.is_file() else None

    def scores_beside(self, file: Path) -> pd.DataFrame:
        """`score_<task>` of another model's file, row by row beside `predictions`.

        Raises:
            ValueError: if its keys are not those of the predictions.
        """
        found, own = read_frame(file), self.predictions[self.keys]
        if not found[self.keys].reset_index(drop=True).equals(own.reset_index(drop=True)):
            # A key can occur more than once; its n-th row then belongs to the n-th row of the other file.
            found = found.assign(turn=found.groupby(self.keys).cumcount())
            own = own.assign(turn=own.groupby(self.keys).cumcount())
            found = own.merge(found, on=[*self.keys, "turn"], how="left")
        scores = found[[f"score_{task}" for task in self.tasks]].reset_index(drop=True)
        if scores.isna().to_numpy().any():
            count = int(scores.isna().any(axis=1).sum())
            raise ValueError(f"{file} has no score for {count} of the {len(own)} rows of predictions.parquet")
        return scores

    @cached_property
    def training(self) -> list[dict[str, Any]]:
        """One entry per round of training.

        Raises:
            ValueError: naming a file that a training has not written like that.
        """
        file = self.record.model_run / "training.jsonl"
        if not file.is_file():
            return []
        return [_checked(_Round, line, file) for line in file.read_bytes().splitlines() if line]

    @cached_property
    def model(self) -> dict[str, Any]:
        """Name, parameters and FLOPs of the model, per part."""
        return _json(_Card, self.record.model_run / "model.json")

    @cached_property
    def rows(self) -> dict[str, Any]:
        """Counts of the example generation."""
        return _json(_Counts, self.record.rows.examples / "report.json")

    @cached_property
    def label_rates(self) -> dict[str, dict[str, float]]:
        """Split -> task -> share of positive labels, from the statistics of the run."""
        from tensorflow_metadata.proto.v0 import statistics_pb2

        rates = {}
        for file in sorted(self.record.rows.statistics.glob("Split-*/FeatureStats.pb")):
            statistics = statistics_pb2.DatasetFeatureStatisticsList.FromString(file.read_bytes())
            features = {".".join(f.path.step) or f.name: f for f in statistics.datasets[0].features}
            rates[file.parent.name.removeprefix("Split-")] = {
                task: features[task].num_stats.mean for task in self.tasks if task in features
            }
        return rates

    @cached_property
    def tfma(self) -> dict[tuple[str, str, str], float]:
        """(task, slice, metric) -> value that the Evaluator measured; empty if it did not run."""
        judgement = self.record.judgement
        if judgement is None or not judgement.evaluation.is_dir():
            return {}
        from mixrank.components.judging import load_metrics

        return {(row.task, row.slice, row.metric): row.value for row in load_metrics(str(judgement.evaluation))}


# What the pages read of the files; there may be more in them.


class _Point(BaseModel):
    samples: float
    loss: float
    valid: dict[str, float]


class _Round(BaseModel):
    samples: int
    samples_per_second: float
    curve: list[_Point]


class _Part(BaseModel):
    name: str
    parameters: float
    flops: float


class _Card(BaseModel):
    name: str | None = None
    preset: str | None = None
    parameters: float
    flops: float
    parts: list[_Part] = []
    insights: dict[str, dict[str, Any]] = {}


class _Counts(BaseModel):
    rows: dict[str, int] = {}
    rows_read: dict[str, int] = {}
    bad_rows: dict[str, int] = {}
    unmatched_joins: dict[str, int] = {}


def _json(kind: type[BaseModel], file: Path) -> dict[str, Any]:
    return _checked(kind, file.read_bytes(), file) if file.is_file() else {}


def _checked(kind: type[BaseModel], text: bytes, file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(text)
        kind.model_validate(found)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not as the run wrote it: {readable(error)}") from None
    return found
