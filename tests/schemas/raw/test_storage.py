"""A log in an object store is found and read as in a folder."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixrank.schemas import Table, stores
from mixrank.schemas.raw import find_files
from mixrank.schemas.raw.storage import list_files

NAMES = [
    "log.csv",
    "day=1/part-0 ä.csv",
    "day=1/x [1] #2 100%.csv",
    "day=2/deep/part-1.csv",
    "a.csv",
    "c.csv",
    "b/b.csv",
]


@pytest.fixture
def both(bucket, tmp_path):
    """A folder here, and the same one in a store."""
    local, stored = tmp_path / "data [v2] #1", f"{bucket}/data [v2] #1"
    for name in NAMES:
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_text(name)
        stores.upload(local / name, f"{stored}/{name}")
    return str(local), stored


def test_a_store_lists_what_a_folder_lists(both):
    for pattern in ("log.csv", "day=*/part-*.csv", "day=*", "day=1", "**/*.csv", "[ab].csv", "day=2/*/*.csv", "none*"):
        here, there = (
            [(file.path.removeprefix(folder), file.size) for file in list_files(folder, pattern)] for folder in both
        )
        assert here == there, pattern
        assert all(file.modified > 1.7e18 for file in list_files(both[1], pattern))


def test_files_of_a_store_are_read(bucket, tmp_path):
    table = pa.table({"user": [1, 2, 3], "item": ["a", "b", "c"]})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=2)
    Path(tmp_path, "y.csv.gz").write_bytes(gzip.compress(b"user,item\n1,a\n2,b\n"))
    for name in ("x.parquet", "y.csv.gz"):
        stores.upload(tmp_path / name, f"{bucket}/{name}")
    (parquet,) = find_files(Table(files=("*.parquet",)), bucket).files
    assert parquet.head(9).equals(table)
    (text,) = find_files(Table(files=("y.*",)), bucket).files
    assert text.head(9).to_pydict() == {"user": [b"1", b"2"], "item": [b"a", b"b"]}
    with pytest.raises(ValueError, match="no file matches 'z.csv' in s3://"):
        find_files(Table(files=("z.csv",)), bucket)
