"""The config of a first run fits the number of rows and what the log has."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from mixrank.pipeline.starting.config_file import config_file
from mixrank.pipeline.starting.plan import Noted, Plan
from mixrank.schemas import Categorical, EventTime, History, Key, Label, Scenario, SplitByHash, Table

SKU = Noted(Categorical("sku", group="item"))


def plan(rows: int = 1000, windows: tuple[str, ...] = (), validates: bool = True, folder: str = "shop") -> Plan:
    histories = [Noted(History(window, of=("sku",), length=5, window=window)) for window in windows]
    return Plan(
        name="shop",
        folder=folder,
        user=Noted(Key("user")),
        item=Noted(Key("sku")),
        time=Noted(EventTime("ts")),
        scenario=Noted(Scenario("page", values=("all",))),
        labels=[Noted(Label("click"))],
        features=[SKU, *histories],
        log=Noted(Table(files=("a.csv",))),
        joins=[],
        labels_from={},
        derive={},
        popularity={},
        window=None,
        split=Noted(SplitByHash()),
        fields=("sku",),
        rows=rows,
        validates=validates,
        zone=Noted("UTC"),
    )


def settings(found: Plan) -> dict:
    return yaml.safe_load(config_file(found, "shop.py"))


def test_more_rows_mean_larger_steps_and_fewer_passes():
    found = [settings(plan(rows))["train"] for rows in (500, 50_000, 300_000, 10**7)]
    assert [each["batch_size"] for each in found] == [64, 128, 256, 2048]
    assert [each["epochs"] for each in found] == [5, 3, 2, 1]
    rates = [each["optimizer"]["learning_rate"] for each in found]
    assert rates == sorted(rates)


def test_training_stops_early_only_where_something_validates():
    assert "early_stopping" in settings(plan())["train"]
    assert "early_stopping" not in settings(plan(validates=False))["train"]
    assert "early_stopping" not in settings(plan(rows=10**7))["train"]


@pytest.mark.parametrize(
    ("windows", "model"),
    [
        ((), {"name": "dcnv2", "preset": "tiny"}),
        (("before", "within"), {"name": "hemix", "preset": "tiny"}),
        (("before",), {"name": "hemix", "preset": "tiny", "params": {"realtime_sequence": False}}),
        (("within",), {"name": "hemix", "preset": "tiny", "params": {"global_sequence": False}}),
    ],
)
def test_the_model_reads_the_histories_that_there_are(windows, model):
    assert settings(plan(windows=windows))["model"] == model


@pytest.mark.parametrize("folder", ["a b", "a: b", "# x", "yes", "1", "é", "s3://logs/shop", "{x}", "'", "- a"])
def test_any_folder_is_read_back_as_it_is(folder):
    assert settings(replace(plan(), folder=folder))["data"] == folder
