"""Files that belong together are one table, read as its first lines say."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixrank.pipeline.starting.tables import find_tables, patterns, separator_of
from mixrank.schemas.arrow import pa, pq


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("log")


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


@pytest.mark.parametrize(
    ("paths", "others", "expected"),
    [
        (["a.csv"], [], ("a.csv",)),
        (["log-1.csv", "log-2.csv"], ["users.csv"], ("log-*.csv",)),
        (["log-1.csv", "log-2.csv"], ["log-users.csv"], ("log-1.csv", "log-2.csv")),
        (["day=1/part-0.csv", "day=2/part-0.csv.gz"], ["users.csv"], ("day=*/part-0.csv*",)),
        (["a[1].csv"], [], ("a[[]1].csv",)),
        (["log/1.csv", "old.csv"], [], ("old.csv", "log/1.csv")),
    ],
)
def test_patterns_match_the_files_of_a_table_and_no_others(paths, others, expected):
    assert patterns(paths, [*paths, *others]) == expected


@pytest.mark.parametrize(
    ("lines", "separator"),
    [
        (["a,b", "1,2"], ","),
        (["a;b", "1,5;2,5"], ";"),
        (["a\tb", "x, y\tz"], "\t"),
        (["1|Toy Story (1995)|x,y", "2|Heat, (1995)|z"], "|"),
        (["a,b", '"x,y",2', '"u",3'], ","),
        (["# A page", "with words", "and more, than that"], None),
    ],
)
def test_the_separator_is_what_divides_all_lines_alike(lines, separator):
    assert separator_of(lines) == separator


def test_files_with_equal_columns_are_one_table(folder):
    write("log/clicks-1.csv", "user_id,item_id\n1,2\n3,4\n")
    write("log/clicks-2.csv", "user_id,item_id\n5,6\n")
    write("log/users.csv", "user_id,age\n1,2\n")
    write("log/README.md", "# Words, and\nmore words\n")
    write("log/_SUCCESS", "")
    place, found, skipped = find_tables(["log"])
    assert place == "log"
    assert [(table.name, table.rows, list(table.columns)) for table in found] == [
        ("clicks-*.csv", 3, ["user_id", "item_id"]),
        ("users.csv", 1, ["user_id", "age"]),
    ]
    assert found[0].table.files == ("clicks-*.csv",)
    assert skipped == []


def test_folders_named_like_a_column_are_one(folder):
    for day in ("01", "02"):
        write(f"log/day=2024-01-{day}/part-0.csv", f"user_id,item_id\n{day},2\n")
    _, (table,), _ = find_tables(["log"])
    assert table.table.files == ("day=*/part-0.csv",)
    assert table.columns["day"].values == ["2024-01-01", "2024-01-02"]


def test_a_file_without_names_of_columns_gets_some(folder):
    write("log/u.data", "196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    _, (table,), _ = find_tables(["log"])
    assert table.table.columns == ("c1", "c2", "c3", "c4")
    assert (table.has_names, table.rows) == (False, 2)
    assert table.columns["c4"].numbers.tolist() == [881250949, 891717742]


def test_semicolons_decimal_commas_and_words_are_declared(folder):
    write("log/items.csv", "sku;price\n" + "".join(f"s{i};1.{i:03d},5\n" for i in range(100)) + "x;N/A\n")
    _, (table,), _ = find_tables(["log"])
    options = table.table.model_dump(exclude_defaults=True)
    assert options == {"files": ("items.csv",), "separator": ";", "decimal": ",", "thousands": ".", "missing": ("N/A",)}


def test_a_table_is_read_by_the_decimal_mark_that_more_columns_have(folder):
    rows = "".join(f"{i};1,{i};1.{i};2,{i}\n" for i in range(10, 40))
    write("log/items.csv", "sku;a;b;c\n" + rows)
    _, (table,), _ = find_tables(["log"])
    assert table.table.decimal == ","
    assert {name: column.look for name, column in table.columns.items()} == {
        "sku": "int",
        "a": "float",
        "b": "other mark",
        "c": "float",
    }


def test_types_in_the_names_of_columns_are_dropped(folder):
    write("log/ml.inter", "user_id:token\titem_id:token\n1\t2\n")
    _, (table,), _ = find_tables(["log"])
    assert list(table.columns) == ["user_id", "item_id"]
    assert table.table.rename == {"user_id:token": "user_id", "item_id:token": "item_id"}


def test_columns_whose_type_differs_between_files_are_text(folder):
    folder.mkdir()
    pq.write_table(pa.table({"user_id": [1, 2]}), folder / "a1.parquet")
    pq.write_table(pa.table({"user_id": ["003"]}), folder / "a2.parquet")
    _, (table,), _ = find_tables(["log"])
    assert table.columns["user_id"].values == ["1", "2", "003"]


def test_files_and_folders_are_given_together(folder):
    write("log/a.csv", "x,y\n1,2\n")
    write("more/b.csv", "z,w\n1,2\n")
    place, found, _ = find_tables(["log/a.csv", "more"])
    assert place == "."
    assert [table.table.files for table in found] == [("log/a.csv",), ("more/b.csv",)]


def test_what_is_no_table_is_passed_over_by_name(folder):
    write("log/a.csv", "x,y\n1,2\n")
    write("log/notes.txt", "some words\nand, some more\n")
    _, found, (skipped,) = find_tables(["log"])
    assert len(found) == 1
    assert skipped.startswith("notes.txt: its lines are not divided")
    with pytest.raises(ValueError, match="no file of 'log/notes.txt' can be read as a table; passed over: notes.txt"):
        find_tables(["log/notes.txt"])
    with pytest.raises(ValueError, match="nowhere is neither a file nor a folder with files"):
        find_tables(["nowhere"])
