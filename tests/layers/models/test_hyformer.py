"""HyFormer: its equations history by history, and its encoders."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mixrank.layers.mixing import masked_softmax
from mixrank.layers.models.hyformer import HistoryAttention, HyFormer, history_attention

SMALL = {
    "dim": 12,
    "num_tokens": 6,
    "num_queries": 2,
    "num_layers": 2,
    "attention_heads": 2,
    "hidden_dim": 20,
    "sequence_expansion": 1,
    "short_length": 3,
    "head_units": (6,),
}
KEYS = ("before", "within")
# Quick tests try the default encoder.
SHORT, SWIGLU = (pytest.param(name, marks=pytest.mark.slow) for name in ("short", "swiglu"))


def _norm(gain, x):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * gain


def _gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def _swiglu(w, name, x):
    gate = x @ w[f"{name}/gate/kernel"]
    return (x @ w[f"{name}/up/kernel"] * gate / (1 + np.exp(-gate))) @ w[f"{name}/down/kernel"]


def _attention(w, name, queries, events, heads=2):
    """Of one row; events hold no padding, and nothing is found where there are none."""
    dim = queries.shape[1]
    both = events @ w[f"{name}/key_value/kernel"]
    found = np.zeros_like(queries)
    for i, query in enumerate(queries @ w[f"{name}/query/kernel"]):
        for head in np.split(np.arange(dim), heads):
            e = np.exp(both[:, head] @ query[head] / np.sqrt(dim / heads))
            found[i, head] = e @ both[:, dim + head] / e.sum() if len(e) else 0
    return found @ w[f"{name}/output/kernel"]


def _encoder(w, name, events, encoder, short):
    """`short` counts places, which are the newest events since padding stands at the end."""
    if encoder != "swiglu":
        normed = _norm(w[f"{name}/norm/scale"], events)
        last = slice(None, short if encoder == "short" else None)
        events = events[last] + _attention(w, f"{name}/attention", normed[last], normed)
    return events + _swiglu(w, f"{name}/ffn", _norm(w[f"{name}/ffn_norm/scale"], events))


def _block(w, x, histories, options):
    decoded, tokens = [], len(x)
    for index in range(len(histories)):
        histories[index] = events = _encoder(w, f"encoder_{index}", histories[index], options["encoder"], 3)
        queries = x[2 * index : 2 * index + 2]
        normed = _norm(w[f"query_norm_{index}/scale"], queries), _norm(w[f"event_norm_{index}/scale"], events)
        decoded.append(queries + _attention(w, f"decode_{index}", *normed))
    x = np.concatenate([*decoded, x[2 * len(histories) :]])
    normed = _norm(w["norm/scale"], x)
    for t in range(tokens):
        # Mixed token t joins piece t of every token.
        mixed = np.concatenate([np.split(token, tokens)[t] for token in normed])
        hidden = _gelu(mixed @ w["ffn/expand/kernel"][t] + w["ffn/expand/bias"][t, 0])
        x[t] = x[t] + hidden @ w["ffn/contract/kernel"][t] + w["ffn/contract/bias"][t, 0]
    return x


def _numpy_hyformer(w, arguments, options):
    features, histories, _ = arguments
    keys = [key for key in KEYS if key in histories]
    rows = []
    for b in range(4):
        vectors = np.concatenate([v[b] for group in ("user", "item", "context") for v in features[group]])
        kernel, bias = w["tokenizer/project/kernel"], w["tokenizer/project/bias"]
        pieces = np.pad(vectors, (0, kernel.shape[0] * kernel.shape[1] - len(vectors))).reshape(kernel.shape[:2])
        fields = np.array([piece @ kernel[t] + bias[t, 0] for t, piece in enumerate(pieces)])
        tokens, past = [], []
        for key in keys:
            items = histories[key]["items"][b][histories[key]["mask"][b]]
            events = items @ w[f"align_{key}/kernel"] + w[f"align_{key}/bias"]
            past.append(events)
            mean = events.mean(axis=0) if len(events) else np.zeros(12)
            info = np.concatenate([*fields, mean])
            for i in range(2):
                own = slice(12 * i, 12 * i + 12)
                hidden = np.maximum(info @ w[f"expand_{key}/kernel"][:, own] + w[f"expand_{key}/bias"][own], 0)
                tokens.append(hidden @ w[f"contract_{key}/kernel"][i] + w[f"contract_{key}/bias"][i, 0])
        x = np.array([*tokens, *fields])
        for index in range(2):
            block = {k.split("/", 1)[1]: v for k, v in w.items() if k.startswith(f"block_{index}/")}
            x = _block(block, x, past, options)
        rows.append(_norm(w["norm/scale"], x).reshape(-1))
    return np.array(rows)


@pytest.mark.parametrize("encoder", ["transformer", SHORT, SWIGLU])
def test_the_representation_follows_the_equations(encoder, arguments, randomize, arrays):
    options = {**SMALL, "encoder": encoder}
    layer = HyFormer(**options)
    layer(*arguments)
    randomize(layer, scale=0.3)
    expected = _numpy_hyformer(arrays(layer), arguments, options)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(layer(*arguments), expected, atol=1e-4)


@pytest.mark.parametrize("preset", ["tiny", pytest.param("small", marks=pytest.mark.slow)])
def test_a_fresh_model_does_not_attend_evenly(preset, arguments, monkeypatch):
    """Scores of events and queries for events spread in every block, from vectors as small as fresh embeddings."""
    seen = []

    def spied(scores, mask):
        seen.append(np.array(scores))
        return masked_softmax(scores, mask)

    monkeypatch.setattr(history_attention, "masked_softmax", spied)
    features, histories, scenario = arguments
    features = {group: [0.05 * v for v in vectors] for group, vectors in features.items()}
    full = {key: {"items": 0.05 * x["items"], "mask": np.ones_like(x["mask"])} for key, x in histories.items()}
    HyFormer.from_preset(preset, num_layers=2, hidden_dim=8)(features, full, scenario)
    # In each of two blocks the encoders of both histories, then the queries of both.
    assert [scores.shape[-1] for scores in seen] == [7, 3, 7, 3] * 2
    assert all(scores.std(axis=-1).mean() > 0.1 for scores in seen)


def test_attention_follows_its_equations(check_layer, arrays):
    rng = np.random.default_rng(5)
    queries, items = rng.normal(size=(2, 3, 4)).astype("float32"), rng.normal(size=(2, 5, 4)).astype("float32")
    valid = np.arange(5) < np.array([0, 4])[:, None]
    layer = check_layer(HistoryAttention, {"heads": 2}, queries, items, valid, parameters=4 * 16)
    w = {f"a/{name}": x for name, x in arrays(layer).items()}
    expected = [_attention(w, "a", q, x[m]) for q, x, m in zip(queries, items, valid, strict=True)]
    np.testing.assert_allclose(layer(queries, items, valid), expected, atol=1e-4)


def test_without_a_history_all_tokens_are_fields(arguments):
    features, _, scenario = arguments
    layer = HyFormer(**SMALL)
    assert np.std(layer(features, {}, scenario)) > 0.1
    assert sum(part.parameters for part in layer.parts()) == layer.count_params()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 1, "dropout": 0.3},
        {"num_queries": 1, "encoder": "short"},
        {"encoder": "swiglu"},
    ],
    ids=str,
)
def test_every_option_counts_its_parameters_and_learns(options, arguments, check_backbone):
    check_backbone(HyFormer, {**SMALL, **options}, arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention_heads": 5}, "`attention_heads` must divide `dim` 12, received 5"),
        ({"num_tokens": 5}, "`num_tokens` must divide `dim` 12, received 5"),
        ({"num_layers": 0}, "`num_layers` must be at least 1, received 0"),
        ({"encoder": "long"}, "`encoder` must be transformer, short or swiglu, received 'long'"),
    ],
)
def test_values_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HyFormer(**{**SMALL, **options})


def test_queries_that_leave_no_token_for_fields_are_refused(arguments):
    message = "`num_tokens` must leave a token for the fields: above the 6 queries of 2 histories, received 6"
    with pytest.raises(ValueError, match=message):
        HyFormer(**{**SMALL, "num_queries": 3})(*arguments)
