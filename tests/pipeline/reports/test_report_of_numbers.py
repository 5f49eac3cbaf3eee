"""A report of tasks with labels that are numbers, and of one that is given another."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from sklearn.metrics import mean_absolute_error, roc_auc_score

from mixrank.components.baselines import ADDITIVE
from mixrank.components.metrics import xauc
from mixrank.pipeline.reports import metrics_tables, write_report
from mixrank.schemas import Categorical, EventTime, FeatureSpec, Key, Label, Scenario

ROWS = 400
SPEC = FeatureSpec(
    name="clips",
    user=Key("member"),
    item=Key("clip"),
    time=EventTime("ms"),
    scenario=Scenario("page", values=(0, 1)),
    labels=(Label("click"), Label("buy", given="click"), Label("seen_ms", kind="watch_time", scale=1000.0)),
    features=(Categorical("clip", group="item"),),
)


@pytest.fixture(scope="module")
def predictions():
    rng = np.random.default_rng(1)
    click = rng.integers(0, 2, ROWS)
    columns = {"member": rng.integers(0, 40, ROWS), "clip": 7, "ms": np.arange(ROWS), "page": rng.integers(0, 2, ROWS)}
    columns |= {"label_click": click, "label_buy": np.where(click, rng.integers(0, 2, ROWS), np.nan)}
    columns |= {"label_seen_ms": np.round(rng.gamma(1.0, 5000.0, ROWS)) * click}
    columns |= {f"score_{task}": rng.random(ROWS) for task in ("click", "buy")}
    columns |= {"score_seen_ms": columns["label_seen_ms"] * 0.5 + rng.gamma(1.0, 2000.0, ROWS)}
    return pd.DataFrame(columns)


@pytest.fixture(scope="module")
def folder(predictions, record_of, tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbers") / "run"
    record = record_of(SPEC, folder, judgement=None)
    for part in (record.model_run, record.baselines):
        part.mkdir(parents=True)
    predictions.to_parquet(record.model_run / "predictions.parquet")
    base = predictions[["member", "clip", "ms"]].assign(score_click=0.5, score_buy=0.5, score_seen_ms=3000.0)
    base.to_parquet(record.baselines / ADDITIVE)
    (record.model_run / "model.json").write_text(json.dumps({"name": "dlrm", "parameters": 1, "flops": 1}))
    record.write(folder)
    return folder


def shown(table):
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    return console.file.getvalue()


def test_tasks_with_other_metrics_have_a_table_of_their_own(folder, predictions):
    flags, numbers = map(shown, metrics_tables([folder]))
    assert all(len(line) <= 80 for line in (flags + numbers).splitlines())
    clicked = predictions[predictions["label_click"] > 0]
    area = roc_auc_score(clicked["label_buy"], clicked["score_buy"])
    assert re.search(rf"buy +given click +{len(clicked)} +{area:.4f}", flags)
    assert "XAUC" not in flags and "seen_ms" not in flags
    y, p = predictions["label_seen_ms"], predictions["score_seen_ms"]
    expected = rf"{xauc(y, p):.4f} .* {mean_absolute_error(y, p):,.0f} +{p.sum() / y.sum():.4f} +0\.5000"
    assert re.search(rf"seen_ms +all rows +{ROWS} +{expected}", numbers)
    assert "Base: XAUC of the additive baseline" in numbers


def test_the_page_has_their_metrics_and_a_plot(folder, tmp_path):
    write_report([folder], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "XAUC is the share of the pairs" in page
    for heading in ("XAUC", "GXAUC", "Mean absolute error", "Predicted and actual", "Calibration"):
        assert heading in page
    # By scenario, calibration, ROC and scores of the binary tasks, and that of the number.
    assert page.count("<img") >= 5
