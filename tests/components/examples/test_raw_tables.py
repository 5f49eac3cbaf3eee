import dataclasses
import importlib.util
from pathlib import Path

import pytest

from mixrank.components.examples.raw_tables import default_shards, find_tables, read_batches
from mixrank.schemas import datasets
from mixrank.schemas.features import Categorical, EventTime, FeatureSpec, Key, Label, Numeric, Scenario
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
    batches = [batch for number, piece in table.pieces() for batch in read_batches(table, number, piece)]
    return [row for batch in batches for row in batch.table.to_pylist()]


def test_files_are_sorted_and_a_table_that_may_be_missing_is_left_out(tmp_path):
    write(tmp_path, b__csv=HEADER, a__csv=HEADER, other__csv=HEADER)
    tables = find_tables(dataset(Table(files=("other.csv", "[ab].csv"))), str(tmp_path))
    assert [file.path for file in tables["log"].files] == [
        str(tmp_path / f"{name}.csv") for name in ("a", "b", "other")
    ]
    assert set(tables) == {"log"}, "the optional users are not there"


def test_files_of_one_table_may_differ_in_format_and_names(tmp_path):
    write(tmp_path, a__csv="user,item,time,page,bought,age\nu,1,2,a,0,30\n")
    write(tmp_path, b__tsv="age\tthe user\titem\ttime\tpage\tbought\n31\tv\t1\t2\ta\t1\n")
    table = find_tables(dataset(Table(files=("*.?sv",), rename={"the user": "user"})), str(tmp_path))["log"]
    assert [(row["user"], row["age"]) for row in read(table)] == [(b"u", b"30"), (b"v", b"31")]


def test_a_name_that_two_columns_get_is_refused(tmp_path):
    write(tmp_path, log__csv=HEADER.replace("bought", "bought,uid"))
    with pytest.raises(
        ValueError, match="log.csv has columns `user` and `uid`, and `rename` gives both the name `user`"
    ):
        find_tables(dataset(Table(files=("log.csv",), rename={"uid": "user"})), str(tmp_path))


def test_every_file_that_cannot_be_read_is_named(tmp_path):
    write(tmp_path, a__csv=HEADER, b__csv=HEADER + HEADER, c__csv=HEADER.replace("age", "user"), d__csv="\n")
    (tmp_path / "e.csv").write_bytes(HEADER.replace("age", "größe").encode("latin-1"))
    with pytest.raises(ValueError, match=r"2 of 5 files of table `log` cannot be read: .*c.csv names .*; .*e.csv: its"):
        find_tables(dataset(Table(files=("*.csv",))), str(tmp_path))
    for name in ("c.csv", "e.csv"):
        (tmp_path / name).unlink()
    table = find_tables(dataset(Table(files=("*.csv",))), str(tmp_path))["log"]
    assert (len(table.files), table.empty) == (2, 1)


def test_a_folder_named_by_a_value_is_a_column_like_any_other(tmp_path):
    for page, user in (("a", "u"), ("b", "v")):
        (tmp_path / f"where={page}").mkdir()
        write(tmp_path / f"where={page}", part__csv=f"user,item,time,bought,age\n{user},1,2,0,\n")
    table = find_tables(dataset(Table(files=("where=*",), rename={"where": "page"})), str(tmp_path))["log"]
    assert [(row["user"], row["page"]) for row in read(table)] == [(b"u", "a"), (b"v", "b")]


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
        ("log.csv", "", "log.csv is empty, and so is every file that matches"),
        ("log.csv", "\n", "log.csv is empty; its first line must name the columns"),
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


def test_shards_follow_the_size_of_what_is_partitioned(tmp_path):
    write(tmp_path, log__csv=HEADER, users__csv="user,age\n")
    tables = find_tables(dataset(Table(files=("log.csv",))), str(tmp_path))
    assert default_shards(tables) == 4
    large = {name: dataclasses.replace(table, bytes=10 * 2**20) for name, table in tables.items()}
    assert default_shards(large) == 10
    assert default_shards(large | {"item_1": dataclasses.replace(large["log"], key=None)}) == 10


def test_movielens_is_found_in_its_three_files():
    tables = find_tables(datasets.load("movielens"), str(MOVIELENS))
    assert {name: table.files[0].format for name, table in tables.items()} == dict.fromkeys(tables, "tsv")
    first = next(iter(read(tables["item_1"])))
    assert first == {"item_id": b"1", "genre": b"Animation Children's Comedy", "release_year": b"1995"}
