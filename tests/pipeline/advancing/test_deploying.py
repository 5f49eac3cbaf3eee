"""A day's version on a server: promoted, rolled back for what it does, and taken up again after a kill or an outage."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from mixrank import schemas as s
from mixrank.pipeline.advancing import Outcome, Trial, deploy_newest, deploy_settings, deploying
from mixrank.pipeline.config import DeploySettings, RunConfig
from mixrank.serving.base import METADATA, versions, write_sums
from mixrank.serving.dev_server import running
from mixrank.serving.dev_server.errors import Refused
from mixrank.serving.dev_server.loaded_model import LoadedModel
from mixrank.serving.export import GOLDEN_FILE, write_golden
from mixrank.serving.rollout import Rollout, model_server

SPEC = s.FeatureSpec(
    name="tiny",
    user=s.Key("user"),
    item=s.Key("item"),
    time=s.EventTime("time"),
    scenario=s.Scenario("page", values=("home", "cart")),
    labels=(s.Label("click"), s.Label("buy")),
    features=(s.Numeric("x", group="item"),),
)
ROWS = [{"x": number / 40, "page": "home"} for number in range(40)]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(
        model_server, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: time.sleep(0.001))
    )


@pytest.fixture
def doing(monkeypatch):
    """Version -> what its server does before it answers a request."""
    start, run, found = LoadedModel.__init__, LoadedModel.run, {}

    def numbered(self, folder):
        start(self, folder)
        self.number = int(folder.name)

    def answer(self, *args, **options):
        found.get(self.number, lambda: None)()
        return run(self, *args, **options)

    monkeypatch.setattr(LoadedModel, "__init__", numbered)
    monkeypatch.setattr(LoadedModel, "run", answer)
    return found


@pytest.fixture
def shop(save_tiny, tmp_path, doing):
    """Version 1 is stable on a server that runs."""
    base = tmp_path / "tiny"

    def save(number, factor=0.5, golden=None, tasks=("click", "buy")):
        folder = save_tiny(base, number, factor=factor, tasks=tasks)
        (folder / "assets.extra").mkdir(exist_ok=True)
        spec = SPEC.model_copy(update={"labels": tuple(label for label in SPEC.labels if label.name in tasks)})
        (folder / METADATA).write_text(json.dumps({"spec": spec.model_dump(mode="json")}))
        click = factor if golden is None else golden
        known = {task: {"click": click, "buy": 1 - click}[task] for task in tasks}
        write_golden(folder / GOLDEN_FILE, [{"x": 1.0, "page": "home"}], [known])
        write_sums(folder)

    with ExitStack() as held:

        def serve():
            held.close()
            server = held.enter_context(running(base / "models.config", poll_seconds=0.02))
            about.url = server.rest_url

        def trial(**changes):
            # Of a few requests, one may wait for the machine: latency is judged where a test is about it.
            quick = {"canary_seconds": 0, "requests_per_second": 1000, "rows_per_request": 8, "max_latency_ratio": 1e6}
            settings = DeploySettings(url=about.url, **{**quick, "wait_seconds": 20, **changes})
            return Trial(settings, base, lambda: ROWS, about.said.append)

        about = SimpleNamespace(
            base=base, save=save, serve=serve, stop=held.close, trial=trial, doing=doing, said=[], url=None
        )
        about.labels = lambda: Rollout(base).entry.labels
        about.decisions = lambda: [
            record for record in Rollout(base).journal.records() if record["command"] == "decide"
        ]
        save(1)
        Rollout(base, say=str).canary(1)
        Rollout(base, say=str).promote(golden=None)
        serve()
        yield about


def test_a_good_version_is_promoted_and_the_log_has_its_numbers(shop):
    shop.save(2, factor=0.51)
    assert shop.trial().deploy(2) == Outcome("promoted", 2)
    assert shop.labels() == {"stable": 2, "canary": 2, "previous": 1}
    (decision,) = shop.decisions()
    assert (decision["verdict"], decision["reasons"], decision["rows"]) == ("promote", [], 40)
    for label, version in (("stable", 1), ("canary", 2)):
        known = decision[label]
        assert (known["version"], known["requests"], known["errors"]) == (version, 5, 0)
        assert 0 < known["p50_ms"] <= known["p99_ms"]
    assert 0 <= decision["score_drift"]["click"] < 0.25
    assert any(line.startswith("      canary 5 requests, 0 errors, p50 ") for line in shop.said)
    # Called again, it finds its version where it should be.
    assert shop.trial().deploy(2) == Outcome("nothing", 2)
    assert len(shop.decisions()) == 1


def rolled_back(shop, outcome, version=2):
    assert (outcome.verdict, outcome.version) == ("rolled back", version)
    assert shop.labels() == {"stable": 1, "canary": 1}
    decision = shop.decisions()[-1]
    assert (decision["verdict"], tuple(decision["reasons"])) == ("rollback", outcome.reasons)
    return " ".join(outcome.reasons)


def test_a_version_whose_scores_are_shifted_is_rolled_back(shop):
    shop.save(2, factor=0.8)
    reasons = rolled_back(shop, shop.trial().deploy(2))
    assert "scores of `click` have moved: PSI " in reasons and "`max_score_drift` is 0.25" in reasons
    shop.save(3, factor=0.8)
    assert shop.trial(max_score_drift=50).deploy(3) == Outcome("promoted", 3)


def test_status_shows_the_last_decision(shop):
    from typer.testing import CliRunner

    from mixrank.pipeline import cli

    shop.save(2, factor=0.8)
    shop.trial().deploy(2)
    result = CliRunner().invoke(cli.app, ["rollout", "status", str(shop.base)])
    assert result.exit_code == 0, result.output
    said = result.output.replace("\n", " ")
    assert "last decision of `mixrank advance --deploy`, 20" in said
    assert "version 2, rollback: scores of `click` have moved: PSI " in said


@pytest.mark.slow
def test_a_slow_version_is_rolled_back(shop):
    shop.save(2)
    shop.doing[2] = lambda: time.sleep(0.4)
    reasons = rolled_back(shop, shop.trial(max_latency_ratio=2.5).deploy(2))
    assert reasons.startswith("latency (p99) is ") and reasons.endswith("`max_latency_ratio` is 2.5")


def fail():
    raise Refused("out of memory", "INTERNAL")


def failing(*requests):
    """Fails at some requests; 0 is that with the golden rows."""
    seen = iter(range(10_000))
    return lambda: fail() if next(seen) in requests else None


def test_a_version_that_fails_requests_is_rolled_back_at_once(shop):
    shop.save(2)
    shop.doing[2] = failing(2)
    reasons = rolled_back(shop, shop.trial(canary_seconds=60).deploy(2))
    assert reasons.startswith("1 of 2 requests failed, 0 of the stable version's; `max_errors` is 0; the first: ")
    assert "out of memory" in reasons


def test_a_version_that_fails_its_golden_rows_is_rolled_back(shop):
    shop.save(2)
    shop.doing[2] = fail
    assert "version 2 does not score golden rows: " in rolled_back(shop, shop.trial().deploy(2))


def test_max_errors_are_forgiven_and_those_of_both_versions_are_not_held_against_it(shop):
    shop.save(2)
    shop.doing[2] = failing(4)
    assert shop.trial(max_errors=1).deploy(2) == Outcome("promoted", 2)
    shop.save(3)
    shop.doing.update({2: failing(1), 3: failing(2)})
    assert shop.trial().deploy(3).verdict == "promoted"


def test_a_version_that_misses_its_golden_rows_or_a_task_gets_no_traffic(shop):
    shop.save(2, golden=0.6)
    assert "golden row 1, click: 0.5 instead of 0.6" in rolled_back(shop, shop.trial().deploy(2))
    # It was never watched.
    assert "canary" not in shop.decisions()[-1]
    shop.save(3, golden=0.6)
    assert shop.trial(golden_tolerance=0.2).deploy(3) == Outcome("promoted", 3)
    shop.save(4, tasks=("click",))
    outcome = shop.trial().deploy(4)
    assert outcome.reasons == ("it answers no `buy`, as the stable version does",)


def test_a_version_that_does_not_load_is_rolled_back(shop):
    shop.save(2)
    data = next(shop.base.glob("2/variables/variables.data*"))
    data.write_bytes(data.read_bytes()[:3])
    write_sums(shop.base / "2")
    assert "the server could not load version 2" in rolled_back(shop, shop.trial().deploy(2))


def test_a_version_that_was_rolled_back_gets_no_second_trial_and_the_next_one_does(shop):
    shop.save(2, factor=0.8)
    shop.trial().deploy(2)
    assert shop.trial().deploy(2) == Outcome("nothing", 2)
    assert "version 2 had its trial (rollback): scores of `click` have moved" in shop.said[-1]
    shop.save(3)
    assert shop.trial(keep_versions=1).deploy(3) == Outcome("promoted", 3)
    # 1 is `previous`.
    assert set(versions(shop.base)) == {1, 3}
    # An older version is not put before a newer one, and one that a person took back stays back.
    assert shop.trial().deploy(1) == Outcome("nothing", 1)
    Rollout(shop.base, say=str).rollback()
    assert shop.trial().deploy(3) == Outcome("nothing", 3)
    assert "version 3 had its trial (promote): it has been taken back since" in shop.said[-1]
    # A trial by hand is one that is taken up.
    Rollout(shop.base, say=str).canary(3, golden=None)
    shop.serve()
    assert shop.trial().deploy(3) == Outcome("promoted", 3)
    assert [record["version"] for record in shop.decisions()] == [2, 3, 3]


def test_a_server_that_does_not_follow_its_file_in_time_leaves_it_undone(shop):
    shop.stop()
    shop.save(2)
    with running(shop.base / "models.config", poll_seconds=3600) as server:
        shop.url = server.rest_url
        outcome = shop.trial(wait_seconds=0.2).deploy(2)
    assert outcome.verdict == "undone" and outcome.reasons[0].startswith("version 2 is UNKNOWN after 0.2 s")
    assert shop.labels() == {"stable": 1, "canary": 1} and shop.decisions() == []


def test_a_server_that_is_away_is_said_and_the_next_call_goes_on(shop):
    shop.save(2)
    shop.stop()
    outcome = shop.trial().deploy(2)
    assert outcome.verdict == "undone" and "UNAVAILABLE: no answer" in outcome.reasons[0]
    assert shop.labels() == {"stable": 1, "canary": 1} and shop.decisions() == []
    shop.serve()
    assert shop.trial().deploy(2) == Outcome("promoted", 2)


def test_a_server_that_goes_away_in_the_middle_of_a_trial_is_not_the_versions_fault(shop):
    shop.save(2)
    shop.doing[2] = failing(2)
    trial, ask = shop.trial(), deploying.watch

    def leaves(*args, **options):
        found = ask(*args, **options)
        shop.stop()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deploying, "watch", leaves)
        assert trial.deploy(2).verdict == "undone"
    assert shop.decisions() == []
    shop.doing[2] = lambda: None
    shop.serve()
    assert shop.trial().deploy(2) == Outcome("promoted", 2)


def test_without_answers_of_the_stable_version_nothing_is_decided(shop):
    shop.save(2)
    shop.doing[1] = fail
    outcome = shop.trial().deploy(2)
    assert outcome.verdict == "undone"
    assert outcome.reasons[0].startswith("the stable version answers nothing to compare with: ")
    assert shop.labels() == {"stable": 1, "canary": 2} and shop.decisions() == []


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("place", "name", "before"),
    [
        (Rollout, "canary", True),
        (Rollout, "canary", False),
        (deploying, "watch", False),
        (Rollout, "decide", False),
        (Rollout, "promote", False),
        (Rollout, "rollback", False),
    ],
)
@pytest.mark.parametrize("factor", [0.5, 0.8])
def test_a_call_that_was_killed_is_taken_up_where_it_was(shop, monkeypatch, place, name, before, factor):
    shop.save(2, factor=factor)
    kept, trial = getattr(place, name), shop.trial()

    def killed(*args, **options):
        if not before:
            kept(*args, **options)
        raise Killed

    reached = {"promote": factor == 0.5, "rollback": factor == 0.8}.get(name, True)
    with monkeypatch.context() as patch:
        patch.setattr(place, name, killed)
        if reached:
            with pytest.raises(Killed):
                trial.deploy(2)
            assert shop.labels()["stable"] == (2 if name == "promote" else 1)
        else:
            trial.deploy(2)
    shop.trial().deploy(2)
    good = {"stable": 2, "canary": 2, "previous": 1}
    assert shop.labels() == (good if factor == 0.5 else {"stable": 1, "canary": 1})
    assert [record["verdict"] for record in shop.decisions()] == ["promote" if factor == 0.5 else "rollback"]


def test_a_newer_version_takes_the_place_of_one_whose_trial_was_cut_short(shop):
    shop.save(2)
    Rollout(shop.base, server=shop.trial().server, say=str).canary(2, golden=None)
    shop.save(3)
    assert shop.trial().deploy(3) == Outcome("promoted", 3)
    assert shop.labels() == {"stable": 3, "canary": 3, "previous": 1}
    assert Rollout(shop.base).entry.loaded == {1, 3}
    # Nothing was decided about 2, and nobody asks any more.
    assert [record["version"] for record in shop.decisions()] == [3]
    assert shop.trial().deploy(2) == Outcome("nothing", 2)


def test_rows_that_do_not_fit_the_stable_version_leave_it_undone(shop):
    shop.save(2)
    outcome = Trial(shop.trial().settings, shop.base, lambda: [{"x": 1.0}], str).deploy(2)
    assert outcome.verdict == "undone" and outcome.reasons[0].startswith("row 0: ")
    assert shop.decisions() == []


def test_the_first_version_of_all_has_nothing_to_be_compared_with(shop):
    shop.stop()
    (shop.base / "models.config").unlink()
    Rollout(shop.base, say=str).canary(1)
    shop.serve()
    assert shop.trial().deploy(1) == Outcome("promoted", 1)
    assert "      no version is stable yet, so there is nothing to compare with" in shop.said


def test_a_models_config_elsewhere_and_another_name_are_used(shop, tmp_path):
    place = tmp_path / "deploy" / "models.config"
    steps = Rollout(shop.base, config=place, name="front", say=str)
    steps.canary(1), steps.promote(golden=None)
    shop.save(2)
    with running(place, poll_seconds=0.02) as server:
        changes = {"models_config": str(place), "model": "front"}
        trial = Trial(
            shop.trial().settings.model_copy(update={"url": server.rest_url, **changes}),
            shop.base,
            lambda: ROWS,
            shop.said.append,
        )
        assert trial.deploy(2) == Outcome("promoted", 2)
    assert steps.entry.labels["stable"] == 2 and shop.labels()["stable"] == 1


@pytest.mark.slow
def test_a_canary_is_watched_for_its_time_at_its_rate(shop):
    shop.save(2)
    shop.trial(canary_seconds=1.0, requests_per_second=10, rows_per_request=40).deploy(2)
    (decision,) = shop.decisions()
    assert 1.0 <= decision["seconds"] < 20
    assert 2 <= decision["canary"]["requests"] <= 11


# The config, and the command.


def config(**changes):
    return RunConfig(name="tiny", dataset="movielens", data="data", **changes)


def test_what_a_deploy_needs_of_a_config_is_said_before_anything_is_done():
    with pytest.raises(ValueError, match="--set advance.deploy.url=http://localhost:8501"):
        deploy_settings(config())
    url = {"deploy": {"url": "http://localhost:8501"}}
    with pytest.raises(ValueError, match="versions go to s3://shop/models: set `push_to`"):
        deploy_settings(config(advance=url, push_to="s3://shop/models"))
    assert deploy_settings(config(advance=url)).url == "http://localhost:8501"
    with pytest.raises(ValueError, match="must be like http://localhost:8501, received 'localhost:8501'"):
        config(advance={"deploy": {"url": "localhost:8501"}})


def test_without_a_pushed_day_there_is_nothing_to_deploy(tmp_path):
    held = SimpleNamespace(day="2022-05-05", pushed=None)
    assert deploy_newest(config(), SPEC, [held], tmp_path, str) == Outcome("nothing")


@pytest.mark.parametrize(
    ("outcome", "code", "said"),
    [
        (Outcome("promoted", 7), 0, "version 7 is promoted"),
        (Outcome("nothing"), 0, "no day has pushed a version to deploy"),
        (Outcome("rolled back", 7, ("it is slow",)), 3, "version 7 is rolled back: it is slow"),
        (
            Outcome("undone", 7, ("no answer",)),
            4,
            "version 7 is not deployed; the next `advance --deploy` goes on with it: no answer",
        ),
    ],
)
def test_the_exit_code_says_what_became_of_a_version(monkeypatch, tmp_path, outcome, code, said):
    from typer.testing import CliRunner

    from mixrank.components import training
    from mixrank.pipeline import advancing, cli, fast_loop

    days = SimpleNamespace(
        begin=lambda: None,
        new_columns=tuple,
        waiting=lambda until: [],
        left_out=dict,
        tidy=lambda: None,
        done=list,
        folder=tmp_path,
        say=str,
    )
    monkeypatch.setattr(fast_loop, "last_run", lambda settings: (None, SimpleNamespace(spec=SPEC)))
    monkeypatch.setattr(training, "prepare_devices", lambda replicas: None)
    monkeypatch.setattr(advancing, "Advance", lambda *args, **options: days)
    monkeypatch.setattr(advancing, "deploy_newest", lambda *args: outcome)
    (tmp_path / "movielens").mkdir()
    place = ["--set", f"output={tmp_path}", "--set", "advance.deploy.url=http://localhost:8501"]
    result = CliRunner().invoke(cli.app, ["advance", "movielens", "--deploy", *place], env={"COLUMNS": "300"})
    assert result.exit_code == code, result.output
    assert said in result.output.replace("\n", " ")
