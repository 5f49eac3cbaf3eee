"""A ranker put together for one request scores its candidates as rows of their own, and does the rest once."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from mixrank import testing
from mixrank.layers import registry
from mixrank.layers.base import counts
from mixrank.layers.ranking import build_ranker, dense_ranker, load, model_inputs, request_ranker
from mixrank.schemas import FeatureSpec, Hash

every_model = pytest.mark.parametrize("name", registry.names())
# Options under which a model treats a request differently.
OPTIONS = [
    ("hemix", {"null_key": True, "query_residual": True, "position_embedding": True}),
    ("hemix", {"fixed_queries": False}),
    ("hemix", {"mixed_queries": False}),
    ("hemix", {"global_sequence": False}),
    ("mixformer", {"user_heads": 2}),
    ("mtmixatt", {"share_across_tokens": True}),
    ("mtmixatt", {"adapter": "logit", "esmm": (("like", "click"),)}),
    ("dcnv2", {"pooling": "target"}),
    ("rankmixer", {"pooling": "target"}),
    ("sim", {"search": "soft"}),
]


@pytest.fixture(scope="module")
def built():
    """name -> what `make` gave for it without parameters."""
    return {}


@pytest.fixture
def make(spec, sizes, built):
    """name, parameters -> a ranker with random weights, and the same for one request."""

    def build(name, params=None):
        if params is None and name in built:
            return built[name]
        model = build_ranker(spec, sizes, model=name, params=params, preset="tiny", seed=1)
        rng = np.random.default_rng(7)
        for variable in model.trainable_variables:
            variable.assign(variable + rng.normal(scale=0.05, size=variable.shape))
        pair = model, request_ranker(spec, model)
        if params is None:
            built[name] = pair
        return pair

    return build


def _items(spec: FeatureSpec) -> set[str]:
    return {feature.name for feature in spec.model_features if feature.group == "item"}


def _request(rows, items, row: int):
    """The user's side of one row with the items of all, and the same as rows of their own."""
    one = {name: x if name in items else x[row : row + 1] for name, x in rows.items()}
    size = len(next(iter(rows.values())))
    return one, {name: x if name in items else np.repeat(x, size, axis=0) for name, x in one.items()}


def _assert_same(model, ranker, rows, items, atol=1e-5):
    size = len(next(iter(rows.values())))
    # The history of the first row is empty.
    for row in (0, size - 1):
        one, expanded = _request(rows, items, row)
        expected, got = model(expanded), ranker(one)
        assert list(got) == list(expected)
        for task, logits in expected.items():
            assert got[task].shape == (size,) and got[task].dtype == "float32"
            np.testing.assert_allclose(got[task], logits, atol=atol)


@pytest.mark.slow
@every_model
@pytest.mark.parametrize("candidates", [1, 7])
def test_candidates_are_scored_as_rows_of_their_own(name, candidates, make, spec, make_rows):
    model, ranker = make(name)
    _assert_same(model, ranker, make_rows(model, batch=candidates), _items(spec))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "params"), OPTIONS, ids=str)
def test_every_way_to_share_a_request_gives_the_same(name, params, make, spec, make_rows):
    model, ranker = make(name, params)
    _assert_same(model, ranker, make_rows(model, batch=5), _items(spec))


@pytest.mark.slow
def test_every_scenario_of_a_request_has_its_own_heads(make, spec, make_rows):
    model, ranker = make("mtmixatt")
    rows = make_rows(model, batch=5)
    found = []
    for scenario in (0, 1, 2, 3):
        rows["place"] = np.full(5, scenario)
        _assert_same(model, ranker, rows, _items(spec))
        found.append(np.array(ranker(_request(rows, _items(spec), 1)[0])["click"]))
    assert len({each.tobytes() for each in found}) == 4


@pytest.mark.slow
@every_model
def test_weights_and_tables_are_those_of_the_ranker(name, make):
    model, ranker = make(name)
    assert {id(v) for v in ranker.variables} == {id(v) for v in model.variables}


def test_the_columns_of_the_request_have_one_row(make, spec):
    _, ranker = make("hemix")
    shapes = {name: x.shape for name, x in model_inputs(spec).items()}
    assert {name: x.shape for name, x in ranker.input.items()} == {
        name: (None if name in ("clip", "tag", "seconds", "had") else 1, *shape[1:]) for name, shape in shapes.items()
    }


@pytest.mark.slow
def test_the_ranker_is_still_saved_as_before(make, make_rows, tmp_path, spec):
    model, _ = make("hemix")
    model.save(tmp_path / "ranker.keras")
    loaded = load(tmp_path / "ranker.keras")
    rows = make_rows(model, batch=3)
    np.testing.assert_array_equal(loaded(rows)["click"], model(rows)["click"])
    _assert_same(model, request_ranker(spec, loaded), rows, _items(spec))


def test_a_ranker_of_before_the_shared_tables_is_refused(make, spec):
    model, _ = make("dcnv2")
    before = SimpleNamespace(layers=[layer for layer in model.layers if not hasattr(layer, "columns")])
    for put_together in (request_ranker, dense_ranker):
        with pytest.raises(ValueError, match="no layer `EmbeddingTables`: .* train it again"):
            put_together(spec, before)


@pytest.mark.slow
def test_values_with_two_hash_functions_are_scored_as_any_other(spec, sizes, make_rows, tmp_path):
    twice = {name: Hash(size=sizes[name] - 1, functions=2) for name in ("person", "clip", "tag")}
    features = [f.model_copy(update={"vocab": twice[f.name]}) if f.name in twice else f for f in spec.features]
    spec = FeatureSpec(**{**dict(spec), "features": tuple(features)})
    model = build_ranker(spec, sizes, preset="tiny", seed=1)
    assert counts(model) == counts(build_ranker(testing.toy_spec(), sizes, preset="tiny"))
    rows = make_rows(model, batch=5)
    for name in twice:
        for column in spec.columns_of(spec.get(name)):
            rows[column] = np.where(rows[column] > 0, 7 * rows[column] % (sizes[name] - 1) ** 2 + 1, 0)
    _assert_same(model, request_ranker(spec, model), rows, _items(spec))
    tensors = {name: tf.constant(values) for name, values in rows.items()}
    vectors = [layer({c: tensors[c] for c in layer.columns}) for layer in model.layers if hasattr(layer, "columns")]
    np.testing.assert_allclose(dense_ranker(spec, model)([tensors, vectors])["like"], model(rows)["like"], atol=1e-6)
    model.save(tmp_path / "ranker.keras")
    np.testing.assert_array_equal(load(tmp_path / "ranker.keras")(rows)["click"], model(rows)["click"])
    # Another bucket of the second function alone is another score.
    buckets = sizes["person"] - 1
    other = {**rows, "person": 1 + (rows["person"] - 1 + buckets) % buckets**2}
    assert (np.array(model(other)["click"]) != np.array(model(rows)["click"])).any()


def test_a_log_without_features_of_the_item_has_no_candidates(spec, sizes):
    users = tuple(f for f in spec.features if f.type in ("categorical", "numeric") and f.group != "item")
    bare = FeatureSpec(**{**dict(spec), "features": users})
    counted = {name: size for name, size in sizes.items() if name in ("person", "country")}
    model = build_ranker(bare, counted, model="dcnv2", preset="tiny")
    with pytest.raises(ValueError, match='spec `toy` has no feature of group "item"'):
        request_ranker(bare, model)


def _products(function, rows) -> int:
    """Operations of the matrix products of a traced graph."""
    graph = tf.function(function).get_concrete_function({name: tf.constant(x) for name, x in rows.items()}).graph
    total = 0
    for op in graph.get_operations():
        if op.type in ("MatMul", "BatchMatMulV2"):
            inner = -2 if op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x") else -1
            total += 2 * op.inputs[0].shape[inner] * op.outputs[0].shape.num_elements()
    return total


@pytest.mark.slow
def test_hemix_computes_keys_values_and_fixed_queries_once(make, spec, make_rows):
    model, ranker = make("hemix")
    rows = make_rows(model, batch=9)
    cost = {}
    for candidates in (3, 9):
        given = {name: x[:candidates] for name, x in rows.items()}
        one, expanded = _request(given, _items(spec), 1)
        cost[candidates] = _products(model, expanded), _products(ranker, one)
    (by_row, shared), (nine_by_row, nine_shared) = cost[3], cost[9]
    once = (9 * shared - 3 * nine_shared) // 6
    # Of the tiny preset: width 32, 4 and 2 queries of each kind; histories of 5 events of width 14 and 3 of 14.
    keys = sum(2 * length * (14 * 32 + 2 * 32 * 32) for length in (5, 3))
    fixed = sum(2 * number * (2 * length * 32 + 32 * 32) for length, number in ((5, 4), (3, 2)))
    # Fixed queries are projected once per batch in either form.
    projected = 2 * (4 + 2) * 32 * 32
    assert once == keys + fixed + projected
    assert nine_by_row - nine_shared == 8 * (keys + fixed)
    assert by_row - shared == 2 * (keys + fixed)


@pytest.mark.slow
def test_no_history_is_copied_for_its_candidates(make, spec, make_rows):
    """No tensor of a traced request holds a history per candidate."""
    for name in ("hemix", "mtgr", "mixformer", "onetrans", "hyformer", "dcnv2"):
        model, ranker = make(name)
        one, _ = _request(make_rows(model, batch=101), _items(spec), 1)
        graph = tf.function(ranker).get_concrete_function({k: tf.constant(v) for k, v in one.items()}).graph
        gathered = [
            op.name
            for op in graph.get_operations()
            if op.type in ("GatherV2", "Tile", "BroadcastTo")
            and op.outputs[0].shape.rank > 2
            and 101 in op.outputs[0].shape.as_list()
            and {5, 3, 8} & set(op.outputs[0].shape.as_list()[1:-1])
            and op.outputs[0].dtype.is_floating
        ]
        assert gathered == [], name
