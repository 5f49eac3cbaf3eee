"""Places of a sample: all of a small table, and of a large one from its first to its last rows."""

from __future__ import annotations

import gzip

import pytest

from mixrank.schemas import Table
from mixrank.schemas.arrow import pa, pq
from mixrank.schemas.raw import Piece, Place, find_files, places_of
from mixrank.schemas.raw.places import PLACES

ROWS = 4000
# Of one width each.
NUMBERS = range(1000, 1000 + ROWS)


def numbers(files, most_bytes):
    """Place -> the numbers in its rows."""
    return [
        [int(row["n"]) for batch in files[place.file].read(["n"], place.piece) for row in batch.table.to_pylist()]
        for place in places_of(files, most_bytes)
    ]


def test_a_small_table_is_read_as_a_whole(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("n\n1\n2\n")
    files = find_files(Table(files=("*.csv",)), str(tmp_path)).files
    assert places_of(files, 1000) == places_of(files, None) == [Place(0, Piece()), Place(1, Piece())]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "n,m\n" + "".join(f"{n},x{n}\n" for n in NUMBERS)),
        ("t.jsonl", "".join(f'{{"n": {n}, "m": "x"}}\n' for n in NUMBERS)),
    ],
)
def test_text_is_read_in_whole_rows_from_first_to_last(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    files = find_files(Table(files=(name,)), str(tmp_path)).files
    found = numbers(files, len(text) // 4)
    assert len(found) == PLACES
    for rows in found:
        assert rows == list(range(rows[0], rows[0] + len(rows)))
        assert len(rows) == pytest.approx(ROWS / 4 / PLACES, rel=0.2)
    assert found[0][0] == NUMBERS[0]
    assert found[-1][-1] == NUMBERS[-1]
    starts = [rows[0] for rows in found]
    assert starts == sorted(starts)


def test_text_within_a_codec_is_read_from_its_beginning(tmp_path):
    text = "n\n" + "".join(f"{n}\n" for n in range(ROWS))
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode(), 1))
    files = find_files(Table(files=("t.csv.gz",)), str(tmp_path)).files
    (rows,) = numbers(files, files[0].uncompressed_size() // 4)
    assert rows == list(range(len(rows)))
    assert 0 < len(rows) < ROWS


def test_of_parquet_row_groups_are_read_the_first_and_last_among_them(tmp_path):
    for name, begin in (("a", 0), ("b", ROWS)):
        table = pa.table({"n": list(range(begin, begin + ROWS))})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=100, use_dictionary=False)
    files = find_files(Table(files=("*.parquet",)), str(tmp_path)).files
    size = sum(file.uncompressed_size() for file in files)
    chosen = places_of(files, size // 4)
    assert len(chosen) == PLACES
    assert (chosen[0].file, chosen[0].piece.groups) == (0, (0, 1))
    assert (chosen[-1].file, chosen[-1].piece.groups) == (1, (39, 40))
    assert {place.rows for place in chosen} == {None}, "a group is smaller than a place"
    pq.write_table(pa.table({"n": list(range(ROWS))}), tmp_path / "c.parquet", use_dictionary=False)
    (one,) = find_files(Table(files=("c.parquet",)), str(tmp_path)).files
    (place,) = places_of([one], one.uncompressed_size() // 2)
    assert place.rows == pytest.approx(ROWS / 2 / PLACES, rel=0.01)
