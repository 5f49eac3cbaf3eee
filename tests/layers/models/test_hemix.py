"""HeMix: what its equations promise, its switches and its sizes."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.backbone import Widths
from mixrank.layers.base import counts
from mixrank.layers.models.hemix import HeMix
from mixrank.layers.registry import presets

SMALL = {
    "dim": 8,
    "num_global": 3,
    "num_realtime": 2,
    "attention_heads": 2,
    "num_layers": 2,
    "mixing_heads": 4,
    "rank": 5,
    "expansion": 3,
    "head_units": (6,),
}
ONE_BLOCK = {**SMALL, "num_layers": 1}


def _built(arguments, randomize, **options):
    layer = HeMix(**{**SMALL, **options})
    layer(*arguments)
    randomize(layer, scale=0.3)
    return layer


def _norm(x, gain, bias):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(centred.var(axis=-1, keepdims=True) + 1e-5) * gain + bias


def _extract(w, window, dynamic, items, valid, heads):
    """Equations (4) to (9) for one row, query by query."""
    fixed = w[f"extract_{window}/fixed"][:, 0]
    kernels = np.concatenate([w[f"extract_{window}/dynamic_query/kernel"], w[f"extract_{window}/fixed_query/kernel"]])
    aligned = compared = items @ w[f"align_{window}/kernel"]
    if f"extract_{window}/item_norm/gamma" in w:
        compared, dynamic, fixed = (
            _norm(x, w[f"extract_{window}/{name}_norm/gamma"], w[f"extract_{window}/{name}_norm/beta"])
            for x, name in ((aligned, "item"), (dynamic, "query"), (fixed, "query"))
        )
    keys, values = compared @ w[f"extract_{window}/key/kernel"], aligned @ w[f"extract_{window}/value/kernel"]
    dim = keys.shape[1]
    tokens = []
    for query, kernel in zip(np.concatenate([dynamic, fixed]), kernels, strict=True):
        q, o = query @ kernel, np.zeros(dim)
        for head in np.split(np.arange(dim), heads) if valid.any() else ():
            e = np.exp(keys[valid][:, head] @ q[head] / np.sqrt(dim / heads))
            o[head] = (e / e.sum()) @ values[valid][:, head]
        tokens.append(o @ w[f"extract_{window}/output/kernel"])
    return np.stack(tokens)


def _numpy_hemix(
    w, features, histories, *, dim, num_global, num_realtime, attention_heads, num_layers, mixing_heads, loops=1
):
    """The representation by the paper's equations, row by row and token by token."""
    rows = []
    for b in range(4):
        e = np.concatenate([vector[b] for group in ("user", "item", "context") for vector in features[group]])
        # (2)
        ns = (e @ w["tokenizer/split/kernel"] + w["tokenizer/split/bias"]).reshape(-1, dim)
        reads = {"before": ns[:num_global], "within": ns[num_global : num_global + num_realtime]}
        found = [
            _extract(w, name, query, histories[name]["items"][b], histories[name]["mask"][b], attention_heads)
            for name, query in reads.items()
        ]
        # (10)
        x = np.concatenate([ns, *found])
        piece = dim // mixing_heads
        for layer in [*range(num_layers)] * loops:
            block = {name.split("/", 1)[1]: value for name, value in w.items() if name.startswith(f"block_{layer}/")}
            r = np.zeros_like(x)
            for h in range(mixing_heads):
                part = slice(h * piece, (h + 1) * piece)
                # (13)-(15)
                g = np.concatenate([token[part] for token in x])
                # (16)-(17)
                g = np.maximum(g @ block["mixing/left/kernel"][h] + block["mixing/left/bias"][h, 0], 0)
                g = g @ block["mixing/right/kernel"][h] + block["mixing/right/bias"][h, 0]
                # (18)
                r[:, part] = g.reshape(len(x), piece)
            z = _norm(r + x, block["mixing_norm/gamma"], block["mixing_norm/beta"])
            # (19)-(20)
            f = np.stack(
                [
                    np.maximum(z[i] @ block["ffn/expand/kernel"][i] + block["ffn/expand/bias"][i, 0], 0)
                    @ block["ffn/contract/kernel"][i]
                    + block["ffn/contract/bias"][i, 0]
                    for i in range(len(z))
                ]
            )
            # (21)
            x = _norm(f + z, block["ffn_norm/gamma"], block["ffn_norm/beta"])
        # (22), before g
        rows.append(x.mean(axis=0))
    return np.stack(rows)


@pytest.mark.parametrize(("norm", "loops"), [(False, 1), (True, 1), (True, 3)])
def test_the_representation_follows_the_equations(norm, loops, arguments, randomize):
    layer = _built(arguments, randomize, attention_norm=norm, loops=loops)
    w = {v.path.removeprefix(f"{layer.name}/"): np.array(v, "float64") for v in layer.weights}
    sizes = {name: value for name, value in SMALL.items() if name not in ("rank", "expansion", "head_units")}
    expected = _numpy_hemix(w, *arguments[:2], **sizes, loops=loops)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(layer(*arguments), expected, atol=1e-5)


def test_there_are_sixty_tokens_as_in_the_paper():
    assert HeMix().num_tokens == 20 + 32 + 8


@pytest.mark.parametrize(
    ("switch", "tokens"),
    [("fixed_queries", 40), ("mixed_queries", 60), ("global_sequence", 28), ("realtime_sequence", 52)],
)
def test_each_ablation_has_the_tokens_it_is_designed_for(switch, tokens):
    assert HeMix(**{switch: False}).num_tokens == tokens


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 0},
        {"num_layers": 3},
        {"loops": 2},
        {"tokenizer_units": (11, 7)},
        {"fixed_queries": False},
        {"mixed_queries": False},
        {"global_sequence": False},
        {"realtime_sequence": False},
        {"global_sequence": False, "realtime_sequence": False},
        {"attention_norm": False},
        {"query_residual": True},
        {"position_embedding": True},
        {"null_key": True},
        {"mixing_heads": 2, "rank": 7, "expansion": 2},
        {"activation": "gelu"},
        {"dropout": 0.2},
        {"block": "transformer"},
        {"block": "rankmixer", "dim": 30, "attention_heads": 3},
    ],
    ids=str,
)
def test_every_option_counts_its_parameters_learns_and_comes_back_from_its_config(
    options, arguments, randomize, gradients
):
    # With four rows a few ReLU units may all be off by chance; of nine hardly.
    layer = _built(arguments, randomize, **{"rank": 9, **options})
    features, histories, _ = arguments
    assert layer.tokens(features, histories).shape == (4, layer.num_tokens, layer.dim)
    output = np.array(layer(*arguments))
    assert output.shape == (4, layer.dim) and np.all(np.isfinite(output))

    assert sum(part.parameters for part in layer.parts()) == layer.count_params()
    assert (
        layer.count(Widths(vectors=layer.widths.vectors, histories={"before": (7, 6), "within": (3, 9)}))
        == layer.parts()
    )

    variables = layer.trainable_variables
    for variable, gradient in zip(variables, gradients(layer, variables, *arguments), strict=True):
        assert gradient is not None and np.all(np.isfinite(gradient)), variable.path
        # The last norm's scale and shift aside, every token and every query must learn by itself.
        axes = tuple(range(1, gradient.ndim)) if gradient.ndim == 3 else None
        assert np.all(np.abs(gradient).max(axis=axes) > 0), f"no gradient in part of {variable.path}"

    again = HeMix.from_config(layer.get_config())
    again(*arguments)
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(*arguments), output)


def test_a_feature_token_changes_only_its_own_row_of_the_interest_tokens(arguments, randomize):
    layer = _built(arguments, randomize)
    features, histories, _ = arguments
    before = np.array(layer.tokens(features, histories))
    bias = np.array(layer.tokenizer.split.bias)
    # LayerNorm takes out what all channels share.
    bias[8:16] += np.arange(8)
    layer.tokenizer.split.bias.assign(bias)
    moved = np.abs(np.array(layer.tokens(features, histories)) - before)[1:].max(axis=(0, 2)) > 1e-6
    # Feature token 1 and, behind the 5 feature tokens, the interest of the global side's query 1.
    assert np.flatnonzero(moved).tolist() == [1, 5 + 1]


def test_fixed_queries_do_not_see_the_features(arguments, randomize):
    layer = _built(arguments, randomize)
    features, histories, _ = arguments
    other = {group: [vector + 1 for vector in vectors] for group, vectors in features.items()}
    change = np.array(layer.tokens(other, histories)) - np.array(layer.tokens(features, histories))
    # 5 feature tokens, 3 + 3 global and 2 + 2 real-time interest tokens, the fixed ones last.
    fixed = [8, 9, 10, 13, 14]
    np.testing.assert_array_equal(change[:, fixed], 0)
    assert np.all(np.abs(np.delete(change, fixed, axis=1))[1:].max(axis=(0, 2)) > 1e-4)


def test_an_empty_history_gives_zero_interest_and_a_finite_output(arguments, randomize):
    layer = _built(arguments, randomize)
    features, histories, _ = arguments
    np.testing.assert_array_equal(np.array(layer.tokens(features, histories))[0, 5:], 0)
    assert np.all(np.isfinite(np.array(layer(*arguments))))


def test_padding_changes_nothing(arguments, randomize):
    layer = _built(arguments, randomize)
    features, histories, scenario = arguments
    garbage = {
        window: {"items": np.where(h["mask"][:, :, None], h["items"], 1e3).astype("float32"), "mask": h["mask"]}
        for window, h in histories.items()
    }
    np.testing.assert_allclose(layer(features, garbage, scenario), layer(*arguments), atol=1e-5)


@pytest.mark.parametrize(("position", "same"), [(False, True), (True, False)])
def test_the_order_of_a_history_matters_only_with_positions(position, same, arguments, randomize):
    layer = _built(arguments, randomize, position_embedding=position)
    features, histories, scenario = arguments
    turned = {window: {name: x[:, ::-1] for name, x in h.items()} for window, h in histories.items()}
    difference = np.abs(np.array(layer(features, turned, scenario)) - np.array(layer(*arguments))).max()
    assert (difference < 1e-5) == same


def test_dropout_acts_in_training_only(arguments):
    layer = HeMix(**{**SMALL, "dropout": 0.5})
    plain = np.array(layer(*arguments))
    np.testing.assert_array_equal(layer(*arguments), plain)
    assert np.abs(np.array(layer(*arguments, training=True)) - plain).max() > 1e-3


def test_a_missing_history_says_what_to_change(arguments):
    features, histories, scenario = arguments
    del histories["within"]
    with pytest.raises(ValueError, match='window="within".*declare .* or set `realtime_sequence` to False'):
        HeMix(**SMALL)(features, histories, scenario)
    assert HeMix(**SMALL, realtime_sequence=False)(features, histories, scenario).shape == (4, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "`dim` must be at least 1, received 0"),
        ({"num_global": 0}, "`num_global` must be at least 1, received 0"),
        ({"num_layers": -1}, "`num_layers` must be at least 0, received -1"),
        ({"dropout": 1.0}, "`dropout` must be below 1, received 1.0"),
        ({"mixing_heads": 3}, "`heads` must divide the token width 8, received 3"),
        ({"attention_heads": 3}, "`heads` must divide the token width 8, received 3"),
        ({"rank": 30}, "below the mixed token's width tokens"),
        ({"block": "rankmixer"}, "divisible by the number of tokens 15, received 8"),
    ],
)
def test_values_out_of_bounds_are_refused(options, message, arguments):
    with pytest.raises(ValueError, match=message):
        HeMix(**{**SMALL, **options})(*arguments)


def test_a_paper_block_and_both_extractions_have_the_derived_sizes():
    widths = Widths(
        vectors={"user": (200, 60), "item": (90,), "context": (10,)},
        histories={"before": (332, 64), "within": (10, 48)},
    )
    parts = {part.name: part.parameters for part in HeMix(num_layers=1).count(widths)}
    # N = 60, D = 256, k = 4, H = 16, r = 16; FFN, mixing and norms of one block.
    assert parts["blocks: FFN"] == 60 * (2 * 4 * 256**2 + 4 * 256 + 256)
    assert parts["blocks: FFN"] + parts["blocks: mixing"] + parts["blocks: norms"] == 32_042_240
    extraction = HeMix(num_layers=1)
    # Two norms of 2 D besides.
    assert extraction._count_extraction("before", [(332, 64)]).parameters == 2_297_856 + 64 * 256 + 4 * 256
    assert extraction._count_extraction("within", [(10, 48)]).parameters == 721_920 + 48 * 256 + 4 * 256
    assert parts["tokenizer"] == 360 * 5120 + 5120


@pytest.mark.parametrize(("preset", "features", "millions"), [("small", 360, 101), ("large", 676, 1484)])
def test_a_preset_has_the_published_size(preset, features, millions):
    widths = Widths(
        vectors={"user": (features,), "item": (), "context": ()}, histories={"before": (332, 64), "within": (10, 64)}
    )
    total = sum(part.parameters for part in HeMix(**presets("hemix")[preset]).count(widths))
    assert total == pytest.approx(millions * 1e6, rel=0.005)


@pytest.mark.slow
def test_small_really_has_that_size(spec, sizes):
    from mixrank.layers.ranking import build_ranker

    model = build_ranker(spec, sizes, preset="small")
    parts = {part.name: part.parameters for part in counts(model)}
    dense = model.count_params() - parts["embeddings"]
    assert sum(parts.values()) == model.count_params()
    # The toy spec's features are 23 wide, not 360; the rest is the same.
    assert dense == pytest.approx(101e6 - (360 - 23) * 320, rel=0.005)
