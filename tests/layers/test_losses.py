"""Losses by name: where they are found, what is refused, and what they are worth."""

from __future__ import annotations

import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from mixrank.layers import losses
from mixrank.layers.references import announced

MODULE = """
import keras


class Squared(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return keras.ops.mean((y_true - y_pred) ** 2, axis=-1)


LOSS = Squared()
OTHER, of_probabilities = 7, keras.losses.BinaryCrossentropy()
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A file with a loss, and an installed distribution that announces the same one."""
    (tmp_path / "outside_loss.py").write_text(MODULE)
    about = tmp_path / "installed" / "outside-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[mixrank.losses]\nsquared = outside_losses:LOSS\nwrong = outside_losses:OTHER\ngone = outside_losses:GONE\n"
    )
    (tmp_path / "installed" / "outside_losses.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "installed")
    announced.cache_clear()
    yield str(tmp_path / "outside_loss.py")
    announced.cache_clear()
    for name in ("outside_loss", "outside_losses"):
        sys.modules.pop(name, None)


def test_a_typo_is_answered_without_importing_keras():
    code = (
        "import sys\n"
        "from mixrank.layers import losses\n"
        "try:\n"
        "    losses.check('focl')\n"
        "except ValueError as error:\n"
        "    print('did you mean `focal`?' in str(error), 'keras' in sys.modules)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert answer.split() == ["True", "False"]


@pytest.mark.parametrize("reference", ["squared", "outside_losses.LOSS", None])
def test_a_loss_is_found_by_entry_point_dotted_path_and_file(outside, reference):
    reference = reference or outside
    losses.check(reference)
    assert "squared" in losses.names()
    assert losses.origin(reference) == (outside if reference == outside else "outside_losses")
    # As the Trainer gives them: a difference of these shapes would be (3, 3).
    labels, logits = np.array([[1], [0], [1]]), np.array([0.5, 2.0, 1.0], np.float32)
    assert float(losses.load(reference)(labels, logits)) == pytest.approx((0.25 + 4 + 0) / 3)


def test_focal_loss_weighs_a_row_by_the_square_of_its_error():
    labels, logits = np.array([[1], [0]]), np.array([[0.3], [-1.2]], np.float32)
    of_class = 1 / (1 + np.exp(-np.array([0.3, 1.2])))
    expected = np.mean(-((1 - of_class) ** 2) * np.log(of_class))
    assert float(losses.load("focal")(labels, logits)) == pytest.approx(expected, rel=1e-5)


def test_losses_of_mixrank_are_their_formulas():
    labels, logits = np.array([[1], [0], [1]], np.float32), np.array([0.3, -1.2, 2.0], np.float32)
    p = 1 / (1 + np.exp(-logits))
    smooth = labels[:, 0] * 0.8 + 0.1
    expected = {
        ("focal", ("gamma", 1.5), ("alpha", 0.3)): np.where(
            labels[:, 0] > 0, -0.3 * (1 - p) ** 1.5 * np.log(p), -0.7 * p**1.5 * np.log(1 - p)
        ),
        ("label_smoothing", ("epsilon", 0.2)): -smooth * np.log(p) - (1 - smooth) * np.log(1 - p),
    }
    y, z = np.array([[0.5], [-3.0], [2.2]], np.float32), np.array([0.3, 1.0, 2.0], np.float32)
    error = np.abs(y[:, 0] - z)
    expected_of_numbers = {
        ("huber", ("delta", 0.4)): np.where(error <= 0.4, error**2 / 2, 0.4 * (error - 0.2)),
        ("quantile", ("q", 0.8)): np.where(y[:, 0] > z, 0.8 * error, 0.2 * error),
    }
    for (name, *options), values in expected.items():
        assert float(losses.load(name, dict(options))(labels, logits)) == pytest.approx(values.mean(), rel=1e-5)
    for (name, *options), values in expected_of_numbers.items():
        assert float(losses.load(name, dict(options))(y, z)) == pytest.approx(values.mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("focal", {"gama": 1}), "the loss `focal` has no option `gama`; did you mean `gamma`"),
        (("huber", {}, "binary"), "the loss `huber` is for labels of kind regression, not binary"),
        (("squared", {"q": 1}), "the loss `squared` takes no options: make it with them where `LOSS` is defined"),
    ],
)
def test_options_and_kinds_that_a_loss_does_not_have_are_refused(outside, given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        losses.check(*given)


@pytest.mark.parametrize(
    ("name", "options"),
    [("focal", {"gamma": -1}), ("focal", {"alpha": 1}), ("label_smoothing", {"epsilon": 0}), ("huber", {"delta": 0}),
     ("quantile", {"q": 1})],
)  # fmt: skip
def test_an_option_out_of_bounds_is_refused(name, options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` of .* must be .*, received"):
        losses.load(name, options)


def test_the_logit_of_the_whole_log_is_learned_from_kept_negatives():
    # Of 1,000 rows 200 positives; a quarter of the 800 negatives is kept.
    labels = np.repeat([[1.0], [0.0]], 200, axis=0).astype(np.float32)
    loss = losses.of_kept(keras.losses.BinaryCrossentropy(from_logits=True), 0.25)
    grid = np.linspace(-3, 1, 401)
    found = [float(loss(labels, np.full(400, z, np.float32))) for z in grid]
    assert grid[np.argmin(found)] == pytest.approx(np.log(0.2 / 0.8), abs=0.011)
    shifted = keras.losses.BinaryCrossentropy(from_logits=True)(
        labels, np.full((400, 1), 1.0 - np.log(0.25), np.float32)
    )
    assert float(loss(labels, np.full(400, 1.0, np.float32))) == pytest.approx(float(shifted), rel=1e-6)


def test_rows_with_an_unknown_label_count_as_zero_and_move_nothing():
    loss = losses.of_known(keras.losses.BinaryCrossentropy(from_logits=True))
    labels, logits = np.array([[1], [np.nan], [0]], np.float32), keras.Variable([0.3, 5.0, -1.2])
    with tf.GradientTape() as tape:
        value = loss(labels, logits.value)
    expected = (np.log1p(np.exp(-0.3)) + np.log1p(np.exp(-1.2))) / 3
    assert float(value) == pytest.approx(expected, rel=1e-6)
    slopes = [(1 / (1 + np.exp(-0.3)) - 1) / 3, 0, 1 / (1 + np.exp(1.2)) / 3]
    np.testing.assert_allclose(tape.gradient(value, logits.value), slopes, rtol=1e-5)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("focl", "there is no loss `focl`; did you mean `focal`?"),
        ("nowhere.py", "loss file nowhere.py does not exist"),
        ("no_such_package.LOSS", "there is no module `no_such_package` for the loss `no_such_package.LOSS`: is its"),
        ("outside_losses.LOS", "outside_losses.py must define `LOS`, a keras.losses.Loss, for the loss"),
        ("gone", "outside_losses.py must define `GONE`, a keras.losses.Loss, for the loss `gone`"),
    ],
)
def test_a_loss_that_is_not_there_is_refused_unimported(outside, reference, message):
    with pytest.raises(ValueError) as error:
        losses.check(reference)
    assert message in str(error.value)
    assert "outside_losses" not in sys.modules


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("wrong", "loss `wrong` must be an instance of keras.losses.Loss, such as MyLoss(), received 7"),
        ("outside_losses.Squared", "such as MyLoss(), received <class 'outside_losses.Squared'>"),
        ("outside_losses.of_probabilities", "takes probabilities, and a model gives logits: use from_logits=True"),
    ],
)
def test_what_is_no_loss_of_logits_is_refused(outside, reference, message):
    with pytest.raises(ValueError) as error:
        losses.load(reference)
    assert message in str(error.value)
