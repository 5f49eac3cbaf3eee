"""A raw log -> examples of some days to score, or what requests of a day carry of popularity, by ExampleGen's jobs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pandas as pd
from apache_beam.options.pipeline_options import PipelineOptions
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.types import standard_artifacts

from mixrank.components.examples import stages
from mixrank.components.examples.calendar import local_days
from mixrank.components.examples.example_gen import Executor, build_example_gen, newest_time
from mixrank.components.examples.popularity import popularity_on, rate_before
from mixrank.components.examples.raw_tables import declared_tables, default_shards, find_tables
from mixrank.components.gates import REPORT, Figures
from mixrank.schemas import CalendarDay, Dataset, Popularity, Sliding, SplitByDay
from mixrank.schemas.arrow import pa, pq
from mixrank.schemas.files import abandoned, locked, remove, write_folder_atomically, write_text_atomically
from mixrank.schemas.raw import find_files

RUNNER = "--runner=FnApiRunner"
# ExampleGen fills splits of these names; the days to score go to the first, the second stays empty.
NOTE = "log.json"
SUMMARY = "popularity.json"
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

    def write(temporary: Path) -> None:
        artifact = standard_artifacts.Examples()
        artifact.uri = str(temporary)
        component = build_example_gen(_of_days(dataset, days), str(data))
        _Executor(_context(temporary, beam_args)).Do({}, {"examples": [artifact]}, dict(component.exec_properties))
        if not Figures.model_validate_json((temporary / REPORT).read_bytes()).rows[SCORED]:
            raise ValueError(f"the log in {data} has no rows from {' to '.join(days or (FIRST, LAST))}")

    _once(folder, "examples", [dataset.model_dump(mode="json"), days, _files(dataset, data)], write)
    return folder / f"Split-{SCORED}"


def write_popularity(
    dataset: Dataset, data: Path | str, folder: Path, day: str | None = None, beam_args: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Writes what requests of one day carry for every `Popularity`: a Parquet file for each, named after it.

    A file has the columns that are counted, the feature, and its `positives` and `rows`; a row for each value, or
    combination, that occurs on a day before. `popularity.json` is what is returned.

    Args:
        dataset: the declaration.
        data: folder or address of the raw files.
        folder: folder to write; if it already holds the same log and day, it is left as it is.
        day: local day of the requests, in each declaration's time zone; None is the day after the newest event.
        beam_args: options of the Beam pipelines.

    Returns:
        Feature -> its `day`, number of `values`, and, with a label, the `rate` of all rows. A value without a row has
        popularity 0; of several values of a row, positives and rows are added up first.

    Raises:
        ValueError: as ExampleGen; if nothing is declared; or if `folder` holds something else.
    """
    if not dataset.source.popularity:
        raise ValueError(f"dataset {dataset.spec.name} declares no Popularity, so requests carry none")

    def write(temporary: Path) -> None:
        found = _Counter(_context(temporary, beam_args)).write(dataset, data, temporary, day)
        write_text_atomically(temporary / SUMMARY, json.dumps(found, indent=1))

    _once(folder, "popularity", [dataset.model_dump(mode="json"), day, _files(dataset, data)], write)
    return json.loads((folder / SUMMARY).read_bytes())


def _once(folder: Path, what: str, wanted: list[Any], write: Callable[[Path], None]) -> None:
    """Writes a folder, unless it was written from the same.

    Raises:
        ValueError: if it holds something else.
    """
    wanted, note = json.loads(json.dumps(wanted)), folder / NOTE
    with locked(folder.parent, "mixrank score --dataset, or mixrank popularity"):
        if note.is_file():
            if json.loads(note.read_text()) != wanted:
                raise ValueError(
                    f"{folder} holds {what} of another log or other days; give another folder or remove it"
                )
            return
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder} holds files that are not the {what} of a log; give another folder")
        for left in abandoned(folder.parent, folder.name):
            remove(left)

        def write_all(temporary: Path) -> None:
            write(temporary)
            write_text_atomically(temporary / NOTE, json.dumps(wanted))

        write_folder_atomically(folder, write_all)


def _context(folder: Path, beam_args: Sequence[str]) -> Any:
    arguments = [*([] if any(a.startswith("--runner") for a in beam_args) else [RUNNER]), *beam_args]
    return BaseBeamExecutor.Context(
        make_beam_pipeline_fn=lambda: beam.Pipeline(options=PipelineOptions(arguments)), tmp_dir=str(folder)
    )


class _Executor(Executor):
    """An ExampleGen that allows empty splits."""

    def _check(self, figures: Figures, dataset: Dataset) -> None:
        pass


class _Counter(Executor):
    """The part of an ExampleGen that counts."""

    def write(self, dataset: Dataset, data: Path | str, folder: Path, day: str | None) -> dict[str, dict[str, Any]]:
        """Writes the files of `write_popularity`, and returns their summary."""
        tables = find_tables(dataset, str(data))
        num_shards = default_shards(tables)
        scratch = folder / "_scratch"
        scratch.mkdir()
        reads, shards = self._sort(dataset, tables, num_shards, str(scratch), str(folder))
        counts = stages.SharedCounts(dataset, self._count(dataset, shards, num_shards, str(scratch)))
        newest, rules = np.array([newest_time(dataset, reads)]), dataset.source.popularity
        found: dict[str, dict[str, Any]] = {}
        for name, rule in rules.items():
            last = local_days(newest, rule.timezone, rule.starts_at)[0]
            found[name] = {"day": np.datetime64(day, "D") if day is not None else last + 1, "values": 0}
        schemas = {name: _columns(dataset, name, rule) for name, rule in rules.items()}
        with ExitStack() as closing:
            writers = {
                name: closing.enter_context(pq.ParquetWriter(folder / f"{name}.parquet", schema))
                for name, schema in schemas.items()
            }
            # Values with the user are in the counts of their shards, all others in those of all.
            for place in range(num_shards if counts.own_rules else 1):
                of_shard = counts.of_shard(str(scratch), place)
                for name, rule in rules.items():
                    about, number = found[name], found[name]["day"].astype(np.int64)
                    if place == 0 and rule.label is not None:
                        about["rate"] = float(rate_before(of_shard[name], np.array([number]))[0])
                    if place == 0 or name in counts.own_rules:
                        frame = popularity_on(rule, of_shard[name], int(number))
                        writers[name].write_table(_table(frame, schemas[name]))
                        about["values"] += len(frame)
        remove(scratch)
        return {name: {**about, "day": str(about["day"])} for name, about in found.items()}


def _columns(dataset: Dataset, name: str, rule: Popularity) -> pa.Schema:
    """Columns of a file of `write_popularity`."""
    spec = dataset.spec
    known: dict[str, str] = {key.name: key.dtype for key in (spec.user, spec.item, spec.scenario)}
    known |= {feature.name: feature.dtype for feature in spec.categorical}
    types = {part: pa.int64() if known[part] == "int" else pa.string() for part in rule.parts}
    number = pa.int64() if rule.label is None and rule.half_life is None else pa.float64()
    return pa.schema({**types, name: number, "positives": pa.float64(), "rows": pa.float64()})


def _table(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    """Rows of such a file: the parts of a value, and three numbers."""
    types = schema.types[:-3]
    texts = [json.loads(text) for text in frame["value"]] if len(types) > 1 else [[v] for v in frame["value"]]
    values = [pa.array([text[i] for text in texts], pa.string()).cast(t) for i, t in enumerate(types)]
    columns = [frame[each].to_numpy() for each in ("popularity", "positives", "rows")]
    return pa.Table.from_arrays([*values, *map(pa.array, columns)], schema=schema)


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
