"""OneTrans: its equations over one sequence, what sees what, and the pyramid."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mixrank.layers.mixing import without_masked
from mixrank.layers.models.onetrans import MixedBlock, OneTrans, mixed_block
from mixrank.layers.models.onetrans.onetrans import padding_first

SMALL = {
    "dim": 8,
    "num_tokens": 3,
    "num_layers": 3,
    "attention_heads": 2,
    "expansion": 2,
    "tokenizer_units": (5,),
    "token_units": (4,),
    "head_units": (6,),
}
RNG = np.random.default_rng(3)


def _norm(gain, x):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * gain


def _gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def _softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def _of_token(w, side, t):
    """Weights of a token: those of all events, or those of feature token t."""
    pick = (lambda x: x) if side == "s" else (lambda x: x[t])
    first, second = ("expand", "contract")
    names = ("query/kernel", "key_value/kernel", "output/kernel", f"ffn/{first}/kernel", f"ffn/{second}/kernel")
    biases = (f"ffn/{first}/bias", f"ffn/{second}/bias")
    found = {name: pick(w[f"{side}_{name}"]) for name in (*names, *biases) if f"{side}_{name}" in w}
    return {name: value[0] if "bias" in name and value.ndim == 2 else value for name, value in found.items()}


def _numpy_block(w, s, ns, keep, heads, ns_side):
    """One block on one row, token by token; `s` holds events alone, no padding."""
    tokens = [("s", t) for t in range(len(s))] + [(ns_side, t) for t in range(len(ns))]
    x = np.concatenate([s, ns]) if len(s) else ns
    dim = x.shape[1]
    normed = _norm(w["norm/scale"], x)
    own = [_of_token(w, side, t) for side, t in tokens]
    both = [n @ each["key_value/kernel"] for n, each in zip(normed, own, strict=True)]
    keys, values = np.array([b[:dim] for b in both]), np.array([b[dim:] for b in both])
    rows = []
    for i in range(len(s) - min(keep, len(s)), len(x)):
        if i < len(s) - keep:
            continue
        query, found = normed[i] @ own[i]["query/kernel"], np.zeros(dim)
        for head in np.split(np.arange(dim), heads):
            scores = keys[: i + 1, head] @ query[head] / np.sqrt(dim / heads)
            found[head] = _softmax(scores) @ values[: i + 1, head]
        z = x[i] + found @ own[i]["output/kernel"]
        hidden = _gelu(_norm(w["ffn_norm/scale"], z) @ own[i]["ffn/expand/kernel"] + own[i]["ffn/expand/bias"])
        rows.append(z + hidden @ own[i]["ffn/contract/kernel"] + own[i]["ffn/contract/bias"])
    rows = np.array(rows)
    return rows[: len(rows) - len(ns)], rows[len(rows) - len(ns) :]


def _numpy_onetrans(w, arguments, options, keys=("before", "within")):
    """Row by row: events of the past, oldest first, through blocks that keep the newest ones."""
    features, histories, _ = arguments
    merge, own = options.get("merge", "time"), options.get("ns_parameters", "own") == "own"
    separated = [
        k
        for i, k in enumerate(keys)
        if i and (merge == "intent" or k.partition("_")[0] == keys[i - 1].partition("_")[0])
    ]
    total = sum(histories[key]["mask"].shape[1] for key in keys) + len(separated)
    kept = {3: [total, math.ceil(total / 2), 0], 2: [total, 0], 1: [0]}[options.get("num_layers", 3)]
    if not options.get("pyramid", True):
        kept = [total] * (len(kept) - 1) + [0]
    rows = []
    for b in range(4):
        s = []
        for number, key in enumerate(keys):
            if key in separated:
                s.append(w["separators"][separated.index(key)])
            items, mask = histories[key]["items"][b], histories[key]["mask"][b]
            for item in items[mask][::-1]:
                hidden = np.maximum(item @ w[f"hidden_{key}/dense_0/kernel"] + w[f"hidden_{key}/dense_0/bias"], 0)
                token = hidden @ w[f"align_{key}/kernel"] + w[f"align_{key}/bias"]
                s.append(token + w["types"][number] if merge == "time" else token)
        s = np.array(s).reshape(-1, 8)
        if "positions" in w:
            s = s + w["positions"][total - len(s) :]
        vectors = np.concatenate([v[b] for group in ("user", "item", "context") for v in features[group]])
        hidden = np.maximum(vectors @ w["tokenizer/hidden_0/kernel"] + w["tokenizer/hidden_0/bias"], 0)
        ns = (hidden @ w["tokenizer/split/kernel"] + w["tokenizer/split/bias"]).reshape(3, 8)
        for index, keep in enumerate(kept):
            block = {k.split("/", 1)[1]: v for k, v in w.items() if k.startswith(f"block_{index}/")}
            s, ns = _numpy_block(block, s, ns, keep, 2, "ns" if own else "s")
        rows.append(_norm(w["norm/scale"], ns).reshape(-1))
    return np.array(rows)


@pytest.fixture
def several(arguments):
    """The last three of the seven long-term events in a history of their own."""
    features, histories, scenario = arguments
    before = histories["before"]
    parts = {
        "before": {name: x[:, :4] for name, x in before.items()},
        "before_orders": {name: x[:, 4:] for name, x in before.items()},
        "within": histories["within"],
    }
    return features, parts, scenario


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 1},
        {"merge": "intent"},
        {"pyramid": False, "position_embedding": True},
        {"ns_parameters": "shared"},
    ],
    ids=str,
)
def test_the_representation_follows_the_equations(options, arguments, randomize, arrays):
    layer = OneTrans(**{**SMALL, **options})
    layer(*arguments)
    randomize(layer, scale=0.3)
    expected = _numpy_onetrans(arrays(layer), arguments, options)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(layer(*arguments), expected, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"merge": "intent"}], ids=str)
def test_histories_of_one_window_stand_one_after_the_other(options, several, randomize, arrays):
    layer = OneTrans(**{**SMALL, **options})
    layer(*several)
    randomize(layer, scale=0.3)
    keys = ("before", "before_orders", "within")
    expected = _numpy_onetrans(arrays(layer), several, options, keys)
    np.testing.assert_allclose(layer(*several), expected, atol=1e-4)


def test_padding_goes_first_and_the_rest_keeps_its_order():
    x = np.arange(8, dtype="float32").reshape(2, 4, 1)
    moved, valid = padding_first(x, np.array([[True, False, True, False], [False, True, True, True]]))
    assert np.array(moved)[..., 0].tolist() == [[1, 3, 0, 2], [4, 5, 6, 7]]
    assert np.array(valid).tolist() == [[False, False, True, True], [False, True, True, True]]


def test_the_pyramid_ends_with_the_newest_event_whatever_the_padding(arguments, randomize):
    """An event of today reaches the last blocks also where most of the real-time history is padding."""
    layer = OneTrans(**SMALL)
    layer(*arguments)
    randomize(layer)
    assert layer.lengths(layer.widths) == [10, 10, 5, 0]
    _, histories, _ = arguments
    s, valid = layer.events(histories)
    # Rows have 0, 1 + 3, 4 + 2 and 7 + 1 events.
    assert np.array(valid).sum(axis=1).tolist() == [0, 4, 6, 8]
    assert np.array(valid)[1:, -4:].all()
    newest = histories["within"]["items"][2, 0]
    token = layer.align["within"](layer.hidden["within"](newest[None, None]))[0, 0] + layer.types[1]
    np.testing.assert_allclose(s[2, -1], token, atol=1e-5)


def test_an_event_reaches_newer_events_and_all_feature_tokens_only():
    block = MixedBlock(heads=2, keep=4)
    ns, s = RNG.normal(size=(1, 3, 8)).astype("float32"), RNG.normal(size=(1, 5, 8)).astype("float32")
    valid = np.ones((1, 5), bool)

    def moved(ns_change, s_change):
        before, after = block(ns, s, valid), block(ns + ns_change, s + s_change, valid)
        return [
            np.flatnonzero(np.abs(np.array(y) - np.array(x))[0].max(axis=1) > 1e-6).tolist()
            for x, y in zip(before[:2], after[:2], strict=True)
        ]

    third, second = np.zeros_like(s), np.zeros_like(ns)
    third[0, 2], second[0, 1] = 1, 1
    # Of five events the last four go on, so the third is the second of them.
    assert moved(np.zeros_like(ns), third) == [[0, 1, 2], [1, 2, 3]]
    assert moved(second, np.zeros_like(s)) == [[1, 2], []]


@pytest.mark.parametrize("preset", ["tiny", pytest.param("small", marks=pytest.mark.slow)])
def test_a_fresh_model_does_not_attend_evenly(preset, arguments, monkeypatch):
    """Scores of feature tokens for the events spread in every block, from vectors as small as fresh embeddings."""
    seen = []

    def spied(scores, mask):
        seen.append(np.array(scores))
        return without_masked(scores, mask)

    monkeypatch.setattr(mixed_block, "without_masked", spied)
    features, histories, scenario = arguments
    features = {group: [0.05 * v for v in vectors] for group, vectors in features.items()}
    full = {key: {"items": 0.05 * x["items"], "mask": np.ones_like(x["mask"])} for key, x in histories.items()}
    OneTrans.from_preset(preset, num_layers=2, tokenizer_units=(32,))(features, full, scenario)
    # Of each block those for events, then those for feature tokens.
    of_events = seen[::2]
    assert [scores.shape[-1] for scores in of_events] == [10, 10]
    assert all(scores.std(axis=-1).mean() > 0.1 for scores in of_events)


def test_without_a_history_features_are_left(arguments):
    features, _, scenario = arguments
    layer = OneTrans(**SMALL)
    assert np.std(layer(features, {}, scenario)) > 0.1
    assert sum(part.parameters for part in layer.parts()) == layer.count_params()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 1, "dropout": 0.3},
        {"merge": "intent", "position_embedding": True},
        {"pyramid": False, "token_units": (), "tokenizer_units": ()},
        {"ns_parameters": "shared"},
    ],
    ids=str,
)
@pytest.mark.parametrize("given", ["arguments", "several"])
def test_every_option_counts_its_parameters_and_learns(given, options, request, check_backbone):
    check_backbone(OneTrans, {**SMALL, **options}, request.getfixturevalue(given))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention_heads": 3}, "`attention_heads` must divide `dim` 8, received 3"),
        ({"num_tokens": 0}, "`num_tokens` must be at least 1, received 0"),
        ({"num_layers": 0}, "`num_layers` must be at least 1, received 0"),
        ({"merge": "rank"}, "`merge` must be time or intent, received 'rank'"),
        ({"ns_parameters": "mixed"}, "`ns_parameters` must be own or shared, received 'mixed'"),
    ],
)
def test_values_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        OneTrans(**{**SMALL, **options})


def test_a_block_cannot_keep_more_events_than_it_gets():
    with pytest.raises(ValueError, match="`keep` must be at most the number of events 5, received 6"):
        MixedBlock(heads=2, keep=6)(np.ones((1, 3, 8)), np.ones((1, 5, 8)), np.ones((1, 5), bool))
