"""From a spec to a model: names, sharing, masks, precision, files, FLOPs, and a second backend."""

from __future__ import annotations

import random

import keras
import numpy as np
import pytest

from mixrank.layers.base import Part, counts
from mixrank.layers.ranking import build_ranker, load, model_inputs, tables_of
from mixrank.schemas import Categorical, FeatureSpec, History

PARAMS = {
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


@pytest.fixture
def model(spec, sizes):
    return build_ranker(spec, sizes, params=PARAMS, seed=1)


def _with_features(spec: FeatureSpec, change) -> FeatureSpec:
    return FeatureSpec(**{**dict(spec), "features": tuple(change(spec.features))})


def test_inputs_are_the_columns_and_outputs_a_logit_per_task(model, spec, make_rows):
    assert set(model.input) == set(model_inputs(spec))
    logits = model(make_rows(model))
    assert list(logits) == ["click", "like"]
    for logit in logits.values():
        assert logit.shape == (4,) and logit.dtype == "float32"
        assert np.all(np.isfinite(logit)) and np.std(logit) > 0


def test_every_layer_has_a_name_of_its_own(model, spec, sizes):
    again = build_ranker(spec, sizes, params=PARAMS)
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]
    assert [v.path for v in again.variables] == [v.path for v in model.variables]


def test_there_is_one_table_per_feature_shared_with_the_histories(model, sizes):
    tables = {name: table.read().shape for name, table in tables_of(model).items()}
    expected = {
        **{"place": (4, 2), "person": (6, 5), "clip": (9, 6), "tag": (5, 3), "seconds": (5, 2), "country": (4, 4)},
        **{"action": (5, 2), "gap": (9, 3)},
    }
    assert tables == expected
    assert sum("embeddings" in v.path for v in model.weights) == len({width for _, width in expected.values()})


def test_a_new_feature_reaches_the_model_by_its_line_alone(spec, sizes, make_rows):
    extended = _with_features(spec, lambda old: (Categorical("singer", group="item", dim=7), *old))
    model = build_ranker(extended, {**sizes, "singer": 4}, params=PARAMS)
    rows = make_rows(model)
    other = {**rows, "singer": rows["singer"] % 3 + 1}
    assert tables_of(model)["singer"].read().shape == (4, 7)
    assert np.abs(np.array(model(other)["click"]) - np.array(model(rows)["click"])).max() > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    "column", ["place", "age", "tag", "seconds", "past_clip", "past_tag", "past_gap", "today_action"]
)
def test_every_kind_of_column_moves_the_logits(column, model, make_rows):
    rows = make_rows(model)
    values = rows[column]
    other = values + 1 if values.dtype == "float32" else np.where(values > 0, values % 3 + 1, 0)
    moved = np.abs(np.array(model({**rows, column: other})["click"]) - np.array(model(rows)["click"]))
    assert moved.max() > 1e-6


def test_the_mask_of_a_history_is_its_action_not_its_unknown_attributes(model, make_rows):
    rows = make_rows(model)
    unknown = {**rows, "past_clip": rows["past_clip"] * 0}
    empty = {**unknown, "past_action": rows["past_action"] * 0}
    assert np.abs(np.array(model(unknown)["click"]) - np.array(model(empty)["click"]))[1:].max() > 1e-6
    # Without an action nothing else in the history is read.
    nothing = {**empty, "past_gap": rows["past_gap"] * 0, "past_tag": rows["past_tag"] * 0}
    np.testing.assert_array_equal(model(nothing)["click"], model(empty)["click"])


def test_without_action_and_gap_any_field_makes_an_event(spec, sizes):
    plain = _with_features(
        spec,
        lambda old: (
            *(f for f in old if f.type not in ("action", "time_gap", "history", "match")),
            History("past", of=("clip", "tag"), length=5, window="before"),
            History("today", of=("clip",), length=3, window="within"),
        ),
    )
    model = build_ranker(plain, sizes, params=PARAMS)
    mask = keras.Model(model.input, model.get_layer("mask_past").output)
    rows = {name: np.zeros((1, *t.shape[1:]), t.dtype) for name, t in model.input.items()}
    rows["past_clip"][0, 1] = 2
    rows["past_tag"][0, 7] = 1
    np.testing.assert_array_equal(mask(rows), [[False, True, False, True, False]])
    # A history of one field needs no concatenation.
    assert model.get_layer("hemix").widths.histories == {"before": (5, 9), "within": (3, 6)}


def test_ids_out_of_range_are_clipped(model, make_rows):
    rows = make_rows(model)
    far = {**rows, "clip": rows["clip"] * 0 + 10**9}
    last = {**rows, "clip": rows["clip"] * 0 + 8}
    np.testing.assert_array_equal(model(far)["click"], model(last)["click"])


def test_a_switched_off_history_stays_an_input_but_has_no_weights(spec, sizes, make_rows, gradients):
    model = build_ranker(spec, sizes, params={**PARAMS, "global_sequence": False})
    rows = make_rows(model)
    assert set(model.input) == set(model_inputs(spec))
    other = {**rows, "past_clip": rows["past_clip"] * 0}
    np.testing.assert_array_equal(model(other)["click"], model(rows)["click"])
    assert all(g is not None for g in gradients(model, model.trainable_variables, rows))


def test_a_spec_without_a_history_says_what_to_change(spec, sizes):
    short = _with_features(spec, lambda old: (f for f in old if f.name != "today"))
    with pytest.raises(ValueError, match='window="within".*set `realtime_sequence` to False'):
        build_ranker(short, sizes, params=PARAMS)
    assert build_ranker(short, sizes, params={**PARAMS, "realtime_sequence": False}).count_params()


def test_a_seed_repeats_the_weights_and_leaves_random_alone(spec, sizes):
    random.seed(3)
    expected = random.random()
    random.seed(3)
    first, second, other = (build_ranker(spec, sizes, params=PARAMS, seed=s) for s in (1, 1, 2))
    assert random.random() == expected
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(np.any(a != b) for a, b in zip(first.get_weights(), other.get_weights(), strict=True))


def test_no_two_kernels_start_equal(model):
    drawn = [w for w in model.get_weights() if np.std(w) > 0]
    firsts = [w.ravel()[0] for w in drawn] + [token.ravel()[0] for w in drawn if w.ndim == 3 for token in w[1:]]
    assert len(set(firsts)) == len(firsts)


def test_a_gradient_reaches_every_weight_and_is_finite_with_empty_histories(model, make_rows, gradients, randomize):
    randomize(model, scale=0.3)
    rows = make_rows(model, batch=32)
    for variable, gradient in zip(
        model.trainable_variables, gradients(model, model.trainable_variables, rows), strict=True
    ):
        assert gradient is not None and np.any(gradient), f"no gradient reaches {variable.path}"
    for name in rows:
        if name.startswith(("past_", "today_")):
            rows[name] = rows[name] * 0
    assert all(np.all(np.isfinite(g)) for g in gradients(model, model.trainable_variables, rows))


# Without XLA every model is trained in tests/layers/models/test_every_model.py.
@pytest.mark.slow
def test_training_with_xla_fits_a_rule_in_the_data(spec, sizes, make_rows):
    model = build_ranker(spec, sizes, params=PARAMS)
    rows = make_rows(model, batch=32)
    labels = {"click": (rows["clip"] % 2).astype("float32"), "like": (rows["today_action"][:, 0] > 1).astype("float32")}
    loss = {task: keras.losses.BinaryCrossentropy(from_logits=True) for task in labels}
    model.compile(keras.optimizers.Adam(0.02), loss=loss, jit_compile=True)
    # A step that makes variables is compiled a second time.
    model.optimizer.build(model.trainable_variables)
    losses = model.fit(rows, labels, batch_size=32, epochs=40, verbose=0).history["loss"]
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"block": "transformer", "null_key": True, "dropout": 0.1}])
def test_a_file_gives_back_the_same_logits(options, spec, sizes, make_rows, tmp_path):
    model = build_ranker(spec, sizes, params={**PARAMS, **options})
    rows = make_rows(model)
    model.save(tmp_path / "ranker.keras")
    loaded = load(tmp_path / "ranker.keras")
    for task, logit in model(rows).items():
        np.testing.assert_array_equal(loaded(rows)[task], logit)
    assert counts(loaded) == counts(model)


@pytest.mark.slow
def test_mixed_precision_keeps_logits_in_float32(spec, sizes, make_rows, float32_afterwards, gradients):
    exact = build_ranker(spec, sizes, params=PARAMS)
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = build_ranker(spec, sizes, params=PARAMS)
    rows = make_rows(model)
    assert model.get_layer("hemix").compute_dtype == "bfloat16"
    for task, logit in model(rows).items():
        assert logit.dtype == "float32"
        np.testing.assert_allclose(logit, exact(rows)[task], atol=0.05)
    for gradient in gradients(model, model.trainable_variables, rows):
        assert gradient.dtype == "float32" and np.all(np.isfinite(gradient))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"loops": 2}, {"block": "transformer"}, {"mixed_queries": False}, {"null_key": True, "tokenizer_units": (9,)}],
    ids=str,
)
def test_flops_are_those_of_the_traced_graph(options, spec, sizes, make_rows, matrix_product_flops):
    model = build_ranker(spec, sizes, params={**PARAMS, **options})
    assert matrix_product_flops(model, make_rows(model)) == sum(part.flops for part in counts(model))


def test_parameters_are_counted_part_by_part(model):
    parts = {part.name: part for part in counts(model)}
    assert list(parts) == [
        "embeddings",
        "target interest",
        "tokenizer",
        "interest extraction",
        "blocks: mixing",
        "blocks: FFN",
        "blocks: norms",
        "heads",
    ]
    assert sum(part.parameters for part in parts.values()) == model.count_params()
    rows = 4 * 2 + 6 * 5 + 9 * 6 + 5 * 3 + 5 * 2 + 4 * 4 + 5 * 2 + 9 * 3
    # The tags of the row and of both histories are pooled by attention, each with a query.
    assert parts["embeddings"] == Part("embeddings", rows + 3 * 3, 0)
    assert parts["heads"] == Part("heads", 2 * (8 * 6 + 6 + 6 + 1), 2 * 2 * (8 * 6 + 6))


def test_weights_that_no_part_counts_are_refused(model):
    x = keras.Input((3,))
    with pytest.raises(ValueError, match=r"layer `extra` \(Dense\) has weights but no `parts\(\)`"):
        counts(keras.Model(x, keras.layers.Dense(2, name="extra")(x)))


def test_weights_of_values_count_in_the_pooling_of_each_event(spec, sizes):
    def weighted(old):
        return (f.model_copy(update={"weights": "w", "pooling": "mean"}) if f.name == "tag" else f for f in old)

    model = build_ranker(_with_features(spec, weighted), sizes, params=PARAMS)
    assert model.input["past_w"].shape == (None, 10)
    rows = {name: np.zeros((1, *t.shape[1:]), t.dtype) for name, t in model.input.items()}
    rows["past_tag"][0, :4] = [1, 2, 3, 0]
    rows["past_w"][0, :4] = [0.5, 2.0, 0.25, 7.0]
    found = keras.Model(model.input, model.get_layer("mean_past_tag").output)(rows)
    table = np.array(tables_of(model)["tag"].read())
    np.testing.assert_allclose(found[0, 0], (0.5 * table[1] + 2 * table[2]) / 2.5, atol=1e-6)
    np.testing.assert_allclose(found[0, 1], table[3], atol=1e-6)
    assert not np.any(found[0, 2:])
