"""The TFMD schema says what the spec says, and the committed copies are fresh."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from mixrank.schemas import Categorical, FeatureSpec, MultiCategorical, Numeric, datasets
from mixrank.schemas.tfmd import GENERATED, SERVING, TRAINING, as_text, parsing_spec, schema


@pytest.fixture(scope="module")
def columns(toy_spec):
    return {feature.name: feature for feature in schema(toy_spec).feature}


def changed(spec, *features):
    """The spec with features added, or replaced where the name is taken."""
    added = {feature.name: feature for feature in features}
    kept = [feature for feature in spec.features if feature.name not in added]
    return FeatureSpec(**{**dict(spec), "features": (*added.values(), *kept)})


def test_a_scenario_outside_the_spec_is_no_anomaly_but_a_missing_one_is(columns):
    tab = {feature.name: feature for feature in schema(datasets.load("kuairand").spec).feature}["tab"]
    for scenario, kind in ((columns["page"], schema_pb2.BYTES), (tab, schema_pb2.INT)):
        assert scenario.presence.min_fraction == 1.0 and scenario.type == kind
        assert not scenario.HasField("string_domain") and not scenario.int_domain.HasField("max")
    assert tab.int_domain.is_categorical


def test_labels_are_zero_or_one_and_always_there(columns):
    for task in ("click", "buy"):
        assert (columns[task].int_domain.min, columns[task].int_domain.max) == (0, 1)
        assert (columns[task].value_count.min, columns[task].value_count.max) == (1, 1)
        assert columns[task].presence.min_fraction == 1.0


def test_an_action_is_a_bit_mask_of_its_flags(columns):
    assert (columns["global_action"].int_domain.min, columns["global_action"].int_domain.max) == (0, 3)


def test_a_request_carries_no_label_and_no_time(columns, toy_spec):
    absent = {name for name, column in columns.items() if SERVING in column.not_in_environment}
    assert absent == {"at", "click", "buy", "worth", "buy_is_mature", "rank"}
    assert list(schema(toy_spec).default_environment) == [TRAINING, SERVING]


def test_a_request_carries_a_key_only_if_the_model_reads_it(toy_spec):
    features = [feature for feature in toy_spec.features if feature.name not in ("person", "pull")]
    bare = FeatureSpec(**{**dict(toy_spec), "features": features})
    (person,) = [feature for feature in schema(bare).feature if feature.name == "person"]
    assert list(person.not_in_environment) == [SERVING]
    assert person.presence.min_fraction == 1.0


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("person", 1, 1),  # a key
        ("clip", 1, 1),  # required
        ("country", 0, 1),
        ("price", 0, 1),
        ("tag", 0, 3),
        ("look", 0, 3),
        ("tag_weight", 0, 3),
        ("global_clip", 0, 6),
        ("global_tag", 0, 18),
        ("global_tag_weight", 0, 18),
        ("global_gap", 0, 6),
        ("realtime_action", 0, 4),
    ],
)
def test_a_column_holds_as_many_values_as_the_spec_allows(columns, name, least, most):
    assert (columns[name].value_count.min, columns[name].value_count.max) == (least, most)
    assert columns[name].HasField("presence") == (least == 1)


def test_types_are_those_of_the_raw_columns(columns):
    kinds = {name: schema_pb2.FeatureType.Name(column.type) for name, column in columns.items()}
    assert kinds == {
        "at": "INT", "page": "BYTES", "click": "INT", "buy": "INT", "person": "INT", "country": "BYTES",
        "clip": "BYTES", "last": "BYTES", "tag": "BYTES", "price": "FLOAT", "age": "FLOAT", "hour": "FLOAT",
        "seconds": "FLOAT", "tag_weight": "FLOAT", "look": "FLOAT", "taste": "FLOAT", "global_clip": "BYTES",
        "global_tag": "BYTES", "global_action": "INT", "global_gap": "INT", "realtime_clip": "BYTES",
        "realtime_tag": "BYTES", "realtime_action": "INT", "realtime_gap": "INT", "worth": "FLOAT",
        "buy_is_mature": "INT",
        "rank": "INT", "orders_clip": "BYTES", "orders_price": "FLOAT", "orders_seconds": "FLOAT",
        "orders_paid": "FLOAT", "orders_gap": "INT", "searches_query": "BYTES", "searches_look": "FLOAT",
        "searches_temper": "FLOAT", "global_tag_weight": "FLOAT", "realtime_tag_weight": "FLOAT",
        "viewed_clip": "BYTES", "viewed_paid": "FLOAT",
    }  # fmt: skip


def test_drift_limits_are_of_the_kind_that_suits_the_column(toy_spec):
    spec = changed(
        toy_spec,
        Categorical("city", group="user", drift=0.25),
        MultiCategorical("genre", group="item", drift=0.5),
        Numeric("price", group="item", drift=0.125),
    )
    found = {feature.name: feature for feature in schema(spec).feature}
    for comparator in ("drift_comparator", "skew_comparator"):
        assert getattr(found["city"], comparator).infinity_norm.threshold == 0.25
        assert getattr(found["genre"], comparator).infinity_norm.threshold == 0.5
        assert getattr(found["price"], comparator).jensen_shannon_divergence.threshold == 0.125
        assert not found["country"].HasField(comparator)


def test_every_column_parses_ragged(toy_spec, columns):
    import tensorflow as tf

    assert schema(toy_spec).represent_variable_length_as_ragged
    training, serving = parsing_spec(toy_spec, labels=True), parsing_spec(toy_spec, labels=False)
    assert set(training) == set(columns)
    assert set(training) - set(serving) == {"at", "click", "buy", "worth", "buy_is_mature", "rank"}
    assert all(isinstance(feature, tf.io.RaggedFeature) for feature in training.values())
    assert {training[name].dtype for name in ("price", "tag", "click")} == {tf.float32, tf.string, tf.int64}


@pytest.mark.parametrize("name", datasets.names())
def test_the_committed_schema_is_what_the_spec_generates(name):
    path = GENERATED / f"{name}.pbtxt"
    fresh = path.exists() and path.read_text() == as_text(datasets.load(name).spec)
    assert fresh, f"{path} is not what the spec generates; refresh it: mixrank schema {name} --write"


def test_the_text_form_is_read_back(toy_spec):
    assert text_format.Parse(as_text(toy_spec), schema_pb2.Schema()) == schema(toy_spec)
