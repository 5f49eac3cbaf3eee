"""Who, what, which outcome and where: by names first, then by what the values do."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from mixrank.pipeline.starting import words
from mixrank.pipeline.starting.columns import profile
from mixrank.pipeline.starting.roles import (
    choose_labels,
    guess_key,
    guess_request,
    guess_scenario,
    outcomes,
    scenario_values,
    whole_steps,
)
from mixrank.schemas.arrow import pa

DRAW = np.random.default_rng(0)
ROWS = 2000


def columns(**values):
    return {name: profile(name, pa.array(each)) for name, each in values.items()}


def numbers(most, rows=ROWS):
    return DRAW.integers(0, most, rows)


def test_the_examples_of_names_hold():
    assert doctest.testmod(words).failed == 0


@pytest.mark.parametrize("name", ["user_id", "userId", "uid", "customer", "memberID", "visitor_hash", "users_id"])
def test_a_user_is_known_by_its_name(name):
    found = guess_key(columns(age=numbers(60), **{name: numbers(100)}, item_id=numbers(50)), "user")
    assert found.value == name
    assert found.confidence > 0.9


@pytest.mark.parametrize("name", ["item_id", "video_id", "sku", "movieId", "article", "asin", "product_code"])
def test_an_item_is_known_by_its_name(name):
    found = guess_key(columns(user_id=numbers(60), **{name: numbers(100)}), "item")
    assert found.value == name


def test_attributes_of_a_user_are_no_key():
    found = guess_key(columns(user_age=numbers(60), user_feature_0=numbers(9), item=numbers(40)), "user")
    assert found.value is None
    assert "no column looks like the key of a user" in found.why


def test_two_names_that_are_as_good_are_a_question():
    found = guess_key(columns(item_id=numbers(60), video_id=numbers(90)), "item")
    assert found.confidence < 0.75
    assert found.others


def test_an_item_of_another_name_is_an_id_that_comes_again():
    found = columns(srch_id=np.arange(ROWS) // 5, prop_id=numbers(150), price=numbers(900), country_id=numbers(30))
    guess = guess_key(found, "item", again=lambda column: column.name != "srch_id")
    assert (guess.value, guess.others) == ("prop_id", ("country_id", "price"))
    assert guess.confidence < 0.75


def test_outcomes_come_with_the_usual_main_one_first():
    found = outcomes(
        columns(is_like=numbers(2), is_click=numbers(2), is_hate=numbers(2), is_weekend=numbers(2), x=numbers(2)),
        (),
        None,
        "",
    )
    assert [outcome.column for outcome in found] == ["is_click", "is_like", "is_hate"]


def test_a_rating_is_cut_where_it_divides_the_rows_most_evenly():
    rating = np.repeat([1, 2, 3, 4, 5], [100, 200, 500, 700, 500])
    (found,) = outcomes(columns(rating=rating), (), None, "")
    assert (found.at_least, found.name, found.share) == (4.0, "liked", 0.6)
    assert found.confidence < 0.75


def test_a_time_spent_is_an_outcome_only_if_nothing_else_is():
    watched = np.where(DRAW.random(ROWS) < 0.3, DRAW.exponential(10, ROWS), 0)
    with_click = outcomes(columns(click=numbers(2), watch_time=watched), (), None, "")
    assert [outcome.column for outcome in with_click] == ["click"]
    (alone,) = outcomes(columns(watch_time=watched), (), None, "")
    assert alone.at_least > 0
    assert 0.1 < alone.share < 0.2


def test_labels_are_the_main_outcome_and_the_next_with_rows_enough():
    click, long_view = numbers(2), numbers(2)
    rare = (DRAW.random(ROWS) < 0.005).astype(int)
    found = outcomes(columns(is_share=rare, is_click=click, long_view=long_view, is_hate=numbers(2)), (), None, "")
    assert [outcome.column for outcome in choose_labels(found, ROWS)] == ["is_click", "long_view"]


def test_a_scenario_is_a_surface_and_not_an_attribute_of_the_user():
    user = numbers(40)
    found = columns(user_id=user, platform=user % 3, tab=numbers(4), item_id=numbers(50))
    assert guess_scenario(found, ("user_id", "item_id"), "user_id", "item_id").value == "tab"
    del found["tab"]
    assert guess_scenario(found, ("user_id", "item_id"), "user_id", "item_id").value is None


def test_rare_scenarios_are_not_listed():
    tab = np.concatenate([np.zeros(6000), np.ones(3999), [7]]).astype(int)
    values, rest = scenario_values(profile("tab", pa.array(tab)))
    assert values == (0, 1)
    assert rest == pytest.approx(1e-4)
    assert scenario_values(profile("page", pa.array(["b", "a", "b"])))[0] == ("b", "a")


def test_a_request_is_named_so_comes_again_and_has_one_user():
    request = np.sort(numbers(500))
    owner = request % 60
    shared = numbers(500)
    for name in ("request_id", "searchId", "slate_uuid"):
        assert guess_request(columns(user_id=owner, **{name: request}), (), "user_id").value == name
    for values in (np.arange(ROWS), shared):
        # Of one row each; of several users.
        assert guess_request(columns(user_id=owner, request_id=values), (), "user_id").value is None
    assert guess_request(columns(request_id=shared), (), None).value == "request_id"
    assert guess_request(columns(other=request, page_views=request), (), None).value is None
    assert guess_request(columns(user_id=owner, request_id=request), ("request_id",), "user_id").value is None


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        ([5, 1, 2, 3, 4, 4], (1, 2, 3, 4, 5)),
        ([0.5, 1.0, 1.5, 2.0], ()),
        ([-1, 0, 1], ()),
        ([0, 1], ()),
        (list(range(11)), ()),
    ],
)
def test_a_rating_of_a_few_whole_steps_may_be_learned_step_by_step(values, steps):
    assert whole_steps(columns(rating=values)["rating"]) == steps
