"""Rules that every kind of heads keeps on a small backbone, alone and for the candidates of one request."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import mixrank
from mixrank import testing
from mixrank.layers import registry
from mixrank.layers.base import counts
from mixrank.layers.heads import HEAD_KINDS
from mixrank.layers.ranking import build_ranker, dense_ranker, request_ranker

# Sizes that differ from each other, and every option that changes the structure.
HEADS = {
    "shared_bottom": {"units": [6]},
    "mmoe": {"experts": 3, "expert_units": [7, 5], "units": [6]},
    "mmoe plain": {"kind": "mmoe", "experts": 2, "expert_units": [4]},
    "ple": {"task_experts": 1, "shared_experts": 2, "expert_units": [5], "levels": 2, "units": [6]},
    "ple of one level": {"kind": "ple", "task_experts": 2, "shared_experts": 0, "expert_units": [7, 5], "levels": 1},
    "home": {
        "groups": [["click", "like"]],
        "group_experts": 2,
        "expert_units": [7, 5],
        "feature_rank": 3,
        "units": [6],
    },
    "home without feature gates": {"kind": "home", "shared_experts": 2, "expert_units": [5], "feature_rank": 0},
    "pepnet": {"gate_dim": 5, "units": [6, 4]},
    "pepnet of named features": {"kind": "pepnet", "domain": ["place", "country"], "personal": ["age", "tag", "clip"]},
}
# What of the contract of a model the heads have a part in.
RULES = (
    testing.a_row_gets_a_finite_float32_logit_per_task,
    testing.a_file_gives_back_the_same_logits,
    testing.every_weight_is_counted,
    testing.the_arithmetic_before_building_is_that_of_the_built_model,
    testing.flops_are_those_of_the_traced_graph,
    testing.histories_and_groups_all_reach_the_logits,
    testing.a_row_is_scored_alone_as_in_any_batch,
    testing.nothing_known_gives_finite_logits_and_gradients,
    testing.two_training_steps_move_every_weight,
    testing.mixed_precision_stays_close_and_trains_in_float32,
)
# The rules take seconds for each; those of one kind run with the fast tests.
QUICK = ("home",)
every = pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in HEADS]
)


def chosen(name: str) -> dict:
    return {"kind": name, **HEADS[name]}


@pytest.fixture(scope="module")
def cases():
    """name -> a ranker with these heads and what its rules are tried on; built once."""
    return functools.cache(lambda name: testing.Case("dcnv2", heads=chosen(name)))


def test_all_kinds_are_tried():
    assert {chosen(name)["kind"] for name in HEADS} == set(HEAD_KINDS)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@every
def test_heads_keep_the_contract(name, rule, cases):
    rule(cases(name))


@every
def test_candidates_of_one_request_are_scored_as_rows_of_their_own(name, cases):
    case = cases(name)
    rows = testing.toy_rows(case.ranker, batch=5)
    items = {feature.name for feature in case.spec.model_features if feature.group == "item"}
    one = {column: x if column in items else x[2:3] for column, x in rows.items()}
    expanded = {column: x if column in items else np.repeat(x, 5, axis=0) for column, x in one.items()}
    expected, ranker = case.ranker(expanded), request_ranker(case.spec, case.ranker)
    got = ranker(one)
    assert list(got) == list(expected)
    for task, logits in expected.items():
        assert got[task].shape == (5,) and got[task].dtype == "float32"
        np.testing.assert_allclose(got[task], logits, atol=1e-5)
    # Shapes are unknown in a graph, as when it is served.
    served = tf.function(ranker, reduce_retracing=True)({column: tf.constant(x) for column, x in one.items()})
    np.testing.assert_allclose(served["like"], expected["like"], atol=1e-5)
    assert {id(v) for v in ranker.variables} == {id(v) for v in case.ranker.variables}


@every
def test_the_ranker_behind_its_tables_gives_the_same_logits(name, cases):
    case = cases(name)
    tensors = {column: tf.constant(x) for column, x in testing.toy_rows(case.ranker, batch=5).items()}
    vectors = [layer({c: tensors[c] for c in layer.columns}) for layer in case.ranker.layers if hasattr(layer, "sizes")]
    got = dense_ranker(case.spec, case.ranker)([tensors, vectors])
    np.testing.assert_allclose(testing.scores(got), testing.scores(case.ranker(tensors)), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAD_KINDS)
def test_a_saved_model_gives_the_same_logits(name, cases, tmp_path):
    ranker = cases(name).ranker
    rows = testing.toy_rows(ranker, batch=4)
    ranker.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    found = loaded.serve({column: tf.constant(x) for column, x in rows.items()})
    np.testing.assert_allclose(testing.scores(found), testing.scores(ranker(rows)), atol=1e-6)


@every
def test_gates_are_told_as_means_over_the_rows(name, cases):
    ranker = cases(name).ranker
    batches = [testing.toy_rows(ranker, batch=size, seed=size) for size in (3, 5)]
    heads = ranker.get_layer("heads")
    found = heads.insights(ranker, batches)
    if chosen(name)["kind"] == "shared_bottom":
        assert found == {}
        return
    assert found["gates"]["examined"] == 8
    for table in found["gates"]["tables"]:
        for row in table["rows"]:
            weights = [weight for weight in row["weights"] if weight is not None]
            assert len(row["weights"]) == len(table["columns"]) and weights
            if table["title"] in ("experts", "level 1", "level 2", "abstraction layer", "task layer"):
                assert sum(weights) == pytest.approx(1, abs=1e-3)
            else:
                assert all(0 <= weight <= 2 for weight in weights)
    assert heads.on_gate is None and heads.insights(ranker, []) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAD_KINDS)
def test_training_fits_a_rule_in_the_data(name, one_block):
    model = build_ranker(
        testing.toy_spec(), testing.SIZES, "dcnv2", one_block("dcnv2"), "tiny", seed=0, heads=chosen(name)
    )
    rows = testing.toy_rows(model, batch=32)
    labels = {"click": (rows["clip"] % 2).astype("float32"), "like": (rows["person"] > 2).astype("float32")}
    labels = {task: values[:, None] for task, values in labels.items()}
    loss = {task: keras.losses.BinaryCrossentropy(from_logits=True) for task in labels}
    model.compile(keras.optimizers.Adam(0.01), loss=loss, jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    first = model.train_on_batch(rows, labels, return_dict=True)["loss"]
    for _ in range(58):
        model.train_on_batch(rows, labels)
    model.reset_metrics()
    assert model.train_on_batch(rows, labels, return_dict=True)["loss"] < 0.3 * first


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names())
def test_every_model_takes_other_heads_and_keeps_its_own_by_default(name, tmp_path):
    own = build_ranker(testing.toy_spec(), testing.SIZES, name, preset="tiny")
    other = build_ranker(testing.toy_spec(), testing.SIZES, name, preset="tiny", heads=chosen("pepnet"))
    assert type(own.get_layer("heads")).__name__ == ("ScenarioHeads" if name == "mtmixatt" else "TaskHeads")
    assert type(other.get_layer("heads")).__name__ == "PEPNetHeads"
    rows = testing.toy_rows(other, batch=3)
    other.save(tmp_path / "ranker.keras")
    loaded = mixrank.load(tmp_path / "ranker.keras")
    np.testing.assert_array_equal(testing.scores(loaded(rows)), testing.scores(other(rows)))
    assert counts(loaded) == counts(other)


def test_heads_have_the_towers_of_the_model_unless_they_say_otherwise():
    def units(**options) -> tuple[int, ...]:
        heads = {"kind": "mmoe", "expert_units": [4], **options}
        ranker = build_ranker(
            testing.toy_spec(), testing.SIZES, "mlp_mixer", {"num_layers": 0, "dim": 8, "head_units": (9,)}, heads=heads
        )
        return ranker.get_layer("heads").units

    assert units() == (9,)
    assert units(units=[3, 2]) == (3, 2)
    assert units(units=[]) == ()
