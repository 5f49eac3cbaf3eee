"""One request with its candidates gets the scores of its rows; what is wrong with it is named."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from mixrank.components.training import vocabulary_sizes
from mixrank.layers.ranking import build_ranker
from mixrank.schemas import Categorical, FeatureSpec
from mixrank.schemas.encode import PADDING, columns, encode, newest
from mixrank.serving.export import request_and_item, signatures, to_columns, to_request_columns
from mixrank.serving.export.signatures import export, request_columns

TASKS = ("click", "buy")
REQUEST = {"page": "home", "person": 3, "country": "se", "age": 31.0, "taste": [0.5, -1.0]}
EVENTS = {
    "global_clip": ["v1", "", "v3"],
    "global_tag": ["v1", "v2", "", "v3", "", "", "", "", ""],
    "global_action": [1, 3, 2],
    "global_gap": [5, 50, -1],
    "realtime_clip": ["v2"],
    "realtime_tag": ["v2", "", ""],
    "realtime_action": [2],
    "realtime_gap": [7],
}
ITEMS = [
    {
        "clip": "v4",
        "tag": ["v1", "v2"],
        "tag_weight": [0.5, 2.0],
        "price": 3.5,
        "seconds": 2.0,
        "look": [1.0, 2.0, -3.0],
    },
    {"clip": "v5", "tag": [], "price": None},
    {"clip": "never seen", "tag": ["never seen"], "price": -1e30},
]


def ask(loaded, signature, given):
    answer = loaded[signature](**{name: tf.constant(value) for name, value in given.items()})
    return {task: answer[task].numpy() for task in TASKS}


def rank(toy_export, spec, request, items, **changes):
    return ask(toy_export.signatures, "rank_candidates", to_request_columns(spec, request, items) | changes)


def by_rows(toy_export, spec, request, items):
    return ask(toy_export.signatures, "score_rows", to_columns(spec, [request | item for item in items]))


def assert_same(one, other, atol=1e-5):
    for task in TASKS:
        np.testing.assert_allclose(one[task], other[task], atol=atol, rtol=0)


CASES = {
    "full": REQUEST | EVENTS,
    "nothing optional": {"page": "cart", "person": 3},
    "an unknown scenario and an unseen user": REQUEST | EVENTS | {"page": "somewhere else", "person": 10**12},
    "one history": REQUEST | {name: values for name, values in EVENTS.items() if name.startswith("realtime")},
    "histories longer than the model reads": REQUEST | {name: values * 4 for name, values in EVENTS.items()},
}


@pytest.mark.parametrize("candidates", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_candidates_get_the_scores_of_their_rows(toy_export, toy_spec, case, candidates):
    got = rank(toy_export, toy_spec, CASES[case], ITEMS[:candidates])
    assert got["click"].shape == got["buy"].shape == (candidates, 1) and got["click"].dtype == np.float32
    assert_same(got, by_rows(toy_export, toy_spec, newest(toy_spec, CASES[case]), ITEMS[:candidates]))


def test_logged_rows_are_ranked_as_the_model_in_memory_scores_them(toy_export, toy_scores, toy_spec, toy_data):
    rows = toy_data.rows["eval"]
    for index in (0, 4, 11):
        request, item = request_and_item(toy_spec, rows[index])
        others = [request_and_item(toy_spec, row)[1] for row in rows[20:26]]
        got = rank(toy_export, toy_spec, request, [*others, item])
        assert got["click"].std() > 1e-4
        for task in TASKS:
            np.testing.assert_allclose(got[task][-1], toy_scores[task][index], atol=1e-5)


def test_the_signature_takes_a_request_without_and_items_with_an_axis(toy_export, toy_spec):
    taken = toy_export.signatures["rank_candidates"].structured_input_signature[1]
    shapes = {name: (spec.shape.as_list(), spec.dtype) for name, spec in taken.items()}
    assert shapes == {name: (spec.shape.as_list(), spec.dtype) for name, spec in request_columns(toy_spec).items()}
    assert shapes["page"] == shapes["country"] == ([], tf.string) and shapes["age"] == ([], tf.float32)
    assert shapes["global_tag"] == ([None], tf.string) and shapes["realtime_gap"] == ([None], tf.int64)
    assert shapes["clip"] == ([None], tf.string) and shapes["tag"] == ([None, 3], tf.string)
    assert shapes["price"] == ([None], tf.float32)
    assert shapes["look"] == ([None, 3], tf.float32) and shapes["taste"] == ([2], tf.float32)


@pytest.mark.parametrize("length", [0, 1, 2, 9])
def test_histories_may_have_any_length(toy_export, toy_spec, length):
    clips = [f"v{i}" for i in range(length)]
    given = {
        "global_clip": np.array([clip.encode() for clip in clips], dtype=object).reshape(-1),
        "global_tag": np.array([b"v1"] * (3 * length), dtype=object),
        "global_tag_weight": np.full(3 * length, 2, "float32"),
        "global_action": np.ones(length, "int64"),
        "global_gap": np.arange(length, dtype="int64"),
    }
    if not length:
        given |= {name: tf.zeros([0], tf.string) for name in ("global_clip", "global_tag")}
    got = rank(toy_export, toy_spec, REQUEST, ITEMS, **given)
    kept = clips[:6]
    history = {
        "global_clip": kept,
        "global_tag": ["v1"] * (3 * len(kept)),
        "global_tag_weight": [2.0] * (3 * len(kept)),
        "global_action": [1] * len(kept),
        "global_gap": list(range(len(kept))),
    }
    assert_same(got, by_rows(toy_export, toy_spec, REQUEST | history, ITEMS))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_counts_as_missing(toy_export, toy_spec, number):
    request, items = REQUEST | {"age": None}, [item | {"price": None} for item in ITEMS]
    expected = rank(toy_export, toy_spec, request, items)
    prices = np.full(3, number, "float32")
    assert_same(rank(toy_export, toy_spec, request, items, age=np.float32(number), price=prices), expected)


@pytest.mark.parametrize("column", ["page", "person", "clip"])
def test_a_missing_required_column_is_named(toy_export, toy_spec, column):
    missing = {"page": b"", "person": np.int64(PADDING["int"]), "clip": np.array([b"v4", b"", b"v5"], dtype=object)}
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"required column `{column}` is missing"):
        rank(toy_export, toy_spec, REQUEST, ITEMS, **{column: missing[column]})


def test_columns_of_different_numbers_of_candidates_are_named(toy_export, toy_spec):
    for prices in (np.ones(1, "float32"), np.ones(4, "float32")):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"column `price` must have shape \(candidates,\)"):
            rank(toy_export, toy_spec, REQUEST, ITEMS, price=prices)


def test_no_candidates_get_no_scores(toy_export, toy_spec):
    none = {"clip": tf.zeros([0], tf.string), "tag": tf.zeros([0, 3], tf.string), "look": tf.zeros([0, 3])}
    none["tag_weight"] = tf.zeros([0, 3])
    none |= {name: tf.zeros([0]) for name in ("price", "seconds")}
    assert rank(toy_export, toy_spec, REQUEST, ITEMS, **none)["click"].shape == (0, 1)


def test_transform_gets_one_row_of_the_request_whatever_the_candidates(toy_spec):
    counting = SimpleNamespace(answer=lambda ranker, raw, checks: {name: x.nrows() for name, x in raw.items()})
    rank_candidates = signatures._request_signature(toy_spec, counting, None)
    given = to_request_columns(toy_spec, REQUEST | EVENTS, [ITEMS[0]] * 203)
    answer = rank_candidates(**{name: tf.constant(value) for name, value in given.items()})
    rows = {name: int(count) for name, count in answer.items()}
    assert rows == {name: 203 if name in {*ITEMS[0]} else 1 for name in given}


@pytest.fixture
def broken(toy_export):
    """Signatures of the exported model with a NaN among its weights, in the head of `buy`."""
    # Loaded anew: others ask the session's.
    loaded = tf.saved_model.load(str(toy_export.folder))
    (place,) = [i for i, v in enumerate(toy_export.model.variables) if v.path.endswith("buy/logit/bias")]
    loaded.weights[place].assign([np.nan])
    return loaded.signatures


@pytest.mark.slow
def test_a_model_that_is_not_finite_fails_the_request_and_names_the_task(broken, toy_spec):
    row = REQUEST | ITEMS[0]
    feeds = {
        "serving_default": {"examples": [encode(toy_spec, row)]},
        "score_rows": to_columns(toy_spec, [row]),
        "rank_candidates": to_request_columns(toy_spec, REQUEST, ITEMS),
    }
    for signature, feed in feeds.items():
        with pytest.raises(tf.errors.InvalidArgumentError, match="no finite score for task `buy`"):
            ask(broken, signature, feed)


@pytest.mark.slow
def test_a_log_without_items_features_is_exported_without_candidates(toy_spec, toy_transform, tmp_path):
    users = tuple(f for f in toy_spec.features if isinstance(f, Categorical) and f.group == "user" and f.table is None)
    bare = FeatureSpec(**{**dict(toy_spec), "features": users})
    assert not any(column.candidate for column in columns(bare))
    sizes = {name: vocabulary_sizes(toy_spec, toy_transform)[name] for name in ("person", "country")}
    model = build_ranker(bare, sizes, model="dcnv2", preset="tiny")
    export(tmp_path / "model", spec=bare, model=model, transform_output=toy_transform)
    assert set(tf.saved_model.load(str(tmp_path / "model")).signatures) == {"serving_default", "score_rows"}
