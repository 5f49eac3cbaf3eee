"""Rows on disk by shard, so that a join needs the memory of one shard only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mixrank.schemas.arrow import pa

# Bytes that are kept until they are written: the more, the fewer and larger the pieces of a shard.
BUFFER_BYTES = 64 << 20
# Bytes of a shard; it takes a few times as much while it is joined.
SHARD_BYTES = 64 << 20
MOST_SHARDS = 256


class Shards:
    """Rows of one table in a file per shard, in the order in which they came.

    Args:
        folder: of the files; made.
        schema: of the rows.
        number: how many shards.
    """

    def __init__(self, folder: Path, schema: pa.Schema, number: int) -> None:
        self.folder, self.schema, self.number = folder, schema, number
        self._waiting: list[tuple[pa.Table, np.ndarray]] = []
        self._bytes = 0
        self._writers: dict[int, pa.RecordBatchStreamWriter] = {}
        folder.mkdir(parents=True)

    def add(self, rows: pa.Table, shard: np.ndarray) -> None:
        """Adds rows.

        Args:
            rows: of the schema.
            shard: int array (rows,), which shard each belongs to.
        """
        self._waiting.append((rows, shard))
        self._bytes += rows.nbytes
        if self._bytes >= BUFFER_BYTES:
            self._flush()

    def read(self, shard: int) -> pa.Table:
        """The rows of a shard; after that none can be added."""
        self.close()
        path = self._path(shard)
        if not path.exists():
            return self.schema.empty_table()
        with pa.OSFile(str(path)) as source:
            return pa.ipc.open_stream(source).read_all()

    def close(self) -> None:
        """Writes what waits."""
        self._flush()
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def _flush(self) -> None:
        if not self._waiting:
            return
        rows = pa.concat_tables([each for each, _ in self._waiting])
        shard = np.concatenate([each for _, each in self._waiting])
        self._waiting, self._bytes = [], 0
        order = np.argsort(shard, kind="stable")
        bounds = np.searchsorted(shard[order], np.arange(self.number + 1))
        rows = rows.take(pa.array(order))
        for number, (start, stop) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
            if start < stop:
                if number not in self._writers:
                    self._writers[number] = pa.ipc.new_stream(str(self._path(number)), self.schema)
                self._writers[number].write_table(rows.slice(start, stop - start))

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.arrow"


def shards_for(size: int) -> int:
    """How many shards rows of a size in bytes need."""
    return min(MOST_SHARDS, 1 + size // SHARD_BYTES)


def shard_of(keys: Sequence[pa.Array | pa.ChunkedArray], number: int) -> np.ndarray:
    """The shard of every row by some keys, the same for equal keys.

    Args:
        keys: text or whole numbers, each (rows,); a missing one is a key too.
        number: how many shards.
    """
    found = np.zeros(len(keys[0]), np.uint64)
    for key in keys:
        hashes = pd.util.hash_array(np.asarray(key.to_pandas(), object).astype(str).astype(object), categorize=True)
        found = found * np.uint64(31) + hashes
    return (found % np.uint64(number)).astype(np.int64)
