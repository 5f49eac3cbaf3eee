"""The rows of a log by day and user shard: every raw file is read once, however many days it holds.

    folder/
      log.json                  number of shards, and the tables' columns
      files/<id>.json           one raw file: what it was, and where its rows are; written when all of them are
      rows/<id>/<piece>-<day>.arrow     a record batch for every user shard

A file is known by its path, size and time of change. One that is replaced gives its rows anew; one that is taken away
keeps those that it gave.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
from absl import logging
from apache_beam.io.filesystems import FileSystems

from mixrank.components.examples.calendar import local_days
from mixrank.components.examples.raw_tables import FILE, LOG, RawTable, default_shards, stored_fields
from mixrank.components.examples.stages import (
    ReadPiece,
    ShardTables,
    found_summaries,
    read_json,
    write_batches,
    write_json,
)
from mixrank.components.gates import too_many_bad_rows
from mixrank.schemas import Dataset, SplitByDay
from mixrank.schemas.arrow import pa
from mixrank.schemas.raw import Piece, RawFile

LOG_FILE = "log.json"


@dataclass(frozen=True)
class Slice:
    """Rows of one day in one piece of a raw file.

    Args:
        table, file: where they are from.
        day: ISO date.
        rows: how many.
        newest: latest time of them, milliseconds.
        path: of the Arrow file.
    """

    table: str
    file: str
    day: str
    rows: int
    newest: int
    path: str


@dataclass(frozen=True)
class DayLog:
    """What has been read.

    Args:
        folder: of the log.
        num_shards: user shards.
        slices: in the order of the raw files and of their rows.
        files: summary of every file: its rows, and those that are bad.
    """

    folder: str
    num_shards: int
    slices: tuple[Slice, ...]
    files: tuple[dict[str, Any], ...]

    def days(self) -> list[str]:
        """Days of the impressions, ascending."""
        return sorted({each.day for each in self.slices if each.table == LOG})

    def rows_of(self, day: str) -> dict[str, int]:
        """Table -> rows that were read of a day."""
        found: dict[str, int] = {}
        for each in self.slices:
            if each.day == day:
                found[each.table] = found.get(each.table, 0) + each.rows
        return found

    def fingerprint(self, days: Callable[[str], bool]) -> str:
        """Changes when the rows of the days do."""
        known = [[each.table, each.file, each.day, each.path] for each in self.slices if days(each.day)]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]

    def load(self, table: RawTable, days: Callable[[str], bool], number: int) -> tuple[pa.Table, list[str]]:
        """Rows of a table in some days and one user shard, and the files that their `FILE` numbers.

        Args:
            table: the table.
            days: which days.
            number: of the shard; a table that has no user is in the first, and belongs to all.
        """
        batches: list[pa.RecordBatch] = []
        files: list[str] = []
        for each in self.slices:
            if each.table != table.name or not days(each.day):
                continue
            with FileSystems.open(each.path) as source:
                batch = pa.ipc.open_file(source).get_batch(number if table.key is not None else 0)
            if table.name == LOG:
                place = batch.schema.get_field_index(FILE)
                columns = list(batch.columns)
                columns[place] = pa.array(np.full(len(batch), len(files)))
                batch = pa.RecordBatch.from_arrays(columns, schema=batch.schema)
                files.append(each.file)
            batches.append(batch)
        return pa.Table.from_batches(batches, pa.schema(stored_fields(table))), files


def read_log(
    folder: str,
    dataset: Dataset,
    tables: dict[str, RawTable],
    num_shards: int | None,
    pipeline: Callable[[], beam.Pipeline],
) -> DayLog:
    """Reads the raw files that the folder does not know yet.

    Args:
        folder: of the log; made if it is new.
        dataset: split by day.
        tables: as `find_tables` found them.
        num_shards: of a new log; None derives it from its size.
        pipeline: makes the Beam pipeline of the reading job.

    Returns:
        The log, with all that was read before.

    Raises:
        ValueError: naming a file that cannot be read, if the columns of the declaration have changed, or if it has
            no users.
    """
    split = dataset.source.split
    if not isinstance(split, SplitByDay):
        raise ValueError(f"{dataset.spec.name} is split {split.type}; only a log that is split by day has days")
    if dataset.spec.user.per_row:
        raise ValueError(
            f"{dataset.spec.name} has no users (key `{dataset.spec.user.name}` is per_row): no row needs others"
        )
    timed = {name: table for name, table in tables.items() if table.time is not None}
    columns = {name: [[column, str(kind)] for column, kind in table.fields] for name, table in timed.items()}
    about = FileSystems.join(folder, LOG_FILE)
    if FileSystems.exists(about):
        known = read_json(about)
        if known["columns"] != columns:
            raise ValueError(
                f"{folder} was read with other columns than the declaration of {dataset.spec.name} has now; remove the "
                "folder, and the log is read again"
            )
        num_shards = int(known["num_shards"])
    else:
        num_shards = num_shards or default_shards(tables)
        for part in ("files", "rows"):
            FileSystems.mkdirs(FileSystems.join(folder, part))
        write_json(about, {"num_shards": num_shards, "columns": columns})
    files = FileSystems.join(folder, "files")
    read = set(_names(files))
    new = {
        (table.name, number): _id(table.name, file)
        for table in timed.values()
        for number, file in enumerate(table.files)
        if f"{_id(table.name, file)}.json" not in read
    }
    if new:
        _read(folder, split, timed, new, num_shards, dataset.source.max_bad_rows, pipeline)
    return _current(folder, num_shards)


def _read(
    folder: str,
    split: SplitByDay,
    tables: dict[str, RawTable],
    new: dict[tuple[str, int], str],
    num_shards: int,
    max_bad_rows: float,
    pipeline: Callable[[], beam.Pipeline],
) -> None:
    """Reads new files; each is known when its summary is written, after all its pieces."""
    pieces = [
        (name, number, piece)
        for name, table in tables.items()
        for number, piece in table.pieces()
        if (name, number) in new
    ]
    homes = {key: FileSystems.join(folder, "rows", name) for key, name in new.items()}
    for home in homes.values():
        # Of a reading that was interrupted.
        if FileSystems.exists(home):
            FileSystems.delete([home])
        FileSystems.mkdirs(home)
    logging.info("reading %d pieces of %d new files", len(pieces), len(new))
    with pipeline() as job:
        (
            job
            | "Pieces" >> beam.Create(pieces)
            | "SpreadPieces" >> beam.Reshuffle()
            | "ReadDays" >> beam.ParDo(ReadDays(tables, num_shards, homes, split))
        )
    found = {key: found_summaries(home, "read-*.json") for key, home in homes.items()}
    for parts in found.values():
        for part in parts:
            if "error" in part:
                raise ValueError(part["error"])
    for name in tables:
        own = [part for (table, _), parts in found.items() if table == name for part in parts]
        bad = [letter for part in own for letter in part["bad"]]
        if problem := too_many_bad_rows(name, bad, sum(part["rows"] for part in own), max_bad_rows):
            raise ValueError(problem)
    for (name, number), parts in found.items():
        file = tables[name].files[number]
        write_json(
            FileSystems.join(folder, "files", f"{new[name, number]}.json"),
            {
                "table": name,
                "file": file.path,
                "modified": file.modified,
                "rows": sum(part["rows"] for part in parts),
                "bad": [letter for part in parts for letter in part["bad"]],
                "slices": [each for part in parts for each in part["batches"]],
            },
        )


def read_others(
    tables: dict[str, RawTable], num_shards: int, scratch: str, pipeline: Callable[[], beam.Pipeline]
) -> ShardTables:
    """Reads the tables that have no times, as they are now.

    Args:
        tables: all tables.
        num_shards: of the log.
        scratch: folder that gets their rows; made.
        pipeline: makes the Beam pipeline.

    Raises:
        ValueError: naming a file that cannot be read.
    """
    others = {name: table for name, table in tables.items() if table.time is None}
    pieces = [(name, *piece) for name, table in others.items() for piece in table.pieces()]
    FileSystems.mkdirs(scratch)
    with pipeline() as job:
        job | "Pieces" >> beam.Create(pieces) | "ReadPiece" >> beam.ParDo(ReadPiece(others, num_shards, scratch))
    batches: dict[str, list[str]] = {name: [] for name in others}
    for part in found_summaries(scratch, "read-*.json"):
        if "error" in part:
            raise ValueError(part["error"])
        batches[part["table"]] += part["batches"]
    return ShardTables(others, batches)


class ReadDays(ReadPiece):
    """Reads a piece as `ReadPiece` does, and writes each of its days apart.

    Args:
        tables, num_shards: as in `ReadPiece`.
        homes: (table, number of a file) -> folder of its rows.
        split: which day a time belongs to.
    """

    def __init__(
        self, tables: dict[str, RawTable], num_shards: int, homes: dict[tuple[str, int], str], split: SplitByDay
    ):
        super().__init__(tables, num_shards, "")
        self._homes, self._split = homes, split

    def process(self, element: tuple[str, int, Piece]) -> Iterator[None]:
        self._scratch = self._homes[element[0], element[1]]
        yield from super().process(element)

    def _write(self, table: RawTable, number: int, stem: str, columns: dict[str, pa.Array]) -> list[Any]:
        assert table.time is not None
        times = columns[table.time].to_numpy(zero_copy_only=False).astype(np.int64)
        days = local_days(times, self._split.timezone, self._split.starts_at)
        written = []
        for day in np.unique(days):
            rows = pa.array(np.flatnonzero(days == day))
            path = FileSystems.join(self._scratch, f"{stem}-{day}.arrow")
            write_batches(
                path, {name: array.take(rows) for name, array in columns.items()}, table.key, self._num_shards
            )
            written.append([str(day), len(rows), int(times[days == day].max()), path])
        return written


def _current(folder: str, num_shards: int) -> DayLog:
    """What is known: of files with one path, the one that changed last."""
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for name in _names(FileSystems.join(folder, "files")):
        file = read_json(FileSystems.join(folder, "files", name))
        key = (file["table"], file["file"])
        if key not in newest or newest[key]["modified"] < file["modified"]:
            newest[key] = file
    files = [newest[key] for key in sorted(newest)]
    slices = [Slice(file["table"], file["file"], *each) for file in files for each in file["slices"]]
    return DayLog(folder, num_shards, tuple(slices), tuple(files))


def _names(folder: str) -> list[str]:
    (match,) = FileSystems.match([FileSystems.join(folder, "*.json")])
    return sorted(metadata.path.rpartition("/")[2] for metadata in match.metadata_list)


def _id(table: str, file: RawFile) -> str:
    known = json.dumps([table, file.path, file.stored, file.modified])
    return hashlib.sha256(known.encode()).hexdigest()[:20]
