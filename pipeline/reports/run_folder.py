"""Reader of a run folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, RootModel

from mixrank.components.baselines import ADDITIVE, BOOSTED_TREES
from mixrank.components.gates import REPORT, Figures
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
        """Columns that identify a row: the user first."""
        return self.record.spec.key_columns

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
        return self.scores_of(self.record.baselines / ADDITIVE)

    @cached_property
    def trees(self) -> pd.DataFrame | None:
        """The same of boosted trees."""
        return self.scores_of(self.record.baselines / BOOSTED_TREES)

    def scores_of(self, file: Path) -> pd.DataFrame | None:
        """`score_<task>` of another model's file, row by row beside `predictions`; None if there is none.

        Raises:
            ValueError: if its keys are not those of the predictions.
        """
        from mixrank.components.judging import scores_beside

        return (
            scores_beside(self.predictions, read_frame(file), self.record.spec, str(file)) if file.is_file() else None
        )

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
    def unknown_ids(self) -> dict[str, dict[str, int]]:
        """Feature -> its values in the evaluation rows, and those that its vocabulary does not hold."""
        return read_unknown_ids(self.record.model_run)

    @cached_property
    def figures(self) -> Figures:
        """Figures of the log, as ExampleGen counted them."""
        file = self.record.rows.examples / REPORT
        try:
            return Figures.model_validate_json(file.read_bytes()) if file.is_file() else Figures()
        except ValueError as error:
            raise ValueError(f"{file} is not as the run wrote it: {readable(error)}") from None

    @cached_property
    def tfma(self) -> dict[tuple[str, str, str], float]:
        """(task, slice, metric) -> value that the Evaluator measured; empty if it did not run."""
        judgement = self.record.judgement
        if judgement is None or not judgement.evaluation.is_dir():
            return {}
        from mixrank.components.judging import load_metrics

        return {(row.task, row.slice, row.metric): row.value for row in load_metrics(str(judgement.evaluation))}


def read_unknown_ids(model_run: Path) -> dict[str, dict[str, int]]:
    """Feature -> `values` in the rows that a training scored, and `unknown` to its vocabulary; empty without the file.

    Raises:
        ValueError: naming a file that a training has not written like that.
    """
    return _json(_Unknown, model_run / "unknown_ids.json")


def kinds_of(runs: Iterable[RunFolder]) -> dict[str, str]:
    """Task -> its kind, of all runs."""
    return {label.name: label.kind for run in runs for label in run.record.spec.labels}


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


class _Figures(BaseModel):
    loss: float
    ratio: float
    error: float


class _Calibrated(BaseModel):
    rows: int
    curve: dict[str, Any]
    scenarios: dict[str, dict[str, Any]]
    before: _Figures
    after: _Figures


class _Calibration(BaseModel):
    method: str
    split: str
    tasks: dict[str, _Calibrated]


class _Card(BaseModel):
    name: str | None = None
    preset: str | None = None
    parameters: float
    flops: float
    parts: list[_Part] = []
    insights: dict[str, dict[str, Any]] = {}
    calibration: _Calibration | None = None


class _Values(BaseModel):
    values: int
    unknown: int


class _Unknown(RootModel[dict[str, _Values]]):
    pass


def _json(kind: type[BaseModel], file: Path) -> dict[str, Any]:
    return _checked(kind, file.read_bytes(), file) if file.is_file() else {}


def _checked(kind: type[BaseModel], text: bytes, file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(text)
        kind.model_validate(found)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not as the run wrote it: {readable(error)}") from None
    return found
