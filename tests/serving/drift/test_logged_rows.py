"""Rows in every form become the same Arrow batches."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from mixrank.schemas.encode import Column, encode, to_instance
from mixrank.schemas.encode import columns as columns_of_row
from mixrank.schemas.synthetic import toy_rows
from mixrank.serving.drift.logged_rows import LoggedRows, as_lists

MISSING_INT = -(2**63)


@pytest.fixture(scope="module")
def rows(toy_spec):
    return list(toy_rows(toy_spec, 7, seed=5, missing=0.3))


def served(spec, rows):
    """The rows without what a request does not carry."""
    return [{name: row[name] for name in to_instance(spec, row)} for row in rows]


def read(path, spec, **options):
    (batch,) = LoggedRows(path, spec, **options)
    return {name: column.to_pylist() for name, column in zip(batch.schema.names, batch.columns, strict=True)}


def expected(spec, rows, whole=False):
    """Column -> lists of values, by plain Python."""

    widths = {column.name: column.width for column in columns_of_row(spec)}

    def as_list(value, width):
        values = value if isinstance(value, list) else [] if value is None else [value]
        # Missing numbers of the oldest events look like the padding of a request.
        while not whole and values and all(each != each for each in values[-width:]):
            values = values[:-width]
        return [each.encode() if isinstance(each, str) else each for each in values]

    columns = {name: [as_list(row[name], widths[name]) for row in rows] for name in served(spec, rows)[0]}
    floats = [column.name for column in columns_of_row(spec) if column.kind == "float" and column.serving]
    return columns | {name: [pytest.approx(value, rel=1e-6, nan_ok=True) for value in columns[name]] for name in floats}


def lines(path, entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def test_json_lines_hold_one_row_each(tmp_path, toy_spec, rows):
    assert read(lines(tmp_path / "rows.jsonl", served(toy_spec, rows)), toy_spec) == expected(toy_spec, rows)


def test_padding_of_a_request_is_no_value(tmp_path, toy_spec, rows):
    body = {"instances": [to_instance(toy_spec, row) for row in rows]}
    assert read(lines(tmp_path / "rows.jsonl", [body]), toy_spec) == expected(toy_spec, rows)


def test_compressed_json_lines_are_read_too(tmp_path, toy_spec, rows):
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in served(toy_spec, rows))
    assert read(tmp_path / "rows.jsonl.gz", toy_spec) == expected(toy_spec, rows)


def test_csv_holds_lists_as_json_and_scores_as_fractions(tmp_path, toy_spec, rows):
    frame = pd.DataFrame(served(toy_spec, rows))
    lists = [name for name in frame if frame[name].map(lambda value: isinstance(value, list)).any()]
    frame[lists] = frame[lists].applymap(json.dumps)
    frame.assign(click=[0.25] * len(rows), label_buy=1).to_csv(tmp_path / "rows.csv", index=False)
    found = read(tmp_path / "rows.csv", toy_spec)
    assert found.pop("score_click") == [0.25] * len(rows) and found.pop("buy") == [[1]] * len(rows)
    assert found == expected(toy_spec, rows)


def test_parquet_in_the_layout_of_a_request(tmp_path, toy_spec, rows):
    pd.DataFrame(served(toy_spec, rows)).to_parquet(tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet", toy_spec) == expected(toy_spec, rows)


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_examples_keep_keys_time_and_labels(tmp_path, toy_spec, rows, compression):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(tmp_path / "rows"), compression) as writer:
        for row in rows:
            writer.write(encode(toy_spec, row))
    found = read(tmp_path / "rows", toy_spec)
    assert found["click"] == [[row["click"]] for row in rows] and found["at"] == [[row["at"]] for row in rows]
    assert {name: found[name] for name in served(toy_spec, rows)[0]} == expected(toy_spec, rows, whole=True)


def test_a_ranked_request_is_one_row_per_candidate(tmp_path, toy_spec):
    request = {
        "request": {"person": 3, "page": "home", "global_gap": [5, 9]},
        "candidates": [{"clip": "v1", "price": 2.0}, {"clip": "v2"}],
        "scores": [{"click": 0.25}, {"click": 0.5}],
    }
    found = read(lines(tmp_path / "log.jsonl", [request]), toy_spec)
    assert found == {
        "person": [[3], [3]], "page": [[b"home"], [b"home"]], "global_gap": [[5, 9], [5, 9]],
        "clip": [[b"v1"], [b"v2"]], "price": [[2.0], []], "score_click": [0.25, 0.5],
    }  # fmt: skip


def test_golden_rows_bring_their_scores(tmp_path, toy_spec):
    row = {"row": {"clip": "v1", "page": "cart"}, "scores": {"click": 0.75, "buy": 0.5}}
    found = read(lines(tmp_path / "golden.jsonl", [row]), toy_spec)
    assert found == {"clip": [[b"v1"]], "page": [[b"cart"]], "score_click": [0.75], "score_buy": [0.5]}


@pytest.mark.parametrize("names", [("score_click", "score_buy"), ("click", "buy")])
def test_fractions_under_a_tasks_name_are_its_scores(tmp_path, toy_spec, names):
    frame = pd.DataFrame({"person": [1, 2], names[0]: [0.25, 0.5], names[1]: [0.125, 1.0]})
    frame.to_parquet(tmp_path / "scores.parquet")
    found = read(tmp_path / "scores.parquet", toy_spec)
    assert found == {"person": [[1], [2]], "score_click": [0.25, 0.5], "score_buy": [0.125, 1.0]}


def test_whole_numbers_under_a_tasks_name_are_its_labels(tmp_path, toy_spec):
    pd.DataFrame({"click": [0, 1], "label_buy": [1, 0]}).to_parquet(tmp_path / "labels.parquet")
    assert read(tmp_path / "labels.parquet", toy_spec) == {"click": [[0], [1]], "buy": [[1], [0]]}


def test_columns_that_the_spec_lacks_are_named(tmp_path, toy_spec):
    log = LoggedRows(lines(tmp_path / "rows.jsonl", [{"clip": "v1", "request_id": "a"}, {"cilp": "v1"}]), toy_spec)
    list(log)
    assert log.ignored == {"request_id", "cilp"}


def test_a_folder_is_all_its_files_in_batches(tmp_path, toy_spec):
    lines(tmp_path / "b.jsonl", [{"person": number} for number in range(3, 5)])
    lines(tmp_path / "a.jsonl", [{"person": number} for number in range(3)])
    (tmp_path / "_SUCCESS").touch()
    batches = list(LoggedRows(tmp_path, toy_spec, batch_size=2))
    assert [batch.num_rows for batch in batches] == [2, 1, 2]
    assert [value for batch in batches for value in batch.column(0).flatten().to_pylist()] == [0, 1, 2, 3, 4]


def test_of_a_batch_jobs_output_the_scores_are_read(tmp_path, toy_spec):
    (tmp_path / "scores").mkdir()
    frame = pd.DataFrame({"person": [4], "clip": ["v1"], "at": [7], "page": ["home"], "score_click": [0.25]})
    frame.to_parquet(tmp_path / "scores" / "part-00000.parquet")
    lines(tmp_path / "dead_letter.jsonl", [{"file": "rows.csv", "row": 3, "column": "price", "reason": "no number"}])
    assert read(tmp_path, toy_spec) == {
        "person": [[4]], "clip": [[b"v1"]], "at": [[7]], "page": [[b"home"]], "score_click": [0.25],
    }  # fmt: skip


INT = Column("clicks", "int")
TAGS = Column("tag", "str", length=3)
EVENTS = Column("past_tag", "str", length=4, width=2, history="past")


@pytest.mark.parametrize(
    ("column", "array", "lists"),
    [
        (INT, pa.array([1.0, math.nan, 3.0]), [[1], [], [3]]),
        (INT, pa.array([7, MISSING_INT, None]), [[7], [], []]),
        (TAGS, pa.array([["a", "", None], None, []]), [[b"a"], [], []]),
        (TAGS, pa.array([[], None], pa.list_(pa.null())), [[], []]),
        (EVENTS, pa.array([["a", "", "", "b"], ["a", "", "", ""], ["", "", "", ""]]),
         [[b"a", b"", b"", b"b"], [b"a", b""], []]),
        (EVENTS, pa.array([["a", "b", "c", "d", "e", "f"]]), [[b"a", b"b", b"c", b"d"]]),
        (Column("price", "float"), pa.array([1, None, 2**60]), [[1.0], [], [float(2**60)]]),
        (Column("page", "str"), pa.array(["x", "", "x"]).dictionary_encode(), [[b"x"], [], [b"x"]]),
    ],
)  # fmt: skip
def test_a_missing_value_is_an_empty_list(column, array, lists):
    assert as_lists(column, array).to_pylist() == lists


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"person": 1.5}, "column `person` takes int values"),
        ({"person": ["a"]}, "column `person` takes int values"),
        ({"price": "dear"}, "rows.jsonl, row 1, column `price` is not a number, received 'dear'"),
        ({"price": 10**400}, "rows.jsonl, row 1, column `price`"),
        ({"instances": [{"clip": "v1"}], "scores": []}, "takes|expected"),
        ({"request": {}, "candidates": 3}, "line 1: expected a row"),
    ],
)
def test_a_value_that_does_not_fit_is_named(tmp_path, toy_spec, entry, said):
    if entry.get("scores") == []:
        entry = {**entry, "scores": [{}, {}]}
    with pytest.raises(ValueError, match=said):
        list(LoggedRows(lines(tmp_path / "rows.jsonl", [entry]), toy_spec))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"clip": ', "is not JSON"),
        ('{"clip": ' + "[" * 50_000, "is nested too deeply"),
        ('{"clip": "\\ud800"}', "holds half of a surrogate pair"),
        ('{"clip": "a", "clip": "b"}', "names `clip` twice"),
    ],
)
def test_a_broken_line_is_named(tmp_path, toy_spec, line, reason):
    (tmp_path / "rows.jsonl").write_text(f'{{"clip": "v1"}}\n{line}\n')
    with pytest.raises(ValueError, match=f"rows.jsonl, line 2 {reason}"):
        list(LoggedRows(tmp_path / "rows.jsonl", toy_spec))


def test_a_column_that_is_named_twice_is_refused(tmp_path, toy_spec):
    (tmp_path / "rows.csv").write_text("person,clip,person\n1,v1,2\n")
    with pytest.raises(ValueError, match="rows.csv names column `person` twice"):
        list(LoggedRows(tmp_path / "rows.csv", toy_spec))


@pytest.mark.parametrize("content", [b"PAR1 and then nothing", b"neither this nor that"])
def test_a_file_of_no_known_form_is_named(tmp_path, toy_spec, content):
    (tmp_path / "rows.bin").write_bytes(content)
    with pytest.raises(ValueError, match="rows.bin"):
        list(LoggedRows(tmp_path / "rows.bin", toy_spec))


def test_a_source_without_files_is_refused(tmp_path: Path, toy_spec: Any):
    with pytest.raises(ValueError, match="is neither a file nor a folder of files"):
        LoggedRows(tmp_path / "nothing", toy_spec)
