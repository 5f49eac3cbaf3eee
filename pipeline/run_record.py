"""Record of a run: the one reader and writer of `run.json`."""

from __future__ import annotations

import glob
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainValidator, ValidationError, field_validator

from mixrank.components.gates import GateResult
from mixrank.schemas import FeatureSpec
from mixrank.schemas.files import write_text_atomically
from mixrank.schemas.naming import Declaration, readable
from mixrank.schemas.safe_text import safe_values
from mixrank.schemas.stores import is_url

RUN_FILE = "run.json"
# A local folder, or an address in an object store, in which a path would swallow a slash.
Place = Annotated[Path | str, PlainValidator(lambda place: place if is_url(place) else Path(place))]


class Rows(Declaration):
    """Folders of the rows that a model was trained on: artifacts of ExampleGen, StatisticsGen and Transform.

    Args:
        examples: joined rows, a folder per split.
        statistics: TFDV statistics of the examples, a folder per split.
        transformed: transformed rows, a folder per split.
        transform_graph: Transform's graph and vocabularies.
    """

    examples: Path
    statistics: Path
    transformed: Path
    transform_graph: Path

    def examples_of(self, split: str) -> str:
        """Pattern of the files of joined rows."""
        return f"{glob.escape(str(self.examples))}/Split-{split}/*"


class Judgement(Declaration):
    """Verdict of the pipeline's judges.

    Args:
        evaluation: folder of the Evaluator's metrics.
        reasons: why the model was not blessed; empty for a blessed one.
        gates: verdict of every gate of the model.
        allowed: findings of data and model that the config allows.
        pushed: folder or address of the pushed version, or None.
    """

    evaluation: Path
    reasons: tuple[str, ...] = ()
    gates: tuple[GateResult, ...] = ()
    allowed: tuple[str, ...] = ()
    pushed: Place | None = None

    @property
    def blessed(self) -> bool:
        return not self.reasons

    @property
    def by_chance(self) -> tuple[str, ...]:
        """Verdicts of the gates that other users could have turned."""
        return tuple(gate.said for gate in self.gates if gate.by_chance and gate.passed)


class RunRecord(Declaration):
    """A run of the pipeline, or a training alone on the rows of one.

    Args:
        name: of the run.
        dataset: reference of the dataset, as the config gave it.
        config: the whole config, for display. Not a `RunConfig`, since its model may no longer exist.
        spec: columns of a row.
        splits: splits that the model was trained on.
        started, finished: local times.
        seconds: component -> how long it took, 0 where the cache answered.
        rows: what was trained on.
        baselines: folder of the baselines' scores of the evaluation rows.
        model_run: folder of the training's log, model card and predictions.
        export: folder of the SavedModel, or None where none was exported.
        judgement: None for a training alone, which is not judged.
    """

    name: str
    dataset: str
    config: dict[str, Any]
    spec: FeatureSpec
    splits: tuple[str, ...]
    started: datetime
    finished: datetime
    seconds: dict[str, float]
    rows: Rows
    baselines: Path
    model_run: Path
    export: Path | None
    judgement: Judgement | None

    @field_validator("config")
    @classmethod
    def _mask_secrets(cls, config: dict[str, Any]) -> dict[str, Any]:
        return safe_values(config)

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """The record in a run folder.

        Raises:
            ValueError: if the folder holds none, or one of another version of mixrank; names file and key.
        """
        file = Path(folder) / RUN_FILE
        if not file.is_file():
            raise ValueError(f"{folder} is not a run folder: it holds no {RUN_FILE}")
        try:
            return cls.model_validate_json(file.read_bytes())
        except ValidationError as error:
            raise ValueError(
                f"{file} was not written by this version of mixrank: {'; '.join(readable(error).splitlines())}. "
                "Run it again with `mixrank run`"
            ) from None

    def write(self, folder: Path) -> None:
        """Puts the record into a run folder; its presence means that the run is complete."""
        write_text_atomically(Path(folder) / RUN_FILE, self.model_dump_json(indent=1))

    @property
    def pushed(self) -> Path | str | None:
        """Folder or address of the version that the run pushed, or None."""
        return self.judgement.pushed if self.judgement else None

    @property
    def local_model(self) -> Path | None:
        """The pushed version, or the export where none was pushed to this machine."""
        return self.pushed if isinstance(self.pushed, Path) else self.export


def split_files(rows: Path) -> dict[str, str]:
    """Split -> pattern of its files, in a folder of rows."""
    found = sorted(Path(rows).glob("Split-*"))
    return {path.name.removeprefix("Split-"): f"{glob.escape(str(path))}/*" for path in found}


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a finished run."""
    return (Path(folder) / RUN_FILE).is_file()
