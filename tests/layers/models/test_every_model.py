"""What every model of the registry keeps to, whatever its paper."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from mixrank.layers import registry
from mixrank.layers.base.parts import counts
from mixrank.layers.ranking.budget import dense_parameters, match
from mixrank.layers.ranking.inputs import model_inputs, widths
from mixrank.layers.ranking.ranker import build_ranker, load
from mixrank.schemas.datasets.kuairand import SPEC as KUAIRAND
from mixrank.schemas.features import GROUPS, FeatureSpec

every_model = pytest.mark.parametrize("name", registry.names())


@pytest.fixture(scope="module")
def rankers():
    """name -> its tiny ranker with random weights; built once."""
    return {}


@pytest.fixture
def ranker(name, rankers, spec, sizes, randomize):
    if name not in rankers:
        rankers[name] = build_ranker(spec, sizes, model=name, preset="tiny", seed=1)
        _moderate(rankers[name])
    return rankers[name]


def _moderate(model) -> None:
    """Random biases and norms too, small enough for deep stacks to stay smooth."""
    rng = np.random.default_rng(7)
    for variable in model.trainable_variables:
        variable.assign(variable + rng.normal(scale=0.05, size=variable.shape))


def _scores(logits) -> np.ndarray:
    return np.stack([np.array(logit, "float32") for logit in logits.values()], axis=1)


def _arguments(backbone, requests: int, candidates: np.ndarray, seed: int = 0):
    """Random vectors as a backbone gets them; the first request's histories are empty."""
    rng = np.random.default_rng(seed)
    rows = {"user": requests, "item": len(candidates), "context": requests}
    features = {
        group: [rng.normal(size=(rows[group], width)).astype("float32") for width in backbone.widths.vectors[group]]
        for group in GROUPS
    }
    histories = {}
    for window, (length, width) in backbone.widths.histories.items():
        filled = np.arange(length) < rng.integers(1, length + 1, size=requests)[:, None]
        filled[0] = False
        items = rng.normal(size=(requests, length, width)).astype("float32")
        histories[window] = {"items": items, "mask": filled}
    return features, histories, rng.integers(0, len(backbone.scenarios) + 2, size=requests)


def _expanded(arguments, rows):
    features, histories, scenario = arguments
    features = {g: vectors if g == "item" else [v[rows] for v in vectors] for g, vectors in features.items()}
    histories = {window: {key: x[rows] for key, x in each.items()} for window, each in histories.items()}
    return features, histories, scenario[rows]


@every_model
def test_a_row_gets_a_finite_float32_logit_per_task(ranker, spec, make_rows):
    assert set(ranker.input) == set(model_inputs(spec))
    logits = ranker(make_rows(ranker, batch=5))
    assert list(logits) == ["click", "like"]
    for logit in logits.values():
        assert logit.shape == (5,) and logit.dtype == "float32"
        assert np.all(np.isfinite(logit)) and np.std(logit) > 0
    assert np.abs(np.array(logits["click"]) - np.array(logits["like"])).max() > 1e-6


@every_model
def test_a_file_gives_back_the_same_logits(ranker, make_rows, tmp_path):
    ranker.save(tmp_path / "ranker.keras")
    loaded = load(tmp_path / "ranker.keras")
    rows = make_rows(ranker)
    np.testing.assert_array_equal(_scores(loaded(rows)), _scores(ranker(rows)))
    assert counts(loaded) == counts(ranker)


@every_model
def test_every_weight_is_counted(ranker):
    assert sum(part.parameters for part in counts(ranker)) == ranker.count_params()


@every_model
def test_the_arithmetic_before_building_is_that_of_the_built_model(name, ranker, spec):
    dense = sum(part.parameters for part in counts(ranker) if part.name != "embeddings")
    params = registry.check(name, preset="tiny")
    assert dense == dense_parameters(name, params, widths(spec), spec.tasks, spec.scenario.values)
    backbone = ranker.get_layer(name)
    assert backbone.widths == widths(spec)._replace(
        histories={w: size for w, size in widths(spec).histories.items() if w in backbone.windows}
    )


@every_model
def test_flops_are_those_of_the_traced_graph(ranker, make_rows, matrix_product_flops):
    assert matrix_product_flops(ranker, make_rows(ranker)) == sum(part.flops for part in counts(ranker))


@every_model
def test_histories_and_groups_all_reach_the_logits(name, ranker, make_rows):
    rows = make_rows(ranker, batch=16)
    before = _scores(ranker(rows))
    columns = ["place", "person", "clip", "country", "age"]
    columns += [
        f"{each}_clip" for each, w in (("past", "before"), ("today", "within")) if w in ranker.get_layer(name).windows
    ]
    for column in columns:
        values = rows[column]
        other = values + 1 if values.dtype == "float32" else np.where(values > 0, values % 3 + 1, 0)
        assert np.abs(_scores(ranker({**rows, column: other})) - before).max() > 1e-6, column


@every_model
def test_a_row_is_scored_alone_as_in_any_batch(ranker, make_rows):
    rows = make_rows(ranker, batch=7)
    expected = _scores(ranker(rows))
    order = np.array([3, 0, 6, 2, 5, 1, 4])
    np.testing.assert_allclose(_scores(ranker({k: v[order] for k, v in rows.items()})), expected[order], atol=1e-5)
    one = _scores(ranker({k: v[2:3] for k, v in rows.items()}))
    np.testing.assert_allclose(one, expected[2:3], atol=1e-5)


@every_model
def test_what_stands_in_padding_does_not_matter(name, ranker):
    backbone = ranker.get_layer(name)
    features, histories, scenario = _arguments(backbone, 4, np.arange(4))
    garbage = {
        window: {"items": np.where(each["mask"][..., None], each["items"], 1e3).astype("float32"), "mask": each["mask"]}
        for window, each in histories.items()
    }
    expected = np.array(backbone(features, histories, scenario))
    np.testing.assert_allclose(backbone(features, garbage, scenario), expected, atol=1e-5)


@every_model
def test_nothing_known_gives_finite_logits_and_gradients(ranker, make_rows, gradients):
    rows = make_rows(ranker, batch=3)
    unseen = {k: np.where(v != 0, 10**6, 0) if v.dtype != "float32" else v for k, v in rows.items()}
    for case in (unseen, {k: v * 0 for k, v in rows.items()}):
        assert np.all(np.isfinite(_scores(ranker(case))))
        found = gradients(ranker, ranker.trainable_variables, case)
        assert all(np.all(np.isfinite(g)) for g in found if g is not None)


@every_model
def test_two_training_steps_move_every_weight(name, spec, sizes, make_rows):
    # Two, because a low-rank pair that starts at zero lets no gradient through in the first.
    model = build_ranker(spec, sizes, model=name, preset="tiny", seed=2)
    rows = make_rows(model, batch=64)
    labels = {task: np.random.default_rng(0).integers(0, 2, (64, 1)).astype("float32") for task in spec.tasks}
    loss = {task: keras.losses.BinaryCrossentropy(from_logits=True) for task in labels}
    model.compile(keras.optimizers.Adam(0.01), loss=loss, run_eagerly=True)
    before = [np.array(v) for v in model.trainable_variables]
    losses = [model.train_on_batch(rows, labels, return_dict=True)["loss"] for _ in range(2)]
    still = [v.path for v, old in zip(model.trainable_variables, before, strict=True) if np.all(np.array(v) == old)]
    assert not still and np.all(np.isfinite(losses))


@every_model
def test_mixed_precision_stays_close_and_trains_in_float32(
    name, ranker, spec, sizes, make_rows, gradients, float32_afterwards
):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = build_ranker(spec, sizes, model=name, preset="tiny", seed=1)
    model.set_weights(ranker.get_weights())
    rows = make_rows(model, batch=6)
    assert model.get_layer(name).compute_dtype == "bfloat16"
    logits = model(rows)
    assert all(logit.dtype == "float32" for logit in logits.values())
    exact = _scores(ranker(rows))
    np.testing.assert_allclose(_scores(logits), exact, atol=0.1 * np.abs(exact).max() + 0.05)
    for gradient in gradients(model, model.trainable_variables, rows):
        assert gradient is None or (gradient.dtype == "float32" and np.all(np.isfinite(gradient)))


@pytest.mark.parametrize("rows", [[2, 0, 2, 3, 0], [0, 0, 0]], ids=["several requests", "one request"])
@every_model
def test_candidates_of_a_request_are_scored_as_expanded_rows(name, rows, ranker, gradients):
    backbone = ranker.get_layer(name)
    # Request 1 has no candidate, the first an empty history.
    rows = np.array(rows)
    arguments = _arguments(backbone, 4 if rows.any() else 1, rows)
    expanded = _expanded(arguments, rows)
    np.testing.assert_allclose(backbone(*arguments, rows=rows), backbone(*expanded), atol=1e-5)
    variables = backbone.trainable_variables
    by_request = gradients(lambda *a: backbone(*a, rows=rows), variables, *arguments)
    by_row = gradients(backbone, variables, *expanded)
    for variable, left, right in zip(variables, by_request, by_row, strict=True):
        assert (left is None) == (right is None), variable.path
        if left is not None:
            np.testing.assert_allclose(left, right, atol=1e-4 * (1 + np.abs(right).max()), err_msg=variable.path)


@every_model
def test_gradients_are_finite_differences(name, ranker, gradients):
    backbone = ranker.get_layer(name)
    arguments = _arguments(backbone, 3, np.arange(3), seed=3)
    variables, rng = backbone.trainable_variables, np.random.default_rng(4)
    before = [np.array(v) for v in variables]
    found = gradients(backbone, variables, *arguments)
    weights = np.random.default_rng(5).normal(size=np.array(backbone(*arguments)).shape)
    failures = []
    # A long step may cross a kink of ReLU, a short one drowns in rounding.
    for step in (1e-3, 3e-4, 1e-4):
        direction = [rng.normal(size=v.shape) for v in variables]
        sides = []
        for sign in (1, -1):
            for variable, old, d in zip(variables, before, direction, strict=True):
                variable.assign(old + sign * step * d / np.sqrt(len(variables)))
            sides.append(np.sum(np.array(backbone(*arguments), "float64") * weights))
        for variable, old in zip(variables, before, strict=True):
            variable.assign(old)
        difference = (sides[0] - sides[1]) / (2 * step)
        slope = sum(np.sum(g * d) for g, d in zip(found, direction, strict=True) if g is not None) / np.sqrt(
            len(variables)
        )
        failures.append(abs(difference - slope) / (1 + abs(slope)))
    assert min(failures) < 0.01, failures


def _with(spec: FeatureSpec, windows: tuple[str, ...]) -> FeatureSpec:
    kept = tuple(f for f in spec.features if f.type != "history" or f.window in windows)
    if not windows:
        # No history, so no field that only a history has.
        kept = tuple(f for f in kept if f.type not in ("action", "time_gap"))
    return FeatureSpec(**{**dict(spec), "features": kept})


@pytest.mark.parametrize("windows", [(), ("before",), ("within",)], ids=str)
@every_model
def test_a_log_without_a_history_is_scored_or_the_remedy_named(name, windows, spec, sizes, make_rows):
    short = _with(spec, windows)
    try:
        model = build_ranker(short, sizes, model=name, preset="tiny")
    except ValueError as error:
        assert "window=" in str(error) and "declare" in str(error)
    else:
        rows = {n: np.ones((2, *x.shape[1:]), x.dtype) for n, x in model.input.items()}
        assert np.all(np.isfinite(_scores(model(rows))))


@every_model
def test_a_model_scales_to_a_budget(name):
    arguments = (widths(KUAIRAND), KUAIRAND.tasks, KUAIRAND.scenario.values)
    for budget in (1_000_000, 20_000_000):
        params = match(name, budget, *arguments, preset="tiny")
        assert dense_parameters(name, params, *arguments) == pytest.approx(budget, rel=0.06)


@every_model
def test_presets_grow(name):
    arguments = (widths(KUAIRAND), KUAIRAND.tasks, KUAIRAND.scenario.values)
    found = [
        dense_parameters(name, registry.check(name, preset=preset), *arguments)
        for preset in ("tiny", "small", "large")
        if preset in registry.presets(name)
    ]
    assert found and found == sorted(set(found))


@pytest.mark.slow
@every_model
def test_training_fits_a_rule_in_the_data(name, spec, sizes, make_rows):
    model = build_ranker(spec, sizes, model=name, preset="tiny")
    rows = make_rows(model, batch=32)
    labels = {"click": (rows["clip"] % 2).astype("float32"), "like": (rows["person"] > 2).astype("float32")}
    labels = {task: values[:, None] for task, values in labels.items()}
    loss = {task: keras.losses.BinaryCrossentropy(from_logits=True) for task in labels}
    model.compile(keras.optimizers.Adam(0.01), loss=loss, jit_compile=False)
    losses = model.fit(rows, labels, batch_size=32, epochs=60, verbose=0).history["loss"]
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "numpy"])
def test_another_backend_gives_the_same_logits(backend, rankers, spec, sizes, make_rows, tmp_path):
    for name in registry.names():
        if name not in rankers:
            rankers[name] = build_ranker(spec, sizes, model=name, preset="tiny", seed=1)
            _moderate(rankers[name])
        rankers[name].save(tmp_path / f"{name}.keras")
    rows = make_rows(rankers[registry.names()[0]], batch=5)
    np.savez(tmp_path / "rows.npz", **rows)
    code = (
        "import sys, keras, numpy as np\n"
        "from pathlib import Path\n"
        "from mixrank.layers.ranking.ranker import load\n"
        "assert keras.backend.backend() == sys.argv[2]\n"
        "rows = dict(np.load(sys.argv[1] + '/rows.npz'))\n"
        "for path in Path(sys.argv[1]).glob('*.keras'):\n"
        "    model = load(path)\n"
        "    np.savez(path.with_suffix('.logits.npz'), **model(rows))\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run([sys.executable, "-c", code, str(tmp_path), backend], env=environment, check=True)
    for name in registry.names():
        with np.load(tmp_path / f"{name}.logits.npz") as logits:
            np.testing.assert_allclose(_scores(dict(logits)), _scores(rankers[name](rows)), atol=1e-4, err_msg=name)
