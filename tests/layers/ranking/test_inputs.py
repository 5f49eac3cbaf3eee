"""A spec's columns become model inputs and tables."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mixrank.layers.ranking import build_ranker, model_inputs, shared_fields, table_sizes, widths
from mixrank.schemas import Categorical, History, Vector


def test_every_transformed_column_is_an_input(spec):
    inputs = model_inputs(spec)
    shapes = {name: (tensor.dtype, tensor.shape[1:]) for name, tensor in inputs.items()}
    one = ("int64", ())
    assert shapes == {
        "place": one,
        "person": one,
        "age": ("float32", ()),
        "clip": one,
        "tag": ("int64", (2,)),
        "seconds": one,
        "country": one,
        "past_clip": ("int64", (5,)),
        "past_tag": ("int64", (10,)),
        "past_action": ("int64", (5,)),
        "past_gap": ("int64", (5,)),
        "today_clip": ("int64", (3,)),
        "today_tag": ("int64", (6,)),
        "today_action": ("int64", (3,)),
        "today_gap": ("int64", (3,)),
        "had": ("float32", (3,)),
    }
    assert all(tensor.name == name for name, tensor in inputs.items())


def test_tables_hold_padding_and_what_the_feature_can_say(spec, sizes):
    # place: missing, 2 values, unknown; seconds: missing, 4 buckets; action: padding, 2**2 masks; gap: padding, 8.
    assert table_sizes(spec, sizes) == {**sizes, "place": 4, "seconds": 5, "action": 5, "gap": 9}


def test_a_missing_size_is_named(spec, sizes):
    del sizes["tag"]
    with pytest.raises(ValueError, match="`sizes` lacks the categorical feature `tag` of toy"):
        table_sizes(spec, sizes)


def test_a_misspelt_size_gets_the_nearest_name(spec, sizes):
    with pytest.raises(ValueError, match="'cilp', which is not a categorical feature of toy; did you mean `clip`?"):
        table_sizes(spec, {**sizes, "cilp": 3})


def test_the_candidate_shares_ids_and_vectors_with_events_but_no_single_number(spec):
    past, _ = spec.histories
    assert shared_fields(spec, past) == {"past_clip": "clip", "past_tag": "tag"}
    more = (
        Vector("look", group="item", dim=4),
        Categorical("query", group="event", dim=3),
        History("asked", of=("clip", "look", "query", "gap"), length=4, window="within"),
        History("searched", of=("query",), length=2, window="within"),
    )
    wider = spec.model_copy(update={"features": (*spec.features, *more)})
    found = {history.name: shared_fields(wider, history) for history in wider.histories}
    assert found["asked"] == {"asked_clip": "clip", "asked_look": "look"} and found["searched"] == {}
    assert widths(wider).shared == {"before": (6, 3), "within": (6, 3), "within_asked": (6, 4)}


def test_an_event_of_the_candidate_itself_moves_the_score_of_that_candidate_alone(spec, sizes, make_rows):
    model = build_ranker(spec, sizes, "mtgr", {"num_layers": 1}, "tiny")
    layer = model.get_layer("interest_past")
    rows = make_rows(model, batch=6)
    rows["past_clip"] = np.full((6, 5), 2)
    rows["clip"] = np.array([2, 2, 2, 1, 1, 1])
    strengths = keras.Model(model.input, layer.output)(rows).numpy()[:, 0]
    events = (rows["past_action"] > 0).sum(axis=1)
    np.testing.assert_allclose(strengths[:3], np.log1p(events[:3]), rtol=1e-5)
    assert np.all(strengths[3:] < strengths[:3].max())


def test_what_candidate_and_events_both_lack_is_not_alike(spec, sizes, make_rows):
    model = build_ranker(spec, sizes, "mtgr", {"num_layers": 1}, "tiny")
    rows = make_rows(model, batch=2)
    known = {"past_clip": 1, "past_action": 1, "past_gap": 1, "past_tag": 0}
    rows |= {name: np.full_like(rows[name], value) for name, value in known.items()}
    rows["tag"] = np.array([[0, 0], [1, 2]])
    strengths = keras.Model(model.input, model.get_layer("interest_past").output)(rows).numpy()
    assert np.all(strengths[:, 1] == 0) and np.all(strengths[:, 0] > 0)
