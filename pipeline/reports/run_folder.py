"""Reading back what a run left behind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class RunFolder:
    """A finished run: its description and the files it points to, read when asked for.

    Args:
        path: folder with `run.json`.
        about: content of `run.json`.
    """

    path: Path
    about: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> RunFolder:
        """Reads `run.json`.

        Raises:
            ValueError: if the folder holds no `run.json`, or one without a field that the report needs.
        """
        file = Path(path) / "run.json"
        if not file.is_file():
            raise ValueError(f"{path} is no run folder: it holds no run.json")
        about = json.loads(file.read_text())
        if missing := sorted({"name", "tasks", "scenario", "model_run"} - set(about)):
            raise ValueError(f"{file} lacks {missing}")
        return cls(Path(path), about)

    @property
    def name(self) -> str:
        return str(self.about["name"])

    @property
    def tasks(self) -> list[str]:
        return list(self.about["tasks"])

    @property
    def scenario(self) -> str:
        return str(self.about["scenario"]["column"])

    @property
    def scenario_labels(self) -> dict[str, str]:
        """Raw scenario value, as text -> display name."""
        return {str(value): str(label) for value, label in self.about["scenario"]["labels"].items()}

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """One row per evaluation example: keys, time, scenario as text, `label_<task>`, `score_<task>`.

        Raises:
            ValueError: if the file or one of its columns is missing.
        """
        file = Path(self.about["model_run"]) / "predictions.parquet"
        if not file.is_file():
            raise ValueError(f"run {self.name}: {file} does not exist")
        frame = pd.read_parquet(file)
        wanted = [self.scenario, *(f"{kind}_{task}" for task in self.tasks for kind in ("label", "score"))]
        if missing := sorted(set(wanted) - set(frame.columns)):
            raise ValueError(f"{file} lacks columns {missing}, found {list(frame.columns)}")
        if frame.empty:
            raise ValueError(f"{file} has no rows")
        return frame.assign(**{self.scenario: frame[self.scenario].astype(str)})

    @property
    def keys(self) -> list[str]:
        """Columns that identify a row: user, item and time; the first three unless `run.json` names them."""
        named = [self.about.get(key) for key in ("user", "item", "time")]
        return [name or column for name, column in zip(named, self.predictions.columns, strict=False)]

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
        found, own = pd.read_parquet(file), self.predictions[self.keys]
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
        """One entry per round of training."""
        file = Path(self.about["model_run"]) / "training.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines() if line] if file.is_file() else []

    @cached_property
    def model(self) -> dict[str, Any]:
        """Name, parameters and FLOPs of the model, per part."""
        return self._json(self.about["model_run"], "model.json")

    @cached_property
    def rows(self) -> dict[str, Any]:
        """Counts of the example generation."""
        return self._json(self.about.get("examples"), "report.json")

    @cached_property
    def label_rates(self) -> dict[str, dict[str, float]]:
        """Split -> task -> share of positive labels, from the statistics of the run."""
        from tensorflow_metadata.proto.v0 import statistics_pb2

        rates = {}
        for file in sorted(Path(self.about.get("statistics") or "/nowhere").glob("Split-*/FeatureStats.pb")):
            statistics = statistics_pb2.DatasetFeatureStatisticsList.FromString(file.read_bytes())
            features = {".".join(f.path.step) or f.name: f for f in statistics.datasets[0].features}
            rates[file.parent.name.removeprefix("Split-")] = {
                task: features[task].num_stats.mean for task in self.tasks if task in features
            }
        return rates

    @cached_property
    def tfma(self) -> dict[tuple[str, str, str], float]:
        """(task, slice, metric) -> value that the Evaluator measured; empty if it did not run."""
        evaluation = self.about.get("evaluation")
        if not evaluation or not Path(evaluation).is_dir():
            return {}
        from mixrank.components.judging import load_metrics

        return {(row.task, row.slice, row.metric): row.value for row in load_metrics(evaluation)}

    @staticmethod
    def _json(folder: str | None, name: str) -> dict[str, Any]:
        file = Path(folder or "/nowhere") / name
        return json.loads(file.read_text()) if file.is_file() else {}
