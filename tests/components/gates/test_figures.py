"""Figures of shards add up, and keys that look alike are kept on both sides of a join."""

from __future__ import annotations

import pytest

from mixrank.components.gates import FeatureFigures, Figures, HistoryFigures, JoinFigures, LabelFigures, Separation
from mixrank.components.gates.figures import EXAMPLE_KEYS, example_keys, plain


def test_figures_of_shards_are_added_up():
    one = Figures(
        rows={"train": 4, "eval": 1},
        rows_read={"log": 9},
        duplicates=2,
        labels={"click": {"train": {"home": LabelFigures(rows=4, positives=1)}}},
        histories={"today": {"train": HistoryFigures(rows=4, empty=3, events=5)}},
        joins={"item_0": JoinFigures(rows=5, matched=3)},
        features={"tag": FeatureFigures(present={"train": 2}, cut_rows=1, cut_values=4)},
        alone={"tag": {"click": Separation(pairs=4, ordered=3.5, rows=5, unequal=5)}},
        first_ms=70,
        last_ms=90,
        years={"2024": 5},
        num_shards=1,
    )
    other = one.model_copy(
        update={
            "labels": {"click": {"train": {"cart": LabelFigures(rows=4, positives=2)}}},
            "first_ms": 10,
            "last_ms": 80,
            "years": {"2024": 1, "1970": 4},
        }
    )
    whole = Figures.merged([one, other, Figures(num_shards=1)])
    assert whole.rows == {"train": 8, "eval": 2}
    assert (whole.rows_read, whole.duplicates, whole.num_shards) == ({"log": 18}, 4, 3)
    assert whole.labels["click"]["train"]["cart"] == LabelFigures(rows=4, positives=2)
    assert whole.in_split("click", "train") == LabelFigures(rows=8, positives=3)
    assert whole.in_split("buy", "eval") == LabelFigures()
    assert whole.histories["today"]["train"] == HistoryFigures(rows=8, empty=6, events=10)
    assert whole.joins["item_0"] == JoinFigures(rows=10, matched=6)
    assert whole.features["tag"] == FeatureFigures(present={"train": 4}, cut_rows=2, cut_values=8)
    assert whole.alone["tag"]["click"].auc == 7 / 8
    assert (whole.first_ms, whole.last_ms) == (10, 90)
    assert whole.years == {"2024": 6, "1970": 4}
    assert Figures.model_validate_json(whole.model_dump_json()) == whole
    assert Figures.merged([]) == Figures()


@pytest.mark.parametrize(
    ("left", "right"), [("00s3", "s3"), ("S 3 ", "s3"), (7, "0007"), ("7.0", 7), ('"a"', "A"), ("0", "000")]
)
def test_keys_that_look_alike_have_one_plain_form(left, right):
    assert plain(left) == plain(right)


@pytest.mark.parametrize(("left", "right"), [("s3", "s4"), ("0", "1"), ("1.5", "1"), ("", "0"), ("10", "1")])
def test_other_keys_have_another_plain_form(left, right):
    assert plain(left) != plain(right)


def test_both_sides_of_a_join_choose_the_keys_that_look_alike():
    log, table = (example_keys(form.format(n) for n in range(5000)) for form in ("00s{}", "S{}"))
    assert len(log) == EXAMPLE_KEYS
    assert log.keys() == table.keys()
    halves = [
        JoinFigures(rows=1, log_keys=example_keys(f"00s{n}" for n in part)) for part in (range(100), range(99, 5000))
    ]
    merged = Figures.merged(Figures(joins={"item_0": half}) for half in halves)
    assert merged.joins["item_0"].log_keys == log
