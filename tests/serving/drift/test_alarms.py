"""Drift is found where it is, named by its column and measure, and nowhere else."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from mixrank.schemas import Categorical, FeatureSpec, Numeric
from mixrank.schemas.synthetic import toy_rows
from mixrank.serving.drift import Finding, Limits, LoggedRows, read_vocabularies, summarize, worst_first
from mixrank.serving.drift.feature_drift import (
    by_name,
    comparison_schema,
    feature_findings,
    length_distance,
    missing_share,
    unseen_findings,
)
from mixrank.serving.drift.score_drift import (
    label_findings,
    population_stability,
    quality_findings,
    score_findings,
    shares,
)

ROWS = 1500


@pytest.fixture(scope="module")
def rows(toy_spec):
    """A fresh draw from the process that made the training rows."""
    return list(toy_rows(toy_spec, ROWS, seed=11))


@pytest.fixture(scope="module")
def vocabularies(toy_spec, toy_data):
    return read_vocabularies(toy_spec, toy_data.graph / "transform_fn" / "assets")


@pytest.fixture(scope="module")
def summary(toy_spec, vocabularies, tmp_path_factory):
    """Rows -> their summary."""

    def of(rows):
        file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return summarize(LoggedRows(file, toy_spec), toy_spec, vocabularies)

    return of


@pytest.fixture(scope="module")
def training(summary, toy_data):
    return summary(toy_data.rows["train"])


@pytest.fixture(scope="module")
def changed(rows, training, summary, toy_spec):
    """A change of every row -> the findings against training."""

    def findings(change, min_rows=1000):
        draw = random.Random(3)
        new = copy.deepcopy(rows)
        for row in new:
            change(row, draw)
        found = summary(new)
        return feature_findings(toy_spec, training.statistics, found.statistics, Limits(), min_rows) + unseen_findings(
            training.unseen, found.unseen, Limits(), min_rows
        )

    return findings


def alarms(findings):
    return {(finding.name, finding.measure) for finding in findings if finding.alarm}


def test_rows_of_the_same_process_raise_no_alarm(changed, toy_spec):
    found = changed(lambda row, draw: None)
    assert alarms(found) == set()
    judged = {finding.feature for finding in found}
    assert {"page", "person", "country", "clip", "tag", "price", "age", "look", "global", "realtime"} <= judged
    assert not {"at", *toy_spec.tasks} & judged


def more_search(row, draw):
    row["page"] = "search" if draw.random() < 0.3 else row["page"]


def dearer(row, draw):
    row["price"] = None if row["price"] is None else row["price"] * 20


def new_clips(row, draw):
    row["clip"] = f"new{draw.randrange(1000)}" if draw.random() < 0.2 else row["clip"]


def without(name):
    return lambda row, draw: row.pop(name)


def forgetful(row, draw):
    row["country"] = None if draw.random() < 0.3 else row["country"]


def blind(row, draw):
    row["look"] = [] if draw.random() < 0.3 else row["look"]


def looks_aside(row, draw):
    row["look"] = [number + 2 for number in row["look"]]


def short_memory(row, draw):
    for name in [name for name in row if name.startswith("global_")]:
        width = 3 if name == "global_tag" else 1
        row[name] = row[name][: len(row[name]) // width // 2 * width]


def milliseconds(row, draw):
    row["global_gap"] = [gap * 1000 for gap in row["global_gap"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (more_search, {("page", "L-infinity")}),
        (dearer, {("price", "Jensen-Shannon")}),
        (new_clips, {("clip", "unseen values")}),
        (forgetful, {("country", "missing values")}),
        (blind, {("look", "missing values")}),
        (looks_aside, {("look", "Jensen-Shannon")}),
        (without("price"), {("price", "missing column")}),
        (without("clip"), {("clip", "missing column")}),
        (without("realtime_gap"), {("realtime_gap", "missing column")}),
        (short_memory, {("global", "length")}),
        (milliseconds, {("global_gap", "Jensen-Shannon")}),
        (lambda row, draw: row.update(page="lobby" if draw.random() < 0.02 else row["page"]), {("page", "schema")}),
    ],
)
def test_a_change_is_named_by_its_column_and_measure(changed, change, expected):
    assert alarms(changed(change)) == expected


def test_few_rows_raise_no_alarm_but_for_what_no_chance_explains(changed):
    found = changed(more_search, min_rows=ROWS + 1)
    (finding,) = (f for f in found if (f.feature, f.measure) == ("page", "L-infinity"))
    assert finding.over and not finding.alarm
    assert alarms(changed(without("price"), min_rows=ROWS + 1)) == {("price", "missing column")}


def test_l_infinity_is_the_largest_difference_of_shares(changed, rows, toy_data):
    (finding,) = (f for f in changed(lambda row, draw: None) if (f.feature, f.measure) == ("page", "L-infinity"))
    before, after = (Counter(row["page"] for row in part) for part in (toy_data.rows["train"], rows))
    assert finding.value == pytest.approx(max(abs(before[p] / ROWS - after[p] / ROWS) for p in before), abs=1e-9)
    top, count = before.most_common(1)[0]
    assert finding.baseline.startswith(f"{top} {100 * count / ROWS:.1f} %")
    assert finding.new.startswith(f"{top} {100 * after[top] / ROWS:.1f} %")


def test_missing_and_unseen_shares_are_those_of_the_rows(training, summary, toy_data, rows, vocabularies):
    found = summary(rows)
    country = by_name(found.statistics)["country"]
    assert missing_share(country, ROWS) == pytest.approx(sum(row["country"] is None for row in rows) / ROWS)
    known = Counter(row["person"] for row in toy_data.rows["train"])
    assert set(vocabularies["person"].to_pylist()) == {person for person, count in known.items() if count >= 2}
    clips = {row["clip"] for row in toy_data.rows["train"]}
    past = [clip for row in rows for clip in row["global_clip"]]
    assert found.unseen["global_clip"] == (sum(clip not in clips for clip in past), len(past))
    assert "country" not in found.unseen


def test_unseen_values_alarm_when_their_share_rises():
    limits = Limits(unseen=0.1)
    before, after = {"clip": (50, 1000), "tag": (0, 2000), "old": (1, 9)}, {"clip": (200, 1000), "tag": (190, 2000)}
    clip, tag = unseen_findings(before, after, limits, 1000)
    assert (clip.value, clip.alarm) == (pytest.approx(0.15), True)
    assert (tag.value, tag.alarm) == (pytest.approx(0.095), False)
    assert not unseen_findings(before, after, limits, 1001)[0].alarm


def test_the_specs_own_limits_stay_and_all_others_take_the_default(toy_spec):
    features = [f for f in toy_spec.features if f.name not in ("country", "price")]
    spec = FeatureSpec(**{**dict(toy_spec), "features": (
        Categorical("country", group="user", dtype="str", drift=0.5),
        Numeric("price", group="item", drift=0.375), *features,
    )})  # fmt: skip
    schema = {f.name: f.drift_comparator for f in comparison_schema(spec, Limits(category=0.25, number=0.125)).feature}
    assert schema["country"].infinity_norm.threshold == 0.5
    assert schema["price"].jensen_shannon_divergence.threshold == 0.375
    assert schema["global_clip"].infinity_norm.threshold == schema["tag"].infinity_norm.threshold == 0.25
    assert {schema[n].jensen_shannon_divergence.threshold for n in ("age", "global_gap", "realtime_action")} == {0.125}
    assert not {"click", "buy", "at"} & schema.keys()


def histogram(*buckets):
    return [SimpleNamespace(low_value=low, high_value=high, sample_count=count) for low, high, count in buckets]


@pytest.mark.parametrize(
    ("new", "distance"),
    [
        (histogram((0, 0, 5), (0, 10, 5)), 0.0),
        (histogram((0, 10, 10)), 0.5),
        (histogram((0, 0, 5), (0, 5, 5)), 0.25),
        (histogram((0, 0, 8), (0, 10, 2)), 0.3),
        (histogram((20, 20, 1)), 1.0),
    ],
)
def test_lengths_are_compared_by_the_largest_gap_between_their_shares_below(new, distance):
    assert length_distance(histogram((0, 0, 5), (0, 10, 5)), new) == pytest.approx(distance)


def test_divergences_by_hand():
    baseline, new = np.arange(8.0), np.array([0.0, 0.0, 0.0, 7.0])
    before, after = shares(baseline, new, bins=2)
    # Four of eight against three of four, half a value added to each of two bins.
    assert before.tolist() == [0.5, 0.5] and after.tolist() == [0.7, 0.3]
    assert population_stability(before, after) == pytest.approx(0.2 * np.log(0.7 / 0.5) - 0.2 * np.log(0.3 / 0.5))


def test_repeated_scores_share_a_bin():
    # Deciles of the baseline are 0.5, except the last, 0.54: three bins, and the first is empty.
    before, after = shares(np.array([0.5] * 9 + [0.9]), np.array([0.5, 0.9]))
    assert before == pytest.approx(np.array([0.5, 9.5, 1.5]) / 11.5)
    assert after == pytest.approx(np.array([0.5, 1.5, 1.5]) / 3.5)


def scores(seed, count, shift=0.0, scenario="home"):
    logits = np.random.default_rng(seed).normal(loc=shift, size=count)
    return pd.DataFrame({"score_click": 1 / (1 + np.exp(-logits)), "scenario": scenario})


def test_scores_of_one_distribution_raise_no_alarm():
    assert alarms(score_findings(scores(0, 2000), scores(1, 1500), ["click"], Limits(), 1000)) == set()


def test_shifted_scores_are_named_in_every_measure():
    before, after = scores(0, 2000), scores(1, 1500, shift=0.8)
    found = score_findings(before, after, ["click", "buy"], Limits(), 1500)
    assert alarms(found) == {
        (name, measure)
        for name in ("click", "click, home")
        for measure in ("PSI", "score Jensen-Shannon", "Kolmogorov-Smirnov")
    }
    value = {f.measure: f.value for f in found if f.name == "click"}
    a, b = (side["score_click"].to_numpy() for side in (before, after))
    every = np.sort(np.concatenate([a, b]))
    below = [np.searchsorted(np.sort(side), every, side="right") / len(side) for side in (a, b)]
    assert value["Kolmogorov-Smirnov"] == pytest.approx(np.abs(below[0] - below[1]).max())
    p, q = shares(a, b)
    middle = (p + q) / 2
    divergence = (p * np.log2(p / middle) + q * np.log2(q / middle)).sum() / 2
    assert value["score Jensen-Shannon"] == pytest.approx(divergence)
    assert value["PSI"] == pytest.approx(((q - p) * np.log(q / p)).sum())


def test_the_default_limits_of_scores_stand_for_one_and_the_same_shift():
    shift = 0.45
    grid = np.linspace(0.5 / 200_000, 1 - 0.5 / 200_000, 200_000)
    from scipy.stats import norm

    a = norm.ppf(grid)
    p, q = shares(a, a + shift, bins=200)
    middle = (p + q) / 2
    assert population_stability(p, q) == pytest.approx(Limits().psi, rel=0.05)
    assert (p * np.log2(p / middle) + q * np.log2(q / middle)).sum() / 2 == pytest.approx(Limits().js, rel=0.05)
    assert 2 * norm.cdf(shift / 2) - 1 == pytest.approx(Limits().ks, rel=0.05)


def test_a_scenario_is_judged_when_both_sides_have_rows_of_it():
    before = pd.concat(
        scores(seed, count, scenario=name)
        for seed, count, name in ((0, 1200, "home"), (1, 1200, "{x}"), (2, 30, "cart"))
    )
    after = pd.concat(
        scores(seed, 1200, shift, name) for seed, shift, name in ((3, 0.0, "home"), (4, 1.0, "{x}"), (5, 0.0, "cart"))
    )
    found = score_findings(before, after, ["click"], Limits(), 1000)
    assert {f.name for f in found} == {"click", "click, home", "click, {x}"}
    assert {name for name, _ in alarms(found)} == {"click, {x}"}


def test_scores_on_few_rows_are_marked():
    found = score_findings(scores(0, 2000), scores(1, 50, shift=2.0), ["click"], Limits(), 1000)
    assert all(f.over and not f.enough and not f.alarm and f.rows == 50 for f in found) and len(found) == 3


def labels(positives, count, score=0.5):
    return pd.DataFrame({"label_click": [1.0] * positives + [0.0] * (count - positives), "score_click": score})


@pytest.mark.parametrize(("positives", "value", "alarm"), [(500, 0.25, False), (520, 0.3, True), (280, 0.3, True)])
def test_label_rates_are_compared_relatively(positives, value, alarm):
    (found,) = label_findings({"click": 0.4}, labels(positives, 1000), ["click", "buy"], Limits(), 1000)
    assert found.value == pytest.approx(value) and found.alarm is alarm
    assert found.new == f"{positives / 10:.2f} % positive"


def test_rates_of_few_positives_raise_no_alarm_unless_many_were_due():
    (rare,) = label_findings({"click": 0.01}, labels(20, 1000), ["click"], Limits(), 1000)
    (gone,) = label_findings({"click": 0.4}, labels(0, 1000), ["click"], Limits(), 1000)
    assert rare.over and not rare.alarm
    assert gone.alarm


def test_calibration_is_mean_score_over_mean_label_against_that_of_the_baseline():
    # 0.5 / 0.4 = 1.25 before, 0.6 / 0.3 = 2 now: 60 % more.
    found, _ = quality_findings(labels(400, 1000), labels(300, 1000, score=0.6), ["click"], Limits(), 1000)
    assert found.measure == "calibration" and found.value == pytest.approx(0.6) and found.alarm
    (alone,) = quality_findings(pd.DataFrame(), labels(450, 1000), ["click"], Limits(), 1000)
    assert alone.value == pytest.approx(0.5 / 0.45 - 1) and not alone.alarm
    assert quality_findings(labels(4, 10), scores(0, 10), ["click"], Limits(), 1000) == []


def test_scores_that_belong_to_other_rows_are_found_by_the_auc_alone():
    draw = np.random.default_rng(5)
    before = scores(0, 20_000)
    before["label_click"] = (draw.random(20_000) < before["score_click"]).astype(float)
    after = before.assign(score_click=draw.permutation(before["score_click"].to_numpy()))
    found = quality_findings(before, after, ["click"], Limits(), 1000)
    found += score_findings(before, after, ["click"], Limits(), 1000)
    assert alarms(found) == {("click", "AUC")}
    (finding,) = (f for f in found if f.measure == "AUC")
    areas = [roc_auc_score(side["label_click"], side["score_click"]) for side in (before, after)]
    assert finding.value == pytest.approx(areas[0] - areas[1])
    (few,) = (f for f in quality_findings(before, after[:1500], ["click"], Limits(), 1000) if f.measure == "AUC")
    assert few.over and not few.alarm


def test_the_worst_comes_first():
    def finding(name, value, limit, enough=True, measure="unseen values", scenario=""):
        return Finding(name, measure, value, limit, 10, enough, scenario=scenario)

    found = [finding("calm", 0.1, 0.2), finding("near", 0.19, 0.2), finding("unsure", 9.0, 0.1, False),
             finding("over", 0.3, 0.2), finding("far", 0.9, 0.1),
             finding("task", 4.0, 0.2, measure="PSI", scenario="x"),
             finding("task", 3.0, 0.2, measure="PSI"), finding("gone", 1.0, 0.0, measure="missing column")]  # fmt: skip
    expected = ["gone", "far", "over", "task", "task, x", "unsure", "near", "calm"]
    assert [f.name for f in worst_first(found)] == expected


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("pis=0.3", "there is no limit `pis`; did you mean `psi`"),
        ("psi=much", "limit `psi` takes a number, received 'much'"),
        ("psi=0", "limit `psi` must be > 0, received 0.0"),
        ("psi=nan", "limit `psi` must be > 0, received nan"),
    ],
)
def test_a_limit_that_is_none_is_refused(setting, said):
    with pytest.raises(ValueError, match=said):
        Limits.parse([setting])


def test_limits_are_set_by_name():
    assert Limits.parse(["psi=0.3", "category=0.05"]) == Limits(psi=0.3, category=0.05)
