"""From trainings to tables: means, improvements and tests by hand, and pages that show them."""

from __future__ import annotations

import base64
import json
import math
import re

import numpy as np
import pandas as pd
import pytest

from mixrank.components.metrics import Rows
from mixrank.pipeline.comparing import comparison_page
from mixrank.pipeline.comparing.results import collect
from mixrank.pipeline.comparing.significance import paired_t_test, t_test
from mixrank.pipeline.comparing.trial import judge
from mixrank.pipeline.comparing.trial_plan import Trial
from mixrank.pipeline.config import Table
from mixrank.pipeline.reports import exact_metrics
from mixrank.schemas import datasets

VARIANTS = tuple({"name": name, "model": {"name": name}} for name in ("hemix", "dlrm", "dcnv2"))
AUCS = {"hemix": (0.76, 0.77, 0.765), "dlrm": (0.70, 0.71, 0.72), "dcnv2": (0.75, 0.74, 0.76)}


def trained(tmp_path, aucs, budgets=(None,), slope=0.0, inside=None):
    """Trials as if they had been trained, with AUCs of a task `click` that rise with the size."""
    found = []
    for budget in budgets:
        for name, values in aucs.items():
            for seed, auc in enumerate(values):
                folder, cost = tmp_path / f"{budget}-{name}-{seed}", tmp_path / f"cost-{name}"
                folder.mkdir()
                cost.mkdir(exist_ok=True)
                auc = auc + slope * math.log10(budget or 1)
                numbers = {"auc": auc, "gauc": auc - 0.1, "log_loss": 1 - auc, "calibration": 1.0}
                result = {
                    "metrics": {"click": {"overall": numbers, "7": {**numbers, "auc": auc + 0.01, **(inside or {})}}},
                    "dense_parameters": budget or 1000,
                    "flops": 2_000_000,
                    "peak_mb": 900.0 + seed,
                    "code": "abc",
                }
                (folder / "result.json").write_text(json.dumps(result))
                speed = {"latency_ms": {"1": 2.0, "512": 30.0}, "training_samples_per_second": 1234.0}
                (cost / "result.json").write_text(json.dumps(speed))
                found.append(Trial(name, budget, seed, {}, folder, cost))
    return found


def test_the_numbers_of_a_table_by_hand(tmp_path):
    table = Table(title="three", reference="dlrm", variants=VARIANTS)
    trials = trained(tmp_path, AUCS)
    results = collect(table, trials)
    hemix, dlrm, dcnv2 = results.parts[None]
    spread = hemix.metrics["click", "overall", "auc"]
    assert spread.mean == pytest.approx(0.765)
    assert spread.deviation == pytest.approx(0.005)
    assert hemix.relative["click"] == pytest.approx((0.765 - 0.5) / (0.71 - 0.5) - 1)
    assert dlrm.relative["click"] == 0
    # Each against the best of the others: the best one against the second.
    assert hemix.p_value["click"] == t_test(AUCS["hemix"], AUCS["dcnv2"])
    assert dcnv2.p_value["click"] == t_test(AUCS["dcnv2"], AUCS["hemix"])
    assert dlrm.p_value["click"] == t_test(AUCS["dlrm"], AUCS["hemix"])
    assert dlrm.adjusted["click"] == pytest.approx(3 * dlrm.p_value["click"])
    pairs = [dict(enumerate(AUCS[name])) for name in ("dlrm", "hemix")]
    assert dlrm.paired["click"] == paired_t_test(*pairs)
    assert hemix.peak_mb == 902
    assert results.missing == []


def test_a_table_that_takes_a_model_apart_tests_against_the_whole_one(tmp_path):
    table = Table(title="parts", reference="dcnv2", tested="reference", variants=VARIANTS)
    results = collect(table, trained(tmp_path, AUCS))
    hemix, dlrm, dcnv2 = results.parts[None]
    assert hemix.p_value["click"] == t_test(AUCS["hemix"], AUCS["dcnv2"])
    assert dlrm.p_value["click"] == t_test(AUCS["dlrm"], AUCS["dcnv2"])
    assert dlrm.paired["click"] == paired_t_test(*(dict(enumerate(AUCS[name])) for name in ("dlrm", "dcnv2")))
    assert dcnv2.p_value == dcnv2.paired == dcnv2.adjusted == {}
    assert dlrm.adjusted["click"] == pytest.approx(2 * min(hemix.p_value["click"], dlrm.p_value["click"]))
    (grid, *_) = comparison_page.grids(results, {})
    assert "t-test of AUC against dcnv2 (2 tests at this size" in grid.notes[0]
    assert grid.rows[2][-3:] == ("-", "-", "-")


def test_what_is_missing_is_said_and_the_rest_is_shown(tmp_path):
    table = Table(title="three", variants=VARIANTS)
    trials = trained(tmp_path, AUCS)
    for trial in trials:
        if trial.variant == "dlrm" or (trial.variant, trial.seed) == ("hemix", 2):
            (trial.folder / "result.json").unlink()
    results = collect(table, trials)
    assert [(row.name, row.seeds) for row in results.parts[None]] == [("hemix", (2, 3)), ("dcnv2", (3, 3))]
    hemix, _ = results.parts[None]
    assert hemix.trained == (0, 1)
    assert hemix.paired["click"] == paired_t_test({0: 0.76, 1: 0.77}, {0: 0.75, 1: 0.74})
    assert results.missing == ["hemix seed 2", "dlrm seed 0", "dlrm seed 1", "dlrm seed 2"]
    (grid, *_) = comparison_page.grids(results, {})
    assert [row[0] for row in grid.rows] == ["hemix (2 of 3 seeds)", "dcnv2"]
    comparison_page.write_pages(tmp_path, {"three": results}, {}, "about")
    assert "Not trained yet: hemix seed 2, dlrm seed 0" in (tmp_path / "report.md").read_text()


def test_one_training_is_neither_best_nor_what_others_are_tested_against(tmp_path):
    trials = trained(tmp_path, {**AUCS, "hemix": (0.9, 0.9, 0.9)})
    for trial in trials:
        if trial.variant == "hemix" and trial.seed > 0:
            (trial.folder / "result.json").unlink()
    results = collect(Table(title="three", variants=VARIANTS), trials)
    hemix, dlrm, dcnv2 = results.parts[None]
    assert dlrm.p_value["click"] == dcnv2.p_value["click"] == t_test(AUCS["dlrm"], AUCS["dcnv2"])
    assert math.isnan(hemix.p_value["click"])
    assert {line for line, _ in comparison_page.grids(results, {})[0].best} == {2}


def test_slopes_over_sizes(tmp_path):
    table = Table(title="sizes", variants=VARIANTS, budgets=("100K", "1M", "10M"), scaling=True)
    results = collect(table, trained(tmp_path, AUCS, (10**5, 10**6, 10**7), slope=0.01))
    found = results.slopes["hemix", "click", "auc"]
    assert found.value == pytest.approx(0.01)
    assert found.low < 0.01 < found.high
    assert results.slopes["hemix", "click", "log_loss"].value == pytest.approx(-0.01)
    assert len(comparison_page.plots(results)) == 2
    assert comparison_page.grids(results, {})[-1].rows[0][:3] == ("hemix", "click", "AUC")


def test_every_size_of_a_table_has_its_part_of_the_page_and_its_panel(tmp_path):
    table = Table(title="two sizes", variants=VARIANTS, budgets=("100K", "1M"))
    results = collect(table, trained(tmp_path, AUCS, (10**5, 10**6)))
    html, markdown = comparison_page.write_pages(tmp_path, {"mine": results}, {}, "about")
    assert [f"**click, {at} dense parameters**" in markdown.read_text() for at in ("100K", "1M")] == [True, True]
    (picture,) = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", html.read_text())
    drawn = base64.b64decode(picture).decode()
    assert [drawn.count(f">click, {at}<") for at in ("100K", "1M")] == [1, 1]


def test_the_pages_hold_what_was_found(tmp_path):
    table = Table(title="three <models>", reference="dlrm", variants=VARIANTS)
    results = collect(table, trained(tmp_path, AUCS))
    numbers = {"auc": 0.7, "gauc": 0.6, "log_loss": 0.5, "calibration": 1.0}
    html, markdown = comparison_page.write_pages(
        tmp_path, {"mine": results}, {"additive": {"click": {"overall": numbers}}}, "kuairand, 3 seeds"
    )
    text = markdown.read_text()
    assert "| hemix | **0.7650 ± 0.0050** | **0.6650 ± 0.0050** | **0.2350 ± 0.0050** | +26.2 % |" in text
    assert "| additive | 0.7000 | 0.6000 | 0.5000 | - | - | - |" in text
    assert "3 tests at this size" in text
    assert "| hemix | 1,000 | 2.00 M | 1,234 | 2.0 | 30.0 | 902 |" in text
    shown = html.read_text()
    assert "three &lt;models&gt;" in shown
    assert shown.count("<img") == 1
    assert "http" not in shown.replace("http://www.w3.org", "")
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["tables"]["mine"]["rows"][0]["metrics"]["click/overall/auc"] == list(AUCS["hemix"])
    assert saved["baselines"]["additive"]["click"]["overall"]["auc"] == 0.7


def test_trainings_by_other_code_are_pointed_out(tmp_path):
    trials = trained(tmp_path, AUCS)
    file = trials[0].folder / "result.json"
    file.write_text(file.read_text().replace('"abc"', '"def"'))
    results = collect(Table(title="three", variants=VARIANTS), trials)
    _, markdown = comparison_page.write_pages(tmp_path, {"mine": results}, {}, "about")
    assert "Trained by 2 versions of the code" in markdown.read_text()


def test_every_metric_is_shown_inside_the_scenarios(tmp_path):
    # No user of the scenario has both outcomes: no GAUC there.
    results = collect(Table(title="three", variants=VARIANTS), trained(tmp_path, AUCS, inside={"gauc": math.nan}))
    auc, gauc, log_loss = (grid for grid in comparison_page.grids(results, {}) if "inside" in grid.title)
    assert [grid.title.partition(" inside")[0] for grid in (auc, gauc, log_loss)] == ["AUC", "GAUC", "Log loss"]
    assert auc.headers == ("model", "click, scenario 7")
    assert auc.rows[0] == ("hemix", "0.7750 ± 0.0050")
    assert log_loss.rows[1] == ("dlrm", "0.2900 ± 0.0100")
    assert gauc.rows[2] == ("dcnv2", "-")
    assert (auc.best, gauc.best, log_loss.best) == ({(0, 1)}, frozenset(), {(0, 1)})


def test_judging_takes_the_main_scenarios_with_both_outcomes():
    spec = datasets.load("kuairand").spec
    rng = np.random.default_rng(0)
    rows = 1000
    frame = pd.DataFrame(
        {
            "user_id": rng.integers(0, 50, rows),
            "tab": ["1"] * 600 + ["2"] * 300 + ["3"] * 70 + ["4"] * 30,
            **{f"score_{task}": rng.uniform(size=rows) for task in spec.tasks},
            **{f"label_{task}": rng.integers(0, 2, rows) for task in spec.tasks},
        }
    )
    # A scenario in which nearly everything is clicked has no AUC worth showing.
    frame.loc[900:968, "label_is_click"] = 1
    found = judge(spec, frame)
    assert list(found["is_click"]) == ["overall", "1", "2"]
    assert list(found["long_view"]) == ["overall", "1", "2", "3"]
    part = frame[frame["tab"] == "2"]
    columns = (part[name].to_numpy() for name in ("label_is_click", "score_is_click", "user_id"))
    by_hand = exact_metrics("binary", Rows(*columns))
    assert found["is_click"]["2"] == by_hand
