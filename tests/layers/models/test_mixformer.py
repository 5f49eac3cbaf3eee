"""MixFormer and UI-MixFormer: their equations, their request path, their switches and sizes."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.backbone import Widths
from mixrank.layers.base import counts
from mixrank.layers.mixing import SwiGLU
from mixrank.layers.models.mixformer import MixFormer, MixFormerBlock
from mixrank.layers.registry import presets

SMALL = {
    "dim": 12,
    "num_heads": 4,
    "num_layers": 2,
    "query_expansion": 2,
    "sequence_dim": 24,
    "attention_heads": 2,
    "head_units": (6,),
}
UI = {**SMALL, "user_heads": 3}
ONE_BLOCK = {**SMALL, "num_layers": 1}
BOTH = pytest.mark.parametrize(
    "options", [SMALL, {**UI, "attention_norm": True}], ids=["MixFormer", "UI-MixFormer, normalized"]
)
ROWS = np.array([2, 0, 2, 4, 0, 2])


@pytest.fixture
def request_arguments():
    """Features, histories and scenario of 5 requests and 6 candidates, `ROWS`.

    Request 0 has no history, requests 1 and 3 have no candidate.
    """
    rng = np.random.default_rng(9)

    def normal(*shape):
        return rng.normal(size=shape).astype("float32")

    features = {"user": [normal(5, 5), normal(5, 1)], "item": [normal(6, 4), normal(6, 3)], "context": [normal(5, 2)]}
    histories = {
        "before": {"items": normal(5, 7, 6), "mask": np.arange(7) < np.array([0, 1, 4, 7, 5])[:, None]},
        "within": {"items": normal(5, 3, 9), "mask": np.arange(3) < np.array([0, 3, 2, 1, 0])[:, None]},
    }
    return features, histories, np.array([1, 2, 0, 1, 3])


def _expanded(arguments, rows=ROWS):
    features, histories, scenario = arguments
    features = {group: x if group == "item" else [v[rows] for v in x] for group, x in features.items()}
    histories = {window: {name: x[rows] for name, x in each.items()} for window, each in histories.items()}
    return features, histories, scenario[rows]


def _built(arguments, randomize, scale=0.3, **options):
    layer = MixFormer(**options)
    layer(*_expanded(arguments))
    randomize(layer, scale=scale)
    return layer


def _swiglu(x, w, name, head=None):
    up, gate, down = (w[f"{name}/{part}/kernel"] for part in ("up", "gate", "down"))
    if head is not None:
        up, gate, down = up[head], gate[head], down[head]
    g = x @ gate
    return (x @ up * (g / (1 + np.exp(-g)))) @ down


def _rms(x, gain):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6) * gain


def _slices(vectors, kernels):
    """(2): equal slices, zeros at the end, each with its own matrix."""
    e = np.concatenate(vectors)
    e = np.pad(e, (0, kernels.shape[0] * kernels.shape[1] - len(e)))
    return np.stack([piece @ kernel for piece, kernel in zip(np.split(e, len(kernels)), kernels, strict=True)])


def _numpy_mixformer(w, features, histories, *, dim, num_heads, num_layers, user_heads=None):
    """The representation by the paper's equations: one row, one head, one item at a time, with the mask M of (10)."""
    sides = [("heads", num_heads)] if user_heads is None else [("user_heads", user_heads), ("item_heads", 0)]
    first = sides[0][1]
    results = []
    for b in range(len(features["item"][0])):
        of = {group: [vector[b] for vector in vectors] for group, vectors in features.items()}
        if user_heads is None:
            x = _slices(of["user"] + of["item"] + of["context"], w["tokenizer/project/kernel"])
        else:
            user = _slices(of["user"] + of["context"], w["user_tokenizer/project/kernel"])
            x = np.concatenate([user, _slices(of["item"], w["item_tokenizer/project/kernel"])])
        s = [histories[n]["items"][b] @ w[f"align_{n}/kernel"] for n in ("within", "before")]
        s = np.concatenate(s)[np.concatenate([histories[n]["mask"][b] for n in ("within", "before")])]
        mask = np.ones((num_heads, dim))
        if user_heads is not None:
            mask[:user_heads, user_heads * dim // num_heads :] = 0
        for layer in range(num_layers):
            block = {name.split("/", 1)[1]: value for name, value in w.items() if name.startswith(f"block_{layer}/")}
            owner = [(sides[0][0], i) if i < first else (sides[1][0], i - first) for i in range(num_heads)]
            # (3), (10), (11)
            n = _rms(x, block["mixing_norm/scale"])
            mixed = np.zeros_like(x)
            piece = dim // num_heads
            for i in range(num_heads):
                for j in range(num_heads):
                    mixed[i, j * piece : (j + 1) * piece] = n[j, i * piece : (i + 1) * piece]
            p = mask * mixed + x
            # (4)
            n = _rms(p, block["query_norm/scale"])
            q = np.stack([_swiglu(n[i], block, f"query_{side}", k) for i, (side, k) in enumerate(owner)]) + p
            # (5), on the original items
            h = _swiglu(_rms(s, w[f"sequence_norm_{layer}/scale"]), w, f"sequence_ffn_{layer}") + s
            z = q.copy()
            for i, (side, k) in enumerate(owner):
                own = h[:, i * dim : (i + 1) * dim]
                asked, compared = q[i], own
                if f"attention_{side}/item_norm/scale" in block:
                    compared = _rms(own, block[f"attention_{side}/item_norm/scale"])
                    asked = _rms(q[i], block[f"attention_{side}/query_norm/scale"])
                # (6), (7)
                keys = compared @ block[f"attention_{side}/key"][k]
                values = own @ block[f"attention_{side}/value"][k]
                # (8)
                if len(own):
                    e = np.exp(keys @ asked / np.sqrt(dim))
                    z[i] += (e / e.sum()) @ values
            # (9)
            n = _rms(z, block["fusion_norm/scale"])
            x = np.stack([_swiglu(n[i], block, f"fusion_{side}", k) for i, (side, k) in enumerate(owner)]) + z
        results.append(_rms(x, w["final_norm/scale"]).ravel())
    return np.stack(results)


@BOTH
def test_the_representation_follows_the_equations(options, request_arguments, randomize, arrays):
    layer = _built(request_arguments, randomize, **options)
    row_arguments = _expanded(request_arguments)
    sizes = {name: options[name] for name in ("dim", "num_heads", "num_layers", "user_heads") if name in options}
    expected = _numpy_mixformer(arrays(layer), *row_arguments[:2], **sizes)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(layer(*row_arguments), expected, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"user_heads": 1, "history": "within"},
        {"position_embedding": True},
        {"head_mixing": "none"},
        {"head_mixing": "self_attention", "user_heads": 2},
        {"query_ffn": False, "history": "before"},
        {"seq_ffn": "shared", "num_layers": 2},
        {"fusion": "shared", "norm": "post_ln", "user_heads": 2},
        *(
            pytest.param(options, marks=pytest.mark.slow)
            for options in (
                {},
                {"user_heads": 3, "num_layers": 3},
                {"history": "before"},
                {"history": "within"},
                {"head_mixing": "self_attention"},
                {"query_ffn": False},
                {"fusion": "shared"},
                {"norm": "post_ln"},
                {"query_expansion": 3, "sequence_dim": 5},
            )
        ),
    ],
    ids=str,
)
def test_every_option_counts_its_parameters_learns_and_comes_back_from_its_config(
    options, request_arguments, randomize, gradients
):
    layer = _built(request_arguments, randomize, **{**ONE_BLOCK, **options})
    row_arguments = _expanded(request_arguments)
    output = np.array(layer(*row_arguments))
    assert output.shape == (6, layer.width(layer.widths)) and np.all(np.isfinite(output))
    assert sum(part.parameters for part in layer.parts()) == layer.count_params()

    variables = layer.trainable_variables
    for variable, gradient in zip(variables, gradients(layer, variables, *row_arguments), strict=True):
        assert gradient is not None and np.all(np.isfinite(gradient)), variable.path
        # Every head must learn by itself.
        axes = tuple(range(1, gradient.ndim)) if gradient.ndim == 3 else None
        assert np.all(np.abs(gradient).max(axis=axes) > 0), f"no gradient in part of {variable.path}"

    # That a ranker comes back from a file is checked for every model; here, that no option is forgotten.
    assert MixFormer.from_config(layer.get_config()).get_config() == layer.get_config()
    assert options.items() <= layer.get_config().items()


@pytest.mark.parametrize(
    "options",
    [
        {"head_mixing": "self_attention", "user_heads": 3},
        pytest.param({"history": "before", "seq_ffn": "shared", "num_layers": 2}, marks=pytest.mark.slow),
        pytest.param({"head_mixing": "self_attention", "query_ffn": False}, marks=pytest.mark.slow),
        pytest.param({"fusion": "shared", "norm": "post_ln"}, marks=pytest.mark.slow),
        pytest.param({"user_heads": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_flops_are_those_of_the_traced_graph(options, request_arguments, randomize, matrix_product_flops):
    layer = _built(request_arguments, randomize, **{**ONE_BLOCK, **options})
    features, histories, scenario = _expanded(request_arguments)
    columns = {f"{group} {i}": x for group, vectors in features.items() for i, x in enumerate(vectors)}
    columns |= {f"{window} {name}": x for window, each in histories.items() for name, x in each.items()}

    def forward(rows):
        found = {group: [rows[f"{group} {i}"] for i in range(len(x))] for group, x in features.items()}
        read = {window: {name: rows[f"{window} {name}"] for name in ("items", "mask")} for window in histories}
        return layer(found, read, rows["scenario"])

    assert matrix_product_flops(forward, {**columns, "scenario": scenario}) == sum(p.flops for p in layer.parts())


@pytest.mark.parametrize(
    "options",
    [
        ONE_BLOCK,
        UI,
        pytest.param(
            {**UI, "head_mixing": "self_attention", "fusion": "shared", "norm": "post_ln"}, marks=pytest.mark.slow
        ),
        pytest.param({**UI, "head_mixing": "none", "seq_ffn": "shared"}, marks=pytest.mark.slow),
    ],
    ids=[
        "MixFormer",
        "UI",
        "self-attention, shared, post-norm",
        "no mixing, shared, mean",
    ],
)
@pytest.mark.parametrize("rows", [ROWS, np.zeros(6, int)], ids=["interleaved", "one request"])
def test_the_request_path_is_the_expanded_path(options, rows, request_arguments, randomize, gradients):
    layer = _built(request_arguments, randomize, **options)
    if not rows.any():
        features, histories, scenario = request_arguments
        features = {group: x if group == "item" else [v[2:3] for v in x] for group, x in features.items()}
        histories = {window: {name: x[2:3] for name, x in each.items()} for window, each in histories.items()}
        request_arguments = features, histories, scenario[2:3]
    row_arguments = _expanded(request_arguments, rows)
    output = np.array(layer(*row_arguments))
    np.testing.assert_allclose(layer(*request_arguments, request_of=rows), output, atol=1e-5)
    variables = layer.trainable_variables
    by_request = gradients(lambda *a: layer(*a, request_of=rows), variables, *request_arguments)
    by_row = gradients(layer, variables, *row_arguments)
    for variable, left, right in zip(variables, by_request, by_row, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5 * (1 + np.abs(right).max()), err_msg=variable.path)


@pytest.mark.parametrize(
    ("options", "per_request"),
    [(SMALL, "sequence_ffn_"), (UI, "sequence_ffn_"), (UI, "user_")],
    ids=["MixFormer: history", "UI-MixFormer: history", "UI-MixFormer: user heads"],
)
def test_what_does_not_depend_on_a_candidate_is_done_once_per_request(
    options, per_request, request_arguments, randomize, monkeypatch
):
    layer = _built(request_arguments, randomize, **options)
    seen = []
    for child in layer._flatten_layers():
        if child.name.startswith(("query_", "fusion_", "sequence_ffn_", "user_tokenizer", "attention_")) and (
            per_request in child.name and not child.name.endswith("norm")
        ):
            original = child.call
            monkeypatch.setattr(child, "call", lambda x, *a, _f=original: seen.append(x.shape[0]) or _f(x, *a))
    layer(*request_arguments, request_of=ROWS)
    # 5 requests, 6 candidates: history 2 layers; user's side tokenizer, and per layer both FFNs and the attention.
    assert seen == [5] * (7 if per_request == "user_" else 2)


@pytest.mark.parametrize("head_mixing", ["block", pytest.param("self_attention", marks=pytest.mark.slow)])
def test_user_heads_never_depend_on_the_candidate(head_mixing, request_arguments, randomize):
    options = {**UI, "num_layers": 3, "head_mixing": head_mixing}
    layer = _built(request_arguments, randomize, **options)
    features, histories, _ = _expanded(request_arguments)
    user, item = (np.array(x) for x in layer.transform(features, histories))
    assert (user.shape, item.shape) == ((6, 3, 12), (6, 1, 12))

    other = {**features, "item": [x + 1 for x in features["item"]]}
    same, moved = (np.array(x) for x in layer.transform(other, histories))
    np.testing.assert_allclose(same, user, atol=1e-5)
    assert np.abs(moved - item).max(axis=(1, 2)).min() > 1e-3

    other = {**features, "user": [features["user"][0], features["user"][1] + 1]}
    changed, seen = (np.array(x) for x in layer.transform(other, histories))
    assert np.abs(changed - user).max(axis=(1, 2)).min() > 1e-3
    assert np.abs(seen - item).max(axis=(1, 2)).min() > 1e-4


def test_without_user_heads_every_head_sees_the_candidate(request_arguments, randomize):
    layer = _built(request_arguments, randomize, **ONE_BLOCK)
    features, histories, _ = _expanded(request_arguments)
    other = {**features, "item": [x + 1 for x in features["item"]]}
    change = np.array(layer.transform(other, histories)[0]) - np.array(layer.transform(features, histories)[0])
    assert np.abs(change).max(axis=2).min() > 1e-4


@pytest.mark.parametrize("user_heads", [None, 1])
def test_with_ffns_at_zero_a_block_adds_the_mixed_norm_and_the_history(user_heads, request_arguments, randomize):
    options = {**SMALL, "num_layers": 1, "user_heads": user_heads}
    layer = _built(request_arguments, randomize, **options)
    features, histories, _ = _expanded(request_arguments)
    for variable in layer.variables:
        if any(name in variable.path for name in ("/query_heads", "/query_user", "/query_item", "/fusion_")):
            variable.assign(np.zeros(variable.shape))
    empty = {window: {**each, "mask": each["mask"] & False} for window, each in histories.items()}
    x = np.concatenate([np.array(side) for side in layer.sides(features)], axis=1)
    gain = np.array(layer.blocks[0].mixing_norm.scale)
    mixed = _rms(x, gain).reshape(6, 4, 4, 3).transpose(0, 2, 1, 3).reshape(6, 4, 12)
    if user_heads:
        mixed[:, 0, 3:] = 0
    found = np.concatenate([np.array(side) for side in layer.transform(features, empty)], axis=1)
    np.testing.assert_allclose(found, _rms(x + mixed, np.array(layer.last_norm.scale)), atol=1e-5)


def test_padding_changes_nothing(request_arguments, randomize):
    layer = _built(request_arguments, randomize, **{**UI, "num_layers": 1}, position_embedding=True)
    features, histories, scenario = _expanded(request_arguments)
    garbage = {
        window: {"items": np.where(h["mask"][:, :, None], h["items"], 1e3).astype("float32"), "mask": h["mask"]}
        for window, h in histories.items()
    }
    expected = layer(features, histories, scenario)
    np.testing.assert_allclose(layer(features, garbage, scenario), expected, atol=1e-5)


def test_every_layer_reads_the_original_history(request_arguments, randomize, monkeypatch):
    layer = _built(request_arguments, randomize, **{**SMALL, "num_layers": 3})
    features, histories, _ = _expanded(request_arguments)
    read = []
    for norm in layer.sequence_norms:
        original = norm.call
        monkeypatch.setattr(norm, "call", lambda x, _f=original: read.append(np.array(x)) or _f(x))
    layer.transform(features, histories)
    assert len(read) == 3
    for items in read:
        np.testing.assert_array_equal(items, layer.sequence(histories)[0])


def test_the_real_time_history_comes_first(request_arguments, randomize):
    layer = _built(request_arguments, randomize, **ONE_BLOCK)
    _, histories, _ = request_arguments
    items, valid = layer.sequence(histories)
    kernel = np.array(layer.alignment["within"].kernel)
    np.testing.assert_allclose(items[:, :3], histories["within"]["items"] @ kernel, atol=1e-5)
    np.testing.assert_array_equal(valid, np.concatenate([histories[w]["mask"] for w in ("within", "before")], axis=1))


@pytest.mark.parametrize(("position", "same"), [(False, True), (True, False)])
def test_the_order_of_a_history_matters_only_with_positions(position, same, request_arguments, randomize):
    layer = _built(request_arguments, randomize, **ONE_BLOCK, position_embedding=position)
    features, histories, scenario = _expanded(request_arguments)
    turned = {window: {name: x[:, ::-1] for name, x in h.items()} for window, h in histories.items()}
    expected = np.array(layer(features, histories, scenario))
    assert (np.abs(np.array(layer(features, turned, scenario)) - expected).max() < 1e-5) == same


def test_a_missing_history_says_what_to_change(request_arguments):
    features, histories, scenario = _expanded(request_arguments)
    del histories["within"]
    with pytest.raises(ValueError, match=r'declare History\(..., window="within"\) or set `history` to .before.'):
        MixFormer(**SMALL)(features, histories, scenario)
    assert MixFormer(**ONE_BLOCK, history="before")(features, histories, scenario).shape == (6, 48)


def test_without_any_history_one_must_be_declared():
    widths = Widths(vectors={"user": (5,), "item": (4,), "context": (2,)}, histories={})
    with pytest.raises(ValueError, match=r'declare History\(..., window="before"\)$'):
        MixFormer(**SMALL, history="before").check_widths(widths)


def test_user_heads_need_item_features(request_arguments):
    features, histories, scenario = _expanded(request_arguments)
    with pytest.raises(ValueError, match='features of group "item".*declare at least one or set `user_heads` to None'):
        MixFormer(**UI)({**features, "item": []}, histories, scenario)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "`dim` must be at least 1, received 0"),
        ({"num_heads": 0}, "`num_heads` must be at least 1, received 0"),
        ({"num_layers": 0}, "`num_layers` must be at least 1, received 0"),
        ({"query_expansion": 0}, "`query_expansion` must be at least 1, received 0"),
        ({"user_heads": 0}, "`user_heads` must be at least 1 or None, received 0"),
        ({"user_heads": 4}, "from 1 to `num_heads` - 1 = 3, received 4"),
        ({"dim": 386, "num_heads": 16}, "`dim` divisible by the number of tokens 16, received 386.*384 and 400"),
        ({"head_mixing": "self_attention", "attention_heads": 5}, "`heads` must divide the token width 12, received 5"),
    ],
)
def test_values_out_of_bounds_are_refused(options, message, request_arguments):
    with pytest.raises(ValueError, match=message):
        MixFormer(**{**SMALL, **options})(*_expanded(request_arguments))


def test_a_block_has_the_parameters_of_the_formula():
    # N = 4, D = 16, h_q = 24, h_s = 32: 6 N h_q D + 2 N D^2 + 3 N D h_s + (3 + N) D.
    block = MixFormerBlock(query_units=24, fusion_units=24)
    block.build([(None, 4, 16)], (None, 5, 4, 16), (None, 5))
    sequence = SwiGLU(units=32)
    sequence.build((None, 5, 64))
    assert block.count_params() + sequence.count_params() + 4 * 16 == 17_520


@pytest.mark.parametrize(
    ("options", "fewer"),
    [
        ({"seq_ffn": "shared"}, (2 - 1) * 3 * 4 * 12 * 24),
        ({"fusion": "shared"}, 2 * (4 - 1) * 3 * 24 * 12),
        ({"query_ffn": False}, 2 * (4 * 3 * 24 * 12 + 12)),
        ({"head_mixing": "none"}, 2 * 12),
        ({"head_mixing": "self_attention"}, -2 * 4 * 12 * 12),
        ({"norm": "post_ln"}, 12 - 2 * (3 + 4) * 12),
        ({"attention_norm": True}, -2 * 2 * 12),
        # With norms of the attention for each side.
        ({"attention_norm": True, "user_heads": 2}, -2 * 4 * 12),
        ({"user_heads": 2}, 0),
    ],
    ids=str,
)
def test_an_ablation_has_as_many_parameters_less_as_it_leaves_out(options, fewer):
    # 8 features per side, which 4 heads and 2 + 2 heads divide alike.
    widths = Widths(
        vectors={"user": (6,), "item": (8,), "context": (2,)}, histories={"before": (7, 6), "within": (3, 9)}
    )
    plain, other = (sum(p.parameters for p in MixFormer(**{**SMALL, **o}).count(widths)) for o in ({}, options))
    assert plain - other == fewer


@pytest.mark.parametrize(
    ("preset", "dim", "blocks", "millions"), [("small", 368, 278.2, 282), ("large", 768, 1211.6, 1226)]
)
def test_a_preset_has_the_derived_size(preset, dim, blocks, millions):
    widths = Widths(
        vectors={"user": (900,), "item": (600,), "context": (100,)},
        histories={"before": (512, 128), "within": (16, 128)},
    )
    model = MixFormer(**presets("mixformer")[preset])
    parts = {part.name: part.parameters for part in model.count(widths)}
    in_blocks = sum(parameters for name, parameters in parts.items() if name.startswith("blocks")) - dim
    h_q, h_s = 5 * dim, round(dim / 32)
    assert in_blocks == 4 * (6 * 16 * h_q * dim + 2 * 16 * dim**2 + 3 * 16 * dim * h_s + (3 + 16) * dim)
    assert in_blocks / 1e6 == pytest.approx(blocks, abs=0.05)
    assert parts["head projections"] == 16 * 100 * dim and parts["history alignment"] == 2 * 128 * 16 * dim
    # Task nets of two tasks included, the rest of the published number is their unknown width.
    total = sum(parts.values()) + model.heads(("finish", "skip")).count(16 * dim)[0].parameters
    assert total == pytest.approx(millions * 1e6, rel=0.012)


@pytest.mark.slow
def test_small_really_has_that_size_and_answers(spec, sizes, make_rows):
    from mixrank.layers.ranking import build_ranker

    model = build_ranker(spec, sizes, model="mixformer", preset="small", params={"user_heads": 8})
    parts = {part.name: part.parameters for part in counts(model)}
    assert sum(parts.values()) == model.count_params()
    in_blocks = sum(parameters for name, parameters in parts.items() if name.startswith("blocks"))
    assert in_blocks == 4 * (32 * 16 * 368**2 + 3 * 16 * 368 * 12 + (3 + 16) * 368) + 368
    assert all(np.all(np.isfinite(logit)) for logit in model(make_rows(model)).values())
