"""Files in, one score per task and row out: the model's own answers, whatever the format, and each row once."""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from mixrank.schemas import files
from mixrank.schemas.encode import columns, encode

KEYS = ["person", "clip", "at", "page"]


@pytest.fixture(scope="session")
def toy_rows(toy_data):
    """Evaluation rows by time, as `toy_scores` has them."""
    return sorted(toy_data.rows["eval"], key=lambda row: row["at"])


def score(toy_export, source, output, **options):
    from mixrank.serving.batch_scoring import score

    return score(toy_export.base, source, output, **options)


def read(output) -> pd.DataFrame:
    return pd.read_parquet(output / "scores").sort_values("at", ignore_index=True)


def letters(output) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "dead_letter.jsonl").read_text().splitlines()]


def write_parquet(spec, rows, path, row_group_size=64):
    kinds = {"int": pa.int64(), "float": pa.float32(), "str": pa.string()}
    types = {c.name: kinds[c.kind] if c.length is None else pa.list_(kinds[c.kind]) for c in columns(spec)}
    table = pa.table({name: pa.array([row.get(name) for row in rows], kind) for name, kind in types.items()})
    pq.write_table(table, path, row_group_size=row_group_size)


def write_csv(spec, rows, path):
    lists = {c.name for c in columns(spec) if c.length is not None}
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", newline="") as file:
        writer = csv.writer(file)
        names = [c.name for c in columns(spec)]
        writer.writerow(names)
        for row in rows:
            cells = [json.dumps(row[name]) if name in lists else row.get(name) for name in names]
            writer.writerow(["" if cell is None else cell for cell in cells])


def write_json(spec, rows, path):
    with gzip.open(path, "wt") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n\n")


def write_examples(spec, rows, path):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in rows:
            writer.write(row if isinstance(row, bytes) else encode(spec, row))


WRITERS = {
    "rows.parquet": write_parquet,
    "rows.csv": write_csv,
    "rows.csv.gz": write_csv,
    "rows.jsonl.gz": write_json,
    "rows.tfrecord": write_examples,
}


def assert_scores(frame, toy_scores, positions=slice(None)):
    for task, scores in toy_scores.items():
        np.testing.assert_allclose(frame[f"score_{task}"], scores[positions, 0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_models_scores(toy_spec, toy_export, toy_rows, toy_scores, tmp_path, name):
    shuffled = [toy_rows[i] for i in np.random.default_rng(4).permutation(len(toy_rows))]
    WRITERS[name](toy_spec, shuffled, tmp_path / name)
    summary = score(toy_export, tmp_path / name, tmp_path / "out", batch_size=37)
    frame = read(tmp_path / "out")
    assert list(frame) == [*KEYS, "score_click", "score_buy"]
    assert frame[KEYS].to_dict("records") == [{key: row[key] for key in KEYS} for row in toy_rows]
    assert_scores(frame, toy_scores)
    assert (summary["rows"], summary["bad"]) == (150, 0)
    assert letters(tmp_path / "out") == []


@pytest.mark.slow
def test_the_pipelines_own_examples_are_read_as_they_are(toy_export, toy_data, toy_scores, tmp_path):
    score(
        toy_export, toy_data.examples / "Split-eval", tmp_path / "out", format="tfrecord", keep=["global_tag", "click"]
    )
    frame = read(tmp_path / "out")
    assert_scores(frame, toy_scores)
    by_time = sorted(toy_data.rows["eval"], key=lambda row: row["at"])
    assert [list(tags) for tags in frame["global_tag"]] == [row["global_tag"] for row in by_time]
    assert frame["click"].tolist() == [row["click"] for row in by_time]


def test_counts_and_histograms_are_those_of_the_scores(toy_spec, toy_export, toy_rows, toy_scores, tmp_path):
    write_parquet(toy_spec, toy_rows, tmp_path / "rows.parquet")
    score(toy_export, tmp_path / "rows.parquet", tmp_path / "out", rows_per_item=64)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["items"] == 3
    for task, expected in toy_scores.items():
        found = summary["scores"][task]
        assert found["null"] == 0
        assert math.isclose(found["mean"], expected.mean(), rel_tol=1e-5)
        assert math.isclose(found["max"], expected.max(), rel_tol=1e-5)
        assert found["histogram"] == np.histogram(expected, 20, (0, 1))[0].tolist()


def test_scores_that_are_not_finite_are_null_and_counted():
    from mixrank.serving.batch_scoring.counters import Counters, total

    counters = Counters(["click"])
    counters.add({"click": np.array([0.5, np.nan, 0.25], np.float32)}, bad=2)
    counters.add({"click": np.array([np.inf], np.float32)})
    whole = total([counters.to_json(), Counters(["click"]).to_json()], ["click"])
    assert (whole["rows"], whole["bad"]) == (6, 2)
    assert whole["scores"]["click"] == {
        "null": 2, "min": 0.25, "max": 0.5, "mean": 0.375, "histogram": [0] * 5 + [1] + [0] * 4 + [1] + [0] * 9
    }  # fmt: skip


def test_a_column_that_is_kept_must_be_there(toy_spec, toy_export, toy_rows, tmp_path):
    write_parquet(toy_spec, toy_rows, tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"rows.parquet has no column `prise`; did you mean `price`?"):
        score(toy_export, tmp_path / "rows.parquet", tmp_path / "out", keep=["prise"])


def test_columns_outside_the_spec_are_copied_on_request(toy_spec, toy_export, toy_rows, tmp_path):
    write_parquet(toy_spec, toy_rows, tmp_path / "plain.parquet")
    table = pq.read_table(tmp_path / "plain.parquet")
    table = table.append_column("slot", pa.array([f"s{i}" for i in range(len(toy_rows))]))
    pq.write_table(table, tmp_path / "rows.parquet")
    score(toy_export, tmp_path / "rows.parquet", tmp_path / "out", keep=["slot"])
    assert read(tmp_path / "out")["slot"].tolist() == [f"s{i}" for i in range(len(toy_rows))]


def test_whole_numbers_may_come_as_floats_and_text_as_categories(toy_spec, toy_export, toy_rows, toy_scores, tmp_path):
    """The types that pandas makes of missing values and of repeated text."""
    write_parquet(toy_spec, toy_rows, tmp_path / "plain.parquet")
    table = pq.read_table(tmp_path / "plain.parquet")
    place = table.schema.get_field_index("person")
    table = table.set_column(place, "person", table["person"].cast(pa.float64()))
    place = table.schema.get_field_index("country")
    table = table.set_column(place, "country", table["country"].dictionary_encode())
    pq.write_table(table, tmp_path / "rows.parquet")
    score(toy_export, tmp_path / "rows.parquet", tmp_path / "out")
    assert_scores(read(tmp_path / "out"), toy_scores)


def test_a_missing_optional_column_is_a_missing_value(toy_spec, toy_export, toy_rows, tmp_path):
    with_nulls = [{**row, "country": None} for row in toy_rows]
    write_parquet(toy_spec, with_nulls, tmp_path / "nulls.parquet")
    pq.write_table(pq.read_table(tmp_path / "nulls.parquet").drop(["country"]), tmp_path / "without.parquet")
    for name in ("nulls", "without"):
        score(toy_export, tmp_path / f"{name}.parquet", tmp_path / name)
    assert read(tmp_path / "nulls").equals(read(tmp_path / "without"))


# What is wrong with a row, and which column its dead letter names.
DAMAGE = {
    "missing required": ({"clip": None}, "clip"),
    "several events short": ({"global_tag": ["v1", "v2"]}, "global_tag"),
    "too many values": ({"tag": ["v1", "v2", "v3", "v4"]}, "tag"),
    "uneven history": ({"global_clip": ["v1"], "global_tag": [], "global_action": [], "global_gap": []}, "global_tag"),
    "infinite": ({"price": math.inf}, "price"),
}


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv"])
def test_bad_rows_go_to_the_dead_letters_and_their_neighbours_are_scored(
    toy_spec, toy_export, toy_rows, toy_scores, tmp_path, name
):
    rows = list(toy_rows)
    for number, (change, _) in enumerate(DAMAGE.values()):
        rows[10 * number] = {**rows[10 * number], **change}
    WRITERS[name](toy_spec, rows, tmp_path / name)
    score(toy_export, tmp_path / name, tmp_path / "out", max_bad=0.1, batch_size=64)
    good = [i for i in range(150) if i % 10 or i >= 50]
    frame = read(tmp_path / "out")
    assert frame["at"].tolist() == [toy_rows[i]["at"] for i in good]
    assert_scores(frame, toy_scores, good)
    found = letters(tmp_path / "out")
    assert [(letter["row"], letter["column"]) for letter in found] == [
        (10 * number + 1, column) for number, (_, column) in enumerate(DAMAGE.values())
    ]
    assert [letter["value"] for letter in found[::4]] == [None, "inf"]
    assert all(letter["file"] == str(tmp_path / name) and letter["reason"] for letter in found)


def test_rows_are_bad_exactly_where_a_request_would_be_refused(toy_spec, toy_rows):
    """The vectorised checks and `to_instance` agree, and fill rows up alike."""
    from mixrank.schemas.encode import to_instance
    from mixrank.serving.batch_scoring.row_files import Texts, read_rows

    draw = np.random.default_rng(8)
    known = columns(toy_spec)
    rows = []
    for number in range(600):
        row = dict(toy_rows[number % len(toy_rows)])
        column = known[draw.integers(len(known))]
        value: Any = None
        if column.length is not None:
            plain = {"int": 3, "str": "v3", "float": 0.5}[column.kind]
            value = [plain] * int(draw.integers(0, column.length + 4))
        elif column.kind == "float":
            value = draw.choice([math.nan, math.inf, -math.inf, 0.0])
        elif column.kind == "str":
            value = draw.choice(["", "v1", "é"])
        rows.append({**row, column.name: value} if column.serving else row)
    kinds = {"int": pa.int64(), "float": pa.float32(), "str": pa.string()}
    table = pa.table(
        {
            c.name: pa.array([r[c.name] for r in rows], kinds[c.kind] if c.length is None else pa.list_(kinds[c.kind]))
            for c in known
        }
    )
    got = read_rows(known, {}, table)
    refused = 0
    for position, row in enumerate(rows):
        try:
            instance = to_instance(toy_spec, row)
        except ValueError:
            refused += 1
            assert position in got.bad, row
            continue
        assert position not in got.bad, got.bad[position]
        for name, values in got.inputs.items():
            value = values[np.array([position])]
            if isinstance(value, Texts):
                plain = np.array([v.decode() for v in value.values], object)[value.codes]
            else:
                plain = value
            np.testing.assert_array_equal(plain[0], np.asarray(instance[name], plain.dtype))
    assert 50 < refused < 550


@pytest.mark.slow
def test_bad_examples_go_to_the_dead_letters(toy_spec, toy_export, toy_rows, toy_scores, tmp_path):
    import tensorflow as tf

    from mixrank.schemas.wire import entry, example

    def changed(number, **features):
        proto = tf.train.Example.FromString(encode(toy_spec, toy_rows[number]))
        for name, feature in features.items():
            proto.features.feature[name].CopyFrom(feature)
        return proto.SerializeToString()

    floats, ints = tf.train.FloatList, tf.train.Int64List
    texts = tf.train.BytesList
    rows: list[Any] = list(toy_rows)
    rows[0] = b"\x0a\xff\xff"
    rows[10] = changed(10, person=tf.train.Feature(float_list=floats(value=[1.5])))
    rows[20] = changed(20, price=tf.train.Feature(float_list=floats(value=[math.nan])))
    rows[30] = changed(30, clip=tf.train.Feature(bytes_list=texts()))
    rows[40] = changed(40, person=tf.train.Feature(int64_list=ints(value=[1, 2])))
    rows[50] = changed(50, tag=tf.train.Feature(bytes_list=texts(value=[b"v1"] * 4)))
    rows[60] = changed(60, country=tf.train.Feature(bytes_list=texts(value=[b"\xff"])))
    rows[70] = example([entry("person", "int", [3])])
    write_examples(toy_spec, rows, tmp_path / "rows.tfrecord")
    score(toy_export, tmp_path / "rows.tfrecord", tmp_path / "out", max_bad=0.1, batch_size=75)
    good = [i for i in range(150) if i % 10 or i >= 80]
    frame = read(tmp_path / "out")
    assert frame["at"].tolist() == [toy_rows[i]["at"] for i in good]
    assert_scores(frame, toy_scores, good)
    found = {letter["row"] - 1: letter for letter in letters(tmp_path / "out")}
    assert sorted(found) == list(range(0, 80, 10))
    assert found[0]["reason"] == "is not a tf.Example"
    assert found[10]["column"] == found[40]["column"] == "person"
    assert found[20]["column"] == "price"
    assert found[30]["reason"] == "column `clip` is required but missing"
    assert found[50]["column"] == "tag"


def test_long_histories_keep_the_newest_in_every_format(toy_spec, toy_export, toy_rows, tmp_path):
    """Cut by hand beforehand, or by the job: the same scores."""
    lengths = {c.name: c.length for c in columns(toy_spec) if c.history is not None}
    long = [{**row, **{name: (row[name] + row[name])[: 2 * n] for name, n in lengths.items()}} for row in toy_rows[:40]]
    short = [{**row, **{name: row[name][:n] for name, n in lengths.items()}} for row in long]
    write_parquet(toy_spec, long, tmp_path / "long.parquet")
    write_parquet(toy_spec, short, tmp_path / "short.parquet")
    write_csv(toy_spec, long, tmp_path / "long.csv")
    for name in ("long.parquet", "short.parquet", "long.csv"):
        score(toy_export, tmp_path / name, tmp_path / f"{name}.out")
    expected = read(tmp_path / "short.parquet.out")
    assert len(expected) == 40
    for name in ("long.parquet", "long.csv"):
        pd.testing.assert_frame_equal(read(tmp_path / f"{name}.out"), expected, atol=1e-5)


def test_too_many_bad_rows_fail_but_the_good_ones_stay(toy_spec, toy_export, toy_rows, tmp_path):
    rows = [{**row, "clip": None} if i < 3 else row for i, row in enumerate(toy_rows)]
    write_parquet(toy_spec, rows, tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"3 of 150 rows are bad, --max-bad 0.01 allows 1; the first is .* row 1"):
        score(toy_export, tmp_path / "rows.parquet", tmp_path / "out")
    assert len(read(tmp_path / "out")) == 147
    summary = score(toy_export, tmp_path / "rows.parquet", tmp_path / "out", max_bad=0.02)
    assert summary["complete_before"]


def test_a_column_of_the_wrong_type_stops_the_run_with_its_name(toy_spec, toy_export, toy_rows, tmp_path):
    write_parquet(toy_spec, toy_rows, tmp_path / "plain.parquet")
    table = pq.read_table(tmp_path / "plain.parquet")
    place = table.schema.get_field_index("person")
    table = table.set_column(place, "person", pa.array([{"id": 1}] * len(toy_rows)))
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"rows.parquet: column `person`: cannot read type struct.* as int"):
        score(toy_export, tmp_path / "rows.parquet", tmp_path / "out")


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_a_column_that_is_named_twice_is_refused(toy_spec, toy_export, toy_rows, tmp_path, name):
    from mixrank.serving.batch_scoring.scoring_plan import find_files, output_schema

    write_parquet(toy_spec, toy_rows[:3], tmp_path / "plain.parquet")
    table = pq.read_table(tmp_path / "plain.parquet").select(["person", "clip", "at", "page"])
    table = pa.Table.from_arrays([*table.columns, table["clip"]], [*table.column_names, "clip"])
    if name == "rows.csv":
        pa.csv.write_csv(table, tmp_path / name)
    else:
        pq.write_table(table, tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} names column `clip` twice"):
        output_schema(toy_spec, find_files(tmp_path / name), [])


def test_a_truncated_file_is_named_and_the_others_are_not_scored_twice(toy_spec, toy_export, toy_rows, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write_examples(toy_spec, toy_rows[:100], folder / "a.tfrecord")
    write_examples(toy_spec, toy_rows[100:], folder / "b.tfrecord")
    whole = (folder / "b.tfrecord").read_bytes()
    (folder / "b.tfrecord").write_bytes(whole[:-7])
    with pytest.raises(ValueError, match=r"b.tfrecord cannot be read after row"):
        score(toy_export, folder, tmp_path / "out", batch_size=16)
    assert not (tmp_path / "out" / "summary.json").exists()
    assert [path.name for path in (tmp_path / "out" / "scores").iterdir()] == ["part-00000.parquet"]


def test_a_second_run_scores_nothing_again(toy_spec, toy_export, toy_rows, tmp_path):
    write_parquet(toy_spec, toy_rows, tmp_path / "rows.parquet", row_group_size=50)
    first = score(toy_export, tmp_path / "rows.parquet", tmp_path / "out", rows_per_item=50)
    assert not first["complete_before"]
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("part-*")}
    assert score(toy_export, tmp_path / "rows.parquet", tmp_path / "out", rows_per_item=50)["complete_before"]
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("part-*")}


def test_an_interrupted_run_does_only_what_is_left(toy_spec, toy_export, toy_rows, toy_scores, tmp_path):
    """The second of three items was killed between its scores and its counts, and a third one in the middle."""
    write_parquet(toy_spec, toy_rows, tmp_path / "rows.parquet", row_group_size=50)
    out = tmp_path / "out"
    score(toy_export, tmp_path / "rows.parquet", out, rows_per_item=50)
    stamp = (out / "scores" / "part-00000.parquet").stat().st_mtime_ns
    (out / "summary.json").unlink()
    (out / "_work" / "part-00001.json").unlink()
    (out / "_work" / "part-00002.json").unlink()
    # A process that had this one's number before it.
    dead = files._temporary(out / "scores" / "part-00002.parquet").name.replace(str(files._start_of(os.getpid())), "1")
    (out / "scores" / "part-00002.parquet").rename(out / "scores" / dead)
    summary = score(toy_export, tmp_path / "rows.parquet", out, rows_per_item=50)
    assert (summary["resumed_items"], summary["rows_scored_now"], summary["rows"]) == (1, 100, 150)
    assert (out / "scores" / "part-00000.parquet").stat().st_mtime_ns == stamp
    assert sorted(path.name for path in (out / "scores").iterdir()) == [f"part-0000{i}.parquet" for i in range(3)]
    assert_scores(read(out), toy_scores)


def test_another_input_or_model_is_refused(toy_spec, toy_export, toy_rows, tmp_path):
    import shutil

    from mixrank.serving.batch_scoring import score as run

    source = tmp_path / "rows.parquet"
    write_parquet(toy_spec, toy_rows, source)
    run(toy_export.folder, source, tmp_path / "out")
    with pytest.raises(ValueError, match=r"out holds scores of another options; give another folder"):
        run(toy_export.folder, source, tmp_path / "out", keep=["click"])
    shutil.copytree(toy_export.folder, tmp_path / "model")
    (tmp_path / "model" / "assets.extra" / "note.txt").write_text("retrained")
    with pytest.raises(ValueError, match=r"out holds scores of another model"):
        run(tmp_path / "model", source, tmp_path / "out")
    write_parquet(toy_spec, toy_rows[:7], source)
    with pytest.raises(ValueError, match=r"out holds scores of another input"):
        run(toy_export.folder, source, tmp_path / "out")


def test_two_runs_do_not_write_to_one_folder(toy_spec, toy_export, toy_rows, tmp_path):
    from mixrank.schemas.files import locked

    write_parquet(toy_spec, toy_rows, tmp_path / "rows.parquet")
    with (
        locked(tmp_path / "out", "mixrank score"),
        pytest.raises(ValueError, match=r"out is in use by `mixrank score`"),
    ):
        score(toy_export, tmp_path / "rows.parquet", tmp_path / "out")


def test_what_cannot_be_scored_is_said_before_anything_runs(toy_export, tmp_path):
    from mixrank.serving.batch_scoring import score as run

    with pytest.raises(ValueError, match=r"model .*nowhere does not exist"):
        run(tmp_path / "nowhere", tmp_path, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds neither a SavedModel nor a version"):
        run(tmp_path / "empty", tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match=r"input .*gone.parquet does not exist"):
        run(toy_export.base, tmp_path / "gone.parquet", tmp_path / "out")
    with pytest.raises(ValueError, match=r"no file matches '\*' in .*empty"):
        run(toy_export.base, tmp_path / "empty", tmp_path / "out")
    (tmp_path / "rows.txt").write_text("?")
    with pytest.raises(ValueError, match=r"cannot tell the format of .*rows.txt"):
        run(toy_export.base, tmp_path / "rows.txt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_progress_counts_every_row(toy_spec, toy_export, toy_rows, tmp_path):
    write_parquet(toy_spec, toy_rows, tmp_path / "rows.parquet")
    seen: list[Any] = []
    score(toy_export, tmp_path / "rows.parquet", tmp_path / "out", rows_per_item=64, report=seen.append)
    assert (seen[-1].rows, seen[-1].items, seen[-1].of) == (150, 3, 3)


RUN = """
import sys
from pathlib import Path
from mixrank.serving.batch_scoring.job import score

score(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), rows_per_item=50)
"""


@pytest.mark.slow
def test_a_run_killed_half_way_goes_on_without_scoring_anything_twice(
    toy_spec, toy_export, toy_rows, toy_scores, tmp_path
):
    source, out = tmp_path / "rows.parquet", tmp_path / "out"
    write_parquet(toy_spec, toy_rows * 8, source, row_group_size=50)
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", RUN, toy_export.base, source, out])
    while len(list((out / "_work").glob("part-*.json"))) < 3:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "summary.json").exists()
    finished = sorted(path.stem for path in (out / "_work").glob("part-*.json"))
    stamps = {name: (out / "scores" / f"{name}.parquet").stat().st_mtime_ns for name in finished}
    assert 3 <= len(finished) < 24

    summary = score(toy_export, source, out, rows_per_item=50)
    assert summary["resumed_items"] == len(finished)
    assert summary["rows_scored_now"] == 1200 - 50 * len(finished)
    assert stamps == {name: (out / "scores" / f"{name}.parquet").stat().st_mtime_ns for name in finished}
    assert len(list((out / "scores").iterdir())) == 24
    frame = read(out)
    assert frame["at"].tolist() == [row["at"] for row in toy_rows for _ in range(8)]
    assert_scores(frame, toy_scores, np.repeat(np.arange(150), 8))


@pytest.mark.slow
def test_several_processes_give_the_same_scores(toy_spec, toy_export, toy_rows, toy_scores, tmp_path):
    write_parquet(toy_spec, toy_rows, tmp_path / "rows.parquet", row_group_size=40)
    beam_args = ["--runner=FnApiRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    summary = score(toy_export, tmp_path / "rows.parquet", tmp_path / "out", rows_per_item=40, beam_args=beam_args)
    assert (summary["rows"], summary["items"]) == (150, 4)
    assert_scores(read(tmp_path / "out"), toy_scores)


@pytest.mark.slow
def test_a_portable_job_service_gives_the_same_scores(toy_spec, toy_export, toy_rows, toy_scores, tmp_path):
    from apache_beam.runners.portability.local_job_service import LocalJobServicer

    write_parquet(toy_spec, toy_rows, tmp_path / "rows.parquet", row_group_size=40)
    service = LocalJobServicer(str(tmp_path / "staging"))
    port = service.start_grpc_server(0)
    beam_args = ["--runner=PortableRunner", f"--job_endpoint=localhost:{port}", "--environment_type=LOOPBACK"]
    try:
        score(toy_export, tmp_path / "rows.parquet", tmp_path / "out", rows_per_item=40, beam_args=beam_args)
    finally:
        service.stop()
    assert_scores(read(tmp_path / "out"), toy_scores)
