"""Transform against ids and numbers worked out in Python."""

from __future__ import annotations

import collections
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from mixrank.components.transform import (
    KEYS,
    expressed,
    first,
    history_values,
    matched,
    numeric,
    padded,
    vector,
    weights_of,
)
from mixrank.schemas import Expression, FeatureSpec, History, Match, Numeric, TimeGap, Vector
from mixrank.schemas.raw import read_side_file


@pytest.fixture(scope="module")
def transformed(toy_data, toy_transform):
    """(raw row, transformed row) pairs of the training split."""
    files = sorted(tf.io.gfile.glob(toy_data.patterns()["train"]))
    records = tf.data.TFRecordDataset(files, "GZIP").batch(10_000)
    (batch,) = [tf.io.parse_example(b, toy_transform.transformed_feature_spec()) for b in records]
    columns = {name: value.numpy() for name, value in batch.items()}
    by_time = {time: i for i, time in enumerate(columns[KEYS["time"]])}
    return [(row, {n: v[by_time[row["at"]]] for n, v in columns.items()}) for row in toy_data.rows["train"]]


def vocabulary(rows, column, min_count=1):
    values = [row[column] for row in rows if row[column] is not None]
    counts = collections.Counter(v for value in values for v in (value if isinstance(value, list) else [value]))
    return {v for v, n in counts.items() if n >= min_count}


def test_scenario_ids_are_positions_in_the_declaration(transformed):
    expected = {"home": 1, "search": 2, "cart": 3}
    assert [new["page"] for _, new in transformed] == [expected[old["page"]] for old, _ in transformed]


def test_a_value_has_one_id_wherever_it_stands(transformed, toy_spec):
    ids: dict[str, int] = {}
    for old, new in transformed:
        # A feature that uses the table of the clips.
        pairs = [(old["clip"], new["clip"]), (old["last"], new["last"])]
        assert (old["last"] is None) == (new["last"] == 0)
        for history in ("global", "realtime"):
            pairs += list(zip(old[f"{history}_clip"], new[f"{history}_clip"], strict=False))
        for value, number in pairs:
            assert ids.setdefault(value, number) == number
    assert len(ids) > 40


def test_frequent_values_come_first_and_rare_ones_are_out_of_vocabulary(transformed, toy_data):
    rows = toy_data.rows["train"]
    known = vocabulary(rows, "person", min_count=2)
    counts = collections.Counter(row["person"] for row in rows)
    for old, new in transformed:
        if old["person"] in known:
            assert 1 <= new["person"] <= len(known)
        else:
            assert len(known) < new["person"] <= len(known) + 3
    first = next(old["person"] for old, new in transformed if new["person"] == 1)
    assert counts[first] == max(counts.values())


def test_missing_values_become_id_zero(transformed):
    missing = [new["country"] for old, new in transformed if old["country"] is None]
    present = [new["country"] for old, new in transformed if old["country"] is not None]
    assert missing
    assert set(missing) == {0}
    # The two digits to the base 7 of an id less 1.
    assert 1 <= min(present) <= max(present) <= 49 and max(present) > 7


def test_lists_are_cut_and_padded_with_zero(transformed):
    for old, new in transformed:
        assert new["tag"].shape == (3,)
        assert (new["tag"] > 0).sum() == len(old["tag"])
        assert (new["global_clip"] > 0).sum() == len(old["global_clip"])
        assert new["global_clip"].shape == (6,)
        assert new["global_tag"].shape == (18,)


def test_each_value_has_its_weight_and_one_without_weighs_one(transformed):
    for old, new in transformed:
        expected = np.float32(old["tag_weight"] + [1.0] * (3 - len(old["tag"])))
        np.testing.assert_array_equal(new["tag_weight"], expected)
        for history, length in (("global", 18), ("realtime", 12)):
            given = np.float32(old[f"{history}_tag_weight"])
            expected = [*np.where(np.isnan(given), 1, given), *[1.0] * (length - len(given))]
            np.testing.assert_array_equal(new[f"{history}_tag_weight"], np.float32(expected))
    odd = tf.ragged.constant([[0.5], [], [-1.0, math.nan, 3.0]], dtype=tf.float32, row_splits_dtype=tf.int64)
    np.testing.assert_array_equal(weights_of(odd, 2), [[0.5, 1.0], [1.0, 1.0], [0.0, 1.0]])


def test_actions_are_shifted_bit_masks(transformed):
    for old, new in transformed:
        expected = [1 + mask for mask in old["realtime_action"]] + [0] * (4 - len(old["realtime_action"]))
        assert list(new["realtime_action"]) == expected


def test_time_gaps_are_logarithmic_buckets(transformed):
    for old, new in transformed:
        expected = [2 + math.floor(math.log2(1 + seconds)) for seconds in old["global_gap"]]
        assert list(new["global_gap"][: len(expected)]) == expected


@pytest.mark.parametrize("buckets", [2, 9, 32, 64])
def test_time_gaps_next_to_a_power_of_two_are_exact(buckets):
    seconds = [s for k in range(63) for s in (2**k - 2, 2**k - 1, 2**k) if s >= 0]
    history = History("past", of=("gap",), length=len(seconds) + 2, window="before")
    values = tf.ragged.constant([[-1, *seconds], [], [7]], dtype=tf.int64, row_splits_dtype=tf.int64)
    ids = history_values(history, TimeGap("gap", buckets=buckets), values).numpy()
    # floor(log2(1 + s)) is one less than the number of binary digits.
    expected = [1, *(min(2 + (1 + s).bit_length() - 1, buckets) for s in seconds), 0]
    assert ids[0].tolist() == expected
    assert ids[1].tolist() == [0] * len(expected)
    assert ids[2].tolist() == [min(5, buckets)] + [0] * (len(expected) - 1)


def matches(row, of, flags):
    """Numbers of a match, event by event."""
    own = row[of] if isinstance(row[of], list) else [row[of]]
    found = []
    for history in ("global", "realtime"):
        values, gaps, masks = (row[f"{history}_{name}"] for name in (of, "gap", "action"))
        width = len(values) // len(gaps) if gaps else 1
        for place, (gap, mask) in enumerate(zip(gaps, masks, strict=True)):
            if set(own) & set(values[place * width : (place + 1) * width]):
                found.append((gap, mask))
    seconds = min((gap for gap, _ in found if gap >= 0), default=math.inf)
    shares = [sum(mask >> bit & 1 for _, mask in found) / (len(found) + 1) for bit in flags]
    return [math.log1p(len(found)), 1 / (1 + math.log1p(seconds / 3600)), *shares]


def test_a_match_counts_the_events_with_the_value_of_the_row(transformed):
    expected = [matches(old, "clip", flags=[0]) for old, _ in transformed]
    assert sum(row[0] > 0 for row in expected) > 100 and sum(row[0] == 0 for row in expected) > 100
    np.testing.assert_allclose([new["had"] for _, new in transformed], expected, rtol=1e-5)


def test_a_cross_has_an_id_for_each_combination_that_occurs_twice(transformed):
    combinations = [(old["page"], old["country"], old["clip"]) for old, _ in transformed]
    counts = collections.Counter(each for each in combinations if None not in each)
    known = {each for each, count in counts.items() if count >= 2}
    assert 20 < len(known) < len(counts)
    ids: dict[tuple, int] = {}
    for each, (_, new) in zip(combinations, transformed, strict=True):
        if None in each:
            assert new["there"] == 0
        elif each in known:
            assert 1 <= new["there"] == ids.setdefault(each, new["there"]) <= len(known)
        else:
            assert len(known) < new["there"] <= len(known) + 3
    assert len(set(ids.values())) == len(known)


def test_a_hashed_cross_is_the_same_wherever_its_values_are(transformed):
    ids: dict[tuple, int] = {}
    for old, new in transformed:
        if old["country"] is None:
            assert new["habit"] == 0
        else:
            assert 1 <= ids.setdefault((old["country"], old["page"]), new["habit"]) == new["habit"] <= 40
    assert len(ids) > 100 and len(set(ids.values())) > 30


def test_an_expression_is_computed_from_the_raw_numbers(transformed):
    raw = []
    for old, _ in transformed:
        price, age, hour = (math.nan if old[name] is None else old[name] for name in ("price", "age", "hour"))
        # Only the hour has a default.
        value = price / (age + 1) - min(3.0 if math.isnan(hour) else hour, 2)
        raw.append(0.0 if math.isnan(value) else math.copysign(math.log1p(abs(value)), value))
    assert 0.0 in raw
    expected = (np.array(raw) - np.mean(raw)) / np.std(raw)
    np.testing.assert_allclose([new["rate"] for _, new in transformed], expected, atol=2e-5)


def test_an_expression_without_a_finite_value_is_missing(toy_spec):
    rate = Expression("rate", formula="sqrt(price) / age", group="item", transform="none", default=-7.0)
    spec = toy_spec.model_copy(update={"features": (*toy_spec.features, rate)})
    raw = {
        "price": tf.ragged.constant([[4.0], [1.0], [-1.0], [], [9.0]], row_splits_dtype=tf.int64),
        "age": tf.ragged.constant([[2.0], [0.0], [1.0], [1.0], []], row_splits_dtype=tf.int64),
    }
    np.testing.assert_array_equal(expressed(spec, rate, raw), [1.0, -7.0, -7.0, -7.0, -7.0])


def side_file(spec, name):
    """Key -> value, without those that have none."""
    table = read_side_file(spec, next(feature for feature in spec.from_files if feature.name == name))
    return dict(zip(table.keys.tolist(), table.values, strict=True)), table.keys[table.missing].tolist()


def test_a_lookup_has_the_id_of_what_the_file_says_in_histories_as_well(transformed, toy_spec):
    makers, without = side_file(toy_spec, "maker")
    ids: dict[str, int] = {}
    missing = 0
    for old, new in transformed:
        events = zip(old["global_clip"], new["global_maker"], strict=False)
        for clip, number in [(old["clip"], new["maker"]), *events]:
            if clip in makers and clip not in without:
                assert ids.setdefault(makers[clip], number) == number > 0
            else:
                missing += number == 0
                assert number == 0
        assert not new["global_maker"][len(old["global_clip"]) :].any()
    assert sorted(ids.values()) == [1, 2, 3, 4, 5] and missing > 100
    counts = collections.Counter(number for _, new in transformed if (number := int(new["maker"])))
    assert sorted(counts, key=lambda number: -counts[number]) == [1, 2, 3, 4, 5]


def test_a_numeric_lookup_is_a_number_like_any_other(transformed, toy_spec):
    friends, without = side_file(toy_spec, "pull")
    known = {person: number for person, number in friends.items() if person not in without}
    raw = np.array([known.get(old["person"], math.nan) for old, _ in transformed])
    missing = np.isnan(raw)
    assert 100 < missing.sum() < len(raw) - 100
    # "autodis": whether it is missing, and the standardized number, in which a missing one counts as 0.
    filled = np.where(missing, 0, raw)
    expected = np.stack([missing, np.where(missing, 0, (filled - filled.mean()) / filled.std())], axis=1)
    np.testing.assert_allclose([new["pull"] for _, new in transformed], expected, atol=1e-5)


def test_a_numeric_lookup_gives_every_event_its_own_number_by_the_moments_of_rows(transformed, toy_spec):
    weights, without = side_file(toy_spec, "weight")
    known = {clip: number for clip, number in weights.items() if clip not in without}
    # "standardize": a missing number is 0 before it.
    rows = np.array([known.get(old["clip"], 0.0) for old, _ in transformed])
    np.testing.assert_allclose([new["weight"] for _, new in transformed], (rows - rows.mean()) / rows.std(), atol=1e-5)
    seen = set()
    for column in ("global", "viewed"):
        for old, new in transformed:
            numbers = np.array([known.get(clip, 0.0) for clip in old[f"{column}_clip"]])
            found = new[f"{column}_weight"][: len(numbers)]
            np.testing.assert_allclose(found, (numbers - rows.mean()) / rows.std(), atol=1e-5)
            seen |= set(numbers.tolist())
    assert len(seen) > 30


def test_events_that_a_row_brings_have_the_ids_of_the_items(transformed, toy_spec):
    ids = {old["clip"]: new["clip"] for old, new in transformed}
    compared = 0
    for old, new in transformed:
        clips = old["viewed_clip"]
        assert not new["viewed_clip"][len(clips) :].any()
        for clip, found in zip(clips, new["viewed_clip"], strict=False):
            compared += clip in ids
            assert found == ids.get(clip, found) > 0
        count = clips.count(old["clip"])
        np.testing.assert_allclose(new["viewed_it"], [math.log1p(count)], rtol=1e-6)
    assert compared > 1000


def test_a_vector_table_gives_the_row_of_the_file_in_histories_as_well(transformed, toy_spec):
    clips = list(side_file(toy_spec, "words")[0])
    rows = {clip: 1 + place for place, clip in enumerate(clips)}
    for old, new in transformed:
        assert new["words"] == rows.get(old["clip"], 0)
        expected = [rows.get(clip, 0) for clip in old["global_clip"]]
        found = new["global_words"]
        assert found.tolist() == expected + [0] * (len(found) - len(expected))
    assert {int(new["words"]) for _, new in transformed} > {0, 1, 2}


def test_values_that_are_missing_match_nothing(toy_spec):
    match = Match("same", of="tag", histories=("realtime",), flags=("buy", "click"))
    spec = FeatureSpec(**{**dict(toy_spec), "features": (*toy_spec.features, match)})
    tags = tf.constant([["a", "", ""], ["", "", ""], ["b", "a", ""]])
    events = tf.constant([["a", "b", "", "", "", "", "b", "", "", "", "", ""]])
    raw = {
        "realtime_gap": tf.ragged.constant([[-1, 10, 7200]], dtype=tf.int64),
        "realtime_action": tf.ragged.constant([[1, 0, 3]], dtype=tf.int64),
    }
    found = matched(spec, match, {"tag": tags, "realtime_tag": events}, raw)
    # One history for three candidates. The first event has both tags and no known time.
    hours = 1 / (1 + math.log1p(2))
    expected = [[math.log(2), 0, 0, 0.5], [0, 0, 0, 0], [math.log(3), hours, 1 / 3, 2 / 3]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_numbers_are_standardized_after_the_logarithm(transformed):
    raw = np.array([math.log1p(old["price"] or 0.0) for old, _ in transformed])
    expected = (raw - raw.mean()) / raw.std()
    np.testing.assert_allclose([new["price"] for _, new in transformed], expected, atol=2e-5)


def test_quantile_buckets_are_equally_full_and_missing_is_zero(transformed):
    ids = np.array([new["age"] for old, new in transformed if old["age"] is not None])
    assert all(new["age"] == 0 for old, new in transformed if old["age"] is None)
    shares = np.bincount(ids, minlength=5)[1:] / len(ids)
    np.testing.assert_allclose(shares, 0.25, atol=0.06)


def test_declared_edges_are_counted_and_a_default_stands_for_a_missing_number(transformed):
    hours = [3.0 if old["hour"] is None else old["hour"] for old, _ in transformed]
    assert any(old["hour"] is None for old, _ in transformed)
    assert [new["hour"] for _, new in transformed] == (1 + np.digitize(hours, [1.0, 2.5, 6.0])).tolist()


def piecewise_linear(x, edges):
    """Equation 1 of the paper, as it is written there, ends cut off."""
    if x is None:
        return [1.0] + [0.0] * (len(edges) - 1)
    parts = []
    for left, right in itertools.pairwise(edges):
        parts.append(0.0 if x < left else 1.0 if x >= right else (x - left) / (right - left))
    return [0.0, *parts]


def test_a_piecewise_linear_number_fills_one_interval_after_the_other(transformed):
    raw = [None if old["seconds"] is None else float(np.clip(old["seconds"], 0.5, 9.0)) for old, _ in transformed]
    found = np.array([new["seconds"] for _, new in transformed])
    assert found.shape[1] == 5 and None in raw
    # The quantiles are approximate; they are where the parts that are neither empty nor full point to.
    known = np.array([x for x in raw if x is not None])
    edges = np.quantile(known, [0, 0.25, 0.5, 0.75, 1])
    edges[1:4] = [_edge(known, found[[x is not None for x in raw], 1 + part]) for part in range(3)]
    np.testing.assert_allclose(edges[1:4], np.quantile(known, [0.25, 0.5, 0.75]), rtol=0.1)
    np.testing.assert_allclose(found, [piecewise_linear(x, edges) for x in raw], atol=1e-3)


def _edge(x, part):
    """The number from which on a part is full."""
    return x[part == 1].min()


@pytest.mark.parametrize("default", [None, 2.0])
def test_piecewise_linear_edges_may_be_declared(default):
    feature = Numeric(
        "x", group="item", transform="piecewise_linear", edges=(0, 1, 1.0000000001, 5), clip=(-9, 4), default=default
    )
    values = [[-3.0], [0.25], [1.0], [3.0], [99.0], [], [math.nan], [math.inf]]
    ragged = tf.ragged.constant(values, dtype=tf.float32, row_splits_dtype=tf.int64)
    found = numeric(feature, {"x": first(ragged, math.nan)})["x"].numpy()
    # The middle interval has no width in 32 bits.
    expected = [[0, 0, 0], [0.25, 0, 0], [1, 1, 0], [1, 1, 0.5], [1, 1, 0.75]]
    if default is None:
        expected = [[0, *row] for row in expected] + [[1, 0, 0, 0]] * 3
    else:
        expected += [[1, 1, 0.25]] * 3
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_vectors_are_whole_or_zero_and_divided_by_their_length(transformed):
    assert any(not old["look"] for old, _ in transformed)
    for old, new in transformed:
        look = np.array(old["look"] or [0.0] * 3)
        np.testing.assert_allclose(new["look"], look / (np.linalg.norm(look) or 1), atol=1e-6)
        np.testing.assert_allclose(new["taste"], old["taste"] or [0.0, 0.0], rtol=1e-6)


def test_a_vector_that_is_not_all_there_is_missing_and_a_long_one_does_not_overflow():
    values = [[3.0, 4.0], [1.0], [1.0, math.nan], [1e30, 1e30], [0.0, 0.0], []]
    dense = padded(tf.ragged.constant(values, dtype=tf.float32, row_splits_dtype=tf.int64), 2, math.nan)
    found = vector(Vector("v", group="item", dim=2, normalize=True), dense).numpy()
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0], [0, 0], [0.5**0.5] * 2, [0, 0], [0, 0]], rtol=1e-6)
    plain = vector(Vector("v", group="item", dim=2), dense).numpy()
    np.testing.assert_allclose(plain[0], [3.0, 4.0])


def test_numbers_of_events_are_transformed_as_those_of_rows(transformed):
    rows = [(math.log1p(old["price"]), new["price"]) for old, new in transformed if old["price"] is not None]
    slope, offset = np.polyfit(*zip(*rows, strict=True), 1)
    seen = 0
    for old, new in transformed:
        events = np.nan_to_num(old["orders_price"])
        np.testing.assert_allclose(new["orders_price"][: len(events)], slope * np.log1p(events) + offset, atol=1e-4)
        seen += len(events)
    assert seen > len(transformed)


def test_numbers_that_only_events_have_take_the_moments_of_all_events(transformed, toy_data):
    columns = ("orders_paid", "viewed_paid")
    known = np.log1p([x for row in toy_data.rows["train"] for name in columns for x in row[name] if x == x])
    for old, new in transformed:
        for name in columns:
            events = np.log1p(np.nan_to_num(old[name]))
            expected = (events - known.mean()) / known.std()
            np.testing.assert_allclose(new[name][: len(events)], expected, atol=1e-4)


def test_vectors_of_events_are_those_of_rows_and_zero_after_the_last(transformed):
    for old, new in transformed:
        looks, tempers = (np.reshape(old[f"searches_{name}"], (-1, dim)) for name, dim in (("look", 3), ("temper", 2)))
        count = len(tempers)
        assert len(old["searches_query"]) == len(looks) == count
        expected = looks / np.linalg.norm(looks, axis=1, keepdims=True)
        np.testing.assert_allclose(np.reshape(new["searches_look"], (2, 3))[:count], expected, atol=1e-6)
        np.testing.assert_allclose(np.reshape(new["searches_temper"], (2, 2))[:count], tempers, rtol=1e-6)
        assert not np.any(np.reshape(new["searches_look"], (2, 3))[count:])


def test_a_number_of_many_events_is_cut_at_the_edges_of_its_rows():
    linear = Numeric("x", group="item", transform="piecewise_linear", edges=(0, 1, 5))
    cut = Numeric("x", group="item", transform="bucketize", edges=(0, 1, 5))
    columns = {
        # One row of a request, whose candidates are more.
        "x": tf.constant([0.5, 3.0, math.nan]),
        "past_x": tf.constant([[5.0, math.nan, 0.5, -1.0]]),
    }
    found = {name: values.numpy().tolist() for name, values in numeric(cut, columns).items()}
    assert found == {"x": [2, 3, 0], "past_x": [[4, 0, 2, 1]]}
    found = {name: values.numpy().tolist() for name, values in numeric(linear, columns).items()}
    assert found["x"] == [[0, 0.5, 0], [0, 1, 0.5], [1, 0, 0]]
    assert found["past_x"] == [[0, 1, 1, 1, 0, 0, 0, 0.5, 0, 0, 0, 0]]


def test_labels_keep_their_zeros_and_are_unknown_without_what_they_are_given(transformed):
    assert [new["click"] for _, new in transformed] == [old["click"] for old, _ in transformed]
    expected = [old["buy"] if old["click"] and old["buy_is_mature"] else np.nan for old, _ in transformed]
    np.testing.assert_array_equal([new["buy"] for _, new in transformed], expected)
    assert len(set(expected)) > 2 and 0 < sum(old["click"] for old, _ in transformed) < len(transformed)


def test_places_are_ids_from_1_and_the_last_one_takes_all_further(transformed):
    for old, new in transformed:
        assert new["rank"] == (0 if old["rank"] is None else 1 + min(old["rank"], 3))
    assert {new["rank"] for _, new in transformed} == {0, 1, 2, 3, 4}


def test_row_weights_are_measured_by_their_mean(transformed):
    raw = np.array([old["worth"] for old, _ in transformed])
    assert 0 < (raw == 0).mean() < 0.5
    np.testing.assert_allclose([new["worth"] for _, new in transformed], raw / raw.mean(), rtol=1e-5)


def test_keys_pass_through(transformed):
    for old, new in transformed:
        assert (new[KEYS["user"]], new[KEYS["item"]].decode()) == (old["person"], old["clip"])


def test_the_exported_graph_looks_every_vocabulary_up_once(toy_spec, toy_data):
    from tensorflow.core.protobuf import saved_model_pb2

    graph = saved_model_pb2.SavedModel.FromString((toy_data.graph / "transform_fn" / "saved_model.pb").read_bytes())
    functions = graph.meta_graphs[0].graph_def.library.function
    lookups = [node for each in functions for node in each.node_def if node.op == "LookupTableFindV2"]
    assert len(lookups) == len(toy_spec.vocabularies)


def test_the_exported_graph_answers_padding_and_unknown_values(toy_spec, toy_transform):
    from mixrank.schemas.tfmd import parsing_spec

    nothing = tf.train.Example().SerializeToString()
    parsed = tf.io.parse_example([nothing], parsing_spec(toy_spec, labels=False))
    row = toy_transform.transform_features_layer()(parsed)
    assert int(row["page"][0]) == 4
    assert int(row["clip"][0]) == 0
    assert not np.any(row["global_action"])
    assert np.isfinite(row["price"].numpy()).all()
