"""Relevance of events to the candidate, and the events of the highest."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from mixrank.layers.tokens import HardRelevance, SoftRelevance, count_search, most_relevant

RNG = np.random.default_rng(2)
# An author and up to two tags; 0 is missing.
CANDIDATE = [np.array([4, 4, 0]), np.array([[7, 0], [0, 0], [8, 7]])]
EVENTS = [
    np.array([[4, 3, 4, 0], [4, 0, 2, 0], [0, 4, 0, 0]]),
    np.array([[[7, 8], [8, 7], [8, 0], [0, 0]], [[0, 0], [7, 0], [0, 0], [0, 0]], [[0, 0], [8, 7], [7, 0], [0, 0]]]),
]
VECTORS = [RNG.normal(size=(3, 4)).astype("float32"), RNG.normal(size=(3, 2)).astype("float32")]
OF_EVENTS = [RNG.normal(size=(3, 4, 4)).astype("float32"), RNG.normal(size=(3, 4, 2)).astype("float32")]
VALID = np.arange(4) < np.array([3, 4, 0])[:, None]
KNOWN = [VALID, VALID & (np.arange(4) != 1)]


def test_hard_relevance_counts_the_fields_with_a_value_in_common():
    found = HardRelevance()(CANDIDATE, EVENTS, np.ones((3, 4), bool))
    assert found.dtype == "int32"
    # Neither a missing author nor a missing tag is like another.
    assert np.array(found).tolist() == [[2, 1, 1, 0], [1, 0, 0, 0], [0, 1, 1, 0]]
    assert np.array(HardRelevance()(CANDIDATE, EVENTS, np.arange(4) < [[1], [0], [4]]))[:2].tolist() == [
        [2, 0, 0, 0],
        [0, 0, 0, 0],
    ]


def test_soft_relevance_is_the_mean_cosine_in_steps():
    found = np.array(SoftRelevance()(VECTORS, OF_EVENTS, KNOWN))
    for b in range(3):
        for t in range(4):
            cosines = [
                c[b] @ e[b, t] / np.linalg.norm(c[b]) / np.linalg.norm(e[b, t])
                for c, e, known in zip(VECTORS, OF_EVENTS, KNOWN, strict=True)
                if known[b, t]
            ]
            expected = 1 + (sum(cosines) / 2 + 1) * 5000 if cosines else 0
            assert abs(found[b, t] - expected) <= 0.51
    assert found[0].min() == 0 < found[0, :3].min()


def test_equal_vectors_are_equally_relevant_however_long_they_are():
    events = np.concatenate([x * VECTORS[0][:, None, :] for x in (1.0, 0.01, 3.0, -2.0)], axis=1).astype("float32")
    found = np.array(SoftRelevance()(VECTORS[:1], [events], [np.ones((3, 4), bool)]))
    assert found.tolist() == [[10001, 10001, 10001, 1]] * 3


@pytest.mark.parametrize(
    ("layer", "own", "theirs"),
    [(HardRelevance(), CANDIDATE, [EVENTS, VALID]), (SoftRelevance(), VECTORS, [OF_EVENTS, KNOWN])],
    ids=["hard", "soft"],
)
def test_candidates_of_one_request_are_compared_with_its_events(layer, own, theirs):
    change = keras.tree.map_structure
    one = layer(own, *change(lambda x: x[:1], theirs))
    expected = np.array(layer(own, *change(lambda x: np.repeat(x[:1], 3, axis=0), theirs)))
    assert np.array(one).tolist() == expected.tolist() and expected.any()
    symbols = change(lambda x: keras.Input(x.shape[1:], dtype=str(x.dtype)), [own, *theirs])
    model = keras.Model(symbols, layer(*symbols))
    again = keras.Model.from_config(model.get_config())
    assert again.output.dtype == "int32" and again.output.shape == (None, 4)
    assert np.array(again([own, *theirs])).tolist() == np.array(layer(own, *theirs)).tolist()


def test_other_fields_are_refused():
    with pytest.raises(ValueError, match="must have the same fields, received 2 and 1"):
        HardRelevance()(CANDIDATE, EVENTS[:1], VALID)
    with pytest.raises(ValueError, match=r"must have the same fields, received the widths \[4, 2\], \[2, 4\]"):
        SoftRelevance()(VECTORS, OF_EVENTS[::-1], KNOWN)


def test_what_soft_search_compares_is_counted():
    layer = SoftRelevance()
    layer(VECTORS, OF_EVENTS, KNOWN)
    assert layer.parts() == [count_search((4, 2), 4)] and layer.parts()[0].flops == 2 * 4 * 6


RELEVANCE = np.array([[1, 3, 0, 3, 1], [0, 0, 0, 0, 0], [0, 2, 0, 0, 9]], "int32")
ITEMS = np.arange(15, dtype="float32").reshape(3, 5, 1)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_most_relevant_come_first_and_the_newest_of_equals(compiled):
    run = tf.function(lambda *x: most_relevant(*x, 3), jit_compile=compiled)
    items, found = run(ITEMS, RELEVANCE)
    assert np.array(found).tolist() == [[True, True, True], [False] * 3, [True, True, False]]
    assert np.array(items)[np.array(found)].ravel().tolist() == [1, 3, 0, 14, 11]


def test_a_shorter_history_is_sorted_and_nothing_added():
    items, found = most_relevant(ITEMS, RELEVANCE, 8)
    assert items.shape == (3, 5, 1) and np.array(found).sum(axis=1).tolist() == [4, 0, 2]


def test_each_candidate_finds_its_own_events_of_its_request():
    request_of = np.array([2, 0])
    items, found = most_relevant(ITEMS, RELEVANCE[[0, 2]], 2, request_of)
    assert np.array(items)[..., 0].tolist() == [[11, 13], [4, 1]] and np.array(found).all()


def test_ten_thousand_equal_events_are_told_apart_by_their_age():
    relevance = np.full((1, 10_000), 10_001, "int32")
    items, _ = most_relevant(np.arange(10_000, dtype="float32")[None, :, None], relevance, 4)
    assert np.array(items).ravel().tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="at most 214705 events to be searched, received 214706"):
        most_relevant(np.zeros((1, 214_706, 1), "float32"), np.zeros((1, 214_706), "int32"), 4)


def test_what_was_found_sends_its_gradient_to_its_events_alone():
    items = tf.Variable(ITEMS)
    with tf.GradientTape() as tape:
        found, mask = most_relevant(items, RELEVANCE, 2)
        total = tf.reduce_sum(found * tf.cast(mask, "float32")[..., None])
    gradient = tf.convert_to_tensor(tape.gradient(total, items)).numpy()[..., 0]
    assert gradient.tolist() == [[0, 1, 0, 1, 0], [0] * 5, [0, 1, 0, 0, 1]]
