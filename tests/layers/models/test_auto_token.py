"""Learned grouping and learned mixing: selection, gradients, permutations, and how matrices start."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mixrank.layers.base import PerToken
from mixrank.layers.mixing import block_transpose
from mixrank.layers.models.mtmixatt import AutoToken, LearnedMixing, Rotation


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, 3 * 5),
        ({"grouping": "random", "seed": 3}, 3 * 5),
        ({"grouping": "manual", "groups": ((0, 4), (1, 2), (3, 0))}, 3 * 5),
    ],
)
def test_auto_token_passes_the_harness(options, parameters, check_layer):
    layer = check_layer(AutoToken, {"tokens": 3, "keep": 2, **options}, _normal(2, 5, 4), parameters=parameters)
    assert layer(_normal(2, 5, 4)).shape == (2, 3, 8)


def test_one_kept_field_is_copied_exactly():
    layer, x = AutoToken(tokens=3, keep=1), _normal(2, 5, 4)
    output = np.array(layer(x))
    kept = np.argmax(np.array(layer.logits), axis=1)
    np.testing.assert_array_equal(output, x[:, kept])


def test_only_kept_logits_get_a_gradient_and_a_token_s_gradients_cancel(gradients):
    layer, x = AutoToken(tokens=4, keep=3), _normal(6, 7, 2)
    layer(x)
    (gradient,) = gradients(layer, [layer.logits], x)
    kept = np.argsort(-np.array(layer.logits), axis=1)[:, :3]
    inside = np.zeros((4, 7), bool)
    np.put_along_axis(inside, kept, True, axis=1)
    assert np.all(gradient[inside] != 0) and np.all(gradient[~inside] == 0)
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-5)


def test_two_kept_logits_that_cross_change_nothing_but_their_weights():
    """Fields stand in the order of their index: the same fields in other places would be another token."""
    layer, x = AutoToken(tokens=1, keep=2), _normal(2, 5, 4)
    layer(x)
    outputs = []
    for difference in (1e-6, -1e-6):
        layer.logits.assign([[-1.0, 0.3, -1.0, 0.3 + difference, -1.0]])
        outputs.append(np.array(layer(x)))
    np.testing.assert_allclose(*outputs, atol=1e-5)
    np.testing.assert_allclose(outputs[0][:, 0], np.concatenate([x[:, 1], x[:, 3]], axis=1) / 2, atol=1e-5)


def test_random_groups_deal_out_every_field_and_repeat_by_seed():
    layers = [AutoToken(tokens=4, keep=3, grouping="random", seed=seed) for seed in (1, 1, 2)]
    found = []
    for layer in layers:
        layer(_normal(2, 11, 4))
        indices = np.array(layer.selection()[0])
        assert all(len(set(token)) == 3 for token in indices) and set(indices.ravel()) == set(range(11))
        found.append(indices.tolist())
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learned_groups_start_from_the_random_ones_of_their_seed(seed):
    """12 tokens of 4 of 43 fields, as on KuaiRand, where noise alone leaves out ten fields or more."""
    x = _normal(2, 43, 2)
    learned, random, noise = (
        AutoToken(tokens=12, keep=4, seed=seed, **options)
        for options in ({}, {"grouping": "random"}, {"head_start": 0.0})
    )
    for layer in (learned, random, noise):
        layer(x)
    groups, dealt = (np.sort(np.array(layer.selection()[0]), axis=1) for layer in (learned, random))
    np.testing.assert_array_equal(groups, dealt)
    assert np.all(learned.weight_of_fields().sum(axis=0) > 0)
    assert np.sum(noise.weight_of_fields().sum(axis=0) == 0) > 3
    # A field that was not dealt takes the place of one whose logit has fallen.
    logits = np.array(learned.logits)
    assert learned.replaced() == 0 and noise.replaced() is None and random.replaced() is None
    logits[0, dealt[0, 0]] = -1.0
    learned.logits.assign(logits)
    assert learned.replaced() == 1
    assert len(set(np.array(learned.selection()[0])[0]) - set(dealt[0])) == 1


def test_a_short_manual_group_leaves_zeros():
    layer, x = AutoToken(tokens=2, keep=3, grouping="manual", groups=((4,), (1, 3))), _normal(2, 5, 4)
    output = np.array(layer(x))
    np.testing.assert_allclose(output[:, 0, :4], x[:, 4], atol=1e-6)
    assert np.all(output[:, 0, 4:] == 0) and np.all(output[:, 1, 8:] == 0)
    assert np.all(layer.weight_of_fields()[0] == [0, 0, 0, 0, 1])


@pytest.mark.parametrize(
    "options", [{}, {"grouping": "random"}, {"grouping": "manual", "groups": ((4,), (1, 3), (0, 2))}], ids=str
)
def test_frozen_groups_give_the_same_tokens_and_read_no_weight(options, tmp_path):
    x = _normal(2, 5, 4)
    inputs = keras.Input((5, 4))
    layer = AutoToken(tokens=3, keep=2, **options)
    model = keras.Model(inputs, layer(inputs))
    layer.logits.assign(_normal(3, 5, seed=2))
    before, report = np.array(model(x)), layer.weight_of_fields()
    layer.freeze()
    np.testing.assert_allclose(model(x), before, atol=1e-6)
    np.testing.assert_allclose(layer.weight_of_fields(), report, atol=1e-6)
    assert model.trainable_variables == []
    model.save(tmp_path / "frozen.keras")
    loaded = keras.models.load_model(tmp_path / "frozen.keras")
    loaded.layers[-1].logits.assign(np.zeros((3, 5)))
    np.testing.assert_allclose(loaded(x), before, atol=1e-6)


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match="cannot keep 6 of 5 fields; lower the fields per token"):
        AutoToken(tokens=3, keep=6)(_normal(2, 5, 4))
    with pytest.raises(ValueError, match="`groups` must name fields from 0 to 4, received 5"):
        AutoToken(tokens=1, keep=2, grouping="manual", groups=((5, 1),))(_normal(2, 5, 4))


@pytest.mark.parametrize("start", ["orthogonal", "ones"])
def test_mixing_passes_the_harness(start, check_layer):
    check_layer(LearnedMixing, {"heads": 2, "start": start}, _normal(2, 5, 6), parameters=2 * 5 * 5)


def test_mixing_multiplies_every_head_by_its_matrix(randomize):
    layer, x = LearnedMixing(heads=3), _normal(2, 5, 6)
    layer(x)
    randomize(layer)
    expected = np.concatenate(
        [np.einsum("ij,bjc->bic", np.array(layer.kernel[h]), x[:, :, 2 * h : 2 * h + 2]) for h in range(3)], axis=2
    )
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


def test_a_permutation_of_pieces_is_the_fixed_shuffle_of_rankmixer():
    """M1: with H = tokens, block_transpose sends piece h of token t to token h; no matrix per head can do that, but
    with the pieces regrouped the shuffle is the same: token h of the result holds piece h of every token."""
    x = _normal(2, 3, 6)
    shuffled = np.array(block_transpose(x, 3))
    for h in range(3):
        np.testing.assert_array_equal(shuffled[:, h].reshape(2, 3, 2), x[:, :, 2 * h : 2 * h + 2])


def test_starts_do_what_their_names_say():
    x = _normal(2, 5, 6)
    np.testing.assert_allclose(LearnedMixing(heads=2, start="identity")(x), x, atol=1e-6)
    assert np.all(np.array(LearnedMixing(heads=2, start="zeros")(x)) == 0)
    ones = np.array(LearnedMixing(heads=2, start="ones")(x))
    assert np.linalg.matrix_rank(ones[0, :, :3], tol=1e-4) == 1
    turned = np.array(LearnedMixing(heads=2)(x))
    norms = [np.linalg.norm(y.reshape(2, 5, 2, 3), axis=(1, 3)) for y in (turned, x)]
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-4)


def test_rotations_have_determinant_one_and_differ_between_heads():
    drawn = np.array(PerToken(Rotation(), seed=1)((8, 4, 4)))
    np.testing.assert_allclose(np.linalg.det(drawn), 1, atol=1e-4)
    np.testing.assert_allclose(drawn @ drawn.transpose(0, 2, 1), np.broadcast_to(np.eye(4), (8, 4, 4)), atol=1e-5)
    assert len({round(float(m[0, 0]), 5) for m in drawn}) == 8
    # With the residual nothing is lost: no eigenvalue is -1.
    assert min(np.linalg.svd(m + np.eye(4), compute_uv=False).min() for m in drawn) > 1e-4
