"""A column becomes a feature by its type, its values and where it belongs, or is left out with a reason."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

from mixrank.pipeline.starting.columns import profile
from mixrank.pipeline.starting.describing import (
    Described,
    LeftOut,
    describe_column,
    describe_log_column,
    history_fields,
)
from mixrank.schemas import Categorical, MultiCategorical, Numeric
from mixrank.schemas.arrow import pa

TODAY = datetime.date(2024, 6, 1)
ROWS = 3000
DRAW = np.random.default_rng(0)
USER, ITEM = DRAW.integers(0, 60, ROWS), DRAW.integers(0, 40, ROWS)
DAY = np.sort(DRAW.integers(19_000, 19_010, ROWS))
LABEL = DRAW.integers(0, 2, ROWS)


def column(values, name="x"):
    return profile(name, pa.array(values))


def feature(values, name="x", group="item"):
    return describe_column(column(values, name), group, TODAY).feature


def of_log(values, name="x"):
    keys = {"user": column(USER, "user"), "item": column(ITEM, "item")}
    return describe_log_column(column(values, name), keys, DAY, LABEL, TODAY)


def test_texts_and_codes_are_categories():
    assert feature(["a", "b"] * 9) == Categorical("x", group="item", dtype="str", dim=4)
    assert feature(np.arange(300) % 100, "zip") == Categorical("zip", group="item", dim=8)
    assert feature(["007", "012"] * 9) == Categorical("x", group="item", dtype="str", dim=4)
    many = feature(np.arange(9000) % 3000, "author_id")
    assert (many.vocab.min_count, many.vocab.oov, many.dim) == (2, 6, 16)


def test_numbers_with_a_few_large_ones_are_taken_by_their_logarithm():
    assert feature(np.linspace(0, 1, 500)) == Numeric("x", group="item")
    skewed = np.append(np.full(300, 1.5) + np.arange(300) / 1000, 900.0)
    assert feature(skewed) == Numeric("x", group="item", transform="log1p_standardize")


def test_the_median_stands_for_a_missing_number():
    assert feature([*np.arange(100.0), None]).default == 49.5


def test_lists_and_texts_of_several_values_are_multi_categorical():
    lists = feature([["a", "b"], ["a"]] * 10)
    assert lists == MultiCategorical("x", group="item", max_length=2, dim=4)
    texts = feature([f"{i % 4}|{i % 3 + 4}" for i in range(60)])
    assert texts == MultiCategorical("x", group="item", dtype="int", separator="|", max_length=2, dim=4)


def test_a_few_values_are_all_kept_and_long_lists_are_cut_where_most_rows_end():
    assert feature([["a"]] * 99 + [list("abcdef")]).max_length == 6
    assert feature([["a"]] * 99 + [[str(i) for i in range(40)]]).max_length == 1


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([None, None], "no value"),
        ([5, 5], "one value only"),
        ([{"a": 1}, {"a": 2}], "lists in lists"),
        ([f"film {i} of {i * 7}" for i in range(500)], "another text"),
        (["a long review of this product that nobody reads to its end " + str(i % 9) for i in range(60)], "prose"),
        (["2024-01-0" + str(1 + i % 9) for i in range(60)], "a date"),
        (["|".join(f"{x:.2f}" for x in DRAW.normal(size=4)) for _ in range(60)], "a vector"),
        ([[0.5, 1.5]] * 3, "a vector"),
    ],
)
def test_what_says_nothing_is_left_out_with_the_reason(values, why):
    found = describe_column(column(values), "item", TODAY)
    assert isinstance(found, LeftOut)
    assert why in found.why


def test_a_number_that_is_a_day_is_a_date_if_its_name_says_so():
    days = [20240101 + i % 9 for i in range(60)]
    assert isinstance(describe_column(column(days, "upload_date"), "item", TODAY), LeftOut)
    assert isinstance(describe_column(column(days), "item", TODAY), Described)


def test_values_that_few_rows_of_a_table_share_are_kept():
    authors = np.append(np.arange(700), np.arange(300))
    assert isinstance(describe_column(column(authors, "author_id"), "item", TODAY), Described)
    assert isinstance(describe_column(column(np.arange(1000), "author_id"), "item", TODAY), LeftOut)


def test_a_column_of_the_log_belongs_to_whom_it_never_changes_for():
    assert of_log(ITEM % 7).feature.group == "item"
    assert of_log(USER % 7).feature.group == "user"
    assert of_log(DRAW.integers(0, 7, ROWS)).feature.group == "context"


@pytest.mark.parametrize(
    ("values", "name", "why"),
    [
        (DRAW.random(ROWS), "watch_seconds", "known only after"),
        (LABEL * DRAW.random(ROWS), "x", "it alone tells the label"),
        (LABEL * (DRAW.random(ROWS) < 0.05), "x", "where it is set, 100% of the rows have the label"),
        (DRAW.choice([0.1, 0.2], ROWS), "propensity_score", "of the policy"),
        (DAY * 3, "x", "of one day"),
        (DAY + (DRAW.random(ROWS) < 0.3), "x", "of one day"),
        (np.arange(ROWS), "x", "of its own"),
        (np.arange(ROWS) // 3, "request_id", "of one day"),
    ],
)
def test_what_would_mislead_a_model_is_left_out(values, name, why):
    found = of_log(values, name)
    assert isinstance(found, LeftOut)
    assert why in found.why


def test_a_duration_that_belongs_to_the_item_is_kept():
    assert isinstance(of_log(ITEM * 1000 + 7, "duration_ms"), Described)


def test_a_position_is_kept_with_a_question():
    found = of_log(DRAW.integers(1, 9, ROWS), "position")
    assert isinstance(found.feature, Categorical)
    assert "served request" in found.doubt


def test_a_rare_value_that_nearly_tells_the_label_is_kept_with_a_question():
    rare = np.where(DRAW.random(ROWS) < 0.9, LABEL, 1 - LABEL) * (DRAW.random(ROWS) < 0.1)
    assert "known before the ranking? 9" in of_log(rare).doubt
    assert not of_log((DRAW.random(ROWS) < 0.1).astype(int)).doubt


def test_a_history_repeats_what_items_share():
    described = [
        Described(Categorical(name, group=group), "", distinct)
        for name, group, distinct in (
            ("item", "item", 100),
            ("city", "user", 50),
            ("twin", "item", 95),
            ("flag", "item", 2),
            ("brand", "item", 30),
            ("author", "item", 60),
            ("kind", "item", 5),
            ("color", "item", 4),
        )
    ]
    assert history_fields(described, "item", 100) == ["item", "author", "brand", "kind"]
