"""What a history says about the candidate."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mixrank.layers.tokens import TargetInterest

RNG = np.random.default_rng(4)
CANDIDATE = [RNG.normal(size=(3, 4)).astype("float32"), RNG.normal(size=(3, 2)).astype("float32")]
EVENTS = [RNG.normal(size=(3, 5, 4)).astype("float32"), RNG.normal(size=(3, 5, 2)).astype("float32")]
VALID = np.arange(5) < np.array([5, 0, 3])[:, None]
# The third event lacks the second field.
KNOWN = [VALID, VALID & (np.arange(5) != 2)]


def _cosine(a, b):
    return a @ b / np.sqrt(max(a @ a, 1e-6) * max(b @ b, 1e-6))


def _expected(candidate, events, known, sharpness):
    rows = []
    for b in range(len(candidate[0])):
        near = [
            [np.exp(sharpness[f] * (_cosine(c[b], e[b, t]) - 1)) for t in np.flatnonzero(m[b])]
            for f, (c, e, m) in enumerate(zip(candidate, events, known, strict=True))
        ]
        rows.append([np.log(1 + sum(of_field)) for of_field in near])
    return np.array(rows)


def test_it_follows_the_equation(check_layer):
    layer = check_layer(TargetInterest, {"sharpness": 3.0}, CANDIDATE, EVENTS, KNOWN, parameters=2)
    layer.sharpness_of.assign([[2.0], [5.0]])
    found = np.array(layer(CANDIDATE, EVENTS, KNOWN))
    np.testing.assert_allclose(found, _expected(CANDIDATE, EVENTS, KNOWN, [2.0, 5.0]), atol=1e-5)


def test_equal_vectors_are_counted_however_short_they_are():
    """Rows of a fresh table: the candidate's own id twice among five events."""
    rows = np.random.default_rng(0).normal(0, 0.05, (6, 16)).astype("float32")
    events = rows[[1, 0, 2, 0, 3]][None]
    found = np.array(TargetInterest(sharpness=40.0)([rows[:1]], [events], [np.ones((1, 5), bool)]))
    np.testing.assert_allclose(found, [[np.log(3)]], atol=1e-3)


def test_an_empty_history_says_nothing_and_padding_is_never_read():
    layer = TargetInterest()
    found = np.array(layer(CANDIDATE, EVENTS, KNOWN))
    np.testing.assert_array_equal(found[1], 0)
    garbage = [np.where(known[:, :, None], x, 1e3).astype("float32") for x, known in zip(EVENTS, KNOWN, strict=True)]
    np.testing.assert_allclose(layer(CANDIDATE, garbage, KNOWN), found, atol=1e-5)


def test_only_the_sharpness_learns_from_it(gradients):
    layer = TargetInterest()
    vectors = [tf.Variable(x) for x in (*CANDIDATE, *EVENTS)]
    with tf.GradientTape() as tape:
        found = tf.reduce_sum(layer(vectors[:2], vectors[2:], KNOWN))
    assert tape.gradient(found, vectors) == [None] * 4
    zeros = [np.zeros_like(x) for x in CANDIDATE]
    (gradient,) = gradients(layer, layer.trainable_variables, zeros, EVENTS, KNOWN)
    assert np.all(np.isfinite(gradient))


def test_candidates_of_one_request_share_its_events():
    layer = TargetInterest()
    repeated = [[np.repeat(x[2:], 3, axis=0) for x in each] for each in (EVENTS, KNOWN)]
    one = layer(CANDIDATE, [x[2:] for x in EVENTS], [x[2:] for x in KNOWN])
    np.testing.assert_allclose(one, layer(CANDIDATE, *repeated), atol=1e-5)


@pytest.mark.parametrize(
    ("events", "widths"), [(EVENTS[:1], r"\[4, 2\], \[4\]"), (EVENTS[::-1], r"\[4, 2\], \[2, 4\]")]
)
def test_other_fields_are_refused(events, widths):
    with pytest.raises(ValueError, match=f"must have the same fields, received the widths {widths}"):
        TargetInterest()(CANDIDATE, events, KNOWN)
