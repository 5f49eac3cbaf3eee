import dataclasses
import importlib.util
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from mixrank.components.examples.raw_tables import default_shards, find_tables, read_batches
from mixrank.schemas import datasets
from mixrank.schemas.features import Categorical, EventTime, FeatureSpec, Key, Label, Numeric, Scenario
from mixrank.schemas.raw import read_file
from mixrank.schemas.tables import Cut, Dataset, Join, LogSource, Table, Threshold

MOVIELENS = Path(importlib.util.find_spec("recbole").origin).parent / "dataset_example" / "ml-100k"


def dataset(log, join=("users.csv",), **source):
    spec = FeatureSpec(
        name="shop",
        user=Key("user", dtype="str"),
        item=Key("item"),
        time=EventTime("time", unit="s"),
        scenario=Scenario("page", values=("a",)),
        labels=(Label("bought"),),
        features=(Categorical("item", group="item"), Numeric("age", group="user")),
    )
    return Dataset(
        spec=spec, source=LogSource(log=log, joins=(Join(on="user", table=Table(files=join, optional=True)),), **source)
    )


HEADER = "user,item,time,page,bought,age\n"


def write(folder, **texts):
    for name, text in texts.items():
        (folder / name.replace("__", ".")).write_text(text)


def read(table):
    return [row for chunk in table.chunks() for batch in read_batches(table, chunk[0], chunk[2], chunk[3])
            for row in batch.table.to_pylist()]  # fmt: skip


def test_the_first_pattern_that_matches_is_used_and_files_are_sorted(tmp_path):
    write(tmp_path, b__csv=HEADER, a__csv=HEADER, other__csv=HEADER)
    tables = find_tables(dataset(Table(files=("none*.csv", "[ab].csv", "other.csv"))), str(tmp_path))
    assert tables["log"].files == (str(tmp_path / "a.csv"), str(tmp_path / "b.csv"))
    assert set(tables) == {"log"}, "the optional users are not there"


def test_the_log_wins_over_a_join_that_has_the_same_column(tmp_path):
    write(tmp_path, log__csv=HEADER, users__csv="user,age\n")
    tables = find_tables(dataset(Table(files=("log.csv",))), str(tmp_path))
    assert [column.name for column in tables["user_0"].columns] == ["user"]
    write(tmp_path, log__csv=HEADER.replace(",age", ""))
    tables = find_tables(dataset(Table(files=("log.csv",))), str(tmp_path))
    assert [column.name for column in tables["user_0"].columns] == ["user", "age"]
    assert [column.name for column in tables["log"].columns] == ["user", "item", "time", "bought", "page"]


def test_columns_are_renamed_and_quotes_are_read(tmp_path):
    write(tmp_path, log__csv='"the user",item,time,page,bought,age\n"a ""b"", c",1,2,,0,\n')
    table = find_tables(dataset(Table(files=("log.csv",), rename={"the user": "user"})), str(tmp_path))["log"]
    assert read(table) == [{"user": b'a "b", c', "item": b"1", "time": b"2", "bought": b"0", "page": None, "age": None}]


def test_quotes_mean_nothing_in_tab_separated_text(tmp_path):
    write(tmp_path, log__tsv=HEADER.replace(",", "\t") + '"Great" Cats\t1\t2\t\t0\t3\n')
    (row,) = read(find_tables(dataset(Table(files=("log.tsv",))), str(tmp_path))["log"])
    assert row["user"] == b'"Great" Cats'


def test_derived_columns_need_their_source_only(tmp_path):
    derive = {"bought": Threshold("stars", at_least=4), "page": Cut("hour", edges=(12,), names=("a", "b"))}
    write(tmp_path, log__csv="user,item,time,stars,hour,age\n")
    table = find_tables(dataset(Table(files=("log.csv",)), derive=derive), str(tmp_path))["log"]
    assert [column.name for column in table.columns] == ["user", "item", "time", "age", "stars", "hour"]


def test_a_column_derived_from_text_is_refused(tmp_path):
    write(tmp_path, log__csv=HEADER)
    with pytest.raises(ValueError, match="`bought` is derived from `user`, which holds text"):
        find_tables(dataset(Table(files=("log.csv",)), derive={"bought": Threshold("user", at_least=1)}), str(tmp_path))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("log.csv", "", "log.csv is empty; its first line must name the columns"),
        ("log.txt", HEADER, "cannot tell the format of .*log.txt from its ending; set `format`"),
        ("log.csv", HEADER.replace("time", "tme"), r"log.csv has no column `time`; did you mean `tme`\?"),
    ],
)
def test_a_log_that_cannot_be_read_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        find_tables(dataset(Table(files=("log.*",))), str(tmp_path))


def test_every_file_of_a_table_must_have_the_columns(tmp_path):
    write(tmp_path, log_1__csv=HEADER, log_2__csv=HEADER.replace("item", "itm"))
    with pytest.raises(ValueError, match=r"log_2.csv has no column `item`; did you mean `itm`\?"):
        find_tables(dataset(Table(files=("log_*.csv",))), str(tmp_path))


def test_row_groups_are_pieces_that_know_their_row_numbers(tmp_path):
    columns = {"user": ["u"] * 7, "item": list(range(7)), "time": [1] * 7, "page": ["a"] * 7, "bought": [0] * 7}
    pa.parquet.write_table(pa.table(columns | {"age": [1.0] * 7}), tmp_path / "log.parquet", row_group_size=3)
    table = find_tables(dataset(Table(files=("log.parquet",))), str(tmp_path))["log"]
    pieces = list(table.chunks())
    assert [(group, before) for _, _, group, before in pieces] == [(0, 0), (1, 3), (2, 6)]
    numbers = [batch.rows.tolist() for piece in pieces for batch in read_batches(table, piece[0], piece[2], piece[3])]
    assert numbers == [[1, 2, 3], [4, 5, 6], [7]]


def test_ragged_lines_keep_the_numbers_of_the_others_right(tmp_path, monkeypatch):
    lines = [f"{number}" if number % 3 else f"{number},x" for number in range(1, 20_001)]
    (tmp_path / "t.csv").write_text("\n".join(["n", *lines]))
    monkeypatch.setattr("mixrank.schemas.raw.file_formats.CSV_BLOCK_BYTES", 1000)
    batches = list(read_file(str(tmp_path / "t.csv"), "csv", ",", ["n"]))
    assert len(batches) > 10
    rows = [
        (int(row), int(value))
        for batch in batches
        for row, value in zip(batch.rows, batch.table["n"].to_pylist(), strict=True)
    ]
    assert rows == [(number, number) for number in range(1, 20_001) if number % 3]
    bad = [(row, text) for batch in batches for row, text, _ in batch.bad]
    assert bad == [(number, f"{number},x") for number in range(3, 20_001, 3)]


def test_shards_follow_the_size_of_what_is_partitioned(tmp_path):
    write(tmp_path, log__csv=HEADER, users__csv="user,age\n")
    tables = find_tables(dataset(Table(files=("log.csv",))), str(tmp_path))
    assert default_shards(tables) == 4
    large = {name: dataclasses.replace(table, bytes=10 * 2**20) for name, table in tables.items()}
    assert default_shards(large) == 10
    assert default_shards(large | {"item_1": dataclasses.replace(large["log"], key=None)}) == 10


def test_movielens_is_found_in_its_three_files():
    tables = find_tables(datasets.load("movielens"), str(MOVIELENS))
    assert {name: table.separator for name, table in tables.items()} == {"log": "\t", "user_0": "\t", "item_1": "\t"}
    first = next(iter(read(tables["item_1"])))
    assert first == {"item_id": b"1", "genre": b"Animation Children's Comedy", "release_year": b"1995"}
