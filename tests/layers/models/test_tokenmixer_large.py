"""TokenMixer-Large: its block, the model, and where its residuals join."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank.layers.models.tokenmixer_large import MixAndRevert, TokenMixerLarge

SMALL = {"dim": 6, "num_tokens": 4, "mixing_heads": 3, "num_layers": 3, "expansion": 2, "interval": 2}
X = np.random.default_rng(3).normal(size=(2, 5, 6)).astype("float32")


def _norm(w, name, x):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * w[f"{name}/scale"]


def _swiglu(w, name, x):
    """Token by token."""
    up, gate, down = (w[f"{name}/{part}/kernel"] for part in ("up", "gate", "down"))
    found = []
    for t in range(x.shape[1]):
        g = x[:, t] @ gate[t]
        found.append(((x[:, t] @ up[t]) * g / (1 + np.exp(-g))) @ down[t])
    return np.stack(found, axis=1)


def _block(w, name, x, heads):
    """Piece h of token t is piece t of mixed token h."""
    batch, tokens, dim = x.shape
    piece = dim // heads
    mixed = np.zeros((batch, heads, tokens * piece))
    for t in range(tokens):
        for h in range(heads):
            mixed[:, h, t * piece : (t + 1) * piece] = x[:, t, h * piece : (h + 1) * piece]
    mixed = mixed + _swiglu(w, f"{name}mixed_ffn", _norm(w, f"{name}mixed_norm", mixed))
    back = np.zeros_like(x)
    for t in range(tokens):
        for h in range(heads):
            back[:, t, h * piece : (h + 1) * piece] = mixed[:, h, t * piece : (t + 1) * piece]
    return x + _swiglu(w, f"{name}ffn", _norm(w, f"{name}norm", back))


def test_a_block_follows_its_equations(check_layer, arrays):
    parameters = 3 * 2 * (3 * 10 * 10 + 5 * 6 * 6) + 10 + 6
    layer = check_layer(MixAndRevert, {"heads": 3, "expansion": 2}, X, parameters=parameters)
    np.testing.assert_allclose(layer(X), _block(arrays(layer), "", X.astype("float64"), 3), atol=1e-4)


def test_a_fresh_block_is_close_to_the_identity():
    change = np.array(MixAndRevert(heads=3)(X)) - X
    assert 0 < np.abs(change).max() < 0.05


@pytest.mark.parametrize("readout", ["global", "mean"])
def test_the_representation_follows_the_equations(readout, arguments, check_backbone, arrays, mean_fields):
    layer = check_backbone(TokenMixerLarge, {**SMALL, "readout": readout}, arguments)
    w, fields = arrays(layer), np.concatenate(mean_fields(*arguments[:2]), axis=1)
    hidden = np.maximum(fields @ w["global/hidden_0/kernel"] + w["global/hidden_0/bias"], 0)
    tokens = [hidden @ w["global/split/kernel"] + w["global/split/bias"]]
    kernel, bias = w["tokenizer/project/kernel"], w["tokenizer/project/bias"]
    padded = np.pad(fields, ((0, 0), (0, 4 * kernel.shape[1] - fields.shape[1])))
    tokens += [piece @ kernel[t] + bias[t, 0] for t, piece in enumerate(np.split(padded, 4, axis=1))]
    x = start = np.stack(tokens, axis=1)
    x = _block(w, "block_1/", _block(w, "block_0/", x, 3), 3) + start
    x = _norm(w, "norm", _block(w, "block_2/", x, 3))
    expected = x[:, 0] if readout == "global" else x.mean(axis=1)
    np.testing.assert_allclose(layer(*arguments), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [{"num_layers": 1}, {"interval": 0}, {"pooling": "target"}, {"dropout": 0.3, "head_units": (4,)}],
    ids=str,
)
def test_every_option_counts_its_parameters_and_learns(options, arguments, check_backbone):
    check_backbone(TokenMixerLarge, {**SMALL, "num_layers": 2, **options}, arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixing_heads": 4}, "`mixing_heads` must divide `dim` 6, received 4"),
        ({"num_tokens": 0}, "`num_tokens` must be at least 1, received 0"),
        ({"interval": -1}, "`interval` must be at least 0, received -1"),
        ({"readout": "last"}, "`readout` must be global or mean, received 'last'"),
    ],
)
def test_values_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TokenMixerLarge(**{**SMALL, **options})
