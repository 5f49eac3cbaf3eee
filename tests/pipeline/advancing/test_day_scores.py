"""What stays of a day's predictions: means, users, intervals and unknown values."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from mixrank import schemas as s
from mixrank.pipeline.advancing import DayScores
from mixrank.pipeline.advancing import day_scores as module
from mixrank.pipeline.advancing.day_scores import day_scores

SPEC = s.FeatureSpec(
    name="shop",
    user=s.Key("user"),
    item=s.Key("item"),
    time=s.EventTime("time"),
    scenario=s.Scenario("place", values=(0, 1)),
    labels=(s.Label("click"), s.Label("buy", given="click")),
    features=(s.Categorical("item", group="item"),),
)


@pytest.fixture
def scored(tmp_path):
    """A function that writes a day's rows, where users differ, and returns its folder and the rows."""

    def write(users, rows=4000, bought=True):
        draw = np.random.default_rng(5)
        user = draw.integers(users, size=rows)
        taste = draw.normal(0, 1, users)[user]
        click = (draw.random(rows) < 1 / (1 + np.exp(-taste))).astype(float)
        frame = pd.DataFrame(
            {
                "user": user,
                "item": 1,
                "time": np.arange(rows),
                "place": "0",
                "label_click": click,
                "score_click": np.clip(0.5 + taste / 8 + draw.normal(0, 0.1, rows), 0.01, 0.99).astype(np.float32),
                "label_buy": np.where(click == 1, draw.integers(2, size=rows), np.nan) if bought else np.nan,
                "score_buy": np.float32(0.5),
            }
        )
        frame.to_parquet(tmp_path / "progressive.parquet")
        counts = {"item": {"values": 200, "unknown": 5}, "tag": {"values": 0, "unknown": 0}}
        (tmp_path / "unknown_ids.json").write_text(json.dumps(counts))
        return tmp_path, frame

    return write


def test_means_users_and_unknown_values_are_those_of_the_rows(scored):
    folder, frame = scored(users=300)
    found = day_scores(folder, SPEC)
    assert found.unknown == {"item": 5 / 200}
    assert found.users == frame["user"].nunique()
    click, buy = found.tasks["click"], found.tasks["buy"]
    assert click.mean_label == pytest.approx(frame["label_click"].mean())
    assert click.mean_score == pytest.approx(frame["score_click"].mean(), rel=1e-5)
    clicked = frame[frame["label_click"] == 1]
    assert (buy.rows, buy.users) == (len(clicked), clicked["user"].nunique())
    assert DayScores.model_validate_json(found.model_dump_json()) == found


def test_the_interval_of_a_mean_is_that_of_the_means_of_users(scored):
    folder, frame = scored(users=300)
    low, high = day_scores(folder, SPEC).tasks["click"].intervals["log_loss"]
    labels, scores = frame["label_click"], frame["score_click"].astype(float)
    loss = -(labels * np.log(scores) + (1 - labels) * np.log(1 - scores))
    # The error of a ratio of sums over users, by the delta method.
    by_user = (loss - loss.mean()).groupby(frame["user"]).sum()
    error = np.sqrt((by_user**2).sum()) / len(frame)
    assert (low, high) == pytest.approx((loss.mean() - 1.96 * error, loss.mean() + 1.96 * error), abs=0.4 * error)


@pytest.mark.parametrize(("bound", "most"), [("MOST_USERS", 500), ("MOST_ROWS", 2000)])
def test_many_users_are_resampled_in_part_with_the_interval_of_all(bound, most, scored, monkeypatch):
    folder, _ = scored(users=2000, rows=8000)
    whole = day_scores(folder, SPEC).tasks["click"].intervals
    monkeypatch.setattr(module, bound, most)
    part = day_scores(folder, SPEC).tasks["click"].intervals
    assert set(part) == set(whole)
    assert part != whole
    for name in ("auc", "log_loss", "calibration"):
        (low, high), (below, above) = part[name], whole[name]
        assert high - low == pytest.approx(above - below, rel=0.35)
        assert abs((low + high) / 2 - (below + above) / 2) < 0.3 * (above - below)


def test_a_task_without_rows_has_no_means(scored):
    folder, _ = scored(users=50, rows=200, bought=False)
    found = day_scores(folder, SPEC).tasks["buy"]
    assert (found.rows, found.users, found.mean_label, found.mean_score, found.intervals) == (0, 0, None, None, {})
