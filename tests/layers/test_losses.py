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


NAN = np.nan
# A cart is given a click, an order a cart.
GIVEN = {"cart": "click", "order": "cart"}


def test_the_entire_space_has_every_row_and_the_product_of_the_probabilities():
    labels = {
        "click": np.array([[0], [1], [1], [1]], np.float32),
        "cart": np.array([[NAN], [0], [1], [NAN]], np.float32),
        "order": np.array([[NAN], [NAN], [1], [NAN]], np.float32),
    }
    rng = np.random.default_rng(2)
    logits = {task: rng.normal(size=4).astype("float32") for task in labels}
    p = {task: 1 / (1 + np.exp(-z)) for task, z in logits.items()}
    y, z = losses.over_entire_space(labels, logits, GIVEN, ("order",))
    assert y["click"] is labels["click"] and y["cart"] is labels["cart"] and z["cart"] is logits["cart"]
    # The last row has a click, and nobody knows whether a cart came of it.
    np.testing.assert_array_equal(np.ravel(y["order"]), [0, 0, 1, NAN])
    np.testing.assert_allclose(1 / (1 + np.exp(-np.array(z["order"]))), p["click"] * p["cart"] * p["order"], rtol=1e-5)
    y, z = losses.over_entire_space(labels, logits, GIVEN, ("cart",))
    np.testing.assert_array_equal(np.ravel(y["cart"]), [0, 0, 1, NAN])
    np.testing.assert_allclose(1 / (1 + np.exp(-np.array(z["cart"]))), p["click"] * p["cart"], rtol=1e-5)


def _entire(labels, logits):
    loss = losses.of_known(keras.losses.BinaryCrossentropy(from_logits=True))
    y, z = losses.over_entire_space(labels, logits, {"buy": "click"}, ("buy",))
    return sum(loss(y[task], z[task]) for task in ("click", "buy"))


def test_the_gradient_over_the_entire_space_is_that_of_esmm_by_hand():
    a, b = (tf.Variable(z) for z in (np.array([0.4, -0.3, 1.1], "float32"), np.array([0.2, -0.9, -0.5], "float32")))
    # No click; a click without a purchase; a click and a purchase.
    labels = {"click": np.array([[0], [1], [1]], "float32"), "buy": np.array([[NAN], [0], [1]], "float32")}
    with tf.GradientTape() as tape:
        value = _entire(labels, {"click": a, "buy": b})
    p, q = (1 / (1 + np.exp(-np.array(z, "float64"))) for z in (a, b))
    click, both = np.array([0, 1, 1]), np.array([0, 0, 1])
    logs = click * np.log(p) + (1 - click) * np.log(1 - p) + both * np.log(p * q) + (1 - both) * np.log(1 - p * q)
    assert float(value) == pytest.approx(-logs.mean(), rel=1e-5)
    # d/da log(p q) = 1 - p, d/da log(1 - p q) = -p q (1 - p) / (1 - p q), and so for b.
    odds = (1 - both) * p * q / (1 - p * q) - both
    found = tape.gradient(value, (a, b))
    np.testing.assert_allclose(found[0], (p - click + odds * (1 - p)) / 3, rtol=1e-4)
    np.testing.assert_allclose(found[1], odds * (1 - q) / 3, rtol=1e-4)
    # Without a click the purchase is learned, too: its logit falls.
    assert found[1][0] > 0


@pytest.mark.parametrize("size", [40.0, 90.0, 1e4])
def test_extreme_logits_over_the_entire_space_have_finite_losses_and_slopes(size):
    signs = np.array([-1, 1, -1, 1], "float32") * size, np.array([-1, -1, 1, 1], "float32") * size
    a, b = (tf.Variable(z.astype("float32")) for z in signs)
    labels = {"click": np.array([[0], [0], [1], [1]], "float32"), "buy": np.array([[NAN], [NAN], [0], [1]], "float32")}
    with tf.GradientTape() as tape:
        value = _entire(labels, {"click": a, "buy": b})
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(slope)) for slope in tape.gradient(value, (a, b)))


@pytest.mark.slow
def test_selection_misleads_clicks_alone_and_not_the_entire_space():
    """Purchases are linear in x where clicks are, and fall where clicks are rare; the model of purchases is a line."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-3, 3, 20_000).astype("float32")
    p, q = 1 / (1 + np.exp(-(1.5 * x - 1))), 1 / (1 + np.exp(-(1.0 - 0.6 * x * x)))
    click = (rng.random(x.size) < p).astype("float32")[:, None]
    buy = np.where(click > 0, (rng.random(x.size) < q)[:, None], NAN).astype("float32")

    def purchases_per_row(objective) -> float:
        """Log loss of the product over all rows, after a line for each logit was fitted."""
        w = tf.Variable(np.zeros((2, 2), "float32"))
        optimizer = keras.optimizers.Adam(0.05)
        optimizer.build([w])

        @tf.function
        def step():
            with tf.GradientTape() as tape:
                logits = {"click": w[0, 0] * x + w[0, 1], "buy": w[1, 0] * x + w[1, 1]}
                value = objective({"click": click, "buy": buy}, logits)
            optimizer.apply([tape.gradient(value, w)], [w])

        for _ in range(400):
            step()
        (a, b), (c, d) = np.array(w, "float64")
        product = 1 / (1 + np.exp(-(a * x + b))) / (1 + np.exp(-(c * x + d)))
        return float(-np.mean(p * q * np.log(product) + (1 - p * q) * np.log(1 - product)))

    def naive(labels, logits):
        loss = losses.of_known(keras.losses.BinaryCrossentropy(from_logits=True))
        return sum(loss(labels[task], logits[task]) for task in logits)

    best = float(-np.mean(p * q * np.log(p * q) + (1 - p * q) * np.log(1 - p * q)))
    alone, entire = purchases_per_row(naive), purchases_per_row(_entire)
    assert best < entire < alone


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
