"""TensorFlow Recommenders' models train on the same rows and are judged on the same ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from mixrank.components.metrics.ranking_metrics import auc, log_loss
from mixrank.components.training.settings import EarlyStopping, Optimizer, TableOptimizer, TrainSettings

# All that needs a process of its own, in one: half a minute of imports.
PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
from mixrank.components.training.settings import TrainSettings
from mixrank.layers.ranking.inputs import model_inputs, table_sizes
from mixrank.pipeline.tfrs_baseline import Columns, build, check, train
from mixrank.schemas.features import FeatureSpec, Label

spec, lean, settings, patterns, graph, models, refused = map(json.loads, sys.argv[1:])
spec, lean = FeatureSpec.model_validate(spec), FeatureSpec.model_validate(lean)
for name, folder in models.items():
    train(
        # So few rows teach something about few features only.
        spec=lean,
        name=name,
        settings=TrainSettings.model_validate(settings),
        patterns=patterns,
        transform_output=tft.TFTransformOutput(graph),
        run_dir=Path(folder),
    )

columns = Columns(spec)
sizes = table_sizes(spec, {feature.name: 9 for feature in spec.looked_up})
rng = np.random.default_rng(0)
rows = {
    name: tf.constant(rng.normal(size=(3, *x.shape[1:])).astype("float32") if x.dtype == "float32"
                      else rng.integers(0, 6, (3, *x.shape[1:])))
    for name, x in model_inputs(spec).items()
}
said = {}
for name in models:
    infer = columns.infer({"click": build(name, columns, sizes, TrainSettings(), 10, spec.labels[0])})
    alone = [infer({key: values[i : i + 1] for key, values in rows.items()})["click"].numpy() for i in range(3)]
    said[name] = {"whole": infer(rows)["click"].numpy().tolist(), "alone": np.concatenate(alone).tolist()}
    try:
        check(name, TrainSettings.model_validate(refused[name]), spec)
    except ValueError as error:
        said[name]["refused"] = str(error)
stars = Label("stars", kind="ordinal", classes=(1, 2, 3))
try:
    check("dlrm", TrainSettings(), spec.model_copy(update={"labels": (*spec.labels, stars)}))
except ValueError as error:
    said["classes"] = str(error)
print(json.dumps(said))
"""
SETTINGS = TrainSettings(
    batch_size=50,
    epochs=2,
    optimizer=Optimizer(learning_rate=0.001, schedule="cosine"),
    embedding_optimizer=TableOptimizer(name="lazy_adam", learning_rate=0.01),
    shuffle_rows=300,
)


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1", **environment},
        capture_output=True,
        text=True,
    )


REFUSED = {
    "dlrm": TrainSettings(early_stopping=EarlyStopping()),
    "dcn": TrainSettings(precision="mixed_bfloat16"),
}


@pytest.fixture(scope="module")
def trained(toy_spec, lean_spec, toy_data, tmp_path_factory):
    """Model -> its folder, and what the process said of it."""
    root = tmp_path_factory.mktemp("tfrs")
    models = {name: str(root / name) for name in REFUSED}
    refused = {name: settings.model_dump(mode="json") for name, settings in REFUSED.items()}
    given = [each.model_dump(mode="json") for each in (toy_spec, lean_spec, SETTINGS)]
    arguments = [json.dumps(value) for value in (*given, toy_data.patterns(), str(toy_data.graph), models, refused)]
    done = run("-c", PROGRAM, *arguments)
    assert done.returncode == 0, done.stderr
    return {name: root / name for name in models}, json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def folders(trained):
    return trained[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dlrm", "dcn"])
def test_its_predictions_cover_the_evaluation_rows(folders, toy_data, name):
    predictions = pd.read_parquet(folders[name] / "predictions.parquet")
    raw = pd.DataFrame(toy_data.rows["eval"])
    merged = predictions.merge(raw, on=["person", "clip", "at"], suffixes=("", "_raw"))
    assert len(merged) == len(predictions) == len(raw)
    assert (merged["label_click"] == merged["click"]).all() and (merged["page"] == merged["page_raw"]).all()
    assert predictions[["score_click", "score_buy"]].apply(lambda scores: scores.between(0, 1).all()).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dlrm", "dcn"])
def test_it_tells_rows_apart_and_is_hardly_above_the_base_rate(folders, name):
    predictions = pd.read_parquet(folders[name] / "predictions.parquet")
    truth, score = predictions["label_click"], predictions["score_click"]
    # Two passes over 1,500 rows of mostly noise: what is learned of single values is about lost again.
    assert log_loss(truth, score) < log_loss(truth, np.full(len(truth), truth.mean())) + 0.005
    assert auc(truth, score) > 0.55


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dlrm", "dcn"])
def test_it_leaves_the_files_of_a_run(folders, toy_spec, name):
    log = [json.loads(line) for line in (folders[name] / "training.jsonl").read_text().splitlines()]
    assert [(entry["round"], entry["step"], entry["epoch"]) for entry in log] == [(1, 30, 1.0), (2, 60, 2.0)]
    assert log[1]["loss"] < log[0]["loss"]
    assert log[0]["loss"] == pytest.approx(log[0]["metrics"]["click_loss"] + 0.5 * log[0]["metrics"]["buy_loss"])
    assert 0 < log[1]["valid"]["buy.log_loss"] < 1
    card = json.loads((folders[name] / "model.json").read_text())
    assert card["name"] == f"tfrs-{name}"
    parts = {part["name"]: part for part in card["parts"]}
    assert card["parameters"] == sum(part["parameters"] for part in card["parts"])
    # By hand: scenario, 5 looked-up features, 2 histories of 4 fields and the numbers, each a vector of 16; two tasks.
    vectors = 1 + 5 + 2 * 4 + 1
    if name == "dlrm":
        interaction, width, products = 0, vectors * (vectors - 1) // 2, vectors**2 * 16
    else:
        width = vectors * 16
        interaction, products = 3 * (width**2 + width), 3 * width**2
    width += 16
    assert parts["interaction"] == {"name": "interaction", "parameters": 2 * interaction, "flops": 2 * 2 * products}
    top = width * 512 + 512 + 512 * 256 + 256 + 256 + 1
    assert parts["top tower"]["parameters"] == 2 * top
    # The price, and the three numbers of the match.
    assert parts["bottom tower"]["parameters"] == 2 * (4 * 256 + 256 + 256 * 64 + 64 + 64 * 16 + 16)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dlrm", "dcn"])
def test_one_row_alone_gets_the_score_it_gets_among_others(trained, name):
    whole, alone = trained[1][name]["whole"], trained[1][name]["alone"]
    assert len(whole) == 3 and np.ptp(whole) > 0
    np.testing.assert_allclose(alone, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dlrm", "the TFRS baseline has no `train.early_stopping`: add  --set train.early_stopping=null"),
        ("dcn", "has no `train.precision`: add  --set train.precision=float32"),
    ],
)
def test_settings_it_would_ignore_are_refused(trained, name, message):
    assert message in trained[1][name]["refused"]


@pytest.mark.slow
def test_a_label_with_classes_is_refused(trained):
    assert "one logit per task, and label `stars` has classes: leave it out" in trained[1]["classes"]


def test_it_needs_a_process_of_its_own():
    done = run("-c", "import mixrank.pipeline.tfrs_baseline", TF_USE_LEGACY_KERAS="0")
    assert done.returncode == 1
    assert "use `mixrank tfrs-baseline`" in done.stderr
