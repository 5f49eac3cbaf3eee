"""Days side by side: differences by hand, versions that are served, and a page for every kind of history."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from rich.console import Console

from mixrank.pipeline.history import days_table, served_versions, write_history
from mixrank.pipeline.history.day_changes import against_usual, differences, ratio_of_means
from mixrank.pipeline.reports import Estimate
from mixrank.serving import model_config


def test_a_difference_of_days_has_the_interval_of_independent_means():
    # Normal means with standard errors 0.03 and 0.04: that of the difference is 0.05.
    draw = np.random.default_rng(0)
    old, new = draw.normal(0.5, 0.03, 200_000), draw.normal(0.6, 0.04, 200_000)
    ends = [np.quantile(each, [0.025, 0.975]) for each in (old, new, new - old)]
    first, second = differences([Estimate(0.5, *ends[0]), Estimate(0.6, *ends[1])])
    assert math.isnan(first.value) and math.isnan(first.low)
    assert second.value == pytest.approx(0.1)
    assert (second.low, second.high) == pytest.approx(tuple(ends[2]), abs=0.002)


def test_a_day_without_a_value_is_passed_over():
    none = Estimate(math.nan)
    found = differences([Estimate(0.5, 0.4, 0.6), none, Estimate(0.7), Estimate(0.8, 0.7, 0.9)])
    assert [round(each.value, 4) for each in found[2:]] == [0.2, 0.1]
    assert math.isnan(found[1].value)
    # The day in between has no interval, so neither difference has one.
    assert all(math.isnan(each.low) for each in found[2:])


def test_the_usual_is_the_median_of_a_week_of_days_that_were_scored(days_of_a_shop):
    records = days_of_a_shop(10, unscored=(8,))
    values = [100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 99.0, 10.0]
    of_day = {record.day: value for record, value in zip(records, values, strict=True)}
    found = against_usual(records, lambda record: of_day[record.day] if record.scores else None)
    assert found[3] == (3.0, 3.0 - 2.0)
    assert math.isnan(found[8][0]) and math.isnan(found[0][1])
    # Of the seven days before the last, from 3 to 99, the one that was not scored does not count.
    assert found[9] == (10.0, 10.0 - 4.5)


def test_calibration_is_mean_score_over_mean_label(days_of_a_shop):
    scored, unscored = days_of_a_shop(2, unscored=(1,))
    found = scored.scores.tasks["click"]
    assert ratio_of_means(scored, "click") == found.mean_score / 0.3
    assert ratio_of_means(unscored, "click") is None
    without = found.model_copy(update={"mean_label": 0.0})
    scores = scored.scores.model_copy(update={"tasks": {"click": without}})
    assert ratio_of_means(scored.model_copy(update={"scores": scores}), "click") is None


@pytest.fixture
def pushed(tmp_path):
    """A folder of four versions, as `make_days` names them."""
    folder = tmp_path / "serving" / "shop"
    for version in range(100, 104):
        (folder / str(version)).mkdir(parents=True)
        (folder / str(version) / "saved_model.pb").write_bytes(b"graph")
    return folder


def label(folder, file=None, name="shop", **labels):
    config = model_config.new()
    model_config.pin(model_config.add(config, name, str(folder)), set(labels.values()), labels)
    model_config.write(file or folder / "models.config", config)


def test_without_labels_the_newest_version_serves(pushed):
    served = served_versions(str(pushed))
    assert served.of(f"{pushed}/103") == "newest"
    assert [served.of(each) for each in (f"{pushed}/102", f"{pushed}/999", None)] == [""] * 3
    assert "loads the newest version by itself" in served.notes[0]
    assert served_versions(str(pushed.parent / "none")).notes == (
        f"{pushed.parent / 'none'} does not exist: no version was pushed, or it was moved",
    )


def test_labels_are_those_of_models_config(pushed, tmp_path):
    label(pushed, stable=101, previous=101, canary=102)
    served = served_versions(str(pushed))
    assert served.of(f"{pushed}/101") == "stable, previous" and served.of(f"{pushed}/102") == "canary"
    assert served.of(f"{pushed}/103") == "" and served.loaded == {"101", "102"}
    label(pushed, tmp_path / "other.config", stable=100, canary=555)
    served = served_versions(str(pushed), tmp_path / "other.config")
    assert served.of(f"{pushed}/100") == "stable"
    assert served.notes[1] == f"{tmp_path / 'other.config'} loads versions that are not in {pushed}: 555"


def test_a_models_config_that_cannot_tell_is_said(pushed, tmp_path):
    with pytest.raises(ValueError, match=r"no\.config, which is not a file"):
        served_versions(str(pushed), tmp_path / "no.config")
    label(pushed, tmp_path / "other.config", name="bakery", stable=100)
    with pytest.raises(ValueError, match=r"other\.config holds no model `shop`"):
        served_versions(str(pushed), tmp_path / "other.config")
    served = served_versions(str(pushed), tmp_path / "other.config", "bakery")
    assert served.of(f"{pushed}/100") == "stable"
    # The days are worth their page all the same.
    (pushed / "models.config").write_text("model {{{")
    served = served_versions(str(pushed))
    assert served.versions == () and "is not a ModelServerConfig" in served.notes[0]


def plots_of(page):
    return re.findall(r'<img class="plot" alt="([^"]*)"', page)


def test_the_page_shows_metrics_gates_drift_cost_and_what_serves(days_of_a_shop, shop_spec, pushed, tmp_path):
    label(pushed, stable=101)
    records = days_of_a_shop(5, held=(3,), unscored=(4,), push_folder=pushed)
    write_history("<b>shop</b>", records, shop_spec, served_versions(str(pushed)), tmp_path / "new" / "history.html")
    page = (tmp_path / "new" / "history.html").read_text()
    assert "&lt;b&gt;shop" in page and "<b>shop" not in page
    assert "AUC of `click` is 0.6000 on the day" in page and "label `click` is 0 in all of 900 rows" in page
    assert "2024-02-03 held back" in page and "2 of 5 held back" in page
    assert re.search(r'101</td><td><span class="tag served">stable</span>', page)
    auc = records[1].metrics["click"]["auc"]
    assert f"{auc:.4f}<small>{auc - 0.01:.4f} \N{EN DASH} {auc + 0.01:.4f}</small>" in page
    change = auc - records[0].metrics["click"]["auc"]
    assert f"{change:+.4f}</span><small>{change - 0.01 * 2**0.5:+.4f} to" in page
    assert "`city`: new values are 40 % of the rows" in page
    assert "5,001<small>1 new, 1 reused</small>" in page and "5,002<small>1 new</small>" in page
    drawn = plots_of(page)
    assert len(drawn) == len(set(drawn)) == 1 + 2 * 4 + 2 + 1 + 1
    assert {"Rows by day", "AUC of click by day", "Unknown values by day", "Seconds of every step by day"} <= set(drawn)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"count": 1}, "1 day, 2024-01-30"),
        ({"count": 1, "unscored": (0,)}, "2024-01-30 held back"),
        ({"count": 2, "unscored": (0, 1)}, "2 of 2 held back"),
        ({"count": 35}, "4 older days"),
    ],
)
def test_every_history_has_a_page(changes, expected, days_of_a_shop, shop_spec, pushed, tmp_path):
    records = days_of_a_shop(**changes)
    write_history("shop", records, shop_spec, served_versions(str(pushed)), tmp_path / "history.html")
    page = (tmp_path / "history.html").read_text()
    assert expected in page
    assert "nan" not in re.sub(r'src="[^"]*"', "", page).lower()
    assert "Rows by day" in plots_of(page)


def test_days_of_an_older_version_have_no_intervals_but_a_page(days_of_a_shop, shop_spec, pushed, tmp_path):
    records = [record.model_copy(update={"scores": None}) for record in days_of_a_shop(3)]
    write_history("shop", records, shop_spec, served_versions(str(pushed)), tmp_path / "history.html")
    page = (tmp_path / "history.html").read_text()
    assert f"{records[0].metrics['click']['auc']:.4f}</td>" in page
    assert "Mean label and mean score of click by day" not in plots_of(page)


def test_the_table_of_the_terminal_has_a_line_for_every_day(days_of_a_shop, shop_spec, pushed):
    console = Console(width=200, record=True, quiet=True)
    records = days_of_a_shop(4, held=(2,), unscored=(3,), push_folder=pushed)
    console.quiet = False
    with console.capture() as captured:
        console.print(days_table(records, shop_spec, served_versions(str(pushed))))
    lines = captured.get().splitlines()
    assert len(lines) == 5
    assert f"{records[1].metrics['click']['auc']:.4f}" in lines[2] and lines[2].split()[-1] == "101"
    # The GAUC of the day has no value; the day after it has none at all.
    assert " - " in lines[3] and lines[3].rstrip().endswith("held back")
    assert lines[4].split() == ["2024-02-02", "930", *"------", "22", "held", "back"]
