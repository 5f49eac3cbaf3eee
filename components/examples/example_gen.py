"""ExampleGen: raw tables -> point-in-time rows, split by time, as tf.Examples.

    raw files --read--> Arrow files, one batch per user shard --write--> Split-train/, Split-valid/, Split-eval/

Two Beam jobs. The first reads pieces of files, checks every value and sorts the rows by user shard. The second passes
one user shard at a time through `user_shard.py`. If the source declares a `Popularity`, a third job in between
counts its values in the shards. Only file names pass through Beam, so memory grows with the largest piece and the
largest shard, not with the log. Every worker reads the item tables completely.

The artifact also holds `report.json` (counts), `dead_letter.jsonl` (rows that do not parse) and, with a `Popularity`,
`popularity.parquet` (its counts per column, value and day, from which a server can fill the features).
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import apache_beam as beam
import pandas as pd
from absl import logging
from apache_beam.io.filesystems import FileSystems
from google.protobuf import wrappers_pb2
from tfx import types
from tfx.components.example_gen import driver, utils, write_split
from tfx.components.example_gen.component import FileBasedExampleGen
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_component, base_beam_executor, executor_spec
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils, component_spec, standard_artifacts, standard_component_specs
from tfx.utils import proto_utils

from mixrank.components.examples import stages
from mixrank.components.examples.popularity import merge
from mixrank.components.examples.raw_tables import (
    LOG,
    RawTable,
    declared_tables,
    default_shards,
    event_table,
    find_tables,
    label_table,
    unreadable,
)
from mixrank.components.examples.splits import with_days
from mixrank.components.gates import REPORT, Figures, FileFigures, empty_splits, too_many_bad_rows
from mixrank.schemas import Dataset
from mixrank.schemas.raw import find_files

DEAD_LETTER, POPULARITY = "dead_letter.jsonl", "popularity.parquet"


class ExampleGenSpec(component_spec.ComponentSpec):
    """Parameters of TFX's own component, and the days of the splits."""

    PARAMETERS = {
        **standard_component_specs.FileBasedExampleGenSpec.PARAMETERS,
        "split_days": component_spec.ExecutionParameter(type=str),
    }
    INPUTS: dict[str, Any] = {}
    OUTPUTS = standard_component_specs.FileBasedExampleGenSpec.OUTPUTS


class Driver(driver.FileBasedDriver):
    """Fingerprints the files that the executor reads: TFX's own would take a `[` in the data folder for a wildcard."""

    def resolve_exec_properties(
        self, exec_properties: dict[str, Any], pipeline_info: Any, component_info: Any
    ) -> dict[str, Any]:
        dataset = Dataset.model_validate(_settings(exec_properties)["dataset"])
        folder = exec_properties[standard_component_specs.INPUT_BASE_KEY]
        known = [
            [name, file.path, file.stored, file.modified]
            for name, table in declared_tables(dataset).items()
            for file in find_files(table, folder).files
        ]
        exec_properties[utils.FINGERPRINT_PROPERTY_NAME] = hashlib.sha256(json.dumps(known).encode()).hexdigest()
        exec_properties[utils.SPAN_PROPERTY_NAME] = 0
        exec_properties[utils.VERSION_PROPERTY_NAME] = None
        return exec_properties


class ExampleGen(FileBasedExampleGen):
    """TFX component whose driver fingerprints the raw files; made by `build_example_gen`."""

    SPEC_CLASS = ExampleGenSpec
    DRIVER_CLASS = Driver

    def __init__(self, **values: Any) -> None:
        # TFX's constructor accepts only its own parameters.
        base_beam_component.BaseBeamComponent.__init__(
            self,
            ExampleGenSpec(examples=types.Channel(type=standard_artifacts.Examples), **values),
            custom_executor_spec=executor_spec.BeamExecutorSpec(Executor),
        )


def build_example_gen(
    dataset: Dataset, data_dir: Any, num_shards: int | None = None, source_hash: str = "", split_days: Any = ""
) -> ExampleGen:
    """The ExampleGen component of a dataset.

    Args:
        dataset: the declaration.
        data_dir: folder with the raw files.
        num_shards: int >= 1 or None. Number of user shards, which is also the number of files per split; None derives
            it from the input size.
        source_hash: text that changes with the code, so that the cache notices an edit.
        split_days: other days for the dataset's splits, as in `with_days`; empty keeps the dataset's own.

    Returns:
        A component with output `examples`.

    Raises:
        ValueError: if `num_shards` is below 1.
    """
    if num_shards is not None and num_shards < 1:
        raise ValueError(f"`num_shards` must be at least 1, received {num_shards}")
    settings = {"dataset": dataset.model_dump(mode="json"), "num_shards": num_shards, "source_hash": source_hash}
    custom_config = example_gen_pb2.CustomConfig()
    custom_config.custom_config.Pack(wrappers_pb2.StringValue(value=json.dumps(settings)))
    # For who reads the pipeline; `Driver` and the executor look for the files by the dataset.
    patterns = [pattern for table in declared_tables(dataset).values() for pattern in (*table.files, *table.or_files)]
    return ExampleGen(
        input_base=data_dir,
        input_config=example_gen_pb2.Input(
            splits=[
                example_gen_pb2.Input.Split(name=f"raw_{number}", pattern=pattern)
                for number, pattern in enumerate(patterns)
            ]
        ),
        output_config=example_gen_pb2.Output(
            split_config=example_gen_pb2.SplitConfig(
                splits=[example_gen_pb2.SplitConfig.Split(name=name, hash_buckets=1) for name in dataset.split_names]
            )
        ),
        output_data_format=example_gen_pb2.FORMAT_TF_EXAMPLE,
        output_file_format=example_gen_pb2.FORMAT_TFRECORDS_GZIP,
        custom_config=custom_config,
        split_days=split_days,
    )


class Executor(base_beam_executor.BaseBeamExecutor):
    """Runs the Beam jobs and writes the report."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the examples.

        Args:
            input_dict: empty.
            output_dict: "examples": one Examples artifact.
            exec_properties: "input_base": the data folder; "custom_config": the packed dataset; "split_days".

        Raises:
            ValueError: for a missing file, table or column, a duplicate key, too many bad rows, or wrong days.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        settings = _settings(exec_properties)
        dataset = Dataset.model_validate(settings["dataset"])
        if days := exec_properties["split_days"]:
            dataset = with_days(dataset, days)
        artifact = artifact_utils.get_single_instance(output_dict[standard_component_specs.EXAMPLES_KEY])
        tables = find_tables(dataset, exec_properties[standard_component_specs.INPUT_BASE_KEY])
        num_shards = settings["num_shards"] or default_shards(tables)

        scratch = FileSystems.join(artifact.uri, "_scratch")
        folders = {name: artifact_utils.get_split_uri([artifact], name) for name in _set_splits(artifact, dataset)}
        for folder in (scratch, *folders.values()):
            FileSystems.mkdirs(folder)
        try:
            reads, shards = self._sort(dataset, tables, num_shards, scratch, artifact.uri)
            popularity = None
            if dataset.source.popularity:
                popularity = FileSystems.join(artifact.uri, POPULARITY)
                stages.write_parquet(popularity, self._count(dataset, shards, num_shards, scratch))
            dumped = dataset.model_dump_json()
            write = stages.WriteShard(
                dumped, shards, num_shards, scratch, folders, popularity, newest_time(dataset, reads)
            )
            self._each_shard("WriteShard", write, num_shards)
            writes = _summaries(scratch, "write-*.json")
            late = [{"table": LOG, "rows": 0, **write} for write in writes]
            letters = _stop_if_bad(dataset, reads + late, artifact.uri)
            figures = _figures(tables, reads, writes)
            self._check(figures, dataset)
        finally:
            FileSystems.delete([scratch])
        _write_lines(FileSystems.join(artifact.uri, DEAD_LETTER), letters)
        stages.write_json(FileSystems.join(artifact.uri, REPORT), figures.model_dump())
        logging.info("examples written to %s: %s", artifact.uri, figures.rows)

    def _check(self, figures: Figures, dataset: Dataset) -> None:
        _stop_if_empty(figures, dataset)

    def _sort(
        self, dataset: Dataset, tables: dict[str, RawTable], num_shards: int, scratch: str, uri: str
    ) -> tuple[list[dict[str, Any]], stages.ShardTables]:
        """Sorts the rows of all tables by user shard.

        Returns:
            Summaries of the pieces that were read, and the shards.

        Raises:
            ValueError: for a file that cannot be read, or too many bad rows, which are then listed beside `uri`.
        """
        reads = _whole(tables, self._read(tables, num_shards, scratch))
        _stop_if_bad(dataset, reads, uri)
        return reads, stages.ShardTables(tables, _batches(tables, reads))

    def _read(self, tables: dict[str, RawTable], num_shards: int, scratch: str) -> list[dict[str, Any]]:
        pieces = [(name, *piece) for name, table in tables.items() for piece in table.pieces()]
        logging.info("reading %d pieces of %s into %d user shards", len(pieces), sorted(tables), num_shards)
        with self._make_beam_pipeline() as pipeline:
            (
                pipeline
                | "Pieces" >> beam.Create(pieces)
                | "SpreadPieces" >> beam.Reshuffle()
                | "ReadPiece" >> beam.ParDo(stages.ReadPiece(tables, num_shards, scratch))
            )
        return stages.found_summaries(scratch, "read-*.json")

    def _count(self, dataset: Dataset, shards: stages.ShardTables, num_shards: int, scratch: str) -> pd.DataFrame:
        """The counts of every `Popularity`, over all shards."""
        count = stages.CountShard(dataset.model_dump_json(), shards, scratch)
        self._each_shard("CountShard", count, num_shards)
        _summaries(scratch, "count-*.json")
        files = [FileSystems.join(scratch, f"count-{number:06d}.parquet") for number in range(num_shards)]
        return merge(map(stages.read_parquet, files))

    def _each_shard(self, label: str, step: beam.DoFn, num_shards: int) -> None:
        with self._make_beam_pipeline() as pipeline:
            (
                pipeline
                | "Shards" >> beam.Create(range(num_shards))
                | "SpreadShards" >> beam.Reshuffle()
                | label >> beam.ParDo(step)
            )


def newest_time(dataset: Dataset, reads: list[dict[str, Any]]) -> int:
    """Latest time of the log and of the events that make labels, in milliseconds; 0 without a row.

    Args:
        dataset: the declaration.
        reads: summaries of all pieces.
    """
    others = {event_table(events) for events in dataset.source.events}
    return max((read.get("newest", 0) for read in reads if read["table"] not in others), default=0)


def _batches(tables: dict[str, RawTable], reads: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Table -> the Arrow files that the reading job wrote for it."""
    batches: dict[str, list[str]] = {name: [] for name in tables}
    for read in reads:
        batches[read["table"]] += read["batches"]
    return batches


def _settings(exec_properties: dict[str, Any]) -> dict[str, Any]:
    config = example_gen_pb2.CustomConfig()
    proto_utils.json_to_proto(exec_properties[standard_component_specs.CUSTOM_CONFIG_KEY], config)
    packed = wrappers_pb2.StringValue()
    config.custom_config.Unpack(packed)
    return json.loads(packed.value)


def _set_splits(artifact: types.Artifact, dataset: Dataset) -> tuple[str, ...]:
    artifact.split_names = artifact_utils.encode_split_names(list(dataset.split_names))
    examples_utils.set_payload_format(artifact, example_gen_pb2.FORMAT_TF_EXAMPLE)
    examples_utils.set_file_format(artifact, write_split.to_file_format_str(example_gen_pb2.FORMAT_TFRECORDS_GZIP))
    return dataset.split_names


def _whole(tables: dict[str, RawTable], reads: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Summaries of files that were read to their end.

    Raises:
        ValueError: naming every file of a table that was not.
    """
    for name, table in tables.items():
        wrong = {read["file"]: read["error"] for read in reads if read["table"] == name and "error" in read}
        if wrong:
            raise ValueError(unreadable(name, list(wrong.values()), len(table.files)))
    return reads


def _summaries(scratch: str, pattern: str) -> list[dict[str, Any]]:
    """Summaries of a job, in the order of the shards.

    Raises:
        ValueError: the first error among them.
    """
    result = stages.found_summaries(scratch, pattern)
    for summary in result:
        if "error" in summary:
            raise ValueError(summary["error"])
    return result


def _stop_if_bad(dataset: Dataset, summaries: list[dict[str, Any]], uri: str) -> list[dict[str, Any]]:
    """The dead letters of all tables.

    Raises:
        ValueError: if a table has more bad rows than `max_bad_rows` allows.
    """
    letters = [letter for summary in summaries for letter in summary["bad"]]
    for table in dict.fromkeys(summary["table"] for summary in summaries):
        own = [summary for summary in summaries if summary["table"] == table]
        rows = sum(summary["rows"] for summary in own)
        bad = [letter for summary in own for letter in summary["bad"]]
        if problem := too_many_bad_rows(table, bad, rows, dataset.source.max_bad_rows):
            # Beside the artifact: its own folder is removed when a run fails.
            folder, name = os.path.split(uri.rstrip("/"))
            path = FileSystems.join(folder, f"dead_letter_{name}.jsonl")
            _write_lines(path, letters)
            raise ValueError(f"{problem}. All of them are in {path}")
    return letters


def _stop_if_empty(figures: Figures, dataset: Dataset) -> None:
    """Refuses a split without rows, because it would break later steps with unclear errors."""
    for problem in empty_splits(figures, dataset).values():
        raise ValueError(problem)


def _write_lines(path: str, values: list[dict[str, Any]]) -> None:
    with FileSystems.create(path) as sink:
        sink.write("".join(json.dumps(value, default=str) + "\n" for value in values).encode())


def _figures(tables: dict[str, RawTable], reads: list[dict[str, Any]], writes: list[dict[str, Any]]) -> Figures:
    """Figures of all shards, with the files and rows that were read and lost."""
    names = dict.fromkeys(read["table"] for read in reads)
    rows = {name: sum(read["rows"] for read in reads if read["table"] == name) for name in names}
    bad = {name: sum(len(read["bad"]) for read in reads if read["table"] == name) for name in names}
    figures = Figures.merged(Figures.model_validate(write["figures"]) for write in writes)
    # Events without a user are read by every shard.
    own = {label: rows[label_table(label)] - bad[label_table(label)] for label in figures.events}
    events = {label: found.model_copy(update={"rows": own[label]}) for label, found in figures.events.items()}
    bad[LOG] += sum(len(write["bad"]) for write in writes)
    files = {
        name: FileFigures(read=len(table.files), hidden=table.hidden, empty=table.empty)
        for name, table in tables.items()
    }
    return figures.model_copy(update={"files": files, "rows_read": rows, "bad_rows": bad, "events": events})
