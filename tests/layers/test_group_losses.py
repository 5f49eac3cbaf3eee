"""Losses of the order of rows, against loops over their pairs and lists."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from mixrank.layers import losses

NAMES = ("pairwise", "listwise", "jrc")


@pytest.fixture
def batch():
    rng = np.random.default_rng(5)
    groups = rng.integers(0, 4, 24)
    labels = rng.integers(0, 2, 24).astype(np.float32)
    labels[[3, 11]] = np.nan
    # A group of one class, and one row that is alone in its group.
    labels[groups == 2], groups[7], labels[7] = 1, 9, 1
    return np.stack([labels, groups], axis=1).astype(np.float32), rng.normal(size=24).astype(np.float32)


def by_hand(name, y, group, z):
    found, count = 0.0, 0
    rows = range(len(y))
    for i in rows:
        own = [j for j in rows if group[j] == group[i]]
        if name == "pairwise":
            for j in own:
                if y[i] > y[j]:
                    found, count = found + np.log1p(np.exp(z[j] - z[i])), count + 1
        elif name == "listwise" and y[i]:
            found, count = found - z[i] + np.log(sum(np.exp(z[j]) for j in own)), count + 1
        elif name == "jrc":
            s = 1 if y[i] else -1
            found, count = found - s * z[i] / 2 + np.log(sum(np.exp(s * z[j] / 2) for j in own)), count + 1
    return found / count


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_loss_of_groups_is_its_formula(batch, name, alpha):
    labels, logits = batch
    known = np.isfinite(labels[:, 0])
    y, group, z = labels[known, 0], labels[known, 1], logits[known]
    each = np.logaddexp(0, z) - y * z
    expected = (1 - alpha) * each.sum() / len(labels) + alpha * by_hand(name, y, group, z)
    loss = losses.load(name, {"alpha": alpha})
    for given in (logits, logits[:, None]):
        assert float(loss(labels, given)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_row_moves_nothing_and_large_logits_stay_finite(batch, name):
    labels, logits = batch
    z = keras.Variable(100 * logits)
    with tf.GradientTape() as tape:
        value = losses.load(name)(labels, z.value)
    slopes = tape.gradient(value, z.value).numpy()
    assert np.isfinite(float(value)) and np.isfinite(slopes).all()
    assert (slopes[[3, 11]] == 0).all() and np.abs(slopes).sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_order_across_groups_does_not_count(batch, name):
    labels, logits = batch
    loss, moved = losses.load(name, {"alpha": 1.0}), logits + 3 * labels[:, 1]
    # A group whose logits all move keeps its order; JRC's second list and pairs know differences alone.
    assert float(loss(labels, moved.astype(np.float32))) == pytest.approx(float(loss(labels, logits)), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_anything_to_compare_has_the_loss_0(name):
    labels = np.array([[np.nan, 0], [np.nan, 0]], np.float32)
    assert float(losses.load(name)(labels, np.ones(2, np.float32))) == 0


def test_groups_and_options_are_checked():
    assert losses.group_of("pairwise", {}) == losses.group_of("jrc", {"within": "user"}) == "user"
    assert losses.group_of("focal", {}) is None
    with pytest.raises(ValueError, match="`within` of the loss `jrc` is 'users'; did you mean `user`"):
        losses.check("jrc", {"within": "users"})
    with pytest.raises(ValueError, match="the loss `listwise` is for labels of kind binary, not count"):
        losses.check("listwise", {}, "count")
    with pytest.raises(ValueError, match="`alpha` of PairwiseLoss must be in .0, 1., received 2"):
        losses.load("pairwise", {"alpha": 2})
