import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixrank import schemas as s
from mixrank.schemas.encode import PADDING, check_row, columns, decode, encode, to_instance, to_request
from mixrank.schemas.synthetic import toy_rows
from mixrank.schemas.wire import entry, example, varint

SPEC = s.FeatureSpec(
    name="clips",
    user=s.Key("user"),
    item=s.Key("clip"),
    time=s.EventTime("time"),
    scenario=s.Scenario("tab", values=("home", "search")),
    labels=(s.Label("click"), s.Label("like")),
    features=(
        s.Categorical("clip", group="item"),
        s.Categorical("city", group="user", dtype="str"),
        s.MultiCategorical("tag", group="item", max_length=3),
        s.Numeric("age", group="user", required=True),
        s.Vector("look", group="item", dim=2),
        s.MultiCategorical("genre", group="item", max_length=2, weights="genre_weight"),
        s.Action("action", flags=("click", "like")),
        s.TimeGap("gap"),
        s.History("past", of=("clip", "tag", "action", "gap"), length=2, window="before"),
    ),
)
ROW = {
    "user": 0,
    "clip": 0,
    "time": 0,
    "tab": "home",
    "click": 0,
    "like": 1,
    "city": None,
    "tag": ["a", "b"],
    "age": 0.0,
    "look": [0.0, -0.5],
    "genre": ["a", "b"],
    "genre_weight": [0.5, 0.0],
    "past_clip": [5],
    "past_tag": ["x", "", ""],
    "past_action": [0],
    "past_gap": [-1],
}


def parsed(serialized):
    import tensorflow as tf

    return tf.train.Example.FromString(serialized).features.feature


def test_zeros_survive_and_missing_values_stay_present_but_empty():
    features = parsed(encode(SPEC, ROW))
    for name in ("user", "clip", "time", "click", "past_action"):
        assert list(features[name].int64_list.value) == [0], name
    assert list(features["age"].float_list.value) == [0.0]
    assert features["city"].WhichOneof("kind") == "bytes_list" and not features["city"].bytes_list.value
    assert list(features["past_tag"].bytes_list.value) == [b"x", b"", b""]
    assert list(features["past_gap"].int64_list.value) == [-1]


def test_toy_rows_come_back_as_they_went_in():
    for row in toy_rows(SPEC, 20, seed=3, missing=0.4):
        row["age"] = 1.5  # required, and exact in 32 bits
        row["genre_weight"] = [0.5, 3.0][: len(row["genre"])]
        row["look"] = [0.25, -2.0][: len(row["look"])]
        assert decode(SPEC, encode(SPEC, row)) == row


def test_weights_of_events_are_there_for_all_of_them_or_none():
    genre = s.History("seen", of=("genre", "clip"), length=2, window="within")
    spec = s.FeatureSpec(**{**dict(SPEC), "features": (*SPEC.features, genre)})
    row = ROW | {"seen_genre": ["a", "", "b", "c"], "seen_clip": [1, 2]}
    for weights in ([], [0.5, math.nan, 0.0, 2.0]):
        check_row(spec, row | {"seen_genre_weight": weights})
    padded = to_instance(spec, {name: row[name] for name in row if name not in ("user", "time", "click", "like")})
    np.testing.assert_array_equal(padded["seen_genre_weight"], [math.nan] * 4)
    with pytest.raises(ValueError, match="has 2 events in `seen_genre` but 1 in `seen_genre_weight`"):
        check_row(spec, row | {"seen_genre_weight": [0.5, 1.0]})
    with pytest.raises(ValueError, match="column `seen_genre_weight` takes weights of at least 0, received -1"):
        check_row(spec, row | {"seen_genre_weight": [0.5, 1.0, math.nan, -1.0]})


def test_a_serving_row_carries_no_keys_time_or_labels():
    row = {name: value for name, value in ROW.items() if name not in ("user", "time", "click", "like")}
    assert not {"user", "time", "click", "like"} & set(parsed(encode(SPEC, row)))
    assert decode(SPEC, encode(SPEC, row)) == row


@given(st.integers(-(2**63), 2**63 - 1))
def test_varint_is_read_back_by_protobuf(number):
    assert list(parsed(example([entry("n", "int", [number, 7])]))["n"].int64_list.value) == [number, 7]


@pytest.mark.slow
@given(
    ints=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40),
    floats=st.lists(st.floats(width=32, allow_nan=False), max_size=40),
    texts=st.lists(st.text(max_size=200), max_size=5),
)
def test_examples_are_read_back_by_protobuf(ints, floats, texts):
    features = parsed(example([entry("i", "int", ints), entry("f", "float", floats), entry("é", "str", texts)]))
    assert list(features["i"].int64_list.value) == ints
    assert list(features["f"].float_list.value) == floats
    assert [text.decode() for text in features["é"].bytes_list.value] == texts


def test_varint_of_a_minus_one_takes_ten_bytes():
    assert varint(-1) == b"\xff" * 9 + b"\x01"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cty": "Paris"}, r"spec `clips` has no column `cty`; did you mean `city`\?"),
        ({"tab": None}, "column `tab` is required but missing"),
        ({"age": math.nan}, "column `age` is required but missing"),
        ({"age": "old"}, r"column `age` takes a finite 32-bit number, received 'old' \(str\)"),
        ({"age": math.inf}, "column `age` takes a finite 32-bit number, received inf"),
        ({"age": 10**400}, "column `age` takes a finite 32-bit number, received 1000"),
        ({"clip": "7"}, r"column `clip` takes a 64-bit integer, received '7' \(str\)"),
        ({"clip": True}, "column `clip` takes a 64-bit integer, received True"),
        ({"clip": [1]}, r"column `clip` takes one value, received \[1\]"),
        ({"city": 3}, r"column `city` takes text, received 3 \(int\)"),
        ({"tag": "a,b"}, "column `tag` takes a list, received 'a,b'"),
        ({"tag": list("abcd")}, "column `tag` takes at most 3 values, received 4"),
        ({"look": [1.0]}, "column `look` takes exactly 2 values, received 1"),
        ({"look": [1.0, math.nan]}, "column `look` takes a finite 32-bit number, received nan"),
        ({"genre_weight": [0.5]}, "column `genre_weight` has 1 weights for 2 values of `genre`"),
        ({"genre_weight": [0.5, -1]}, "column `genre_weight` takes weights of at least 0, received -1"),
        ({"past_tag": ["x"]}, "column `past_tag` takes 3 values per event, received 1 in all"),
        ({"past_gap": [1, 2]}, "history `past` has 1 events in `past_clip` but 2 in `past_gap`"),
        ({"click": 2}, "label `click` must be 0 or 1, received 2"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        check_row(SPEC, ROW | change)


def test_a_training_row_must_carry_its_labels():
    row = {name: value for name, value in ROW.items() if name != "like"}
    check_row(SPEC, row)
    with pytest.raises(ValueError, match="column `like` is required but missing"):
        check_row(SPEC, row, labels=True)


def test_instances_have_a_fixed_length_and_are_legal_json():
    instance = to_instance(SPEC, ROW | {"clip": 9})
    assert instance == {
        "tab": "home",
        "clip": 9,
        "city": "",
        "tag": ["a", "b", ""],
        "age": 0.0,
        "look": [0.0, -0.5],
        "genre": ["a", "b"],
        "genre_weight": [0.5, 0.0],
        "past_clip": [5, PADDING["int"]],
        "past_tag": ["x", "", "", "", "", ""],
        "past_action": [0, PADDING["int"]],
        "past_gap": [-1, PADDING["int"]],
    }
    assert json.loads(json.dumps(instance, allow_nan=False)) == instance


def test_a_missing_number_or_vector_is_nan_in_an_instance():
    features = [s.Numeric("age", group="user").model_dump(), s.Vector("look", group="item", dim=2).model_dump()]
    instance = to_instance(s.FeatureSpec(**{**SPEC.model_dump(), "features": features}), {"tab": "home"})
    assert math.isnan(instance["age"]) and len(instance["look"]) == 2 and all(map(math.isnan, instance["look"]))


def test_columns_are_those_of_the_schema():
    from mixrank.schemas.tfmd import SERVING, schema

    features = {feature.name: feature for feature in schema(SPEC).feature}
    assert {column.name for column in columns(SPEC)} == set(features)
    for column in columns(SPEC):
        assert column.serving == (SERVING not in features[column.name].not_in_environment)
        assert column.required == (column.serving and features[column.name].value_count.min == 1)
        assert (column.length or 1) == features[column.name].value_count.max


def test_decode_names_a_column_of_another_type():
    with pytest.raises(ValueError, match="column `city` takes bytes_list, received int64_list"):
        decode(SPEC, example([entry("city", "int", [3])]))


def test_encoding_needs_no_tensorflow():
    code = (
        "import sys; from mixrank.schemas.encode import encode; from mixrank.schemas.datasets import load; "
        "spec = load('movielens').spec; encode(spec, {'user_id': 1, 'item_id': 2, 'age_band': 'under_25'}); "
        "assert 'tensorflow' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_of_a_history_that_is_too_long_an_instance_keeps_the_newest_events():
    long = {"past_clip": [5, 6, 7], "past_tag": list("abcdefghi"), "past_action": [1, 2, 3], "past_gap": [1, 2, 3]}
    instance = to_instance(SPEC, ROW | long)
    assert instance["past_clip"] == [5, 6]
    assert instance["past_tag"] == list("abcdef")


ITEM = {name: ROW[name] for name in ("clip", "tag", "look", "genre", "genre_weight") if name in ROW}
REQUEST = {name: value for name, value in ROW.items() if name not in ITEM and name not in ("time", "click", "like")}


def test_a_request_holds_its_own_columns_once_and_those_of_the_items_per_candidate():
    inputs = to_request(SPEC, REQUEST, [ITEM, ITEM | {"clip": 9, "tag": []}])
    one, two = to_instance(SPEC, ROW), to_instance(SPEC, ROW | {"clip": 9, "tag": []})
    assert set(inputs) == set(one)
    for name in one:
        expected = [one[name], two[name]] if name in ITEM else one[name]
        assert inputs[name] == expected, name


@pytest.mark.parametrize(
    ("request_change", "candidate", "message"),
    [
        ({"clip": 3}, ITEM, "column `clip` describes an item: give it with every candidate"),
        ({"cty": "x"}, ITEM, r"spec `clips` has no column `cty`; did you mean `city`\?"),
        ({}, ITEM | {"age": 3.0}, "candidate 1: column `age` belongs to the request, not to a candidate"),
        ({}, ITEM | {"clip": "x"}, r"candidate 1: column `clip` takes a 64-bit integer, received 'x' \(str\)"),
        ({}, ITEM | {"tga": []}, r"candidate 1: spec `clips` has no column `tga`; did you mean `tag`\?"),
        ({"tab": None}, ITEM, "column `tab` is required but missing"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_by_name(request_change, candidate, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        to_request(SPEC, REQUEST | request_change, [ITEM, candidate])


def test_a_request_needs_candidates():
    with pytest.raises(ValueError, match="a request needs at least one candidate, received none"):
        to_request(SPEC, REQUEST, [])


def test_an_instance_is_a_row_again(toy_spec):
    for row in toy_rows(toy_spec, 40, seed=5):
        once = to_instance(toy_spec, row)
        again = to_instance(toy_spec, once)
        np.testing.assert_equal(again, once)
