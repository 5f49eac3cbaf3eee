"""SIM: long histories that are searched for the candidate, which weighs what was found."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from mixrank import testing
from mixrank.layers.base import counts
from mixrank.layers.models.sim import SIM
from mixrank.layers.ranking import build_ranker, request_ranker
from mixrank.schemas import History, Numeric, Vector

SMALL = {"top_k": 3, "mlp_units": (8, 5)}
RELEVANCE = np.array([[0] * 7, [2] + [0] * 6, [1, 0, 3, 1, 0, 0, 0], [0, 2, 1, 1, 5, 0, 1]], "int32")


@pytest.fixture
def searched(arguments):
    """The arguments with the relevance of the long-term events."""
    features, histories, scenario = arguments
    return features, {**histories, "before": {**histories["before"], "relevance": RELEVANCE}}, scenario


def _numpy_sim(w, features, histories, pooling="target", relevance=RELEVANCE):
    candidate = np.concatenate(features["item"], axis=1)
    found = [np.concatenate([v for group in ("user", "item", "context") for v in features[group]], axis=1)]
    for key in ("before", "within"):
        items, mask = histories[key]["items"].astype("float64"), histories[key]["mask"]
        pooled = np.zeros((4, items.shape[2]))
        for row in range(4):
            places = np.flatnonzero(mask[row])
            if key == "before":
                level = relevance[row] if relevance is not None else mask[row].astype(int)
                places = [t for t in sorted(places, key=lambda t: (-level[t], t)) if level[t]][:3]
            if pooling == "mean":
                pooled[row] = items[row, places].mean(axis=0) if len(places) else 0
                continue
            q = candidate[row] @ w[f"pool_{key}/query/kernel"] + w[f"pool_{key}/query/bias"]
            for t in places:
                x = np.concatenate([q, items[row, t], q * items[row, t]])
                x = np.maximum(x @ w[f"pool_{key}/hidden_0/kernel"] + w[f"pool_{key}/hidden_0/bias"], 0)
                pooled[row] += (x @ w[f"pool_{key}/weight/kernel"] + w[f"pool_{key}/weight/bias"]) * items[row, t]
        found.append(pooled)
    x = np.concatenate(found, axis=1)
    for i in range(2):
        x = np.maximum(x @ w[f"mlp/dense_{i}/kernel"] + w[f"mlp/dense_{i}/bias"], 0)
    return x


@pytest.mark.parametrize("pooling", ["target", "mean"])
def test_the_representation_follows_the_equations(pooling, searched, check_backbone, arrays):
    layer = check_backbone(SIM, {**SMALL, "pooling": pooling}, searched)
    expected = _numpy_sim(arrays(layer), *searched[:2], pooling=pooling)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(layer(*searched), expected, rtol=1e-4, atol=1e-4)


def test_without_anything_to_search_by_the_newest_events_are_read(arguments, check_backbone, arrays):
    layer = check_backbone(SIM, SMALL, arguments)
    expected = _numpy_sim(arrays(layer), *arguments[:2], relevance=None)
    np.testing.assert_allclose(layer(*arguments), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"dropout": 0.3, "head_units": (4,)}, {"search": "soft", "top_k": 20}], ids=str)
def test_every_option_counts_its_parameters_and_learns(options, searched, check_backbone):
    check_backbone(SIM, {**SMALL, **options}, searched)


@pytest.mark.slow
@pytest.mark.parametrize("search", ["hard", "soft"])
def test_a_ranker_finds_what_it_should_and_so_does_a_request(search, spec, sizes, make_rows):
    model = build_ranker(spec, sizes, "sim", {"search": search, "top_k": 2}, "tiny")
    layers = {layer.name for layer in model.layers}
    assert "relevance_past" in layers and "relevance_today" not in layers
    assert sum(part.flops for part in counts(model)) == testing.matrix_product_flops(model, make_rows(model))
    rows = make_rows(model, batch=5)
    tail = {"past_clip": [1, 2, 3, 2, 0], "past_tag": [0, 0, 0, 3, 0, 0, 2, 0, 0, 0]}
    rows |= {name: np.tile(value, (5, 1)) for name, value in tail.items()}
    rows |= {"past_action": np.tile([1, 2, 3, 1, 0], (5, 1)), "past_gap": np.tile([1, 2, 3, 4, 0], (5, 1))}
    rows["clip"], rows["tag"] = np.array([2, 2, 1, 4, 4]), np.array([[0, 0], [2, 1], [0, 0], [0, 0], [3, 0]])
    found = keras.Model(model.input, model.get_layer("relevance_past").output)(rows).numpy()
    if search == "hard":
        assert found.tolist() == [[0, 1, 0, 1, 0], [0, 1, 0, 2, 0], [1, 0, 0, 0, 0], [0] * 5, [0, 1, 0, 0, 0]]
    else:
        # The clip is the same and the tag missing; then both are the same, then nothing.
        assert found[0, 1] == found[0].max() and np.all(found[:, :4] > 0) and np.all(found[:, 4] == 0)
    items = {"clip", "tag", "seconds", "had"}
    one = {name: x if name in items else x[:1] for name, x in rows.items()}
    for task, logits in request_ranker(spec, model)(one).items():
        same = {name: x if name in items else np.repeat(x, 5, axis=0) for name, x in one.items()}
        np.testing.assert_allclose(logits, model(same)[task], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("search", ["hard", "soft"])
def test_a_compiled_ranker_and_its_gradients_are_the_same(search, spec, sizes, make_rows):
    model = build_ranker(spec, sizes, "sim", {"search": search, "top_k": 2}, "tiny")
    rows = {name: tf.constant(x) for name, x in make_rows(model, batch=6).items()}

    def step():
        with tf.GradientTape() as tape:
            logits = model(rows)
            loss = sum(tf.reduce_sum(x) for x in logits.values())
        slopes = tape.gradient(loss, model.trainable_variables)
        return *logits.values(), *(tf.convert_to_tensor(each) for each in slopes)

    for compiled, plain in zip(tf.function(step, jit_compile=True)(), step(), strict=True):
        np.testing.assert_allclose(compiled, plain, atol=1e-5)


def test_numbers_that_events_share_are_searched_by_direction_alone(spec, sizes):
    more = (
        Vector("look", group="item", dim=4),
        Numeric("paid", group="event"),
        History("seen", of=("look", "gap"), length=4, window="before"),
        History("orders", of=("paid", "gap"), length=3, window="before"),
    )
    wider = spec.model_copy(update={"features": (*spec.features, *more)})
    for search, relevant in (("hard", {"relevance_past"}), ("soft", {"relevance_past", "relevance_seen"})):
        model = build_ranker(wider, sizes, "sim", {"search": search}, "tiny")
        assert {layer.name for layer in model.layers if layer.name.startswith("relevance")} == relevant


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "`top_k` must be at least 1, received 0"),
        ({"search": "fuzzy"}, "`search` must be hard or soft, received 'fuzzy'"),
    ],
)
def test_values_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SIM(**options)
