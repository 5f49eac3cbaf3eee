"""A raw log -> examples of some days to score, with the joins and histories of training, made by ExampleGen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.types import standard_artifacts

from mixrank.components.examples.example_gen import Executor, build_example_gen
from mixrank.components.examples.raw_tables import declared_tables
from mixrank.components.gates import REPORT, Figures
from mixrank.schemas import CalendarDay, Dataset, Sliding, SplitByDay
from mixrank.schemas.files import abandoned, locked, remove, write_folder_atomically, write_text_atomically
from mixrank.schemas.raw import find_files

RUNNER = "--runner=FnApiRunner"
# ExampleGen fills splits of these names; the days to score go to the first, the second stays empty.
NOTE = "log.json"
SCORED, NEVER = "train", "eval"
FIRST, LAST = "1970-01-01", "2200-12-31"
AFTER_ALL = ("9999-12-30", "9999-12-31")


def write_examples(
    dataset: Dataset, data: Path | str, folder: Path, days: tuple[str, str] | None = None, beam_args: Sequence[str] = ()
) -> Path:
    """Joins a log and writes the examples of some days, with histories from all days before.

    Args:
        dataset: the declaration; its split is not used.
        data: folder or address of the raw files.
        folder: folder to write; if it already holds the same log and days, it is reused.
        days: first and last local day, in the time zone of the dataset's split or window; None for all rows.
        beam_args: options of the Beam pipelines.

    Returns:
        The folder of the examples.

    Raises:
        ValueError: as ExampleGen; if the log has no rows on these days; or if `folder` holds something else.
    """
    wanted = json.loads(json.dumps([dataset.model_dump(mode="json"), days, _files(dataset, data)]))
    note, target = folder / NOTE, folder / f"Split-{SCORED}"
    with locked(folder.parent, "mixrank score --dataset"):
        if note.is_file():
            if json.loads(note.read_text()) != wanted:
                raise ValueError(
                    f"{folder} holds examples of another log or other days; give another folder or remove it"
                )
            return target
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder} holds files that are not the examples of a log; give another folder")
        for left in abandoned(folder.parent, folder.name):
            remove(left)

        def write(temporary: Path) -> None:
            _join(_of_days(dataset, days), data, temporary, beam_args)
            if not Figures.model_validate_json((temporary / REPORT).read_bytes()).rows[SCORED]:
                raise ValueError(f"the log in {data} has no rows from {' to '.join(days or (FIRST, LAST))}")
            write_text_atomically(temporary / NOTE, json.dumps(wanted))

        write_folder_atomically(folder, write)
    return target


def _join(dataset: Dataset, data: Path | str, folder: Path, beam_args: Sequence[str]) -> None:
    artifact = standard_artifacts.Examples()
    artifact.uri = str(folder)
    arguments = [*([] if any(a.startswith("--runner") for a in beam_args) else [RUNNER]), *beam_args]
    context = BaseBeamExecutor.Context(
        make_beam_pipeline_fn=lambda: beam.Pipeline(options=PipelineOptions(arguments)), tmp_dir=str(folder)
    )
    component = build_example_gen(dataset, str(data))
    _Executor(context).Do({}, {"examples": [artifact]}, dict(component.exec_properties))


class _Executor(Executor):
    """An ExampleGen that allows empty splits."""

    def _check(self, figures: Figures, dataset: Dataset) -> None:
        pass


def _of_days(dataset: Dataset, days: tuple[str, str] | None) -> Dataset:
    source = dataset.source
    calendar = source.split if isinstance(source.split, SplitByDay) else source.window
    zone = CalendarDay() if isinstance(calendar, Sliding) else calendar
    split = SplitByDay(
        splits={SCORED: days or (FIRST, LAST), NEVER: AFTER_ALL},
        timezone=zone.timezone,
        starts_at=zone.starts_at,
    )
    return dataset.model_copy(update={"source": source.model_copy(update={"split": split})})


def _files(dataset: Dataset, data: Path | str) -> dict[str, list[int]]:
    """Size and modification time of every raw file."""
    files = [file for table in declared_tables(dataset).values() for file in find_files(table, str(data)).files]
    return {file.path: [file.stored, file.modified] for file in sorted(files, key=lambda file: file.path)}
