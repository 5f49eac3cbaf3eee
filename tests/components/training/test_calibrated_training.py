"""A training with a calibration: what is exported, what is scored, and what the card says."""

import json

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from mixrank.components.calibration import Curve
from mixrank.components.training import TrainSettings, train_model
from mixrank.components.training.settings import ModelSettings, Optimizer

BASE = {
    "batch_size": 150,
    "optimizer": Optimizer(learning_rate=0.01),
    "replicas": 1,
    "shuffle_rows": 300,
    "jit_compile": "off",
}
CALIBRATION = {"method": "isotonic", "per_scenario": True, "min_rows": 35}


@pytest.fixture(scope="module")
def runs(toy_spec, toy_data, toy_transform, small_model, tmp_path_factory):
    """The same training without and with a calibration: folder, predictions, card."""
    found = {}
    for name, calibration in (("plain", None), ("calibrated", CALIBRATION)):
        folder = tmp_path_factory.mktemp(name)
        train_model(
            spec=toy_spec,
            model_settings=ModelSettings(**small_model),
            settings=TrainSettings(**BASE, calibration=calibration),
            patterns=toy_data.patterns(),
            transform_output=toy_transform,
            checkpoints=folder / "checkpoints",
            run_dir=folder / "run",
            export_dir=folder / "export" if calibration else None,
        )
        card = json.loads((folder / "run" / "model.json").read_text())
        found[name] = folder, pd.read_parquet(folder / "run" / "predictions.parquet"), card
    return found


def logit(scores):
    p = scores.to_numpy(np.float64)
    return np.log(p) - np.log1p(-p)


@pytest.mark.slow
def test_predictions_are_the_plain_ones_through_the_curves_of_their_scenario(runs):
    (_, plain, _), (_, calibrated, card) = runs["plain"], runs["calibrated"]
    assert card["calibration"]["method"] == "isotonic" and "calibration" not in runs["plain"][2]
    for task, found in card["calibration"]["tasks"].items():
        curves = {name: Curve(**curve) for name, curve in found["scenarios"].items()}
        assert curves if task == "click" else found["rows"] < 130
        for page, rows in plain.groupby("page"):
            curve = curves.get(page, Curve(**found["curve"]))
            before, after = logit(rows[f"score_{task}"]), logit(calibrated.loc[rows.index, f"score_{task}"])
            np.testing.assert_allclose(after, curve.of(before), atol=1e-4)
            # No two rows of a scenario change places.
            np.testing.assert_array_equal(np.argsort(before, kind="stable"), np.argsort(after, kind="stable"))


@pytest.mark.slow
def test_every_loader_and_signature_answers_calibrated(runs, toy_spec, toy_data):
    from mixrank.schemas.encode import encode
    from mixrank.serving.export import score_everywhere

    folder, predictions, _ = runs["calibrated"]
    rows = toy_data.rows["eval"]
    scores = score_everywhere(folder / "export", [encode(toy_spec, row) for row in rows])
    assert {name.split("/")[1] for name in scores} == {"serving_default", "score_rows", "rank_candidates"}
    by_time = predictions.set_index("at")
    for name, answer in scores.items():
        expected = by_time.loc[[row["at"] for row in rows[: len(answer)]], f"score_{name.rsplit('/', 1)[1]}"]
        np.testing.assert_allclose(answer[:, 0], expected, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_the_card_says_what_it_changed_on_the_evaluation_rows(runs):
    from sklearn.metrics import log_loss

    (_, plain, _), (_, calibrated, card) = runs["plain"], runs["calibrated"]
    found = card["calibration"]["tasks"]["click"]
    for when, frame in (("before", plain), ("after", calibrated)):
        labels, scores = frame["label_click"], frame["score_click"].astype(float)
        assert found[when]["loss"] == pytest.approx(log_loss(labels, scores), abs=1e-5)
        assert found[when]["ratio"] == pytest.approx(scores.sum() / labels.sum(), abs=1e-4)
    assert found["before"] != found["after"]


@pytest.mark.slow
def test_a_calibrated_model_is_saved_and_loaded_with_its_curves(toy_spec, toy_transform, build_small, tmp_path):
    from mixrank.components.training import vocabulary_sizes
    from mixrank.layers.ranking import calibrated, load, model_inputs

    model = build_small(vocabulary_sizes(toy_spec, toy_transform), seed=3)
    ranker = calibrated(toy_spec, model, {"click": (Curve(values=(0.5,), left=2.0, right=2.0).as_argument(),)})
    rows = {name: np.zeros((2, *each.shape[1:]), each.dtype) for name, each in model_inputs(toy_spec).items()}
    plain, after = model(rows), ranker(rows)
    np.testing.assert_allclose(after["click"], 2 * plain["click"] + 0.5, atol=1e-5)
    np.testing.assert_array_equal(after["buy"], plain["buy"])
    ranker.save(tmp_path / "ranker.keras")
    np.testing.assert_array_equal(load(tmp_path / "ranker.keras")(rows)["click"], after["click"])
    assert [v.path for v in ranker.variables] == [v.path for v in model.variables]
    assert tf.is_tensor(after["click"])
