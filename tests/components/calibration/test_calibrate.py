"""Which rows a curve is fitted on, what a config may ask, and the figures before and after."""

import numpy as np
import pytest

from mixrank.components.calibration import Calibration, calibration_error, fit, quality, sentence
from mixrank.components.training import TrainSettings
from mixrank.schemas import Label


@pytest.fixture(scope="module")
def columns():
    """Rows of three scenarios of the toy log, whose logits are off by another number in each; the last one is small."""
    rng = np.random.default_rng(4)
    scenario = rng.choice([1, 2, 3], 9000, p=[0.5, 0.45, 0.05])
    truth = rng.normal(size=9000)
    found = {"scenario": scenario}
    for task in ("click", "buy"):
        found[f"label_{task}"] = (rng.random(9000) < 1 / (1 + np.exp(-truth))).astype(np.float32)
        found[f"logit_{task}"] = truth + scenario
    # Rows that do not count for the task.
    found["label_buy"][::3] = np.nan
    return found


def test_one_curve_is_fitted_on_the_rows_that_count(columns, toy_spec):
    found = fit(Calibration(method="platt"), toy_spec, columns)
    assert (found["click"].rows, found["buy"].rows) == (9000, 6000)
    assert found["click"].by_id(5) == (found["click"].curve,)
    assert -2 < found["buy"].curve.values[0] < -1


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_scenario_with_rows_enough_has_a_curve_of_its_own(columns, toy_spec, method):
    settings = Calibration(method=method, per_scenario=True, tasks=("click",))
    found = fit(settings, toy_spec, columns)
    assert set(found) == {"click"} and set(found["click"].scenarios) == {1, 2}
    curves = found["click"].by_id(5)
    assert curves[0] == curves[3] == curves[4] == found["click"].curve
    for number in (1, 2):
        # The shift of its own logits is taken back.
        np.testing.assert_allclose(curves[number].of(number + np.array([-1.0, 0, 1])), [-1, 0, 1], atol=0.25)


def test_equal_labels_change_nothing(toy_spec):
    rows = {"scenario": np.ones(5, int), "label_click": np.ones(5), "logit_click": np.arange(5.0)}
    found = fit(Calibration(method="platt", tasks=("click",)), toy_spec, rows)
    np.testing.assert_array_equal(found["click"].curve.of(np.arange(5.0)), np.arange(5.0))


def test_the_error_is_the_distance_of_means_in_bins_of_equal_size():
    rng = np.random.default_rng(0)
    predictions = np.sort(rng.random(300))
    labels = (rng.random(300) < predictions**2).astype(int)
    by_hand = np.mean([abs(labels[i : i + 20].mean() - predictions[i : i + 20].mean()) for i in range(0, 300, 20)])
    assert calibration_error(labels, predictions) == pytest.approx(by_hand, abs=1e-12)
    assert np.isnan(calibration_error([], []))


def test_figures_are_in_the_units_of_loss_and_label():
    labels, predictions = np.array([1000.0, 3000.0, np.nan]), np.array([2000.0, 3000.0, 7.0])
    found = quality(Label("watched", kind="watch_time", scale=1000), labels, predictions)
    y, p = labels[:2] / 1000, predictions[:2] / 1000
    assert found["loss"] == pytest.approx(np.mean((1 + y) * np.log1p(p) - y * np.log(p)))
    assert found["ratio"] == pytest.approx(1.25)
    assert found["error"] == pytest.approx(500)
    below = quality(Label("score", kind="regression"), np.array([-1.0, 2.0]), np.array([0.0, 1.0]))
    assert np.isnan(below["ratio"]) and below["loss"] == 1
    said = sentence(Label("score", kind="regression"), below, {**below, "loss": 0.5})
    assert said == "score mean squared error 1.0000 -> 0.5000, error 1.0000 -> 1.0000"


def test_a_method_alone_is_a_calibration():
    assert TrainSettings(calibration="isotonic").calibration == Calibration(method="isotonic")
    with pytest.raises(ValueError, match="'platt' or 'isotonic'"):
        TrainSettings(calibration="plat")


def test_the_split_that_it_is_fitted_on_is_not_trained_on(toy_spec):
    with pytest.raises(ValueError, match="`calibration` is fitted on a split that is not trained on: leave `valid`"):
        TrainSettings(calibration="platt", splits=["train", "valid"])
    with pytest.raises(ValueError, match="`calibration` needs a `valid` split, and this dataset has none"):
        TrainSettings(calibration="platt").check(toy_spec, ["train", "eval"])


def test_a_task_that_cannot_be_calibrated_is_named(toy_spec):
    splits = ["train", "valid", "eval"]
    with pytest.raises(ValueError, match="`calibration.tasks` names `clik`, .* did you mean `click`"):
        TrainSettings(calibration={"method": "platt", "tasks": ["clik"]}).check(toy_spec, splits)
    labels = (Label("click"), Label("score", kind="regression"))
    spec = type(toy_spec)(**{**dict(toy_spec), "labels": labels, "features": toy_spec.features[:5]})
    settings = TrainSettings(calibration="platt", loss={"score": "huber", "click": "focal"})
    with pytest.raises(ValueError, match="task `score` is trained by huber to predict something else"):
        settings.check(spec, splits)
    settings.model_copy(update={"calibration": Calibration(method="platt", tasks=("click",))}).check(spec, splits)


def test_a_task_without_one_logit_is_left_out_or_refused(toy_spec):
    stars = Label("stars", kind="ordinal", classes=(1, 2, 3))
    spec = type(toy_spec)(**{**dict(toy_spec), "labels": (Label("click"), stars), "features": toy_spec.features[:5]})
    splits = ["train", "valid", "eval"]
    settings = TrainSettings(calibration="platt")
    settings.check(spec, splits)
    assert [label.name for label in spec.labels if settings.calibration.covers(label)] == ["click"]
    named = settings.model_copy(update={"calibration": Calibration(method="platt", tasks=("stars",))})
    alone = spec.model_copy(update={"labels": (stars,)})
    for refused, of in ((named, spec), (settings, alone)):
        with pytest.raises(ValueError, match="which task `stars` of kind ordinal does not have: leave it out"):
            refused.check(of, splits)
