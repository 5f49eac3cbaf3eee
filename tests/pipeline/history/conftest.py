"""Made-up days of a shop with two tasks, as `mixrank advance` records them."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import numpy as np
import pytest

from mixrank import schemas as s
from mixrank.pipeline.advancing import DayRecord, DayScores, TaskScores

SPEC = s.FeatureSpec(
    name="shop",
    user=s.Key("user"),
    item=s.Key("item"),
    time=s.EventTime("time"),
    scenario=s.Scenario("place", values=(0, 1)),
    labels=(s.Label("click"), s.Label("minutes", kind="log_regression")),
    features=(s.Categorical("item", group="item"), s.Categorical("city", group="user")),
)


@pytest.fixture(scope="session")
def shop_spec():
    return SPEC


def scores(click, minutes):
    """Scores whose intervals reach a hundredth to both sides of the metrics."""
    metrics = {"auc": 0.70 + click, "gauc": 0.62 + click, "log_loss": 0.55 - click, "calibration": 1.0 + click}
    numbers = {"xauc": 0.60 + minutes, "gxauc": 0.58 + minutes, "mae": 2.0 - minutes, "ratio": 0.9 + minutes}
    found = {"click": metrics, "minutes": numbers}
    tasks = {
        task: TaskScores(
            rows=800,
            users=90,
            mean_label=0.3,
            mean_score=0.3 + click,
            # The report of XAUC has none either.
            intervals={name: (value - 0.01, value + 0.01) for name, value in values.items() if name != "xauc"},
        )
        for task, values in found.items()
    }
    return found, DayScores(users=100, tasks=tasks, unknown={"item": 0.02 + click, "city": 0.0})


def make_days(count, held=(), unscored=(), push_folder="/models/shop"):
    """Records of `count` days from 2024-01-30 on.

    Args:
        count: of days.
        held: numbers of those that were held back after they were judged.
        unscored: numbers of those that were held back before.
        push_folder: folder of the versions, whose numbers are 100, 101, ...
    """
    draw, records, model = np.random.default_rng(0), [], "2024-01-29"
    for number in range(count):
        day = str(date(2024, 1, 30) + timedelta(number))
        metrics, found = scores(*draw.normal(0, 0.01, 2))
        reasons = ()
        if number in unscored:
            metrics, found, reasons = {}, None, ("label `click` is 0 in all of 900 rows",)
        elif number in held:
            metrics["click"]["gauc"], reasons = None, ("AUC of `click` is 0.6000 on the day, `min_auc` is 0.65",)
        records.append(
            DayRecord(
                day=day,
                rows=900 + 10 * number,
                log="f",
                model=model,
                metrics=metrics,
                drift=("`city`: new values are 40 % of the rows",) if number == 2 else (),
                vocabularies={"item": {"known": 5000 + number, "added": 1, "reused": number % 2, "waiting": 0}}
                if found
                else {},
                held=reasons,
                pushed=None if reasons else f"{push_folder}/{100 + number}",
                seconds={"read": 1.5, "examples": 20.0} | ({} if number in unscored else {"train": 30.0, "push": 0.5}),
                started=datetime(2024, 2, 1, 3),
                finished=datetime(2024, 2, 1, 4),
                scores=found,
            )
        )
        model = model if reasons else day
    return records


@pytest.fixture(scope="session")
def days_of_a_shop():
    """The function `make_days`."""
    return make_days
