"""What is wrong with a log is named with its figures and with the line that allows it."""

from __future__ import annotations

import datetime

import pytest

from mixrank import schemas as s
from mixrank.components.gates import (
    FeatureFigures,
    Figures,
    Finding,
    GateSettings,
    HistoryFigures,
    JoinFigures,
    LabelFigures,
    Separation,
    check_allowed,
    data_findings,
    stopping,
)
from mixrank.components.gates.data_gates import likely_unit

TODAY = datetime.date(2026, 6, 1)
DATASET = s.Dataset(
    spec=s.FeatureSpec(
        name="shop",
        user=s.Key("user"),
        item=s.Key("sku", dtype="str"),
        time=s.EventTime("ts", unit="s"),
        scenario=s.Scenario("page", values=("home", "search")),
        labels=(s.Label("click"), s.Label("buy")),
        features=(
            s.Categorical("sku", group="item", dtype="str"),
            s.Numeric("price", group="item"),
            s.Action("action", flags=("click",)),
            s.History("today", of=("sku", "action"), length=5, window="within", only="click"),
        ),
    ),
    source=s.LogSource(
        log=s.Table(files=("log.csv",)),
        joins=(s.Join(on="item", table=s.Table(files=("items.csv",)), min_matched=0.9),),
        split=s.SplitByUserTail(valid=0, eval=0.2),
    ),
)


def figures(**changes):
    """Of a good log of 1000 rows."""
    halves = {"home": LabelFigures(rows=400, positives=9), "search": LabelFigures(rows=400, positives=0)}
    label = {"train": halves, "eval": {"home": LabelFigures(rows=200, positives=3)}}
    history = {"train": HistoryFigures(rows=800, empty=600), "eval": HistoryFigures(rows=200, empty=1)}
    usual = {
        "rows": {"train": 800, "eval": 200},
        "labels": {"click": label, "buy": label},
        "histories": {"today": history},
        "joins": {"item_0": JoinFigures(rows=100, matched=90)},
        "features": {
            "sku": FeatureFigures(present={"train": 800, "eval": 200}),
            "price": FeatureFigures(present={"train": 1, "eval": 1}),
        },
        "alone": {"price": {"click": Separation(pairs=200, ordered=180, rows=100, unequal=60)}},
        "first_ms": 1_735_700_000_000,
        "last_ms": 1_767_200_000_000,
        "years": {"2025": 100},
        "num_shards": 4,
    }
    return Figures(**usual | changes)


def found(gates=None, **changes):
    return data_findings(figures(**changes), DATASET, gates or GateSettings(), today=TODAY)


def test_a_good_log_has_no_findings():
    assert found() == []


def test_figures_of_nothing_have_no_findings():
    assert data_findings(Figures(), DATASET, GateSettings(), today=TODAY) == []


def test_a_label_of_one_class_is_named_with_its_splits_and_rows():
    none = {"train": {"home": LabelFigures(rows=800)}, "eval": {"home": LabelFigures(rows=200)}}
    (finding,) = found(labels={"click": none, "buy": figures().labels["buy"]})
    assert finding.key == "one_class_label:click"
    assert finding.message == (
        "label `click` is 0 in all 800 rows of `train` and 0 in all 200 rows of `eval`, so nothing can be learned or "
        'judged; check the column and its days; if it is meant: gates: {allow: ["one_class_label:click"]}'
    )
    (finding,) = found(labels={"buy": {"eval": {"home": LabelFigures(rows=200, positives=200)}}})
    assert "label `buy` is 1 in all 200 rows of `eval`" in finding.message


@pytest.mark.parametrize(
    ("empty", "share", "stops"), [(800, 0.001, True), (799, 0.001, False), (799, 0.02, True), (800, 0.0, True)]
)
def test_a_history_without_events_is_named(empty, share, stops):
    history = {"today": {"train": HistoryFigures(rows=800, empty=empty), "eval": HistoryFigures(rows=200)}}
    findings = found(GateSettings(min_history=share), histories=history)
    assert [f.key for f in findings] == ["empty_history:today"] * stops
    assert all(f"has an event with `click` in {800 - empty} of 800 rows of `train`" in f.message for f in findings)
    assert found(GateSettings(min_history=None), histories=history) == []


def test_a_feature_without_a_value_in_a_split_is_named():
    (finding,) = found(features={"price": FeatureFigures(present={"train": 5, "eval": 0})})
    assert finding.key == "empty_feature:price"
    assert "feature `price` has no value in all 200 rows of `eval`" in finding.message


def test_a_split_of_a_few_rows_may_lack_what_is_rare_but_not_a_label_to_judge():
    changes = {
        "rows": {"train": 800, "eval": 99},
        "histories": {"today": {"train": HistoryFigures(rows=800), "eval": HistoryFigures(rows=99, empty=99)}},
        "features": {"price": FeatureFigures(present={"train": 5, "eval": 0})},
    }
    assert found(**changes) == []
    none = {"click": {"eval": {"home": LabelFigures(rows=99)}}}
    assert [f.key for f in found(**changes, labels=none)] == ["one_class_label:click"]


def test_a_join_below_its_share_is_named_with_keys_that_look_alike():
    join = JoinFigures(
        rows=100, matched=89, log_keys={"s3": "00s3", "s4": "00s4", "x": "x"}, table_keys={"s3": "s3", "s4": "S4"}
    )
    (finding,) = found(joins={"item_0": join})
    assert finding.key == "unmatched_join:item_0"
    assert "89 of 100 rows of the log find their `sku` in table `item_0` (items.csv)" in finding.message
    assert "keys that look alike in log and table: '00s3' and 's3', '00s4' and 'S4'" in finding.message
    apart = join.model_copy(update={"table_keys": {"y": "y"}})
    assert "the log has '00s3', '00s4', 'x', the table 'y'" in found(joins={"item_0": apart})[0].message


def test_times_outside_the_plausible_years_are_named_with_the_likely_unit():
    (finding,) = found(first_ms=1_600_000_000, years={"1970": 2, "2025": 98})
    assert finding.key == "implausible_time:ts"
    assert "2 of 100 times in column `ts` are before 1990 or after 2027, the earliest is 1970-01-19" in finding.message
    (finding,) = found(last_ms=4_102_444_800_000, years={"2025": 99, "2100": 1})
    assert "the latest is 2100-01-01" in finding.message
    assert found(GateSettings(first_year=None), first_ms=0, years={"1970": 100}) == []
    assert found(GateSettings(first_year=1970), first_ms=0, years={"1970": 100}) == []
    assert found(first_ms=0, years={"1970": 1, "2025": 999}) == [], "no more than `max_bad_rows` allows"
    assert found(last_ms=1_798_761_600_000, years={"2027": 100}) == []


@pytest.mark.parametrize(
    ("raw", "unit", "said"),
    [
        (1_600_000_000, "ms", "2020-09-13 if these were seconds"),
        (20_200_913, "ms", "2020-09-13 if these were dates as yyyymmdd"),
        (20_200_913, "s", "2020-09-13 if these were dates as yyyymmdd"),
        (20_200_913_120_000, "ms", "2020-09-13 if these were dates as yyyymmddhhmmss"),
        (18_518, "s", "2020-09-13 if these were days"),
        (4, "s", ""),
        (20_201_399, "s", ""),
    ],
)
def test_the_likely_unit_is_the_one_that_gives_a_plausible_year(raw, unit, said):
    assert likely_unit(raw * (1000 if unit == "s" else 1), unit, 1990, 2027) == said


def test_a_time_that_is_no_number_has_no_likely_unit():
    assert likely_unit(1_600_000_000, None, 1990, 2027) == ""


def test_a_feature_that_tells_the_label_alone_is_named():
    leaks = {"price": {"click": Separation(pairs=200, ordered=196, rows=100, unequal=60)}}
    (finding,) = found(alone=leaks)
    assert finding.key == "leakage:price"
    assert "feature `price` alone ranks label `click` with AUC 0.980 on rows it was not counted on" in finding.message
    assert found(GateSettings(max_auc_alone=0.99), alone=leaks) == found(GateSettings(max_auc_alone=None), alone=leaks)
    few = {"price": {"click": Separation(pairs=20, ordered=20, rows=100, unequal=60)}}
    assert found(alone=few) == [], "so few pairs may be in order by chance"


def test_a_copy_of_a_label_is_named_even_without_pairs():
    (finding,) = found(alone={"price": {"buy": Separation(rows=100)}})
    assert "feature `price` equals label `buy` in all 100 rows; remove it" in finding.message


def test_what_the_config_allows_does_not_stop():
    findings = [Finding("leakage", "price", "it leaks"), Finding("leakage", "sku", "it leaks")]
    assert stopping(findings, ["leakage:price", "empty_feature:sku"]) == findings[1:]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"allow": ["leakag:x"]}, "'leakag:x' names no kind of finding; did you mean `leakage`"),
        ({"allow": ["leakage"]}, "names no subject: write kind:subject"),
        ({"calibration": 0.9}, "greater than or equal to 1"),
        ({"calibraton": 2}, "did you mean `calibration`"),
    ],
)
def test_wrong_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        GateSettings(**values)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("one_class_label:clik", "did you mean `click`"),
        ("leakage:prise", "did you mean `price`"),
        ("empty_history:todya", "did you mean `today`"),
        ("unmatched_join:item_1", "did you mean `item_0`"),
        ("implausible_time:tss", "did you mean `ts`"),
        ("below_baseline:bye", "did you mean `buy`"),
    ],
)
def test_an_allowed_finding_must_be_about_something_there_is(key, message):
    with pytest.raises(ValueError, match=message):
        check_allowed(GateSettings(allow=(key,)), DATASET)


def test_every_finding_can_be_allowed():
    for kind, subject in (("leakage", "page"), ("empty_feature", "sku"), ("miscalibrated", "buy")):
        check_allowed(GateSettings(allow=(f"{kind}:{subject}",)), DATASET)
