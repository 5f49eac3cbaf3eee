"""A training that goes on from the state of another is the rest of one training over the rows of both."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from mixrank.components.training import (
    PREDICTIONS,
    PROGRESSIVE,
    STATE,
    ModelSettings,
    Optimizer,
    TableOptimizer,
    TrainSettings,
    train_model,
)
from mixrank.components.training.states import INDEX, ORIGIN, VARIABLES, VOCABULARIES
from mixrank.schemas import Categorical, FeatureSpec, Vocab

BATCH, FIRST, SECOND = 100, 600, 400
ADAM = {"optimizer": Optimizer(learning_rate=0.01)}
COSINE = {
    "optimizer": Optimizer(learning_rate=0.01, schedule="cosine"),
    "embedding_optimizer": TableOptimizer(schedule="cosine"),
}


@pytest.fixture(scope="module")
def days(toy_data, tmp_path_factory):
    """Files of the rows of one day, of the next, and of both, one behind the other."""
    folder = tmp_path_factory.mktemp("days")
    (records,) = tf.data.TFRecordDataset(tf.io.gfile.glob(toy_data.patterns()["train"]), "GZIP").batch(10_000)
    rows = records.numpy()[: FIRST + SECOND]
    parts = {"first": rows[:FIRST], "second": rows[FIRST:], "both": rows}
    for name, part in parts.items():
        (folder / name).mkdir()
        with tf.io.TFRecordWriter(str(folder / name / "rows.gz"), "GZIP") as writer:
            for row in part:
                writer.write(row)
    return {name: str(folder / name / "*") for name in parts}


@pytest.fixture(scope="module")
def spec(lean_spec):
    """Without places of impressions: the level that is taken off their biases is that of the rows of one training."""
    return lean_spec.model_copy(update={"position": None})


@pytest.fixture(scope="module")
def train(spec, toy_transform, small_model, days):
    """A function `(folder, rows, state=None, **settings)` that trains, and judges on the rows of the second day."""

    def run(folder, rows, state=None, spec=spec, model=None, **changes):
        settings = {"batch_size": BATCH, "replicas": 1, "shuffle_rows": 1, "jit_compile": "off", "keep_state": True}
        train_model(
            spec=spec,
            model_settings=ModelSettings(**{**small_model, **(model or {})}),
            settings=TrainSettings(**{**settings, **ADAM, **changes}),
            patterns={"train": days[rows], "eval": days["second"]},
            transform_output=toy_transform,
            checkpoints=folder / "checkpoints",
            run_dir=folder / "run",
            export_dir=None,
            state=state,
        )
        return folder / "run"

    return run


@pytest.fixture(scope="module")
def first(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("first"), "first")


def variables(run):
    """Name -> value of everything in the state that a training has left."""
    folder = run / STATE / VARIABLES
    index = json.loads((folder / INDEX).read_text())
    return {each["name"]: np.concatenate([np.load(folder / f["name"])[None] for f in each["files"]]) for each in index}


def frame(run, name=PREDICTIONS):
    return pd.read_parquet(run / name)


def same(a, b, atol=1e-5):
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_allclose(value, b[name], atol=atol, rtol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizers",
    [
        ADAM,
        {**ADAM, "embedding_optimizer": TableOptimizer(name="lazy_adam", learning_rate=0.01)},
        {"optimizer": Optimizer(name="sgd", learning_rate=0.05, options={"momentum": 0.9}), "epochs": 1},
        {**ADAM, "task_weighting": "uncertainty"},
    ],
    ids=["rowwise_adagrad", "lazy_adam", "momentum", "uncertainty"],
)
def test_two_trainings_one_after_the_other_are_one_over_both_rows(optimizers, train, tmp_path):
    whole = train(tmp_path / "whole", "both", **optimizers)
    begun = train(tmp_path / "begun", "first", **optimizers)
    ended = train(tmp_path / "ended", "second", state=begun / STATE, **optimizers)
    expected = variables(whole)
    assert int(expected["optimizer/iteration"][0]) == (FIRST + SECOND) // BATCH
    moved = max(np.abs(value - expected[name]).max() for name, value in variables(begun).items())
    assert moved > 0.05
    same(variables(ended), expected)
    pd.testing.assert_frame_equal(frame(ended), frame(whole), atol=1e-5)
    # The rows of the second day, before they were trained on.
    pd.testing.assert_frame_equal(frame(ended, PROGRESSIVE), frame(begun), atol=1e-6)
    assert not (begun / PROGRESSIVE).exists()
    assert not (whole / PROGRESSIVE).exists()


@pytest.mark.slow
def test_a_falling_rate_may_be_followed_by_a_constant_one_and_a_new_fall(train, tmp_path):
    begun = train(tmp_path / "begun", "first", **COSINE)
    constant = train(tmp_path / "constant", "second", state=begun / STATE)
    falling = train(tmp_path / "falling", "second", state=begun / STATE, **COSINE)
    before, after, fallen = (variables(run) for run in (begun, constant, falling))
    assert before.keys() == after.keys() == fallen.keys()
    assert "optimizer/learning_rate" not in before
    steps = [int(found["optimizer/iteration"][0]) for found in (before, after, fallen)]
    assert steps == [FIRST // BATCH, *2 * [(FIRST + SECOND) // BATCH]]
    for found in (after, fallen):
        # A schedule that counted all steps would have ended at 0 long ago.
        assert max(np.abs(found[name] - before[name]).max() for name in before if name.startswith("model/")) > 0.01
    assert max(np.abs(after[name] - fallen[name]).max() for name in before if name.startswith("model/")) > 1e-3


@pytest.mark.slow
def test_a_killed_training_goes_on_from_its_own_round(train, first, tmp_path, monkeypatch):
    from mixrank.components.training import resumable_training

    # The rows that are judged are the ones that are trained on.
    whole = train(tmp_path / "whole", "second", state=first / STATE, steps_per_round=2)
    progressive = frame(whole, PROGRESSIVE)
    save = resumable_training.Rounds._save

    def save_then_die(self, done):
        save(self, done)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(resumable_training.Rounds, "_save", save_then_die)
        train(tmp_path / "killed", "second", state=first / STATE, steps_per_round=2)
    written = (tmp_path / "killed" / "run" / PROGRESSIVE).stat().st_mtime_ns
    resumed = train(tmp_path / "killed", "second", state=first / STATE, steps_per_round=2)
    same(variables(resumed), variables(whole), atol=1e-6)
    assert (resumed / PROGRESSIVE).stat().st_mtime_ns == written
    pd.testing.assert_frame_equal(frame(resumed, PROGRESSIVE), progressive)
    # Trained on, they are predicted better.
    assert log_loss(frame(resumed)) < log_loss(progressive)


def log_loss(predictions):
    label, score = predictions["label_click"], predictions["score_click"]
    return float(-np.mean(label * np.log(score) + (1 - label) * np.log(1 - score)))


@pytest.mark.slow
def test_two_replicas_go_on_from_the_state_of_one_and_leave_their_own(train, tmp_path):
    # Adam divides tiny gradients by their own size and so blows up the last bit of a sum.
    plain = {"optimizer": Optimizer(name="sgd", learning_rate=0.02, options={"momentum": 0.9})}
    begun = train(tmp_path / "begun", "first", **plain)
    one = train(tmp_path / "one", "second", state=begun / STATE, **plain)
    two = train(tmp_path / "two", "second", state=begun / STATE, **plain, replicas=2)
    same(variables(two), variables(one), atol=1e-4)
    pd.testing.assert_frame_equal(frame(two, PROGRESSIVE), frame(begun), atol=1e-6)


@pytest.mark.slow
def test_a_kept_state_replaces_the_one_of_a_training_that_was_killed_after_it(train, first, tmp_path):
    (tmp_path / "run" / STATE).mkdir(parents=True)
    (tmp_path / "run" / STATE / "half").write_text("")
    again = train(tmp_path, "first")
    same(variables(again), variables(first), atol=1e-6)
    assert sorted(path.name for path in (again / STATE).iterdir()) == [ORIGIN, VARIABLES, VOCABULARIES]


@pytest.mark.slow
def test_a_warm_start_from_a_state_takes_all_of_it(train, first, tmp_path, capsys):
    expected = train(tmp_path / "state", "second", state=first / STATE)
    found = train(tmp_path / "warm", "second", warm_start=str(first / STATE))
    same(variables(found), variables(expected), atol=1e-6)
    assert not (found / PROGRESSIVE).exists()
    assert f"warm start: {len(variables(first))} variables taken over\n" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("what", ["width", "encoding", "model", "optimizer"])
def test_a_warm_start_takes_what_fits_and_says_what_does_not(what, train, spec, first, tmp_path, capsys):
    changes = {
        "width": {"spec": with_person(spec, dim=16)},
        "encoding": {"spec": with_person(spec, vocab=Vocab(min_count=2, oov=5))},
        "model": {"model": {"name": "dcnv2", "params": {}}},
        "optimizer": {"embedding_optimizer": TableOptimizer(name="adagrad")},
    }[what]
    # So slowly that it stays what it was.
    slow = {"optimizer": Optimizer(learning_rate=1e-12), "embedding_optimizer": TableOptimizer(learning_rate=1e-12)}
    if what == "optimizer":
        slow["embedding_optimizer"] = TableOptimizer(name="adagrad", learning_rate=1e-12)
    found = train(tmp_path, "second", warm_start=str(first / STATE), **{**changes, **slow})
    said = capsys.readouterr().err
    before, after = variables(first), variables(found)
    tables = [name for name in before if name in after and before[name].shape[1:] == after[name].shape[1:]]
    equal = [name for name in tables if name.startswith("model/") and np.allclose(before[name], after[name], atol=1e-6)]
    steps = int(after["optimizer/iteration"][0])
    assert steps == (SECOND if what == "optimizer" else FIRST + SECOND) // BATCH
    if what == "optimizer":
        assert len(equal) == len([name for name in before if name.startswith("model/")])
        assert "afresh" not in said
    elif what == "model":
        assert "afresh: dcnv2/" in said and "not here any more: dlrm/" in said
        assert len(equal) >= len([name for name in before if name.startswith("tables/") and name.endswith("/0")])
    else:
        assert "afresh: table of person (" in said
        assert ("not here any more: tables_" in said) is (what == "width")
        assert len(equal) > 3


def with_person(spec, **changes):
    features = [
        each.model_copy(update=changes) if isinstance(each, Categorical) and each.name == "person" else each
        for each in spec.features
    ]
    return FeatureSpec(**{**dict(spec), "features": tuple(features)})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": {"params": {"bottom_units": [8], "top_units": [8]}}},
            r"model\.params\.\w+ is \[.*\] there and \[8\] here",
        ),
        ({"model": {"name": "dcnv2", "params": {}}}, r'model\.name is "dlrm" there and "dcnv2" here; '),
        ({"optimizer": Optimizer(name="sgd")}, r'optimizer is "adam" there and "sgd" here$'),
        (
            {"embedding_optimizer": TableOptimizer(name="adagrad")},
            r'embedding_optimizer is "rowwise_adagrad" there and "adagrad" here$',
        ),
        (
            {"optimizer": Optimizer(options={"amsgrad": True})},
            r"optimizer/velocity_hat/0 \(.*\) is not there, and \d+ more",
        ),
        ({"task_weighting": "uncertainty"}, r"log_variance/click \(.*\) is not there, and"),
    ],
    ids=["params", "model", "optimizer", "embedding_optimizer", "slots", "variances"],
)
def test_the_state_of_another_training_is_refused_by_what_differs(changes, message, train, first, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(tmp_path, "second", state=first / STATE, **changes)


@pytest.mark.slow
def test_the_state_of_another_encoding_is_refused(train, spec, first, tmp_path):
    other = with_person(spec, vocab=Vocab(min_count=2, oov=5))
    with pytest.raises(ValueError, match=r"encodings\.person\.oov is \d+ there and 5 here$"):
        train(tmp_path, "second", state=first / STATE, spec=other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calibration": "platt"}, "`calibration` needs rows of a `valid` split"),
        ({"early_stopping": {}}, "`early_stopping` needs rows of a `valid` split"),
        ({"warm_start": "runs/other"}, "`warm_start` is for fresh weights, .* received 'runs/other'"),
        ({}, "nowhere holds no state of a training"),
    ],
    ids=["calibration", "early_stopping", "warm_start", "nothing"],
)
def test_what_a_training_that_goes_on_cannot_do_is_refused(changes, message, train, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(tmp_path, "second", state=tmp_path / "nowhere", **changes)
