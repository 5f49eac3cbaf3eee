"""Figures of a shard, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mixrank import schemas as s
from mixrank.components.examples.dictionary_column import Coded
from mixrank.components.examples.histories import Slices
from mixrank.components.examples.log_figures import join_figures, ordered_pairs, shard_figures
from mixrank.components.gates import FeatureFigures, HistoryFigures, JoinFigures, LabelFigures
from mixrank.components.metrics import auc

DATASET = s.Dataset(
    spec=s.FeatureSpec(
        name="shop",
        user=s.Key("user"),
        item=s.Key("sku", dtype="str"),
        time=s.EventTime("ts"),
        scenario=s.Scenario("page", values=("home", "cart")),
        labels=(s.Label("click"),),
        features=(
            s.Categorical("sku", group="item", dtype="str"),
            s.Numeric("price", group="item"),
            s.MultiCategorical("tags", group="item", max_length=2),
        ),
    ),
    source=s.LogSource(log=s.Table(files=("log.csv",)), split=s.SplitByUserTail(valid=0, eval=0.5)),
)
YEAR = 31_622_400_000


def coded(*values):
    distinct = list(dict.fromkeys(value for value in values if value is not None))
    codes = [0 if value is None else 1 + distinct.index(value) for value in values]
    return Coded(np.array(codes, np.int64), [None, *distinct])


def count(split, click, time=None, histories=None, **columns):
    rows = len(split)
    log = {
        "click": coded(*click),
        "page": coded(*["home"] * rows),
        "sku": coded(*["a"] * rows),
        "price": coded(*[1.0] * rows),
        "tags": coded(*[("x",)] * rows),
    }
    log |= {name: coded(*values) for name, values in columns.items()}
    time = np.arange(rows) if time is None else np.array(time)
    return shard_figures(DATASET, log, np.array(split, np.int64), time, histories or {})


def test_rows_are_counted_by_split_label_and_scenario():
    found = count(
        [0, 0, 0, 2, 2, -1],
        [1, 0, 1, 0, 1, 1],
        time=[0, YEAR, YEAR, YEAR, 2 * YEAR, 3],
        page=["home", "cart", "elsewhere", "home", "home", "home"],
        histories={"today": Slices(np.zeros(6, int), np.array([0, 2, 1, 0, 0, 9]), np.array([0, 1, 0, 2, 0, 5]))},
    )
    assert found.rows == {"train": 3, "eval": 2}
    assert found.rows_in_no_split == 1
    one, none = LabelFigures(rows=1, positives=1), LabelFigures(rows=1)
    assert found.labels["click"]["train"] == {"home": one, "cart": none, "other": one}
    assert found.labels["click"]["eval"] == {"home": LabelFigures(rows=2, positives=1)}
    assert found.histories["today"]["train"] == HistoryFigures(rows=3, empty=1, events=3, cut_rows=1, cut_events=1)
    assert found.histories["today"]["eval"] == HistoryFigures(rows=2, empty=2, cut_rows=1, cut_events=2)
    assert (found.first_ms, found.last_ms) == (0, 2 * YEAR)
    assert found.years == {"1970": 2, "1971": 3, "1972": 1}


def test_values_that_are_there_and_values_that_are_cut_are_counted():
    tags = [("x", "y", "z", "w"), None, ("x",), ("x", "y", "z"), None, ("x", "y", "z")]
    found = count([0, 0, 0, 2, 2, -1], [1, 0, 1, 0, 1, 1], tags=tags, price=[None, None, None, 1.0, 2.0, 2.0])
    assert found.features["tags"] == FeatureFigures(present={"train": 2, "eval": 1}, cut_rows=2, cut_values=3)
    assert found.features["price"] == FeatureFigures(present={"train": 0, "eval": 2})


def test_a_shard_without_rows_has_figures():
    found = count([], [])
    assert found.rows == {"train": 0, "eval": 0}
    assert (found.first_ms, found.last_ms, found.years) == (None, None, {})
    assert found.alone["sku"]["click"].auc is None


SPLIT = [0] * 40 + [2] * 20
CLICK = [0, 1] * 30


@pytest.mark.parametrize(
    ("columns", "auc_alone"),
    [
        ({"sku": ["a", "b"] * 30}, 1.0),
        ({"sku": ["a", "a"] * 30}, 0.5),
        # Only clicked rows have a value, and every one another.
        ({"sku": [f"k{n}" if n % 2 else None for n in range(60)]}, 1.0),
        ({"price": [float(n if n % 2 else -n) for n in range(60)]}, 1.0),
        # Neither end of the range means a click.
        ({"price": [abs(n - 30.0) * 0 + (5.0 if n % 2 else 9.0 * (n % 4)) for n in range(60)]}, 1.0),
        ({"tags": [("new", "hit") if n % 2 else ("new",) for n in range(60)]}, 1.0),
        ({"page": ["home", "cart"] * 30}, 1.0),
    ],
)
def test_a_feature_that_tells_the_label_is_told_from_one_that_does_not(columns, auc_alone):
    (name,) = columns
    found = count(SPLIT, CLICK, **columns).alone[name]["click"]
    assert found.pairs == 100
    assert found.auc == auc_alone


def test_a_value_is_judged_on_rows_it_was_not_counted_on():
    # Every row has a value of its own: the training rows are told without fault, new ones not at all.
    found = count(SPLIT, CLICK, sku=[f"k{n}" for n in range(60)]).alone["sku"]["click"]
    assert found.auc == 0.5


def test_a_rare_outcome_that_a_number_gives_away_is_found():
    rng = np.random.default_rng(0)
    click = (rng.random(6000) < 0.01).astype(int).tolist()
    price = [float(rng.integers(1, 90)) if label else 0.0 for label in click]
    found = count([0] * 4000 + [2] * 2000, click, price=price).alone["price"]["click"]
    assert found.auc > 0.99


def test_a_copy_of_the_label_is_counted_as_equal():
    copies = {"price": [float(label) for label in CLICK], "sku": [str(label) for label in CLICK]}
    found = count(SPLIT, CLICK, **copies)
    assert {found.alone[name]["click"].unequal for name in copies} == {0}
    assert found.alone["page"]["click"].unequal == found.alone["page"]["click"].rows == 60
    nearly = count(SPLIT, CLICK, price=[None, *copies["price"][1:]])
    assert nearly.alone["price"]["click"].unequal == 1


def test_ordered_pairs_are_those_of_the_area_under_the_curve():
    rng = np.random.default_rng(1)
    score, positives, negatives = rng.integers(0, 5, 12) / 5, rng.integers(0, 4, 12), rng.integers(0, 4, 12)
    pairs, ordered = ordered_pairs(score, positives, negatives)
    labels = np.repeat([1, 0], [positives.sum(), negatives.sum()])
    assert pairs == positives.sum() * negatives.sum()
    assert ordered / pairs == pytest.approx(
        auc(labels, np.concatenate([np.repeat(score, positives), np.repeat(score, negatives)]))
    )


def test_keys_of_a_join_are_kept_only_where_many_find_no_match():
    key, table = coded(*[f"00{n}" for n in range(100)]), coded(*[str(n) for n in range(100)])
    all_but_five = np.where(np.arange(100) < 5, -1, np.arange(100))
    assert join_figures(key, table, all_but_five) == JoinFigures(rows=100, matched=95)
    found = join_figures(key, table, np.full(100, -1))
    assert (found.rows, found.matched) == (100, 0)
    assert found.log_keys.keys() == found.table_keys.keys()
    assert {f"00{key}" for key in found.table_keys.values()} == set(found.log_keys.values())
