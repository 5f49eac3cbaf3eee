import collections

import numpy as np
import pytest

from mixrank import schemas as s
from mixrank.components.baselines import AdditiveLogOdds
from mixrank.components.baselines.boosted_trees import CATEGORIES, BoostedTrees
from mixrank.components.baselines.example_arrays import ExampleArrays
from mixrank.components.metrics.ranking_metrics import auc, log_loss

SMALL = {"trees": 30, "learning_rate": 0.2, "min_rows": 20}


def plain_spec(*features, labels=("click",)):
    return s.FeatureSpec(
        name="shop",
        user=s.Key("member"),
        item=s.Key("article"),
        time=s.EventTime("ms"),
        scenario=s.Scenario("page", values=("a", "b")),
        labels=tuple(s.Label(name) for name in labels),
        features=(*features, s.Numeric("price", group="item")),
    )


def plain_rows(rows, seed=0, **columns):
    rng = np.random.default_rng(seed)
    values = {
        "member": rng.integers(1, 30, rows),
        "article": rng.integers(1, 20, rows),
        "page": rng.integers(1, 3, rows),
        "price": rng.random(rows).astype(np.float32),
        "click": rng.integers(0, 2, rows),
        **columns,
    }
    return ExampleArrays({name: np.asarray(column) for name, column in values.items()}, {}, (rows,))


@pytest.mark.parametrize("group", ["user", "context"])
def test_trees_learn_an_interaction_that_log_odds_do_not_add_up_to(group):
    spec = plain_spec(s.Categorical("mood", group=group), s.Categorical("brand", group="item"))
    rng = np.random.default_rng(3)
    mood, brand = rng.integers(1, 3, 6000), rng.integers(1, 3, 6000)
    click = (rng.random(6000) < np.where(mood == brand, 0.8, 0.2)).astype(int)
    rows = plain_rows(6000, mood=mood, brand=brand, click=click)
    training, later = rows.between(0, 4000), rows.between(4000, 6000)
    keys = ("member", "article", "page", "mood", "brand")
    additive = AdditiveLogOdds().fit({k: training.columns[k] for k in keys}, training.columns["click"])
    added_up = additive.predict({k: later.columns[k] for k in keys})
    trees = BoostedTrees(spec, **SMALL).fit(training, np.arange(4000) // 800).predict(later)["click"]
    assert auc(later.columns["click"], added_up) < 0.55
    # The truth reaches 0.8.
    assert auc(later.columns["click"], trees) > 0.77


def test_trees_read_the_value_of_an_expression():
    spec = plain_spec(
        s.Numeric("age", group="user", default=2.0),
        s.Expression("each", formula="max(price, 1) / (age - 1)", group="item"),
    )
    age, price = np.float32([3, np.nan, 1, 5]), np.float32([4, 0.5, 2, np.nan])
    rows = plain_rows(4, age=age, price=price)
    found = BoostedTrees(spec, trees=1).fit(rows, np.zeros(4)).features(rows)["each"]
    np.testing.assert_array_equal(found, [2.0, 1.0, np.nan, np.nan])


def test_trees_read_the_rate_of_a_cross():
    brands, colors = s.Categorical("brand", group="item"), s.Categorical("color", group="item")
    cross = s.Cross("look", of=("brand", "color", "page"), group="item")
    rng = np.random.default_rng(7)
    brand, color, page = (rng.integers(1, top, 12000) for top in (80, 80, 3))
    # Each combination of a brand and a page has colors of its own.
    click = (rng.random(12000) < np.where((brand * 7 + color * 3 + page) % 2 > 0, 0.9, 0.1)).astype(int)
    brand[:50] = 0
    rows = plain_rows(12000, brand=brand, color=color, page=page, click=click)
    trees = BoostedTrees(plain_spec(brands, colors, cross), **SMALL).fit(rows, np.arange(12000) // 3000)
    table = trees.features(rows)
    seen = {}
    for number, key in enumerate(zip(brand, color, page, strict=True)):
        seen.setdefault(key, set()).add(table["look.rows"][number])
    assert (table["look.rows"][:50] == 0).all() and table["look.rows"].max() > 1
    # Rows of a combination have one count, and only they have it.
    assert all(len(counts) == 1 for counts in seen.values())
    expected = collections.Counter(key for key in zip(brand, color, page, strict=True) if key[0])
    assert all(seen[key] == {count} for key, count in expected.items())


def test_trees_read_what_files_say_about_a_value():
    spec = plain_spec(
        s.Lookup("brand", of="article", file="brands", group="item"),
        s.NumericLookup("weight", of="article", file="weights", group="item"),
        s.VectorTable("text", of="article", file="texts", group="item", dim=2),
        s.Categorical("article", group="item"),
    )
    rng = np.random.default_rng(9)
    brand, text = rng.integers(0, 5, 4000), rng.normal(size=(4000, 2)).astype(np.float32)
    rows = plain_rows(4000, brand=brand, text=text, weight=text[:, 0], click=(brand == 2) ^ (text[:, 1] > 0))
    trees = BoostedTrees(spec, **SMALL).fit(rows.between(0, 3000), np.arange(3000) // 600)
    table = trees.features(rows)
    assert {"text.0", "text.1", "weight", "member*brand.rows"} <= set(table)
    np.testing.assert_array_equal(table["brand"], np.where(brand > 0, brand - 1.0, np.nan))
    later = rows.between(3000, 4000)
    assert auc(later.columns["click"].astype(int), trees.predict(later)["click"]) > 0.95


def test_trees_split_at_each_number_of_a_vector():
    spec = plain_spec(s.Vector("look", group="item", dim=2))
    look = np.random.default_rng(6).normal(size=(6000, 2)).astype(np.float32)
    rows = plain_rows(6000, look=look, click=(look[:, 1] > 0).astype(int))
    trees = BoostedTrees(spec, **SMALL).fit(rows.between(0, 4000), np.arange(4000) // 800)
    assert {"look.0", "look.1"} <= set(trees.features(rows))
    later = rows.between(4000, 6000)
    assert auc(later.columns["click"], trees.predict(later)["click"]) > 0.99


def test_trees_learn_which_member_likes_which_brand():
    """A taste that only past rows of the same member and brand tell of; there are too many members for categories."""
    spec = plain_spec(s.Categorical("brand", group="item"))
    rng = np.random.default_rng(4)
    member, brand = rng.integers(1, 101, 12000), rng.integers(1, 5, 12000)
    likes = rng.random((101, 5)) < 0.5
    click = (rng.random(12000) < np.where(likes[member, brand], 0.8, 0.2)).astype(int)
    rows = plain_rows(12000, member=member, brand=brand, click=click)
    trees = BoostedTrees(spec, **SMALL).fit(rows.between(0, 10000), np.arange(10000) // 1000)
    later = rows.between(10000, 12000)
    assert auc(later.columns["click"], trees.predict(later)["click"]) > 0.75


def test_a_label_changes_no_feature_of_its_day_or_an_earlier_one():
    tags = s.MultiCategorical("tag", group="item", max_length=2)
    spec = plain_spec(s.Categorical("brand", group="item"), tags)
    rng = np.random.default_rng(5)
    columns = {"brand": rng.integers(0, 90, 400), "tag": rng.integers(0, 5, (400, 2)), "click": rng.integers(0, 2, 400)}
    days = np.sort(rng.integers(0, 6, 400))
    rows = plain_rows(400, **columns)
    before = BoostedTrees(spec, trees=1).fit(rows, days).features(rows, days)
    for row in (0, 170, 399):
        columns["click"] = rows.columns["click"].copy()
        columns["click"][row] ^= 1
        after = BoostedTrees(spec, trees=1).fit(plain_rows(400, **columns), days).features(rows, days)
        known = days <= days[row]
        np.testing.assert_array_equal(before[known], after[known])
        assert row == 399 or not before[~known].equals(after[~known])


def test_trees_are_not_grown_on_a_row_s_own_label():
    """Every member has one row: its rate gives the label away to whoever counts all training rows."""
    rows = plain_rows(2000, member=np.arange(1, 2001), price=np.zeros(2000, np.float32))
    trees = BoostedTrees(plain_spec(), **SMALL).fit(rows, np.arange(2000) // 200)
    rate = trees.features(rows)["member.click"].to_numpy()
    assert auc(rows.columns["click"], rate) == 1
    # Whoever learned that takes the rate at its word; log loss of knowing nothing is 0.693.
    assert log_loss(rows.columns["click"], trees.predict(rows)["click"]) > 0.6


def test_evaluation_rows_see_every_training_day():
    spec = plain_spec()
    rows = plain_rows(200, article=np.full(200, 4), click=np.arange(200) % 4 == 0)
    trees = BoostedTrees(spec, trees=1, smoothing=1.0).fit(rows, np.arange(200) // 50)
    assert set(trees.features(rows)["article.rows"]) == {200.0}
    assert trees.features(rows)["article.click"].to_numpy() == pytest.approx(0.25)
    assert trees.features(rows, np.arange(200) // 50)["article.rows"].tolist() == sorted([0, 50, 100, 150] * 50)


def test_histories_become_counts_shares_and_matches():
    spec = plain_spec(
        s.Categorical("brand", group="item"),
        s.MultiCategorical("tag", group="item", max_length=2),
        s.Action("action", flags=("click", "cart")),
        s.TimeGap("gap"),
        s.History("past", of=("brand", "tag", "action", "gap"), length=3, window="before"),
    )
    nan = np.nan
    rows = plain_rows(
        3,
        brand=[7, 8, 0],
        tag=[[1, 2], [3, 0], [0, 0]],
        past_brand=[[7, 9, 7], [8, 0, 0], [0, 0, 0]],
        past_tag=[[[5, 2], [2, 1], [0, 0]], [[4, 0], [3, 5], [0, 0]], [[0, 0]] * 3],
        past_action=np.array([[2, 3, 1], [0, 1, -1], [-1, -1, -1]], np.int16),
        past_gap=[[10.0, 20.0, nan], [5.0, nan, nan], [nan, nan, nan]],
        click=[0, 1, 1],
    )
    rows.events["past"] = np.array([3, 2, 0])
    got = BoostedTrees(spec, trees=1).fit(rows, [0, 1, 2]).features(rows)
    expected = {
        "past.events": [3, 2, 0],
        "past.click": [2 / 3, 1 / 2, nan],
        "past.newest.click": [0, 0, nan],
        "past.cart": [2 / 3, 0, nan],
        "past.newest.cart": [1, 0, nan],
        "past.newest.seconds": [10, 5, nan],
        "past.oldest.seconds": [20, 5, nan],
        "past.same_brand": [2, 1, 0],
        "past.same_brand.click": [1 / 2, 0, nan],
        "past.same_brand.seconds": [10, 5, nan],
        "past.same_tag": [2, 1, 0],
        "past.same_tag.click": [1 / 2, 1, nan],
        "past.same_tag.seconds": [10, nan, nan],
    }
    assert [name for name in got if name.startswith("past.")] == list(expected)
    for name, column in expected.items():
        np.testing.assert_allclose(got[name], column, rtol=1e-6, err_msg=name)


def test_what_files_say_about_events_is_counted_like_their_fields():
    spec = plain_spec(
        s.Categorical("article", group="item"),
        s.History("past", of=("article",), length=2, window="before"),
        s.Lookup("brand", of="article", file="brands", group="item", histories=("past",)),
        s.NumericLookup("weight", of="article", file="weights", group="item", histories=("past",)),
        s.VectorTable("text", of="article", file="texts", group="item", dim=1, histories=("past",)),
    )
    nan = np.nan
    rows = plain_rows(
        2,
        article=[1, 2],
        brand=[5, 0],
        weight=np.float32([1, nan]),
        text=np.zeros((2, 1), np.float32),
        past_article=[[2, 3], [0, 0]],
        past_brand=[[5, 0], [0, 0]],
        past_weight=np.float32([[2, 4], [nan, nan]]),
        click=[0, 1],
    )
    rows.events["past"] = np.array([2, 0])
    got = BoostedTrees(spec, trees=1).fit(rows, [0, 1]).features(rows)
    expected = {
        "past.events": [2, 0],
        "past.newest.weight": [2, nan],
        "past.mean.weight": [3, nan],
        "past.same_article": [0, 0],
        "past.same_brand": [1, 0],
    }
    assert [name for name in got if name.startswith("past.")] == list(expected)
    for name, column in expected.items():
        np.testing.assert_allclose(got[name], column, err_msg=name)


def test_few_values_are_categories_and_many_have_statistics():
    spec = plain_spec(s.Categorical("brand", group="context"), s.Categorical("street", group="user"))
    brand = np.arange(300) % CATEGORIES + 1
    street = np.arange(300) % (CATEGORIES + 1) + 1
    brand[7] = street[7] = 0
    trees = BoostedTrees(spec, trees=1).fit(plain_rows(300, brand=brand, street=street), np.arange(300) // 100)
    assert list(trees.categories) == ["page", "brand"]
    later = plain_rows(4, brand=[0, 1, CATEGORIES, 900], street=[0, 1, CATEGORIES + 1, 900])
    got = trees.features(later)
    np.testing.assert_array_equal(got["brand"], [np.nan, 0, CATEGORIES - 1, np.nan])
    assert {"street.click", "street.rows"} <= set(got)
    assert "brand.click" not in got and "street" not in got
    rate = np.mean(plain_rows(300).columns["click"])
    assert np.isnan(got["street.click"][0]) and got["street.click"][3] == pytest.approx(rate)
    # Values and keys that training has not seen are scored all the same.
    scores = trees.predict(plain_rows(4, brand=[900] * 4, street=[900] * 4, member=[99] * 4, article=[99] * 4))
    assert ((scores["click"] > 0) & (scores["click"] < 1)).all()


@pytest.mark.slow
def test_every_task_has_its_own_trees_and_equal_rows_give_equal_scores():
    spec = plain_spec(labels=("click", "buy"))
    rows = plain_rows(1500)
    rows.columns["buy"] = (rows.columns["price"] > 0.5).astype(int)
    days = np.arange(1500) // 300
    first, second = (BoostedTrees(spec, **SMALL).fit(rows, days).predict(rows) for _ in range(2))
    assert list(first) == ["click", "buy"]
    assert auc(rows.columns["buy"], first["buy"]) > 0.99
    for task in first:
        np.testing.assert_array_equal(first[task], second[task])


def test_a_task_of_one_class_has_one_prediction_and_does_not_change_the_others():
    spec, rows = plain_spec(labels=("click", "buy")), plain_rows(40)
    rows.columns["buy"] = np.zeros(40, int)
    days = np.arange(40) // 8
    scores = BoostedTrees(spec, **SMALL).fit(rows, days).predict(rows)
    np.testing.assert_array_equal(scores["buy"], np.full(40, 0.5 / 41))
    assert len(np.unique(scores["click"])) > 1


def test_what_is_wrong_is_named():
    spec = plain_spec()
    rows = plain_rows(40)
    with pytest.raises(ValueError, match="with at least one row"):
        BoostedTrees(spec).fit(rows.between(0, 0), [])
    with pytest.raises(ValueError, match=r"`days` must have 40 rows, received shapes \(40, 1\) and \(7,\)"):
        BoostedTrees(spec).fit(plain_rows(40), np.zeros(7, int))
    with pytest.raises(ValueError, match="`fit` must be called first"):
        BoostedTrees(spec).predict(rows)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"trees": 0}, "`trees` must be >= 1, received 0"),
        ({"leaves": 1}, "`leaves` must be >= 2, received 1"),
        ({"min_rows": 0}, "`min_rows` must be >= 1, received 0"),
        ({"l2": -1}, "`l2` must be >= 0, received -1"),
        ({"learning_rate": 0}, "`learning_rate` must be > 0, received 0"),
        ({"smoothing": float("nan")}, "`smoothing` must be > 0, received nan"),
    ],
)
def test_arguments_have_bounds(argument, message):
    with pytest.raises(ValueError, match=message):
        BoostedTrees(plain_spec(), **argument)
