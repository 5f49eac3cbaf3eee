"""What OneTrans and HyFormer do alike: several events make a token, and a request's events are computed once."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.mixing import long_attention
from mixrank.layers.models.hyformer import HyFormer
from mixrank.layers.models.onetrans import OneTrans

SIZES = {
    OneTrans: {"dim": 8, "num_tokens": 3, "num_layers": 3, "tokenizer_units": (5,), "token_units": (4,)},
    HyFormer: {"dim": 12, "num_tokens": 6, "num_queries": 2, "num_layers": 2, "hidden_dim": 20, "short_length": 3},
}
MERGED = {"events_per_token": 2}
every_model = pytest.mark.parametrize("make", SIZES, ids=lambda make: make.__name__)


def _built(make, options, arguments, randomize):
    layer = make(**{**SIZES[make], "attention_heads": 2, **options})
    layer(*arguments)
    randomize(layer, scale=0.3)
    return layer


@every_model
def test_a_token_holds_adjacent_events_side_by_side(make, arguments, randomize):
    """The same as a model with an event per token on histories that were merged before."""
    features, histories, scenario = arguments
    merged = {}
    for key, each in histories.items():
        items, mask = np.where(each["mask"][..., None], each["items"], 0), each["mask"]
        odd = items.shape[1] % 2
        items, mask = np.pad(items, ((0, 0), (0, odd), (0, 0))), np.pad(mask, ((0, 0), (0, odd)))
        merged[key] = {
            "items": np.concatenate([items[:, 0::2], items[:, 1::2]], axis=-1),
            "mask": mask[:, 0::2] | mask[:, 1::2],
        }
    found = _built(make, MERGED, arguments, randomize)
    plain = _built(make, {}, (features, merged, scenario), randomize)
    assert [w.shape for w in found.weights] == [w.shape for w in plain.weights]
    np.testing.assert_allclose(found(*arguments), plain(features, merged, scenario), atol=1e-5)


@pytest.mark.slow
@every_model
def test_merged_events_count_their_parameters_and_learn(make, arguments, check_backbone):
    check_backbone(make, {**SIZES[make], "attention_heads": 2, **MERGED}, arguments)


@pytest.mark.parametrize("requests", [1, 3])
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (OneTrans, {}),
        (OneTrans, {"ns_parameters": "shared", "merge": "intent"}),
        (OneTrans, MERGED),
        (HyFormer, {}),
        (HyFormer, MERGED),
        pytest.param(HyFormer, {"encoder": "short"}, marks=pytest.mark.slow),
        pytest.param(HyFormer, {"encoder": "swiglu"}, marks=pytest.mark.slow),
    ],
    ids=lambda each: each.__name__ if isinstance(each, type) else str(each),
)
def test_requests_give_the_same_as_a_request_per_candidate(requests, make, options, arguments, randomize):
    layer = _built(make, options, arguments, randomize)
    features, histories, scenario = arguments
    # With three requests the second has no candidate; the first has no history.
    rows = np.array([0, 0, 0, 0] if requests == 1 else [2, 0, 2, 0])
    pick = slice(0, requests) if requests > 1 else slice(3, 4)
    short = {group: [v if group == "item" else v[pick] for v in vectors] for group, vectors in features.items()}
    past = {window: {key: x[pick] for key, x in each.items()} for window, each in histories.items()}
    found = layer(short, past, scenario[pick], request_of=rows)
    expanded = {g: [v if g == "item" else v[rows] for v in vectors] for g, vectors in short.items()}
    past = {window: {key: x[rows] for key, x in each.items()} for window, each in past.items()}
    np.testing.assert_allclose(found, layer(expanded, past, scenario[pick][rows]), atol=1e-5)


@every_model
def test_attention_in_chunks_changes_neither_outputs_nor_gradients(make, arguments, randomize, gradients, monkeypatch):
    found = []
    for plain in (long_attention.PLAIN, 0):
        monkeypatch.setattr(long_attention, "PLAIN", plain)
        monkeypatch.setattr(long_attention, "CHUNK", 30)
        layer = _built(make, {}, arguments, randomize)
        found.append([np.array(layer(*arguments)), *gradients(layer, layer.trainable_variables, *arguments)])
    for whole, chunks in zip(*found, strict=True):
        np.testing.assert_allclose(chunks, whole, atol=1e-5 * max(1, np.abs(whole).max()))
