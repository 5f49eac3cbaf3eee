"""Which files a table has, and how each is read."""

from __future__ import annotations

import gzip

import pytest

from mixrank.schemas import Table
from mixrank.schemas.arrow import pa, pq
from mixrank.schemas.raw import files_at, find_files


def write(folder, *names, text="a,b\n1,2\n"):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(folder, *patterns, **options):
    found = find_files(Table(files=patterns, **options), str(folder))
    return [file.path.removeprefix(f"{folder}/") for file in found.files]


def test_all_patterns_are_read_and_every_file_once(tmp_path):
    write(tmp_path, "b.csv", "a.csv", "c.tsv", "other.csv")
    assert names(tmp_path, "[ab].csv", "a*", "*.tsv") == ["a.csv", "b.csv", "c.tsv"]


def test_another_layout_is_read_only_where_the_first_is_missing(tmp_path):
    write(tmp_path, "old_1.csv", "old_2.csv")
    assert names(tmp_path, "new.csv", or_files=("old_*.csv",)) == ["old_1.csv", "old_2.csv"]
    write(tmp_path, "new.csv")
    assert names(tmp_path, "new.csv", or_files=("old_*.csv",)) == ["new.csv"]


@pytest.mark.parametrize("folder", ["data [v2]", "what? *", "Übersicht 東京", "{a}"])
def test_the_data_folder_may_have_any_name(tmp_path, folder):
    write(tmp_path / folder, "log.csv", "day [1]/part.csv")
    assert names(tmp_path / folder, "*.csv") == ["log.csv"]
    assert names(tmp_path / folder, "day [[]1]") == ["day [1]/part.csv"]
    assert [file.path for file in files_at(tmp_path / folder / "log.csv").files] == [str(tmp_path / folder / "log.csv")]
    assert len(files_at(tmp_path / folder).files) == 2


def test_hidden_and_empty_files_are_left_out_and_counted(tmp_path):
    write(tmp_path, "out/part-0.csv", "out/_SUCCESS", "out/.part-0.csv.crc", "out/_temporary/0/part-1.csv")
    write(tmp_path, "out/part-2.csv", text="")
    found = find_files(Table(files=("out",)), str(tmp_path))
    assert [file.path for file in found.files] == [str(tmp_path / "out" / "part-0.csv")]
    assert (found.hidden, found.empty) == (3, 1)


def test_a_hidden_file_is_read_where_it_is_named(tmp_path):
    write(tmp_path, "_raw/log.csv", "_raw/_SUCCESS")
    assert names(tmp_path, "_raw/*.csv") == ["_raw/log.csv"]
    with pytest.raises(ValueError, match=r"_SUCCESS is hidden by a `_` or `.` in its name"):
        names(tmp_path / "_raw", "*CCESS")


@pytest.mark.parametrize(
    ("patterns", "options", "message"),
    [
        (("a.csv", "gone.csv"), {}, "no file matches 'gone.csv' in"),
        (("gone.csv",), {"or_files": ("lost.csv",)}, "no file matches 'gone.csv' or 'lost.csv' in"),
        (("a.txt",), {}, "cannot tell the format of .*a.txt from its ending; set `format` to one of parquet, csv"),
        (("e.csv",), {}, "e.csv is empty, and so is every file that matches e.csv"),
        (("a.parquet.gz",), {}, "a.parquet.gz is a Parquet file within gz"),
    ],
)
def test_what_cannot_be_read_is_said_by_name(tmp_path, patterns, options, message):
    write(tmp_path, "a.csv", "a.txt", "a.parquet.gz")
    write(tmp_path, "e.csv", text="")
    with pytest.raises(ValueError, match=message):
        names(tmp_path, *patterns, **options)


def test_a_missing_folder_is_said_and_optional_files_may_be_missing(tmp_path):
    with pytest.raises(ValueError, match="there is no folder .*nowhere"):
        names(tmp_path / "nowhere", "a.csv")
    assert names(tmp_path, "a.csv", optional=True) == []


def test_folders_named_by_a_value_become_columns(tmp_path):
    write(tmp_path, "log/day=2026-01-05/city=S%C3%A3o%20Paulo/a.csv", "log/day=__HIVE_DEFAULT_PARTITION__/b.csv")
    one, other = find_files(Table(files=("log",)), str(tmp_path)).files
    assert one.schema().names == ["a", "b", "day", "city"]
    (batch,) = one.read(["city", "a", "day"])
    assert batch.table.to_pylist() == [{"city": "São Paulo", "a": b"1", "day": "2026-01-05"}]
    (batch,) = other.read(["day"])
    assert batch.table.to_pylist() == [{"day": None}]


def test_a_column_of_the_file_goes_before_one_of_its_folder(tmp_path):
    write(tmp_path, "a=9/x.csv")
    (file,) = files_at(tmp_path).files
    (batch,) = file.read(["a"])
    assert file.schema().names == ["a", "b"] and batch.table.to_pylist() == [{"a": b"1"}]


def test_every_file_has_its_own_format(tmp_path):
    write(tmp_path, "a.csv", text="x,y\n1,2\n")
    write(tmp_path, "b.tsv", text="x\ty\n3\t4\n")
    write(tmp_path, "c.jsonl", text='{"x": 5, "y": 6}\n')
    (tmp_path / "d.csv.gz").write_bytes(gzip.compress(b"y,x\n8,7\n"))
    pq.write_table(pa.table({"x": [9], "y": [10]}), tmp_path / "e.parquet")
    found = files_at(tmp_path).files
    assert [(file.format, file.codec) for file in found] == [
        ("csv", None), ("tsv", None), ("json", None), ("csv", "gz"), ("parquet", None)
    ]  # fmt: skip
    rows = [int(row["x"]) for file in found for batch in file.read(["x"]) for row in batch.table.to_pylist()]
    assert rows == [1, 3, 5, 7, 9]


def test_a_format_that_the_name_does_not_tell_is_found_in_the_content(tmp_path):
    pq.write_table(pa.table({"x": [1]}), tmp_path / "one")
    (tmp_path / "two").write_bytes(gzip.compress(b'{"x": 2}\n'))
    assert [(file.format, file.codec) for file in files_at(tmp_path).files] == [("parquet", None), ("json", "gz")]
    (tmp_path / "two").write_text("x\n2\n")
    assert [file.format for file in files_at(tmp_path / "two", "csv").files] == ["csv"]


def test_a_table_says_which_separator_it_takes():
    assert Table(files=("a",), separator=";").separator == ";"
    for wrong in ("", "::", "§"):
        with pytest.raises(ValueError, match="`separator` must be one ASCII character"):
            Table(files=("a",), separator=wrong)
    with pytest.raises(ValueError, match="`columns` names `a` twice"):
        Table(files=("a",), columns=("a", "b", "a"))
