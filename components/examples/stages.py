"""Beam steps of ExampleGen: a piece of a file -> rows by user shard; a user shard -> example files.

Both write a JSON summary to the scratch folder instead of emitting elements. Problems with the data are part of
the summary, so that the caller can report them in one readable error after the job.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Container, Iterator
from contextlib import contextmanager
from typing import Any

import apache_beam as beam
import numpy as np
import pandas as pd
from absl import logging
from apache_beam.io.filesystems import FileSystems

from mixrank.components.examples.columns import examples
from mixrank.components.examples.dictionary_column import Coded
from mixrank.components.examples.joined_log import Columns, joined_log
from mixrank.components.examples.popularity import DailyCounts, count, daily_counts, own_rules, shared_and_own
from mixrank.components.examples.raw_tables import LOG, RawTable, checked_rows, read_batches, stored_fields
from mixrank.components.examples.splits import stable_hash
from mixrank.components.examples.user_shard import Shard, build
from mixrank.schemas import SPLITS, Dataset, stores
from mixrank.schemas.arrow import open_parquet, pa, pc, pq
from mixrank.schemas.raw import Piece, dead_letter

SHUFFLE_SEED = 2022
# Rows of a user that stay side by side in a file.
PIECE = 16
# Serialized rows in memory at a time.
BLOCK_ROWS = 4096
# Level 6 takes twice as long to write and saves one sixth of the size.
GZIP_LEVEL = 1


class ReadPiece(beam.DoFn):
    """Checks the rows of one piece of a raw file and writes them as Arrow, one record batch per user shard.

    Args:
        tables: name -> table.
        num_shards: int >= 1. Number of user shards; a table without a partition key goes into one batch.
        scratch: folder to write to.
    """

    def __init__(self, tables: dict[str, RawTable], num_shards: int, scratch: str):
        self._tables, self._num_shards, self._scratch = tables, num_shards, scratch
        self._stores = stores.settings()

    def setup(self) -> None:
        # A worker may be a process, or a machine, of its own.
        stores.configure(self._stores)

    def process(self, element: tuple[str, int, Piece]) -> Iterator[None]:
        name, number, piece = element
        table = self._tables[name]
        file = table.files[number].path
        stem = f"{name}-{number:06d}-{piece.groups[0] + 1 if piece.groups else 0:06d}"
        summary: dict[str, Any] = {"table": name, "file": file, "rows": 0, "bad": [], "batches": []}
        try:
            for count, batch in enumerate(read_batches(table, number, piece)):
                columns, bad = checked_rows(table, number, batch)
                if table.time is not None and len(times := columns[table.time]):
                    summary["newest"] = max(summary.get("newest", 0), pc.max(times).as_py() or 0)
                summary["batches"] += self._write(table, number, f"{stem}-{count:06d}", columns)
                summary["rows"] += len(batch.rows) + len(batch.bad)
                summary["bad"] += bad
        except ValueError as error:
            logging.debug("reading %s", file, exc_info=True)
            summary["error"] = str(error) if file in str(error) else f"{file}: {error}"
        write_json(FileSystems.join(self._scratch, f"read-{stem}.json"), summary)
        logging.info("read %s: %d rows, %d bad", file, summary["rows"], len(summary["bad"]))
        yield from ()

    def _write(self, table: RawTable, number: int, stem: str, columns: dict[str, pa.Array]) -> list[Any]:
        """Writes good rows, and says where they are."""
        path = FileSystems.join(self._scratch, f"{stem}.arrow")
        write_batches(path, columns, table.key, self._num_shards)
        return [path]


def write_batches(path: str, columns: dict[str, pa.Array], key: str | None, num_shards: int) -> None:
    """Writes rows as an Arrow file with a batch for every user shard; with one batch if `key` is None."""
    rows = len(next(iter(columns.values())))
    if key is None:
        shards, bounds = np.arange(rows), np.array([0, rows])
    else:
        keys = Coded.from_arrow(columns[key])
        shard = np.array([stable_hash(value, "shard") % num_shards for value in keys.values])[keys.codes]
        shards = np.argsort(shard, kind="stable")
        bounds = np.searchsorted(np.sort(shard), np.arange(num_shards + 1))
    sorted_rows = pa.array(shards)
    batch = pa.RecordBatch.from_arrays([array.take(sorted_rows) for array in columns.values()], list(columns))
    with whole_file(path) as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            writer.write_batch(batch.slice(start, stop - start))


class ShardTables:
    """Output of the reading job, by user shard.

    Args:
        tables: name -> table.
        batches: table name -> Arrow files in the order of the raw files.
    """

    def __init__(self, tables: dict[str, RawTable], batches: dict[str, list[str]]):
        self.tables, self._batches = tables, batches
        self._whole: dict[str, Columns] = {}

    def load(self, number: int, users: pa.Array | None = None, without: Container[str] = ()) -> dict[str, Columns]:
        """Columns of a shard.

        Args:
            number: of the shard.
            users: those whose rows are wanted; None for all.
            without: names of tables that are not wanted.

        Returns:
            Table name -> columns; all rows for a table without a partition key.
        """
        return {name: self._load(name, number, users) for name in self.tables if name not in without}

    def _load(self, name: str, number: int, users: pa.Array | None) -> Columns:
        key = self.tables[name].key
        partitioned = key is not None
        if not partitioned and name in self._whole:
            return self._whole[name]
        batches = []
        for path in self._batches[name]:
            with FileSystems.open(path) as source:
                batches.append(pa.ipc.open_file(source).get_batch(number if partitioned else 0))
        table = pa.Table.from_batches(batches, pa.schema(stored_fields(self.tables[name])))
        if key is not None and users is not None:
            table = table.filter(pc.is_in(table[key], value_set=users))
        columns = {column: Coded.from_arrow(table[column]) for column in table.column_names}
        if not partitioned:
            self._whole[name] = columns
        return columns


class CountShard(beam.DoFn):
    """Counts the values of one user shard for every `Popularity` of the dataset.

    Args:
        dataset: the declaration, as JSON.
        shards: the tables.
        scratch: folder to write to.
    """

    def __init__(self, dataset: str, shards: ShardTables, scratch: str):
        self._dataset, self._shards, self._scratch = dataset, shards, scratch

    def process(self, number: int) -> Iterator[None]:
        dataset = Dataset.model_validate_json(self._dataset)
        summary: dict[str, Any] = {}
        try:
            log, _, _ = joined_log(dataset, self._shards.load(number))
            rules = dataset.source.popularity
            counts = count(rules, log, log[dataset.spec.time.name].numbers())
            shared, own = shared_and_own(dataset.spec, rules, counts)
            write_parquet(FileSystems.join(self._scratch, f"count-{number:06d}.parquet"), shared)
            if own_rules(dataset.spec, rules):
                write_parquet(FileSystems.join(self._scratch, f"own-{number:06d}.parquet"), own)
        except ValueError as error:
            summary["error"] = str(error)
        write_json(FileSystems.join(self._scratch, f"count-{number:06d}.json"), summary)
        yield from ()


class SharedCounts:
    """The counts that every shard looks up, and the way to those of one shard alone.

    Args:
        dataset: the declaration.
        merged: counts of all shards, as `merge` makes them.
    """

    def __init__(self, dataset: Dataset, merged: pd.DataFrame):
        rules = dataset.source.popularity
        self.own_rules = own_rules(dataset.spec, rules)
        own = merged["column"].isin(self.own_rules)
        self.of_all = daily_counts(rules, merged[~own])
        self._totals = merged[own]

    def of_shard(self, scratch: str, number: int) -> dict[str, DailyCounts]:
        """Column -> its counts, as the rows of a shard need them."""
        if not self.own_rules:
            return self.of_all
        own = read_parquet(FileSystems.join(scratch, f"own-{number:06d}.parquet"))
        return {**self.of_all, **daily_counts(self.own_rules, pd.concat([self._totals, own]))}


class WriteShard(beam.DoFn):
    """Builds the rows of one user shard and writes one file per split.

    Args:
        dataset: the declaration, as JSON.
        shards: the tables.
        num_shards: int >= 1. Number of user shards.
        scratch: folder for temporary files.
        folders: split name -> folder of its files.
        popularity: file with the counts of all shards, or None without a `Popularity`.
        newest: latest time of all tables, in milliseconds.
    """

    def __init__(
        self,
        dataset: str,
        shards: ShardTables,
        num_shards: int,
        scratch: str,
        folders: dict[str, str],
        popularity: str | None,
        newest: int,
    ):
        self._dataset, self._shards, self._popularity, self._newest = dataset, shards, popularity, newest
        self._num_shards, self._scratch, self._folders = num_shards, scratch, folders

    def setup(self) -> None:
        dataset = Dataset.model_validate_json(self._dataset)
        self._shared = SharedCounts(dataset, read_parquet(self._popularity)) if self._popularity else None

    def process(self, number: int) -> Iterator[None]:
        summary: dict[str, Any] = {"bad": []}
        try:
            dataset = Dataset.model_validate_json(self._dataset)
            counts = self._shared.of_shard(self._scratch, number) if self._shared is not None else {}
            shard = build(dataset, self._shards.load(number), counts, self._newest)
            files = self._shards.tables[LOG].files
            summary["bad"] = [dead_letter(files[file].path, row, *rest) for file, row, *rest in shard.bad]
            summary["figures"] = shard.figures.model_dump()
            write_examples_of(shard, dataset, self._folders, self._scratch, number, self._num_shards)
            logging.info("wrote shard %d of %d: %s", number + 1, self._num_shards, shard.figures.rows)
        except ValueError as error:
            logging.debug("writing shard %d", number, exc_info=True)
            summary["error"] = str(error)
        write_json(FileSystems.join(self._scratch, f"write-{number:06d}.json"), summary)
        yield from ()


def write_examples_of(
    shard: Shard, dataset: Dataset, folders: dict[str, str], scratch: str, number: int, num_shards: int
) -> None:
    """Writes the rows of a shard, one file per split.

    Args:
        shard: the rows.
        dataset: their declaration.
        folders: split name -> folder of its files.
        scratch: folder for temporary files.
        number, num_shards: of the shard, and how many there are.
    """
    import tensorflow as tf

    for position, split in enumerate(SPLITS):
        if split not in folders:
            continue
        rows = np.flatnonzero(shard.split == position)
        users = shard.log[dataset.spec.user.name].codes[rows]
        rows = rows[shuffled_pieces(users, np.random.default_rng([SHUFFLE_SEED, number]))]
        name = f"data_tfrecord-{number:05d}-of-{num_shards:05d}.gz"
        temporary = own_name(FileSystems.join(scratch, f"{split}-{name}"))
        options = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=GZIP_LEVEL)
        with tf.io.TFRecordWriter(temporary, options) as writer:
            for start in range(0, len(rows), BLOCK_ROWS):
                for serialized in examples(shard.columns, rows[start : start + BLOCK_ROWS]):
                    writer.write(serialized)
        rename(temporary, FileSystems.join(folders[split], name))


def shuffled_pieces(users: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Order of a shard's rows in its file: pieces of up to `PIECE` rows of one user, in random order.

    A training that compares the rows of a user finds them side by side, all others shuffle them apart.

    Args:
        users: int array (rows,), the rows of a user side by side.
        rng: random state.

    Returns:
        Positions in `users`, (rows,).
    """
    starts = np.flatnonzero(np.append(True, users[1:] != users[:-1])[: len(users)])
    lengths = np.diff(np.append(starts, len(users)))
    inside = np.arange(len(users)) - np.repeat(starts, lengths)
    piece = np.cumsum(inside % PIECE == 0) - 1
    return np.argsort(rng.permutation(int(piece[-1]) + 1)[piece], kind="stable") if len(piece) else piece


def write_parquet(path: str, frame: pd.DataFrame) -> None:
    """Writes a Parquet file that is either whole or absent."""
    with whole_file(path) as sink:
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), sink)


def read_parquet(path: str) -> pd.DataFrame:
    """Reads what `write_parquet` wrote."""
    with FileSystems.open(path) as source:
        return open_parquet(source, path).read().to_pandas()


def write_json(path: str, value: Any) -> None:
    """Writes a JSON file that is either whole or absent."""
    with whole_file(path) as sink:
        sink.write(json.dumps(value, indent=1).encode())


def read_json(path: str) -> Any:
    """Reads what `write_json` wrote."""
    with FileSystems.open(path) as source:
        return json.loads(source.read())


def found_summaries(scratch: str, pattern: str) -> list[dict[str, Any]]:
    """Summaries of a job, in the order of their names."""
    (match,) = FileSystems.match([FileSystems.join(scratch, pattern)])
    return [read_json(path) for path in sorted(metadata.path for metadata in match.metadata_list)]


@contextmanager
def whole_file(path: str) -> Iterator[Any]:
    """A file to write on any file system of Beam; it gets its final name when complete."""
    temporary = own_name(path)
    with FileSystems.create(temporary) as sink:
        yield sink
    rename(temporary, path)


def own_name(path: str) -> str:
    """A name that no other attempt at the same work writes to."""
    return f"{path}.{secrets.token_hex(8)}.tmp"


def rename(source: str, destination: str) -> None:
    """Renames a file, replacing one that an earlier attempt may have left."""
    if FileSystems.exists(destination):
        FileSystems.delete([destination])
    FileSystems.rename([source], [destination])
