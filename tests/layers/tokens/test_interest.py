"""What a history says about the candidate."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.tokens import TargetInterest, interest_width

RNG = np.random.default_rng(4)
CANDIDATE = [RNG.normal(size=(3, 4)).astype("float32"), RNG.normal(size=(3, 2)).astype("float32")]
EVENTS = [RNG.normal(size=(3, 5, 4)).astype("float32"), RNG.normal(size=(3, 5, 2)).astype("float32")]
ITEMS = RNG.normal(size=(3, 5, 7)).astype("float32")
VALID = np.arange(5) < np.array([5, 0, 3])[:, None]


def _cosine(a, b):
    return a @ b / np.sqrt(max(a @ a, 1e-6) * max(b @ b, 1e-6))


def _expected(candidate, events, items, valid, sharpness):
    rows = []
    for b in range(len(valid)):
        strengths, values = [], []
        for f in range(len(candidate)):
            near = [
                np.exp(sharpness[f] * (_cosine(candidate[f][b], events[f][b, t]) - 1)) if valid[b, t] else 0.0
                for t in range(valid.shape[1])
            ]
            strengths.append(np.log(1 + sum(near)))
            values.append(sum(n / (1 + sum(near)) * items[b, t] for t, n in enumerate(near)))
        rows.append(np.concatenate([strengths, *values]))
    return np.stack(rows)


def test_it_follows_the_equations(check_layer):
    layer = check_layer(TargetInterest, {"sharpness": 3.0}, CANDIDATE, EVENTS, ITEMS, VALID, parameters=2)
    layer.sharpness_of.assign([[2.0], [5.0]])
    found = np.array(layer(CANDIDATE, EVENTS, ITEMS, VALID))
    assert found.shape == (3, interest_width(2, 7))
    np.testing.assert_allclose(found, _expected(CANDIDATE, EVENTS, ITEMS, VALID, [2.0, 5.0]), atol=1e-5)


def test_equal_vectors_are_counted_however_short_they_are():
    """Rows of a fresh table: the candidate's own id twice among five events."""
    rows = np.random.default_rng(0).normal(0, 0.05, (6, 16)).astype("float32")
    events = rows[[1, 0, 2, 0, 3]][None]
    found = np.array(TargetInterest(sharpness=40.0)([rows[:1]], [events], ITEMS[:1], np.ones((1, 5), bool)))
    np.testing.assert_allclose(found[0, 0], np.log(3), atol=1e-3)
    np.testing.assert_allclose(found[0, 1:], (ITEMS[0, 1] + ITEMS[0, 3]) / 3, atol=1e-3)


def test_an_empty_history_says_nothing_and_padding_is_never_read(gradients):
    layer = TargetInterest()
    found = np.array(layer(CANDIDATE, EVENTS, ITEMS, VALID))
    np.testing.assert_array_equal(found[1], 0)
    garbage = np.where(VALID[:, :, None], ITEMS, 1e3).astype("float32")
    np.testing.assert_allclose(layer(CANDIDATE, EVENTS, garbage, VALID), found, atol=1e-5)
    zeros = [np.zeros_like(x) for x in CANDIDATE]
    for gradient in gradients(layer, layer.trainable_variables, zeros, EVENTS, ITEMS, VALID):
        assert np.all(np.isfinite(gradient))


def test_candidates_of_one_request_share_its_events():
    layer = TargetInterest()
    one = [x[2:] for x in EVENTS], ITEMS[2:], VALID[2:]
    repeated = [np.repeat(x, 3, axis=0) for x in one[0]], np.repeat(one[1], 3, axis=0), np.repeat(one[2], 3, axis=0)
    np.testing.assert_allclose(layer(CANDIDATE, *one), layer(CANDIDATE, *repeated), atol=1e-5)


@pytest.mark.parametrize(
    ("events", "widths"), [(EVENTS[:1], r"\[4, 2\], \[4\]"), (EVENTS[::-1], r"\[4, 2\], \[2, 4\]")]
)
def test_other_fields_are_refused(events, widths):
    with pytest.raises(ValueError, match=f"must have the same fields, received the widths {widths}"):
        TargetInterest()(CANDIDATE, events, ITEMS, VALID)
