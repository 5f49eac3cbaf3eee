"""The frame of models that interact fields: which fields there are, in which order, and what they cost."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.backbone import FieldBackbone, TokenBackbone, Widths, all_vectors
from mixrank.layers.base import Part, per_candidate
from mixrank.layers.tokens import count_pooling

WIDTHS = Widths({"user": (5,), "item": (4, 3), "context": (2,)}, {"before": (7, 6), "within": (3, 9)})
ROWS = np.array([2, 0, 2, 3, 0])


class _Fields(FieldBackbone):
    """All fields side by side, nothing more."""

    def width(self, widths):
        return sum(self.field_widths(widths))

    def count(self, widths):
        return self.count_fields(widths)

    def call(self, features, histories, scenario, request_of=None):
        return np.concatenate([np.array(x) for x in self.fields(features, histories, request_of)], axis=1)


class _Tokens(TokenBackbone):
    def new_block(self, index):
        raise AssertionError("no blocks are asked for")


def _built(layer, arguments):
    features, histories, scenario = arguments
    layer.build(
        {group: [x.shape for x in vectors] for group, vectors in features.items()},
        {w: {name: x.shape for name, x in h.items()} for w, h in histories.items()},
        scenario.shape,
    )
    return layer


def test_fields_are_the_vectors_and_then_the_means_of_the_histories(arguments, mean_fields):
    features, histories, _ = arguments
    layer = _built(_Fields(), arguments)
    fields, expected = layer.fields(features, histories), mean_fields(features, histories)
    assert len(fields) == len(expected) == 6
    for found, wanted in zip(fields, expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert layer.widths == WIDTHS
    assert layer.field_widths(WIDTHS) == tuple(x.shape[1] for x in fields) == (5, 4, 3, 2, 6, 9)


@pytest.mark.parametrize("pooling", ["mean", "target"])
@pytest.mark.parametrize("declared", [(), ("before",), ("within",)])
def test_a_history_that_the_spec_does_not_declare_is_no_field(pooling, declared, arguments):
    features, histories, scenario = arguments
    histories = {window: histories[window] for window in declared}
    layer = _built(_Fields(pooling=pooling), (features, histories, scenario))
    widths = WIDTHS._replace(histories={window: WIDTHS.histories[window] for window in declared})
    fields = layer.fields(features, histories)
    assert layer.field_widths(widths) == tuple(x.shape[1] for x in fields)
    assert sum(part.parameters for part in layer.count(widths)) == layer.count_params()


def test_target_attention_asks_with_all_vectors_of_the_candidate(arguments, randomize):
    features, histories, _ = arguments
    layer = _built(_Fields(pooling="target"), arguments)
    randomize(layer)
    *_, before, within = (np.array(x) for x in layer.fields(features, histories))
    for index in range(2):
        other = [x + 1 if i == index else x for i, x in enumerate(features["item"])]
        *_, moved_before, moved_within = layer.fields({**features, "item": other}, histories)
        assert np.abs(moved_before - before)[1:].min() > 1e-6 and np.abs(moved_within - within)[1:].min() > 1e-6
    user = {**features, "user": [x + 1 for x in features["user"]]}
    np.testing.assert_array_equal(layer.fields(user, histories)[-1], within)
    # The first row has no history, whatever is asked.
    np.testing.assert_array_equal(before[0], 0)
    assert layer.count(WIDTHS) == [
        count_pooling("target", 7, 6, query=7),
        count_pooling("target", 3, 9, query=7),
    ]


@pytest.mark.parametrize("pooling", ["mean", "target"])
def test_the_fields_of_a_request_are_repeated_for_its_candidates(pooling, arguments, randomize):
    features, histories, _ = arguments
    layer = _built(_Fields(pooling=pooling), arguments)
    randomize(layer)
    items = [np.random.default_rng(w).normal(size=(5, w)).astype("float32") for w in (4, 3)]
    found = layer.fields({**features, "item": items}, histories, ROWS)
    expanded = {group: [x[ROWS] for x in vectors] for group, vectors in features.items()}
    each = {window: {name: x[ROWS] for name, x in history.items()} for window, history in histories.items()}
    for a, b in zip(found, layer.fields({**expanded, "item": items}, each), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_only_the_item_has_a_row_per_candidate(arguments):
    features, _, _ = arguments
    item = [np.ones((5, 4), "float32")]
    vectors = all_vectors({**features, "item": item}, ROWS)
    np.testing.assert_array_equal(vectors[0], features["user"][0][ROWS])
    np.testing.assert_array_equal(vectors[1], item[0])
    np.testing.assert_array_equal(vectors[2], features["context"][0][ROWS])


def test_a_request_may_have_no_candidate_and_no_rows_change_nothing():
    x = np.arange(8.0).reshape(4, 2)
    np.testing.assert_array_equal(per_candidate(x, ROWS), x[[2, 0, 2, 3, 0]])
    assert per_candidate(x, None) is x


def test_target_attention_without_features_of_the_item_says_what_to_declare(arguments):
    features, histories, scenario = arguments
    features = {**features, "item": []}
    with pytest.raises(ValueError, match='"target" needs features of group "item".*declare one or use "mean"'):
        _built(_Fields(pooling="target"), (features, histories, scenario))
    assert (
        _built(_Fields(pooling="mean"), (features, histories, scenario)).count(WIDTHS)
        == [Part("history pooling", 0, 0)] * 2
    )
    # Without a history nothing asks.
    _built(_Fields(pooling="target"), (features, {}, scenario))


def test_parameters_come_back_from_the_config():
    layer = _Fields(pooling="target", head_units=(4,), scenarios=(3, 7))
    again = _Fields.from_config(layer.get_config())
    assert (again.pooling, again.head_units, again.scenarios) == ("target", (4,), (3, 7))


@pytest.mark.parametrize(("tokenizer", "tokens"), [("fields", 6), ("split", 4)])
def test_tokens_are_fields_or_pieces_of_all_of_them(tokenizer, tokens, arguments):
    features, histories, _ = arguments
    options = {"dim": 3, "tokenizer": tokenizer, "num_tokens": 4, "num_layers": 0}
    layer = _built(_Tokens(**options), arguments)
    assert layer.tokens(features, histories).shape == (4, tokens, 3)
    assert layer.count_of_tokens(WIDTHS) == tokens
    parts = layer.count_tokenizer(WIDTHS)
    assert [part.name for part in parts] == ["history pooling", "history pooling", "tokenizer"]
    assert sum(part.parameters for part in parts) == layer.count_params()


def test_models_that_forget_a_method_are_told(arguments):
    with pytest.raises(NotImplementedError, match=r"_Fields has no new_block\(\)"):
        TokenBackbone.new_block(_Fields(), 0)
