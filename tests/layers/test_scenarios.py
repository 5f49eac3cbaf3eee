"""A scenario added to a trained model: what is trained, what stays bit for bit; and the report on routing."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from layers.counts import counts
from layers.ranker import build_ranker, load_ranker
from layers.routing import routing_report
from layers.scenarios import add_scenario
from schemas.features import FeatureSpec, Numeric, Scenario

PARAMS = {
    "num_tokens": 2,
    "features_per_token": 3,
    "dim": 6,
    "num_layers": 1,
    "mixing_heads": 2,
    "base_experts": 1,
    "shared_experts": 1,
    "scenario_shared_experts": 1,
    "active_experts": 1,
    "expert_dim": 4,
    "head_units": (5,),
    "main_scenario": 7,
}


def _spec(spec: FeatureSpec, *values: int) -> FeatureSpec:
    return FeatureSpec(**{**dict(spec), "scenario": Scenario("place", values=values, dim=2)})


def _scores(model, rows, ids) -> np.ndarray:
    logits = model({**rows, "place": np.asarray(ids)})
    return np.stack([np.array(logits[task]) for task in ("click", "like")])


def _train(model, rows, scenario: int) -> None:
    loss = {task: keras.losses.BinaryCrossentropy(from_logits=True) for task in ("click", "like")}
    model.compile(keras.optimizers.AdamW(0.05, weight_decay=0.1), loss=loss, run_eagerly=True)
    labels = {task: (rows["clip"] % 2).astype("float32")[:, None] for task in loss}
    for _ in range(2):
        model.train_on_batch({**rows, "place": np.full(len(rows["clip"]), scenario)}, labels)


@pytest.fixture(scope="module")
def sizes_of():
    return {"person": 6, "clip": 9, "tag": 5, "country": 4}


@pytest.fixture
def trained(spec, sizes_of, randomize):
    model = build_ranker(_spec(spec, 3, 7), sizes_of, model="mtmixatt", params=PARAMS, seed=1)
    randomize(model, scale=0.3)
    return model


def test_a_new_scenario_trains_its_own_weights_and_leaves_all_other_scores_bit_equal(
    trained, spec, make_rows, tmp_path
):
    rows = make_rows(trained, batch=8)
    missing, first, main, other = (np.full(8, i) for i in (0, 1, 2, 3))
    before = [_scores(trained, rows, ids) for ids in (missing, first, main, other)]

    grown = add_scenario(trained, _spec(spec, 3, 7, 9))
    own = {v.path.split("/", 1)[1] for v in grown.trainable_variables}
    block = {"router_3/kernel", "router_3/bias", "scenario_router_3/kernel"}
    block |= {f"experts_3/{name}" for name in ("expand", "expand_bias", "contract", "contract_bias")}
    assert own == {"row_3"} | {f"block_0/scenario_experts/{name}" for name in block} | {
        f"{task}_{layer}_adapter/{part}_3"
        for task in ("click", "like")
        for layer in ("hidden_0", "logit")
        for part in ("down", "up", "bias")
    }
    start = _scores(grown, rows, np.full(8, 3))
    frozen = {v.path: np.array(v) for v in grown.non_trainable_variables}
    moving = {v.path: np.array(v) for v in grown.trainable_variables}
    _train(grown, rows, 3)
    assert all(np.any(np.array(v) != moving[v.path]) for v in grown.trainable_variables)
    for variable in grown.non_trainable_variables:
        np.testing.assert_array_equal(variable, frozen[variable.path], err_msg=variable.path)
    assert np.abs(_scores(grown, rows, np.full(8, 3)) - start).max() > 1e-2
    for ids, expected in zip((missing, first, main, np.full(8, 4)), before, strict=True):
        np.testing.assert_array_equal(_scores(grown, rows, ids), expected)
    # Among rows of the new scenario too.
    mixed = _scores(grown, rows, np.array([1, 3, 3, 1, 3, 1, 3, 1]))
    np.testing.assert_allclose(mixed[:, [0, 3, 5, 7]], before[1][:, [0, 3, 5, 7]], atol=1e-5)

    grown.save(tmp_path / "grown.keras")
    loaded = load_ranker(tmp_path / "grown.keras")
    for ids in (first, np.full(8, 3), np.full(8, 4)):
        np.testing.assert_array_equal(_scores(loaded, rows, ids), _scores(grown, rows, ids))
    assert {v.path for v in loaded.trainable_variables} == {v.path for v in grown.trainable_variables}
    assert sum(part.parameters for part in counts(grown)) == grown.count_params()


@pytest.mark.slow
def test_scenarios_can_be_added_one_after_another(trained, spec, make_rows):
    rows = make_rows(trained, batch=6)
    once = add_scenario(trained, _spec(spec, 3, 7, 9))
    _train(once, rows, 3)
    before = [_scores(once, rows, np.full(6, i)) for i in (1, 2, 3, 4)]
    twice = add_scenario(once, _spec(spec, 3, 7, 9, 11), like=9)
    assert all("_4" in v.path for v in twice.trainable_variables)
    _train(twice, rows, 4)
    for i, expected in zip((1, 2, 3, 5), before, strict=True):
        np.testing.assert_array_equal(_scores(twice, rows, np.full(6, i)), expected)


def test_a_new_scenario_starts_with_the_expert_and_vector_of_another(trained, spec, make_rows):
    """With the adapter of the copied scenario switched off, that is the main one, the scores are the same."""
    rows = make_rows(trained, batch=6)
    grown = add_scenario(trained, _spec(spec, 3, 7, 9))
    np.testing.assert_allclose(_scores(grown, rows, np.full(6, 3)), _scores(trained, rows, np.full(6, 2)), atol=1e-5)


def test_what_cannot_be_added_is_named(trained, spec, sizes_of):
    with pytest.raises(ValueError, match=r"one more at the end, the model has \(3, 7\), received \(3, 9, 7\)"):
        add_scenario(trained, _spec(spec, 3, 9, 7))
    with pytest.raises(ValueError, match="`like` must be a scenario of the model, received 8"):
        add_scenario(trained, _spec(spec, 3, 7, 9), like=8)
    wider = FeatureSpec(**{**dict(_spec(spec, 3, 7, 9)), "features": (Numeric("new", group="user"), *spec.features)})
    with pytest.raises(ValueError, match=r"must have the columns of the model, it differs in \['new'\]"):
        add_scenario(trained, wider)
    with pytest.raises(ValueError, match="`model` must be an mtmixatt ranker, received hemix"):
        add_scenario(build_ranker(_spec(spec, 3, 7), sizes_of, preset="tiny"), _spec(spec, 3, 7, 9))


def test_the_routing_report_counts_own_experts_and_load(trained, make_rows, spec, sizes_of):
    rows = make_rows(trained, batch=7)
    batches = [{**rows, "place": np.array(ids)} for ids in ([0, 1, 1, 2, 2, 2, 3], [2] * 7)]
    found = routing_report(trained, batches)
    assert found["scenarios"] == ["3", "7", "other"] and found["rows"] == [2, 10, 2]
    assert found["experts"] == ["3", "7"] and len(found["blocks"]) == 1
    for block in found["blocks"]:
        # One active expert and a hard bonus: always the own one.
        assert block["own"] == [1.0, 1.0, None]
        assert block["load"][:2] == [[1.0, 0.0], [0.0, 1.0]]
        assert sum(block["load"][2]) == pytest.approx(1)
    assert trained.get_layer("mtmixatt").blocks[0].sparse.on_routing is None
    assert routing_report(trained, []) == {}
    assert routing_report(build_ranker(_spec(spec, 3, 7), sizes_of, preset="tiny"), batches) == {}
