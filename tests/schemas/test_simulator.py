"""A simulated log is what its formula says, and the ideal reader is Bayes' rule, checked by enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pyarrow.parquet
import pytest

from mixrank.schemas.simulation import Observer
from mixrank.schemas.simulation import log as simulated_log
from mixrank.schemas.simulation.log import (
    DAY_MS,
    Events,
    blocks,
    draw_block,
    first_ms,
    read_blocks,
    read_settings,
    write_log,
)
from mixrank.schemas.simulation.world import AGE_SHARES, SCENARIO_SHARES, Simulation, World, contrasts, make_world

TINY = Simulation(users=7, items=9, days=4, impressions=2.0, seed=3)
KINDS = {"topics": 9, "tastes": 4, "intents": 4}
SMALL = Simulation(users=900, items=50, days=7, impressions=14.0, bias=-1.0, taste=1.2, intent=1.6, seed=5, **KINDS)
SILENT = dict.fromkeys(("taste", "intent", "scenario", "scenario_topic", "quality", "age"), 0.0)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(SMALL)


@pytest.fixture(scope="module")
def events(world) -> Events:
    (users,) = blocks(SMALL)
    assert users == range(900)
    return draw_block(world, 0)


def logit(p):
    return np.log(p / (1 - p))


def within_luck(clicks, chances, sigmas=4.5) -> bool:
    """Whether this number of clicks is likely under these probabilities."""
    return abs(clicks.sum() - chances.sum()) < sigmas * math.sqrt((chances * (1 - chances)).sum())


# --- the formula


def test_without_any_strength_every_probability_is_that_of_the_bias():
    table = make_world(Simulation(bias=-0.4, **KINDS, **SILENT)).probability
    np.testing.assert_allclose(table, 1 / (1 + math.exp(0.4)))


@pytest.mark.parametrize(
    ("name", "axes", "shares"),
    [
        ("taste", (0, 2), np.full((4, 9), 1 / 36)),
        ("intent", (1, 2), np.full((4, 9), 1 / 36)),
        ("scenario", (3,), SCENARIO_SHARES),
        ("scenario_topic", (2, 3), np.full((9, 3), 1 / 27)),
        ("quality", (4,), np.full(5, 1 / 5)),
        ("age", (5,), AGE_SHARES),
    ],
)
def test_a_strength_is_a_standard_deviation_in_logits_over_its_own_axes(name, axes, shares):
    effect = logit(make_world(Simulation(bias=0.3, **{**KINDS, **SILENT, name: 0.7})).probability) - 0.3
    others = tuple(axis for axis in range(6) if axis not in axes)
    np.testing.assert_allclose(effect.max(axis=others), effect.min(axis=others), atol=1e-12)
    effect = effect.max(axis=others)
    assert (shares * effect).sum() == pytest.approx(0, abs=1e-12)
    assert math.sqrt((shares * effect**2).sum()) == pytest.approx(0.7)


def test_effects_add_up_in_logits():
    parts = [{name: 0.6} for name in SILENT]
    alone = sum(logit(make_world(Simulation(bias=0.0, **{**KINDS, **SILENT, **part})).probability) for part in parts)
    together = logit(make_world(Simulation(bias=-1.0, **KINDS, **dict.fromkeys(SILENT, 0.6))).probability)
    np.testing.assert_allclose(together, alone - 1.0, atol=1e-12)


def test_opposite_scenarios_turn_tastes_around_and_nothing_else():
    alike, turned = (make_world(Simulation(bias=-0.5, **KINDS, opposite=opposite)) for opposite in ((), ("search",)))
    without = make_world(Simulation(bias=-0.5, **KINDS, taste=0.0))
    taste = logit(alike.probability) - logit(without.probability)
    assert np.abs(taste).max() > 0.5
    signs = np.array([1, -1, 1])[:, None, None]
    np.testing.assert_allclose(logit(turned.probability) - logit(without.probability), taste * signs, atol=1e-9)


def test_no_taste_or_intent_is_like_another():
    logits = logit(make_world(Simulation(bias=0.0, **{**KINDS, **SILENT, "taste": 1.0, "intent": 2.0})).probability)
    tastes, intents = logits.mean(axis=(1, 3, 4, 5)), logits.mean(axis=(0, 3, 4, 5)) / 2
    # Each is seen with the mean of the others in it.
    tastes, intents = tastes - tastes.mean(0), intents - intents.mean(0)
    np.testing.assert_allclose(tastes @ intents.T, 0, atol=1e-9)
    table = contrasts(np.random.default_rng(0), 4, 6)
    np.testing.assert_allclose(table @ table.T / 6, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(table.sum(axis=1), 0, atol=1e-12)


def test_no_strength_makes_a_click_certain():
    world = make_world(TINY.model_copy(update={"bias": 500.0, "taste": 1e6}))
    assert world.probability.min() > 0 and world.probability.max() < 1
    events = draw_block(world, 0)
    predicted = Observer(before=9, within=9).predict(world, events)
    assert np.isfinite(predicted).all() and predicted.max() < 1


# --- the log


def test_clicks_are_drawn_with_the_probabilities_kept(events):
    assert within_luck(events.click, events.probability)
    for part in np.array_split(np.argsort(events.probability), 10):
        assert within_luck(events.click[part], events.probability[part])


def test_the_probability_of_an_impression_is_the_tables(world, events):
    row = 1234
    expected = world.probability[
        events.taste[row],
        events.intent[row],
        world.topic[events.item[row]],
        events.scenario[row],
        world.quality[events.item[row]],
        events.age[row],
    ]
    assert events.probability[row] == expected


def test_a_user_has_one_taste_and_one_intent_a_day(events):
    for hidden, owner in ((events.taste, events.user), (events.intent, events.user * 7 + events.day)):
        pairs = np.unique(np.stack([owner, hidden]), axis=1)
        assert len(np.unique(owner)) == pairs.shape[1]
    days = np.unique(np.stack([events.user, events.day, events.intent]), axis=1)
    same = days[2, 1:][np.diff(days[0]) == 0] == days[2, :-1][np.diff(days[0]) == 0]
    # Four intents, drawn again every day.
    assert abs(same.mean() - 1 / 4) < 4.5 * math.sqrt(3 / 16 / len(same))


def test_a_log_has_the_size_asked_for_and_ends_on_its_last_day(events):
    expected = 900 * 7 * 14
    assert abs(len(events) - expected) < 4.5 * math.sqrt(expected)
    assert np.array_equal(np.unique(events.day), np.arange(7))
    assert np.array_equal(events.day, (events.time_ms - first_ms(SMALL)) // DAY_MS)
    last = np.datetime64(int(events.time_ms.max()), "ms").astype("datetime64[D]")
    assert last == np.datetime64("2024-06-30")


def test_the_events_of_a_user_have_times_of_their_own(events):
    same = events.user[1:] == events.user[:-1]
    assert (events.time_ms[1:] > events.time_ms[:-1])[same].all()
    crowded = draw_block(make_world(Simulation(users=1, items=3, days=4, impressions=9000.0)), 0)
    assert len(np.unique(crowded.time_ms)) == len(crowded) > 30_000


def test_blocks_hold_every_user_once_and_stay_small():
    simulation = Simulation(users=1000, days=100, impressions=100.0)
    parts = blocks(simulation)
    assert [user for part in parts for user in part] == list(range(1000))
    assert max(map(len, parts)) == 20


def test_a_block_does_not_depend_on_the_others(monkeypatch):
    monkeypatch.setattr(simulated_log, "BLOCK_ROWS", 16)
    world = make_world(TINY)
    alone = draw_block(world, 2)
    for number in range(len(blocks(TINY))):
        draw_block(world, number)
    np.testing.assert_array_equal(draw_block(world, 2).probability, alone.probability)
    assert not np.array_equal(draw_block(world, 1).probability[:5], alone.probability[:5])


def test_what_is_read_back_is_what_was_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(simulated_log, "BLOCK_ROWS", 16)
    write_log(tmp_path / "log", TINY)
    assert read_settings(tmp_path / "log") == TINY
    parts = list(read_blocks(tmp_path / "log"))
    assert len(parts) == len(blocks(TINY)) == 4
    for number, part in enumerate(parts):
        drawn = draw_block(make_world(TINY), number)
        for name in Events.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(part, name), getattr(drawn, name), err_msg=name)


def test_the_same_values_give_the_same_files_and_another_seed_others(tmp_path):
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        write_log(tmp_path / name, TINY.model_copy(update={"seed": seed}))
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert list(map(str, files)) == [
        "items.parquet",
        "log/part-00000.parquet",
        "simulation.json",
        "truth/part-00000.parquet",
        "users.parquet",
    ]
    for file in files:
        first = (tmp_path / "one" / file).read_bytes()
        assert first == (tmp_path / "two" / file).read_bytes()
        assert first != (tmp_path / "other" / file).read_bytes()


def test_the_log_shows_nothing_of_what_is_hidden(tmp_path):
    write_log(tmp_path / "log", TINY)
    names = {
        file: pyarrow.parquet.read_schema(tmp_path / "log" / file).names
        for file in ("log/part-00000.parquet", "users.parquet", "items.parquet")
    }
    assert names == {
        "log/part-00000.parquet": ["user_id", "item_id", "time_ms", "tab", "click"],
        "users.parquet": ["user_id", "age_band"],
        "items.parquet": ["item_id", "topic"],
    }
    users = pyarrow.parquet.read_table(tmp_path / "log" / "users.parquet").to_pydict()
    drawn = draw_block(make_world(TINY), 0)
    for user, age in {(int(u), int(a)) for u, a in zip(drawn.user, drawn.age, strict=True)}:
        assert users["age_band"][users["user_id"].index(user)] == ("young", "middle", "old")[age]


def test_an_interrupted_log_leaves_no_folder(tmp_path):
    def interrupt(parts):
        yield from list(parts)[:0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_log(tmp_path / "log", TINY, interrupt)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"users": 0}, "users\n.*greater than or equal to 1"),
        ({"days": 3}, "days\n.*greater than or equal to 4"),
        ({"impressions": 0}, "impressions\n.*greater than 0"),
        ({"intent": -1.0}, "intent\n.*greater than or equal to 0"),
        ({"tastes": 3}, r"`tastes` \+ `intents` must be below `topics` \(5\), received 3 \+ 2"),
        ({"intents": 4, "topics": 6}, r"`tastes` \+ `intents` must be below `topics` \(6\), received 2 \+ 4"),
        ({"itms": 3}, "Simulation has no field `itms`; did you mean `items`"),
    ],
)
def test_a_wrong_setting_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        Simulation(**values)


def test_a_folder_in_use_or_without_a_log_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} exists"):
        write_log(tmp_path, TINY)
    with pytest.raises(
        ValueError, match=r"simulation.json does not exist: is .* a log that `mixrank simulate clicks` wrote"
    ):
        read_settings(tmp_path)


# --- the ideal reader


def enumerated(world: World, events: Events, row: int, observer: Observer) -> float:
    """Bayes' rule by hand: the sum over every taste and every intent of every day."""
    s = world.simulation

    def chance(r: int, taste: int, intent: int, scenario: bool) -> float:
        total = 0.0
        for tab, tab_share in enumerate(SCENARIO_SHARES):
            for quality in range(5):
                if scenario and tab != events.scenario[r]:
                    continue
                if observer.quality and quality != world.quality[events.item[r]]:
                    continue
                topic = world.topic[events.item[r]]
                alike = world.share[(world.topic == topic) & (world.quality == quality)].sum()
                quality_share = alike / world.share[world.topic == topic].sum()
                weight = (1.0 if scenario else tab_share) * (1.0 if observer.quality else quality_share)
                total += weight * world.probability[taste, intent, topic, tab, quality, events.age[r]]
        return total

    mine = [r for r in range(row) if events.user[r] == events.user[row]]
    earlier = [r for r in mine if events.day[r] < events.day[row]]
    today = [r for r in mine if events.day[r] == events.day[row]]
    seen = earlier[max(0, len(earlier) - observer.before) :] + today[max(0, len(today) - observer.within) :]
    above = below = 0.0
    for taste, *intents in itertools.product(range(s.tastes), *[range(s.intents)] * s.days):
        likelihood = 1.0
        for r in seen:
            p = chance(r, taste, intents[events.day[r]], scenario=False)
            likelihood *= p if events.click[r] else 1 - p
        above += likelihood * chance(row, taste, intents[events.day[row]], observer.scenario)
        below += likelihood
    return above / below


@pytest.mark.parametrize(
    "observer",
    [
        Observer(),
        Observer(before=100, within=100),
        Observer(before=3, within=2),
        Observer(before=1, within=0),
        Observer(before=0, within=1),
        Observer(before=5, within=3, scenario=False),
        Observer(before=4, within=3, quality=False),
        Observer(before=4, within=3, scenario=False, quality=False),
    ],
    ids=str,
)
def test_the_ideal_reader_is_the_sum_over_all_that_is_hidden(observer):
    world = make_world(TINY)
    events = draw_block(world, 0)
    found = observer.predict(world, events)
    rows = range(0, len(events), 3)
    assert len(events) > 40
    expected = [enumerated(world, events, row, observer) for row in rows]
    np.testing.assert_allclose(found[list(rows)], expected, rtol=1e-9)


def test_chosen_rows_are_predicted_as_among_all(world, events, monkeypatch):
    observer, rows = Observer(before=20, within=5), np.array([7, 3, 50_000])
    expected = observer.predict(world, events)[rows]
    monkeypatch.setattr("mixrank.schemas.simulation.observer.CHUNK", 2)
    np.testing.assert_allclose(observer.predict(world, events, rows), expected, rtol=1e-9)


def test_only_earlier_clicks_of_the_same_user_change_a_prediction(world, events):
    observer, row = Observer(before=1000, within=1000), 40_000
    click = events.click.copy()
    click[row] = 1 - click[row]
    flipped = Events(**{**vars(events), "click": click})
    before, after = observer.predict(world, events), observer.predict(world, flipped)
    last = int(np.flatnonzero(events.user == events.user[row]).max())
    changed = np.flatnonzero(np.abs(before - after) > 1e-9)
    assert len(changed) > 5
    assert changed.min() > row and changed.max() <= last


def test_long_term_clicks_say_nothing_of_todays_intent():
    world = make_world(SMALL.model_copy(update={"taste": 0.0, "users": 50}))
    events = draw_block(world, 0)
    np.testing.assert_allclose(
        Observer(before=100).predict(world, events), Observer().predict(world, events), rtol=1e-9
    )
    told = Observer(within=100).predict(world, events)
    assert np.abs(told - Observer().predict(world, events)).mean() > 0.05


def test_predictions_are_calibrated(world, events):
    # Who has seen all earlier clicks is wrong by luck alone, which is new at every impression.
    everything = Observer(before=1000, within=1000).predict(world, events)
    for part in np.array_split(np.argsort(everything), 10):
        assert within_luck(events.click[part], everything[part])
    # A reader with shorter histories also depends on the luck of the users' tastes, and there are only 900 users.
    for observer in (Observer(50, 20), Observer(), Observer(50, 20, scenario=False, quality=False)):
        predicted = observer.predict(world, events)
        for part in np.array_split(np.argsort(predicted), 8):
            assert abs(events.click[part].mean() - predicted[part].mean()) < 0.03


def test_whoever_sees_more_predicts_better(world, events):
    def loss(p) -> float:
        return float(-np.where(events.click, np.log(p), np.log1p(-p)).mean())

    ideal = loss(Observer(50, 20).predict(world, events))
    nothing = loss(Observer(0, 0).predict(world, events))
    fewer = [
        loss(observer.predict(world, events))
        for observer in (
            Observer(50, 0),
            Observer(0, 20),
            Observer(50, 20, scenario=False),
            Observer(50, 20, quality=False),
            Observer(10, 5),
        )
    ]
    assert loss(events.probability) < ideal - 0.01
    assert ideal < min(fewer) - 0.002
    assert max(fewer) < nothing - 0.01


def test_a_negative_length_is_named():
    with pytest.raises(ValueError, match="`within` must be >= 0, received -1"):
        Observer(before=3, within=-1)
