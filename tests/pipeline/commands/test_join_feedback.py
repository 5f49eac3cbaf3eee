"""`mixrank join-feedback`: what it prints, what it writes, and what it says of rubbish."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import tensorflow as tf
import typer
from typer.testing import CliRunner

from mixrank.pipeline.commands.drift import join_feedback
from mixrank.schemas.encode import encode
from mixrank.schemas.raw import files_at

app = typer.Typer()
app.command()(join_feedback)

DATASET = """
from mixrank import schemas as s
SPEC = s.FeatureSpec(
    name="shop",
    user=s.Key("user"),
    item=s.Key("item"),
    time=s.EventTime("time", format="iso"),
    scenario=s.Scenario("place", values=(0, 1)),
    labels=(s.Label("click"),),
    features=(s.Categorical("item", group="item", dim=4), s.Numeric("price", group="item")),
)
DATASET = s.Dataset(spec=SPEC, source=s.LogSource(log=s.Table(files=("*.csv",)), split=s.SplitByHash()))
"""
START = 1_777_000_000_000


@pytest.fixture
def shop(tmp_path):
    """A config, a log of ten rows in two files, an hour apart, and the clicks on four, one of the second hour."""
    (tmp_path / "shop.py").write_text(DATASET)
    (tmp_path / "shop.yaml").write_text(
        f"name: shop\ndataset: {tmp_path}/shop.py\ndata: {tmp_path}\nmodel: {{name: dlrm}}\n"
    )
    (tmp_path / "log").mkdir()
    for part in range(2):
        rows = [row(number) for number in range(5 * part, 5 * part + 5)]
        ids = [f"i{number}" for number in range(5 * part, 5 * part + 5)]
        line = {"logged_at": START + part * 3_600_000, "model": "shop", "impression_ids": ids, "instances": rows}
        (tmp_path / "log" / f"{part}.jsonl").write_text(json.dumps(line) + "\n")
    moments = pd.to_datetime([START + 60_000] * 3 + [START + 3_660_000], unit="ms").strftime("%Y-%m-%dT%H:%M:%S")
    pd.DataFrame({"impression_id": ["i0", "i1", "i2", "i5"], "time": moments, "click": 1}).to_csv(
        tmp_path / "clicks.csv", index=False
    )
    return tmp_path


def row(number):
    return {"user": number % 3, "item": number, "place": 0, "price": float(number)}


def run(shop, *extra, served="log", config="shop.yaml"):
    arguments = [shop / config, "--served", shop / served, "--outcomes", shop / "clicks.csv", "--within", 0.5]
    arguments += ["--output", shop / "2026-04-24", *extra]
    return CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "160"})


def test_the_table_counts_all_and_the_next_command_is_said(shop):
    done = run(shop)
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.replace("│", " ").split())
    for said in (
        "impressions all 10 joined 5 its window has not passed 5",
        "outcomes all 4 used 3 the window of its impression has not passed 1",
        "rows with an outcome: 3; labels that are not 0: click 3 (60.00%)",
        f"5 rows to train on: {shop}/2026-04-24",
        f"for the next join, beside its own files: --served {shop}/2026-04-24/waiting/served",
        f"mixrank advance {shop}/shop.yaml --served {shop} ",
    ):
        assert said in text
    assert sorted(path.name for path in (shop / "2026-04-24").iterdir()) == [
        "Split-train", "feedback.json", "report.json", "waiting",
    ]  # fmt: skip


def test_a_pattern_and_a_time_up_to_which_outcomes_are_known(shop):
    done = run(shop, "--until", "2026-04-24T05:00", served="log/*.jsonl")
    assert done.exit_code == 0 and "10 rows to train on" in done.output
    assert json.loads((shop / "2026-04-24" / "feedback.json").read_text())["served"]["joined"] == 10


def test_features_that_differ_are_shown_with_rows(shop):
    spec = {}
    exec(DATASET, spec)
    (shop / "examples" / "Split-eval").mkdir(parents=True)
    with tf.io.TFRecordWriter(str(shop / "examples" / "Split-eval" / "data.gz"), "GZIP") as writer:
        for number in range(5):
            known = {**row(number), "time": START, "click": 0}
            writer.write(encode(spec["SPEC"], {**known, "price": 7.5} if number == 2 else known))
    done = run(shop, "--against", shop / "examples")
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.replace("│", " ").split())
    assert "5 of 5 rows found, 5 with the same time" in text
    # A narrow table breaks the row's cell.
    assert "price 4 of 5 (80.00%) user 2, item 2, time" in text and str(START) in text and " 7.5 " in text
    assert "2 of 3 columns agree in all rows" in text
    assert {each["name"] for each in json.loads((shop / "2026-04-24" / "skew.json").read_text())["columns"]} == {
        "place", "item", "price",
    }  # fmt: skip


def test_without_a_decided_row_it_fails_and_keeps_what_waits(shop):
    done = run(shop, "--until", "2026-04-01")
    assert done.exit_code == 1 and "0 rows to train on" in done.output and "mixrank advance" not in done.output
    assert files_at(shop / "2026-04-24" / "waiting" / "served").files


@pytest.mark.parametrize(
    ("extra", "change", "said"),
    [
        (["--until", "noon"], None, "--until must be a time such as 2026-05-06T00:00, received 'noon'"),
        (["--within", "-1"], None, "`within_hours` must be a positive number of hours, received -1.0"),
        (["--against", "nowhere"], None, "nowhere is neither a file nor a folder of files"),
        ([], lambda shop: (shop / "log" / "1.jsonl").write_text("{"), "1.jsonl, line 1 is not JSON"),
        ([], lambda shop: (shop / "clicks.csv").write_text("impression_id,click\ni0,maybe\n"), "row 1, column `click`"),
        (
            [],
            lambda shop: (shop / "log" / "x.tfrecord").write_bytes(b"\0" * 30),
            "x.tfrecord cannot be read after row 0",
        ),
    ],
)
def test_rubbish_is_one_readable_message(shop, extra, change, said):
    if change is not None:
        change(shop)
    done = run(shop, *extra)
    assert done.exit_code == 1 and said in " ".join(done.output.split()), done.output
    assert "Traceback" not in done.output
