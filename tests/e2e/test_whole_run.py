"""From files on disk to a pushed model, killed and resumed on the way; and what a run says when it cannot go on."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pandas as pd
import pytest

from mixrank.pipeline.run_record import RunRecord
from mixrank.schemas import datasets, stores
from mixrank.serving.base import versions

pytestmark = pytest.mark.slow

COMPONENTS = [
    "ExampleGen",
    "LastPushed",
    "SchemaGen",
    "StatisticsGen",
    "ExampleValidator",
    "Baselines",
    "Transform",
    "Trainer",
    "Evaluator",
    "ModelCheck",
    "ModelGates",
    "Pusher",
]


def cached(progress: str) -> list[str]:
    return re.findall(r"(\w+): unchanged, taken from the cache", progress)


def started(progress: str) -> list[str]:
    return re.findall(rf"^\[\d+/{len(COMPONENTS)}\] (\w+)$", progress, re.MULTILINE)


def test_a_killed_run_leaves_no_model(killed):
    assert started(killed.progress) == COMPONENTS[:8]
    assert any(re.fullmatch(r"checkpoints/.*/round-\d+", path) for path in killed.left)
    assert not {"run.json", "serving"} & killed.left


def test_the_same_command_goes_on_after_the_last_round(killed, finished):
    assert cached(finished.progress) == COMPONENTS[:7]
    rounds = int(re.search(r"round 1/(\d+)", killed.progress)[1])
    done = int(re.search(rf"resuming after round (\d+) of {rounds}", finished.progress)[1])
    assert 1 <= done < rounds
    log = finished.record.model_run / "training.jsonl"
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [entry["round"] for entry in entries] == list(range(1, rounds + 1))
    assert not list((killed.run / "checkpoints").rglob("round-*")), "what was resumed from is removed"


def test_every_component_ran_in_order(finished):
    assert started(finished.progress) == COMPONENTS
    assert set(finished.record.seconds) == set(COMPONENTS)
    assert finished.record.seconds["ExampleGen"] == 0
    assert finished.record.seconds["Trainer"] > 0


def test_the_run_describes_itself(finished):
    record = finished.record
    assert record.judgement.blessed
    assert (record.name, record.dataset, record.splits) == ("films", "movielens", ("train",))
    assert record.spec == datasets.load("movielens").spec
    rows = record.rows
    folders = (rows.examples, rows.transformed, rows.transform_graph, rows.statistics)
    for folder in (*folders, record.judgement.evaluation, record.model_run):
        assert folder.is_dir(), folder
    assert (rows.examples / "Split-eval").is_dir()
    assert (rows.transformed / "Split-eval").is_dir()
    assert rows.transformed != rows.examples
    assert (record.export / "saved_model.pb").is_file()
    assert record.config["train"]["batch_size"] == 128


def test_every_evaluated_row_is_scored_and_has_a_baseline(finished):
    report = json.loads((finished.record.rows.examples / "report.json").read_text())
    predictions = pd.read_parquet(finished.record.model_run / "predictions.parquet")
    baseline = pd.read_parquet(finished.record.baselines / "additive.parquet")
    assert len(predictions) == len(baseline) == report["rows"]["eval"] > 500
    keys = ["user_id", "item_id", "timestamp"]
    pd.testing.assert_frame_equal(
        predictions[keys].sort_values(keys, ignore_index=True), baseline[keys].sort_values(keys, ignore_index=True)
    )
    ratings = pd.read_csv(finished.root / "data" / "ml-100k.inter", sep="\t")
    ratings.columns = [name.partition(":")[0] for name in ratings.columns]
    ratings["timestamp"] = (ratings["timestamp"] * 1000).astype("int64")
    joined = predictions.merge(ratings, on=keys)
    assert len(joined) == len(predictions)
    assert (joined["label_click"] == (joined["rating"] >= 4)).all()
    assert (joined["label_like"] == (joined["rating"] == 5)).all()


def test_the_report_and_the_next_commands_are_shown(finished):
    page = (finished.run / "report.html").read_text()
    assert "films" in page and "data:image" in page
    assert f"report: {finished.run}/report.html" in finished.output
    assert f"pushed: {finished.record.pushed}" in finished.output
    assert "next:" in finished.output
    for title in ("AUC", "GAUC", "Log loss", "35 and over"):
        assert title in finished.output


def test_no_file_of_a_run_shows_the_secret_that_its_config_names(finished, store_key):
    files = [path for path in finished.root.rglob("*") if path.is_file()]
    assert len(files) > 50 and finished.run / "run.log" in files and finished.run / "metadata.db" in files
    assert not [str(path) for path in files if store_key.encode() in path.read_bytes()]
    assert store_key not in finished.output + finished.progress
    assert "env:FILMS_STORE_KEY" in (finished.run / "run.json").read_text()


def test_the_pushed_version_scores_like_the_trained_model(finished):
    import numpy as np
    import tensorflow as tf

    from mixrank.components.judging.model_check import read_examples
    from mixrank.schemas.datasets import load
    from mixrank.schemas.encode import decode

    version = finished.record.pushed
    assert version.parent == finished.run / "serving" / "films"
    assert version.name.isdigit()
    examples = read_examples(str(finished.record.rows.examples / "Split-eval"), 50)
    scores = tf.saved_model.load(str(version)).signatures["serving_default"](examples=tf.constant(examples))
    keys = ["user_id", "item_id", "timestamp"]
    rows = pd.DataFrame([decode(load("movielens").spec, example) for example in examples])[keys]
    for task in ("click", "like"):
        rows[task] = scores[task].numpy().reshape(-1)
    joined = rows.merge(pd.read_parquet(finished.record.model_run / "predictions.parquet"), on=keys)
    assert len(joined) == 50
    np.testing.assert_allclose(joined["click"], joined["score_click"], atol=1e-5)
    np.testing.assert_allclose(joined["like"], joined["score_like"], atol=1e-5)


@pytest.fixture(scope="session")
def again(films, finished):
    """The same command a third time: now there is a blessed model to compare with."""
    with films.stderr_in(finished.root / "again.txt"):
        result = films.mixrank("run", finished.config)
    progress = (finished.root / "again.txt").read_text()
    return SimpleNamespace(result=result, progress=progress, record=RunRecord.read(finished.run))


def test_a_run_without_changes_is_answered_from_the_cache(finished, again):
    assert again.result.exit_code == 0, again.result.output
    # Only what depends on the version that was pushed meanwhile.
    assert set(COMPONENTS) - set(cached(again.progress)) == {"LastPushed", "Evaluator", "ModelGates", "Pusher"}
    for key in ("rows", "model_run", "export", "spec"):
        assert getattr(again.record, key) == getattr(finished.record, key), key
    assert again.record.judgement.blessed
    # It is the newest version already.
    assert again.record.pushed == finished.record.pushed
    assert len(versions(finished.run / "serving" / "films")) == 1


@pytest.fixture(scope="session")
def refused(films, again, finished):
    """A run with a bound that no model reaches."""
    before = set(versions(finished.run / "serving" / "films"))
    with films.stderr_in(finished.root / "refused.txt"):
        result = films.mixrank("run", finished.config, "--set", "thresholds.min_auc.click=0.999")
    return SimpleNamespace(result=result, judgement=RunRecord.read(finished.run).judgement, before=before)


def test_a_model_below_its_bound_is_not_pushed_and_the_run_says_why(finished, refused):
    assert refused.result.exit_code == 1
    assert set(versions(finished.run / "serving" / "films")) == refused.before
    (reason,) = refused.judgement.reasons
    assert re.fullmatch(r"task click: AUC is 0\.\d{4}, below the lower bound 0\.999", reason)
    assert "the model was not pushed:" in refused.result.output
    assert reason in refused.result.output
    assert "# a search for settings" in refused.result.output
    assert refused.judgement.pushed is None
    assert "Traceback" not in refused.result.output


def test_training_alone_uses_the_rows_of_the_run(films, finished, refused):
    with films.stderr_in(finished.root / "train.txt"):
        result = films.mixrank("train", finished.config, "--set", "train.steps_per_round=7", "--set", "train.seed=5")
    assert result.exit_code == 0, result.output
    (folder,) = (finished.run / "train").iterdir()
    alone = RunRecord.read(folder)
    assert alone.judgement is None
    assert alone.rows == finished.record.rows
    assert (folder / "report.html").is_file()
    assert len(pd.read_parquet(folder / "model_run" / "predictions.parquet")) > 500


SHOP = """
from mixrank.schemas.features import Categorical, EventTime, FeatureSpec, Key, Label, Scenario
from mixrank.schemas.tables import Dataset, LogSource, Table

DATASET = Dataset(
    spec=FeatureSpec(
        name="shop",
        user=Key("user"),
        item=Key("item"),
        time=EventTime("ms"),
        scenario=Scenario("page", values=(0, 1)),
        labels=(Label("click"),),
        features=(Categorical("item", group="item"),),
    ),
    source=LogSource(log=Table(files=("log.csv",))),
)
"""
ROWS = [f"{row % 4},{row % 7},{row},{row % 2},{row % 2}" for row in range(40)]
HEADER = "user,item,ms,page,click"


@pytest.mark.parametrize(
    ("lines", "messages"),
    [
        ([HEADER, *ROWS[:20], "1,2,3,0,2", *ROWS[20:]], ["log.csv row 21, click: '2' is not 0 or 1", "1 of 41 rows"]),
        ([HEADER, *ROWS, "1,2"], ["log.csv row 41, whole row: '1,2' has 2 columns instead of 5"]),
        (None, ["no file matches 'log.csv' in"]),
        ([], ["log.csv is empty, and so is every file that matches log.csv"]),
        ([HEADER], ["split `train` got no rows; the log has no good rows"]),
        ([HEADER.replace("item", "itme"), *ROWS], ["log.csv has no column `item`; did you mean `itme`?"]),
        (
            [HEADER, *(row[:-3] + "5" + row[-2:] for row in ROWS)],
            [
                "40 of 40 times in column `ms` are before 1990",
                'gates: {allow: ["implausible_time:ms"]}',
            ],
        ),
    ],
)
def test_a_broken_log_ends_with_one_message_that_names_file_and_row(films, finished, tmp_path, lines, messages):
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "data").mkdir()
    if lines is not None:
        (tmp_path / "data" / "log.csv").write_text("".join(line + "\n" for line in lines))
    config = films.write_config(
        tmp_path / "shop.yaml",
        name="shop",
        dataset=str(tmp_path / "shop.py"),
        data=str(tmp_path / "data"),
        thresholds={},
    )
    with films.stderr_in(tmp_path / "progress.txt"):
        result = films.mixrank("run", config)
    assert result.exit_code == 1
    for message in messages:
        assert message in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "runs" / "shop" / "run.json").exists()


def test_a_log_in_an_object_store_is_read_and_its_rows_are_named(films, finished, s3_bucket, s3_options, tmp_path):
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "log.csv").write_text("".join(line + "\n" for line in [HEADER, *ROWS, "1,2,3,0,2"]))
    folder = f"{s3_bucket}/shop [v2]/ä #1 100%"
    stores.upload(tmp_path / "log.csv", f"{folder}/log.csv")
    changes = {"name": "shop", "dataset": str(tmp_path / "shop.py"), "data": folder, "thresholds": {}}
    config = films.write_config(tmp_path / "shop.yaml", **changes, beam=["--runner=FnApiRunner", *s3_options])
    with films.stderr_in(tmp_path / "progress.txt"):
        result = films.mixrank("run", config)
    assert result.exit_code == 1
    assert f"{folder}/log.csv row 41, click: '2' is not 0 or 1" in result.output
    assert "Traceback" not in result.output
