"""`mixrank score` says what it did, what is next, and what is wrong in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from mixrank.pipeline.commands import score as score_command
from mixrank.schemas.encode import encode


@pytest.fixture
def mixrank_score(monkeypatch):
    monkeypatch.setattr(score_command.console, "width", 200)
    monkeypatch.setattr(score_command.errors, "width", 200)
    app = typer.Typer()
    app.command()(score_command.score)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def examples(toy_spec, toy_data, tmp_path):
    """A file of the evaluation rows; the third one is torn."""
    import tensorflow as tf

    path = tmp_path / "rows.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number, row in enumerate(toy_data.rows["eval"]):
            writer.write(b"\xff" if number == 2 else encode(toy_spec, row))
    return path


@pytest.mark.slow
def test_scores_are_counted_printed_and_written_once(mixrank_score, toy_export, examples, tmp_path):
    arguments = (toy_export.base, examples, tmp_path / "out", "--keep", "price", "--beam=--runner=FnApiRunner")
    result = mixrank_score(*arguments)
    assert result.exit_code == 0, result.output
    assert "150 rows, 1 bad; scored 150 now" in result.output
    assert f"head {tmp_path}/out/dead_letter.jsonl" in result.output
    assert result.output.rstrip().splitlines()[-1].lstrip().startswith("python -c")
    frame = pd.read_parquet(tmp_path / "out" / "scores")
    assert len(frame) == 149
    assert "price" in frame
    counted = json.loads((tmp_path / "out" / "summary.json").read_text())["scores"]
    for task in ("click", "buy"):
        assert f"{frame[f'score_{task}'].mean():.4f}" in result.output
        assert sum(counted[task]["histogram"]) == 149
    again = mixrank_score(*arguments)
    assert again.exit_code == 0
    assert "already complete" in again.output


@pytest.mark.slow
def test_too_many_bad_rows_exit_with_1(mixrank_score, toy_export, examples, tmp_path):
    result = mixrank_score(toy_export.base, examples, tmp_path / "out", "--max-bad", "0.001")
    assert result.exit_code == 1
    assert "error:1 of 150 rows are bad, --max-bad 0.001 allows 0" in result.output.replace("error: ", "error:")
    assert "row 3, is not a tf.Example" in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("MODEL", "rows.csv"), "MODEL INPUT OUTPUT are needed"),
        (("MODEL", "rows.csv", "out", "--days", "2022-05-05"), "--data and --days belong to a raw log"),
        (("MODEL", "out", "--dataset", "movielens"), "--dataset needs --data"),
        (("MODEL", "in", "out", "--dataset", "movielens", "--data", "."), "a raw log is scored by"),
        (("MODEL", "in", "out", "--format", "avro"), "--format must be one of parquet, csv, tsv, json, tfrecord"),
        (("MODEL", "in", "out", "--max-bad", "2"), "`max_bad` must be a share between 0 and 1"),
        (("MODEL", "in", "out", "--batch-size", "0"), "`batch_size` must be at least 1"),
        (("nowhere", "in", "out"), "model nowhere does not exist"),
    ],
)
def test_wrong_arguments_are_one_readable_line(mixrank_score, arguments, says):
    result = mixrank_score(*arguments)
    assert result.exit_code == 1
    assert says in result.output
    assert "Traceback" not in result.output


def test_a_wrong_day_is_refused_before_anything_is_loaded(mixrank_score):
    result = mixrank_score("MODEL", "out", "--dataset", "movielens", "--data", ".", "--days", "yesterday")
    assert result.exit_code == 1
    assert "days are written as 2022-05-05..2022-05-06, received 'yesterday'" in result.output
    assert "loading" not in result.output


def test_a_histogram_is_one_line():
    assert score_command.sparkline([0, 1, 80, 40, 0]) == " ▁█▄ "
    assert score_command.sparkline([0, 0]) == "  "


@pytest.mark.slow
def test_a_raw_log_is_joined_before_it_is_scored(mixrank_score, monkeypatch, toy_data, toy_export, tmp_path):
    """The days, the data folder and the Beam options reach ExampleGen, and its examples are what is scored."""

    asked = []

    def write_examples(dataset, data, folder, days, beam_args):
        asked.append((dataset.spec.name, Path(data).name, folder.name, days, beam_args))
        folder.mkdir(parents=True)
        source = toy_data.examples / "Split-eval" / "data.gz"
        (folder / "data_tfrecord.gz").write_bytes(source.read_bytes())
        return folder

    # The face first: it keeps what it has handed out once, and would keep the stand-in.
    monkeypatch.setattr("mixrank.components.examples.write_examples", write_examples)
    result = mixrank_score(
        toy_export.base, tmp_path / "out", "--dataset", "movielens", "--data", tmp_path / "raw",
        "--days", "1998-01-01..1998-01-02", "--beam=--runner=FnApiRunner",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert asked == [("movielens", "raw", "examples", ("1998-01-01", "1998-01-02"), ["--runner=FnApiRunner"])]
    assert len(pd.read_parquet(tmp_path / "out" / "scores")) == 150
