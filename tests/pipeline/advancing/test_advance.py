"""Days taken one by one: judged before they are learned, killed and resumed at every step, held back, done again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from mixrank import schemas as s
from mixrank.pipeline.advancing import Advance
from mixrank.pipeline.config import RunConfig
from mixrank.pipeline.run_record import Rows, RunRecord
from mixrank.serving.base import versions

pytestmark = pytest.mark.slow

DAY_MS, START = 86_400_000, 1_648_771_200_000  # 2022-04-01
DAYS = [str(np.datetime64("2022-04-01") + number) for number in range(6)]
# The run was trained on two days.
FIRST = DAYS[1]
SPEC = s.FeatureSpec(
    name="shop",
    user=s.Key("user"),
    item=s.Key("item"),
    time=s.EventTime("time"),
    scenario=s.Scenario("place", values=(0, 1)),
    labels=(s.Label("click"),),
    features=(
        s.Categorical("item", group="item", dim=4),
        s.Numeric("clicks", group="item"),
        s.Action("action", flags=("click",)),
        s.TimeGap("gap"),
        s.History("before", of=("item", "action", "gap"), length=4, window="before"),
    ),
)
DATASET = s.Dataset(
    spec=SPEC,
    source=s.LogSource(
        log=s.Table(files=("*.parquet",)),
        popularity={"clicks": s.Popularity(of="item", label="click")},
        split=s.SplitByDay(splits={"train": (DAYS[0], FIRST), "eval": (DAYS[2], DAYS[-1])}),
    ),
)


def rows_of(day, clicked=True):
    """A day's log: users click what is like their number, more or less."""
    draw = np.random.default_rng(DAYS.index(day))
    n = 240
    frame = pd.DataFrame(
        {"user": draw.integers(12, size=n), "item": draw.integers(8, size=n), "place": draw.integers(2, size=n)}
    )
    frame["time"] = START + DAYS.index(day) * DAY_MS + np.sort(draw.choice(DAY_MS, n, replace=False))
    likes = (frame["user"] % 4 == frame["item"] % 4) | (draw.random(n) < 0.1)
    frame["click"] = (likes & clicked).astype(int)
    return frame


@pytest.fixture(scope="module")
def begun(tmp_path_factory, transform_log):
    """A run over the first two days, as it leaves its rows, graph and state."""
    import apache_beam as beam
    import tensorflow as tf
    import tensorflow_transform as tft

    from mixrank.components.examples import DayState, find_tables, read_log, read_others, write_day
    from mixrank.components.training import train_model
    from mixrank.pipeline.reports import Known, read_new, write_statistics
    from mixrank.schemas.encode import decode

    root = tmp_path_factory.mktemp("begun")
    (root / "data").mkdir()
    for day in DAYS[:2]:
        rows_of(day).to_parquet(root / "data" / f"{day}.parquet")
    tables = find_tables(DATASET, str(root / "data"))
    log = read_log(str(root / "log"), DATASET, tables, 2, beam.Pipeline)
    others = read_others(tables, 2, str(root / "others"), beam.Pipeline)
    state, rows = DayState(), {}
    for day, split in zip(DAYS[:2], ("train", "eval"), strict=True):
        folders = {"examples": str(root / day), "after": str(root / f"state-{day}"), "scratch": str(root / "scratch")}
        state, _ = write_day(DATASET, log, tables, others, before=state, day=day, pipeline=beam.Pipeline, **folders)
        files = [str(path) for path in (root / day / "Split-train").glob("*")]
        rows[split] = [decode(SPEC, each.numpy()) for each in tf.data.TFRecordDataset(files, "GZIP")]
    transform_log(SPEC, rows, root / "transform")
    statistics = root / "statistics" / "Split-train" / "FeatureStats.pb"
    statistics.parent.mkdir(parents=True)
    known = Known(SPEC, {})
    write_statistics(read_new(root / DAYS[0] / "Split-train", known, "train", lambda name, rows: None), statistics)
    settings = {
        "name": "shop",
        "dataset": "shop",
        "data": str(root / "data"),
        "model": {"name": "dlrm", "preset": "tiny"},
        "train": {
            "batch_size": 32,
            "epochs": 4,
            "keep_state": True,
            "jit_compile": "off",
            "optimizer": {"learning_rate": 0.01},
        },
        "check_rows": 40,
        "shards": 2,
    }
    config = RunConfig(**settings)
    patterns = {
        "train": f"{root}/transform/transformed/Split-train/*",
        "eval": f"{root}/transform/transformed/Split-eval/*",
    }
    train_model(
        spec=SPEC,
        model_settings=config.model,
        settings=config.train,
        patterns=patterns,
        transform_output=tft.TFTransformOutput(str(root / "transform" / "graph")),
        checkpoints=root / "checkpoints",
        run_dir=root / "model_run",
        export_dir=root / "export",
    )
    return SimpleNamespace(root=root, settings=settings)


@pytest.fixture
def shop(begun, tmp_path):
    """A run folder of its own, with the data of the first two days."""
    shutil.copytree(begun.root / "data", tmp_path / "data")
    root = begun.root
    now = datetime(2022, 4, 3)
    record = RunRecord(
        name="shop",
        dataset="shop",
        config={},
        spec=SPEC,
        splits=("train",),
        started=now,
        finished=now,
        seconds={},
        rows=Rows(
            examples=root / "none",
            statistics=root / "statistics",
            transformed=root / "transform" / "transformed",
            transform_graph=root / "transform" / "graph",
        ),
        baselines=root / "none",
        model_run=root / "model_run",
        export=root / "export",
        judgement=None,
    )

    def make(**changes):
        config = RunConfig(
            **{**begun.settings, "data": str(tmp_path / "data"), "output": str(tmp_path / "runs"), **changes}
        )
        said = []
        return Advance(config, DATASET, record, said.append)

    return SimpleNamespace(make=make, data=tmp_path / "data", home=tmp_path / "runs" / "shop")


@pytest.fixture
def quick_check(monkeypatch):
    """Loads the export in this process, where TensorFlow is loaded already; other tests do it in a fresh one."""
    from mixrank.components import judging
    from mixrank.serving.export import score_everywhere

    monkeypatch.setattr(judging, "score_afresh", score_everywhere)


def deliver(shop, *days, **changes):
    for day in days:
        rows_of(day, **changes).to_parquet(shop.data / f"{day}.parquet")


def take_all(shop, **changes):
    days = shop.make(**changes)
    days.begin()
    waiting = days.waiting()
    if waiting:
        days.start()
    return [days.take(day) for day in waiting]


def test_every_day_is_judged_by_the_model_before_it_and_pushed(shop):
    deliver(shop, *DAYS[2:4])
    first, second = take_all(shop)
    assert (first.day, first.model, second.day, second.model) == (DAYS[2], FIRST, DAYS[3], DAYS[2])
    assert [first.held, second.held] == [(), ()]
    assert len(versions(shop.home / "serving" / "shop")) == 2
    for record in (first, second):
        home = shop.home / "days" / record.day
        frame = pd.read_parquet(home / "model_run" / "progressive.parquet")
        assert len(frame) == record.rows == 240
        assert record.metrics["click"]["auc"] == pytest.approx(
            roc_auc_score(frame["label_click"], frame["score_click"])
        )
        # What the history page shows when the rows are gone.
        low, high = record.scores.tasks["click"].intervals["auc"]
        assert low < record.metrics["click"]["auc"] < high
        assert record.scores.users == frame["user"].nunique() and "item" in record.scores.unknown
    # The model that the first day left is the one that met the second.
    export = pd.read_parquet(shop.home / "days" / DAYS[3] / "model_run" / "progressive.parquet")
    assert export["score_click"].std() > 0.01
    assert take_all(shop) == []
    rows_of(DAYS[4])[:20].to_parquet(shop.data / f"{DAYS[4]}.parquet")
    (few,) = take_all(shop)
    assert few.held == ("20 rows, where the days before had 240 (median)",)
    assert shop.make().done() == [first, second, few]


def test_a_days_version_is_tried_on_a_server_with_the_days_rows(shop, quick_check):
    from mixrank.pipeline.advancing import Outcome, deploy_newest
    from mixrank.serving.dev_server import running
    from mixrank.serving.rollout import Rollout

    base, said = shop.home / "serving" / "shop", []
    deliver(shop, DAYS[2])
    take_all(shop)
    (first,) = versions(base)
    # A person begins, with a server that follows.
    Rollout(base, say=str).canary(first)
    Rollout(base, say=str).promote(golden=None)
    deliver(shop, DAYS[3])
    take_all(shop)
    second = max(versions(base))
    with running(base / "models.config", poll_seconds=0.05) as server:
        quick = {"canary_seconds": 0, "requests_per_second": 100, "max_latency_ratio": 100, "max_score_drift": 100}
        days = shop.make(advance={"deploy": {"url": server.rest_url, **quick}})
        assert deploy_newest(days.config, SPEC, days.done(), days.folder, said.append) == Outcome("promoted", second)
    assert Rollout(base).entry.labels == {"stable": second, "canary": second, "previous": first}
    decision = Rollout(base).decision(second)
    assert (decision["rows"], decision["canary"]["requests"], decision["canary"]["errors"]) == (40, 2, 0)
    assert said[0] == f"version {second}, of {DAYS[3]}:"


class Killed(BaseException):
    pass


def test_a_command_that_is_killed_at_every_step_ends_with_the_same_model(shop, monkeypatch, tmp_path):
    from mixrank.components import day_rows, examples, judging, pushing, training, vocabulary_growth
    from mixrank.pipeline.advancing import advance, day_record

    deliver(shop, DAYS[2])
    (whole,) = take_all(shop)
    expected = pd.read_parquet(shop.home / "days" / DAYS[2] / "model_run" / "predictions.parquet")
    shutil.rmtree(shop.home / "days")
    steps = [
        (examples, "write_day", True),
        (examples, "write_day", False),
        (vocabulary_growth, "grow_vocabularies", False),
        (day_rows, "transform_day", False),
        (training, "train_model", True),
        (training, "train_model", False),
        (judging, "stamp", True),
        (pushing, "push", False),
        (day_record.DayRecord, "write", True),
    ]
    for place, name, before in steps:
        kept = getattr(place, name)

        def killed(*args, kept=kept, early=before, **options):
            if not early:
                kept(*args, **options)
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(place, name, killed)
            with pytest.raises(Killed):
                take_all(shop)
        assert shop.make().done() == []
    (record,) = take_all(shop)
    assert (record.metrics, record.held, record.rows) == (whole.metrics, (), whole.rows)
    # The one before, and one of the eight: what was pushed before a kill is not pushed again.
    assert len(versions(shop.home / "serving" / "shop")) == 2
    found = pd.read_parquet(shop.home / "days" / DAYS[2] / "model_run" / "predictions.parquet")
    pd.testing.assert_frame_equal(found, expected, atol=1e-6)
    assert advance.START in [path.name for path in (shop.home / "days").iterdir()]


def test_a_value_that_has_become_common_has_a_row_of_its_own_from_then_on(shop, quick_check):
    import tensorflow_transform as tft

    def items(home):
        graph = tft.TFTransformOutput(str(home / "vocabularies" / "graph"))
        with open(graph.vocabulary_file_by_name("item")) as file:
            return file.read().split()

    for day, items_of_day in {DAYS[2]: {1: 71, 2: 71}, DAYS[3]: {1: 71, 3: 72}}.items():
        frame = rows_of(day)
        frame.assign(item=frame["item"].replace(items_of_day)).to_parquet(shop.data / f"{day}.parquet")
    first, second = take_all(shop)
    assert (first.held, second.held) == ((), ())
    assert first.vocabularies == {"item": {"known": 9, "added": 1, "reused": 0, "waiting": 0}}
    assert second.vocabularies == {"item": {"known": 10, "added": 1, "reused": 0, "waiting": 0}}
    before, after = (items(shop.home / "days" / day) for day in DAYS[2:4])
    assert set(before[:8]) == set(map(str, range(8)))
    assert (before[8:], after) == (["71"], [*before, "72"])
    # What is pushed knows them too.
    pushed = shop.home / "serving" / "shop" / str(max(versions(shop.home / "serving" / "shop")))
    assert (pushed / "assets" / "item").read_text().split() == after
    # Switched off, they stay as they are by then.
    rows_of(DAYS[4]).replace({"item": {4: 73}}).to_parquet(shop.data / f"{DAYS[4]}.parquet")
    (third,) = take_all(shop, advance={"vocabularies": None})
    assert third.vocabularies == {}
    assert items(shop.home / "days" / DAYS[4]) == after


def test_a_day_without_positives_is_held_back_and_the_next_skips_its_model(shop, quick_check):
    deliver(shop, DAYS[2], clicked=False)
    deliver(shop, DAYS[3])
    held, after = take_all(shop)
    assert held.held == ("label `click` is 0 in all of 240 rows",)
    assert held.pushed is None and held.metrics == {} and held.scores is None
    assert (after.model, after.held) == (FIRST, ())
    assert len(versions(shop.home / "serving" / "shop")) == 1


def test_a_day_whose_rows_drift_is_said_or_held_back(shop, quick_check):
    def alarms(day, **drift):
        (record,) = take_all(shop, advance={"drift": {"min_rows": 200, **drift}})
        assert record.day == day
        assert [said for said in record.drift if said.startswith("place: L-infinity 0.")]
        return record

    rows_of(DAYS[2]).assign(place=0).to_parquet(shop.data / f"{DAYS[2]}.parquet")
    said = alarms(DAYS[2])
    assert said.held == () and said.pushed
    # The reference is the day before, not the run.
    deliver(shop, DAYS[3])
    held = alarms(DAYS[3], hold=["L-infinity"])
    assert set(held.held) < set(held.drift)
    assert shop.make().new_columns() == ()
    # A scenario and a column that nobody declared.
    rows_of(DAYS[4]).assign(place=7, mood="low").to_parquet(shop.data / f"{DAYS[4]}.parquet")
    days = shop.make(advance={"drift": {"hold": ["schema"]}})
    assert days.new_columns() == ("mood",)
    record = days.take(DAYS[4])
    assert [reason for reason in record.held if reason.startswith("place: schema ")], record.held
    assert held.held[0].startswith("place: L-infinity 0.") and "0 100.0 % -> " in held.held[0]
    assert (held.pushed, held.metrics) == (None, {})


def test_a_day_that_misses_a_bound_is_held_back(shop):
    deliver(shop, DAYS[2])
    (record,) = take_all(shop, thresholds={"min_auc": {"click": 0.999}})
    assert record.held[0].startswith("AUC of `click` is ")
    assert record.held[0].endswith("on the day, `min_auc` is 0.999")
    assert record.pushed is None and record.metrics["click"]["auc"] < 0.999


def test_a_day_that_changed_is_said_and_done_again(shop, quick_check):
    deliver(shop, DAYS[2])
    take_all(shop)
    more = rows_of(DAYS[2])
    pd.concat([more, more.assign(item=(more["item"] + 1) % 8)]).to_parquet(shop.data / f"{DAYS[2]}.parquet")
    days = shop.make()
    assert days.left_out() == {DAYS[2]: "has other rows now than when it was taken"}
    assert days.waiting() == []
    assert days.redo(DAYS[2]) == [DAYS[2]]
    (record,) = take_all(shop)
    assert record.rows == 480
    assert shop.make().left_out() == {}
    with pytest.raises(ValueError, match=f"no day from {DAYS[5]} on is done; the last one is {DAYS[2]}"):
        shop.make().redo(DAYS[5])


def test_an_interrupted_day_begins_anew_where_it_began_from_is_another(shop, quick_check, monkeypatch, tmp_path):
    from mixrank.components import day_rows, training

    deliver(shop, *DAYS[2:4])

    def killed(*args, **options):
        raise Killed

    def interrupt(**changes):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(training, "train_model", killed)
            take_all(shop, **changes)

    interrupt()
    transformed = shop.home / "days" / DAYS[2] / "transformed"
    before = transformed.stat().st_mtime_ns
    # The same goes on.
    interrupt()
    assert transformed.stat().st_mtime_ns == before
    # A file that comes for it, other settings: they begin anew.
    more = rows_of(DAYS[2])
    more.assign(item=(more["item"] + 1) % 8).to_parquet(shop.data / "late.parquet")
    interrupt()
    assert transformed.stat().st_mtime_ns > before
    before = transformed.stat().st_mtime_ns
    settings = {"advance": {"vocabularies": {"count_days": 3}}}
    interrupt(**settings)
    assert transformed.stat().st_mtime_ns > before
    # The second day is interrupted, and the first taken back: both are gone.
    kept, called = day_rows.transform_day, []

    def second(examples, *args):
        called.append(examples)
        if len(called) == 2:
            raise Killed
        kept(examples, *args)

    shutil.rmtree(shop.home / "days")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(day_rows, "transform_day", second)
        take_all(shop, **settings)
    days = shop.make(**settings)
    assert [record.rows for record in days.done()] == [480]
    assert days.redo(DAYS[2]) == DAYS[2:4]
    assert not list((shop.home / "days").glob("2022-*"))


def test_the_days_of_an_earlier_run_are_set_aside(shop):
    days = shop.make()
    assert days.begin() is None
    assert days.begin() is None
    (days.folder / DAYS[2]).mkdir()
    later = replace(days, run=days.run.model_copy(update={"finished": datetime(2022, 4, 9)}))
    aside = days.folder.with_name("days-before-20220409-000000")
    assert later.begin() == f"the run is a new one; the days after the one before are in {aside} now"
    assert (aside / DAYS[2]).is_dir() and not (days.folder / DAYS[2]).exists()
    assert later.begin() is None


def test_a_run_without_state_or_days_is_refused(shop):
    days = shop.make()
    with pytest.raises(ValueError, match="kept no state to go on from"):
        Advance(days.config, DATASET, days.run.model_copy(update={"model_run": shop.data}))
    other = DATASET.model_copy(update={"source": DATASET.source.model_copy(update={"split": s.SplitByHash()})})
    with pytest.raises(ValueError, match="dataset shop is split by_hash; only one that is split by day"):
        replace(days, dataset=other)


def test_a_day_is_trained_on_its_rows_as_they_were_served(shop, quick_check, tmp_path):
    import tensorflow as tf

    from mixrank.components.feedback import join_feedback
    from mixrank.schemas.encode import decode

    deliver(shop, DAYS[2])
    frame = rows_of(DAYS[2])
    # The service knew another popularity than the log has, and no history of half of the users.
    served = [
        {
            **row,
            "clicks": 0.25,
            **({"before_item": [1], "before_action": [1], "before_gap": [60]} if row["user"] % 2 else {}),
        }
        for row in frame.drop(columns="click").to_dict("records")
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in served))
    frame.drop(columns="place").to_parquet(tmp_path / "outcomes.parquet")
    found = join_feedback(
        SPEC, [log], [str(tmp_path / "outcomes.parquet")], tmp_path / "feedback" / DAYS[2],
        within_hours=1, until_ms=2**42,
    )  # fmt: skip
    assert found.rows == found.with_outcome == 240
    days = replace(shop.make(), served=tmp_path / "feedback")
    days.start()
    record = days.take(DAYS[2])
    assert (record.rows, record.held) == (240, ())
    home = shop.home / "days" / DAYS[2]
    rows = {
        name: [
            decode(SPEC, each.numpy())
            for each in tf.data.TFRecordDataset(
                [str(path) for path in (home / name / "Split-train").glob("*.gz")], "GZIP"
            )
        ]
        for name in ("examples", "served")
    }
    assert {row["clicks"] for row in rows["served"]} == {0.25} != {row["clicks"] for row in rows["examples"]}
    labels = {name: {(r["user"], r["item"], r["time"]): r["click"] for r in each} for name, each in rows.items()}
    assert labels["served"] == labels["examples"]
    # What was judged and trained on are these rows.
    judged = pd.read_parquet(home / "model_run" / "progressive.parquet")
    assert len(judged) == 240 and judged["label_click"].sum() == frame["click"].sum()
    shutil.rmtree(home)
    plain = shop.make().take(DAYS[2])
    assert plain.metrics["click"]["auc"] != record.metrics["click"]["auc"]
    (tmp_path / "feedback" / DAYS[3]).mkdir()
    deliver(shop, DAYS[3])
    with pytest.raises(ValueError, match=f"feedback/{DAYS[3]} was not written by `mixrank join-feedback`"):
        replace(shop.make(), served=tmp_path / "feedback").take(DAYS[3])
