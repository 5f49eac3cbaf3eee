"""Training: replicas agree, a killed run resumes exactly, early stopping keeps the best weights."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from mixrank.components.training import build_strategy, train_model, validation_metrics
from mixrank.components.training.model_factory import build_model, resolve
from mixrank.components.training.settings import EarlyStopping, ModelSettings, Optimizer, TableOptimizer, TrainSettings
from mixrank.components.training.strategy import use_jit
from mixrank.layers.ranking import tables_of
from mixrank.schemas.raw import read_side_file

BASE = {
    "batch_size": 150,
    "epochs": 3,
    "optimizer": Optimizer(learning_rate=0.01),
    "replicas": 1,
    "shuffle_rows": 300,
    "jit_compile": "off",
}


@pytest.fixture(scope="module")
def model(small_model):
    return ModelSettings(**small_model)


@pytest.fixture(scope="module")
def train(toy_spec, toy_data, toy_transform, model):
    """A function `(folder, model=..., **settings)` that trains on the toy rows: the log, and the predictions."""

    def run(folder, model=model, export=False, **changes):
        train_model(
            spec=toy_spec,
            model_settings=model,
            settings=TrainSettings(**{**BASE, **changes}),
            patterns=toy_data.patterns(),
            transform_output=toy_transform,
            checkpoints=folder / "checkpoints",
            run_dir=folder / "run",
            export_dir=folder / "export" if export else None,
        )
        log = [json.loads(line) for line in (folder / "run" / "training.jsonl").read_text().splitlines()]
        return log, pd.read_parquet(folder / "run" / "predictions.parquet")

    return run


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_replica")
    return folder, *train(folder, export=True)


@pytest.mark.slow
def test_loss_falls_and_labels_are_learned(trained, toy_data):
    _, log, _ = trained
    assert [entry["round"] for entry in log] == [1, 2, 3]
    assert [entry["step"] for entry in log] == [10, 20, 30]
    assert log[-1]["loss"] < log[0]["loss"]
    # The loss of whoever knows the rate alone; 130 rows to validate on tell an AUC to within 0.05, which says less.
    rate = np.mean([row["click"] for row in toy_data.rows["train"]])
    entropy = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
    assert log[-1]["metrics"]["click_loss"] < entropy - 0.03
    assert all(0 < entry["valid"]["click.auc"] < 1 for entry in log)


@pytest.mark.slow
def test_predictions_hold_every_evaluation_row(trained, toy_data):
    _, _, predictions = trained
    raw = pd.DataFrame(toy_data.rows["eval"])
    merged = predictions.merge(raw, on=["person", "clip", "at"], suffixes=("", "_raw"))
    assert len(merged) == len(predictions) == len(raw)
    assert (merged["label_click"] == merged["click"]).all()
    assert (merged["page"] == merged["page_raw"]).all()
    assert predictions["score_buy"].between(0, 1).all()


@pytest.mark.slow
def test_a_vector_table_holds_what_the_file_says_after_training(trained, toy_spec):
    folder, _, _ = trained
    table = read_side_file(toy_spec, toy_spec.get("words"))
    variables = tf.train.load_checkpoint(str(folder / "export" / "variables" / "variables"))
    shape = [1 + len(table.keys), 5]
    (name,) = [name for name, found in variables.get_variable_to_shape_map().items() if found == shape]
    np.testing.assert_array_equal(variables.get_tensor(name), np.concatenate([np.zeros((1, 5)), table.values]))


@pytest.mark.slow
def test_the_model_card_counts_what_was_built(trained):
    folder, _, _ = trained
    card = json.loads((folder / "run" / "model.json").read_text())
    assert card["name"] == "dlrm"
    assert card["parameters"] == sum(part["parameters"] for part in card["parts"]) > 1000
    assert not (folder / "checkpoints").exists()


def test_a_budget_is_resolved_into_parameters_before_building(toy_spec, toy_transform, model):
    asked = model.model_copy(update={"match_params": 100_000})
    resolved = resolve(toy_spec, asked)
    assert resolved.match_params is None
    assert {key: value for key, value in resolved.params.items() if value != asked.params.get(key)}
    built = build_model(toy_spec, asked, TrainSettings(), toy_transform)
    dense = sum(layer.count_params() for layer in built.layers if not layer.name.startswith("tables_"))
    assert dense == pytest.approx(100_000, rel=0.1)
    assert resolve(toy_spec, model) is model


def test_embeddings_are_as_wide_as_the_settings_say(toy_spec, toy_transform, model):
    asked = model.model_copy(update={"embedding_width": 2.0, "match_params": 400_000})
    built = build_model(toy_spec, asked, TrainSettings(), toy_transform)
    assert tables_of(built)["person"].layer.dim == 2 * toy_spec.get("person").dim
    dense = sum(layer.count_params() for layer in built.layers if not layer.name.startswith("tables_"))
    assert dense == pytest.approx(400_000, rel=0.05)


@pytest.mark.slow
def test_the_model_card_names_the_budget_and_the_cost_of_smaller_tables(train, model, tmp_path, capsys):
    train(tmp_path, model.model_copy(update={"match_params": 100_000}), epochs=1, table_storage="int8")
    card = json.loads((tmp_path / "run" / "model.json").read_text())
    assert card["match_params"] == 100_000
    assert card["params"]["top_units"] != list(model.params["top_units"])
    dense = sum(part["parameters"] for part in card["parts"] if part["name"] != "embeddings")
    assert dense == pytest.approx(100_000, rel=0.1)
    trained, stored = card["table_storage"]["float32"], card["table_storage"]["int8"]
    assert stored["click.auc"] == pytest.approx(trained["click.auc"], abs=0.01)
    assert 0 < abs(stored["loss"] - trained["loss"]) < 0.01
    said = f"tables in int8 in place of float32: loss {trained['loss']:.4f} -> {stored['loss']:.4f}"
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_two_replicas_and_one_have_the_same_loss_curve(train, tmp_path):
    # Plain gradient descent: Adam divides tiny gradients by their own size and so blows up the last bit of a sum.
    # Small steps: at 0.1 a last bit grows a thousandfold within 30 of them, at 0.02 it stays one.
    plain = {"optimizer": Optimizer(name="sgd", learning_rate=0.02)}
    one, scores_of_one = train(tmp_path / "one", replicas=1, **plain)
    two, scores_of_two = train(tmp_path / "two", replicas=2, **plain)
    assert one[-1]["loss"] < one[0]["loss"]
    np.testing.assert_allclose([e["loss"] for e in two], [e["loss"] for e in one], rtol=1e-5)
    np.testing.assert_allclose(scores_of_two["score_click"], scores_of_one["score_click"], atol=1e-4)


@pytest.mark.slow
def test_a_killed_training_resumes_exactly(trained, train, tmp_path, monkeypatch):
    _, whole, scores = trained
    from mixrank.components.training import resumable_training, trainer

    # The whole training has validated three times within every round, these do not: it changes nothing.
    assert [bool(point["valid"]) for point in whole[0]["curve"]].count(True) == 4
    monkeypatch.setattr(trainer, "validations_within", lambda trained, validated: 0)

    save = resumable_training.Rounds._save

    def die(*arguments):
        raise KeyboardInterrupt

    def save_then_die(self, done):
        save(self, done)
        if done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(resumable_training.Rounds, "_save", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, export=True)
    monkeypatch.setattr(resumable_training.Rounds, "_save", save)
    assert (tmp_path / "checkpoints" / "round-000002").is_dir()
    # It dies again, once its model is exported.
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer, "_score", die)
        train(tmp_path, export=True)
    resumed, resumed_scores = train(tmp_path, export=True)
    assert [bool(point["valid"]) for point in resumed[0]["curve"]].count(True) == 1
    assert [e["loss"] for e in resumed] == pytest.approx([e["loss"] for e in whole], abs=1e-6)
    np.testing.assert_allclose(resumed_scores["score_click"], scores["score_click"], atol=1e-5)


@pytest.mark.slow
def test_rounds_may_be_shorter_than_a_pass_and_tables_have_their_own_optimizer(train, tmp_path):
    adagrad = TableOptimizer(name="adagrad", learning_rate=0.05)
    log, _ = train(tmp_path, epochs=3, steps_per_round=5, embedding_optimizer=adagrad)
    assert [(e["step"], e["epoch"]) for e in log] == [(5 * n, 0.5 * n) for n in range(1, 7)]
    assert log[-1]["loss"] < log[0]["loss"]


@pytest.mark.slow
def test_early_stopping_keeps_the_best_round(train, tmp_path):
    log, predictions = train(
        tmp_path,
        epochs=12,
        optimizer=Optimizer(learning_rate=0.02),
        early_stopping=EarlyStopping(metric="click.log_loss", patience=2),
    )
    losses = [entry["valid"]["click.log_loss"] for entry in log]
    assert len(log) < 12
    assert np.argmin(losses) == len(log) - 3
    assert predictions["score_click"].std() > 0


def test_an_unknown_metric_to_stop_by_is_named(train, tmp_path):
    with pytest.raises(ValueError, match=r"`early_stopping.metric` is 'clik.auc'; did you mean `click.auc`"):
        train(tmp_path, early_stopping=EarlyStopping(metric="clik.auc"))


@pytest.mark.slow
def test_mixed_precision_trains_and_answers_float32(train, tmp_path):
    import keras

    try:
        log, predictions = train(tmp_path, precision="mixed_bfloat16", epochs=1)
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(log[0]["loss"])
    assert predictions["score_click"].dtype == np.float32


@pytest.mark.slow
@pytest.mark.parametrize("way", ["uncertainty", "pcgrad"])
def test_tasks_may_be_weighted_by_what_is_learned_or_projected(train, tmp_path, way):
    log, predictions = train(tmp_path, task_weighting=way, epochs=1)
    assert np.isfinite(log[0]["loss"]) and np.isfinite(predictions["score_buy"]).all()
    weights = {name: value for name, value in log[0]["metrics"].items() if name.endswith("_task_weight")}
    if way == "pcgrad":
        assert weights == {}
    else:
        assert set(weights) == {"click_task_weight", "buy_task_weight"}
        assert all(value > 0 and value != 1 for value in weights.values())


def test_the_validation_loss_is_over_the_entire_space_where_training_is(toy_spec):
    from sklearn.metrics import log_loss

    rng = np.random.default_rng(4)
    labels = (toy_spec.labels[0], toy_spec.labels[1].model_copy(update={"given": "click", "weight": 2.0}))
    spec = toy_spec.model_copy(update={"labels": labels})
    click, buy = rng.integers(0, 2, 60), rng.integers(0, 2, 60)
    frame = pd.DataFrame({spec.user.name: rng.integers(0, 5, 60), "label_click": click})
    frame["label_buy"] = np.where(click, buy, np.nan)
    for task in ("click", "buy"):
        frame[f"score_{task}"] = rng.uniform(0.1, 0.9, 60)
    given, entire = validation_metrics(spec, frame), validation_metrics(spec, frame, ("buy",))
    of_click = log_loss(click, frame["score_click"])
    product = log_loss(click * buy, frame["score_click"] * frame["score_buy"])
    assert entire["loss"] == pytest.approx(of_click + 2 * product)
    assert given["loss"] != pytest.approx(entire["loss"])
    # What is predicted is the same, and so are its metrics.
    assert {k: v for k, v in given.items() if k != "loss"} == {k: v for k, v in entire.items() if k != "loss"}


def test_validation_metrics_are_those_of_scikit_learn(toy_spec):
    from sklearn import metrics

    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"person": rng.integers(0, 5, 90)})
    for task in ("click", "buy"):
        frame[f"label_{task}"] = rng.integers(0, 2, 90)
        frame[f"score_{task}"] = rng.random(90)
    frame["weight_buy"] = rng.uniform(0, 2, 90)
    found = validation_metrics(toy_spec, frame)
    weights = {"click": None, "buy": frame["weight_buy"]}
    losses = {
        t: metrics.log_loss(frame[f"label_{t}"], frame[f"score_{t}"], sample_weight=w) for t, w in weights.items()
    }
    assert found["click.auc"] == pytest.approx(metrics.roc_auc_score(frame["label_click"], frame["score_click"]))
    assert found["buy.log_loss"] == pytest.approx(losses["buy"])
    assert found["loss"] == pytest.approx(losses["click"] + 0.5 * frame["weight_buy"].mean() * losses["buy"])


def test_one_cpu_device_takes_no_strategy_and_two_take_mirrored():
    assert build_strategy("auto") is build_strategy(1) is tf.distribute.get_strategy()
    assert isinstance(build_strategy(2), tf.distribute.MirroredStrategy)
    assert build_strategy("auto", tables="host") is tf.distribute.get_strategy()
    with pytest.raises(ValueError, match="`tables: host` is for one replica, received `replicas` 2"):
        TrainSettings(replicas=2, tables="host")


def test_xla_compiles_by_itself_on_one_gpu_only(monkeypatch):
    one, two = build_strategy(1), build_strategy(2)
    assert not use_jit("auto", one)
    assert use_jit("on", one) and use_jit("on", two) and not use_jit("off", one)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [f"{kind}:0"])
    assert use_jit("auto", one) and not use_jit("auto", two) and not use_jit("off", one)


@pytest.mark.slow
def test_more_replicas_than_devices_is_refused_in_a_fresh_process():
    code = "from mixrank.components.training.strategy import build_strategy; build_strategy(3)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode
    assert "`replicas`=3, but there are only 1 logical CPU devices" in done.stderr
    assert tf.config.list_logical_devices("CPU")
