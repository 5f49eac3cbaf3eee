"""A roll-out leaves the old or the new state, never serves an unloaded version, and promotes only what scores right.

Run as a program, this file is the process that the tests kill: `python test_rollout.py SCENARIO TEMPLATE FOLDER`.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from mixrank.schemas.files import locked
from mixrank.serving import model_config
from mixrank.serving.base import model_versions, versions, write_sums
from mixrank.serving.dev_server import repository
from mixrank.serving.dev_server.errors import Refused
from mixrank.serving.dev_server.repository import Repository, Version
from mixrank.serving.export import read_golden, write_golden
from mixrank.serving.rollout import Golden, Rollout, model_server, write_delta
from mixrank.serving.rollout.log import Journal
from mixrank.serving.rollout.model_server import RestServer, State

GOLDEN = [({"x": 1.0}, {"click": 0.25}), ({"x": 2.0}, {"click": 0.5})]


def save(folder, factor=0.25, weights=b"weights"):
    """Something that looks like a SavedModel, and scores x as `factor` times x in the server below."""
    (folder / "variables").mkdir(parents=True)
    (folder / "assets.extra").mkdir()
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(weights)
    (folder / "factor").write_text(str(factor))
    write_golden(folder / "assets.extra" / "golden.jsonl", *zip(*GOLDEN, strict=True))
    write_sums(folder)
    return folder


class Scaled:
    """In place of a loaded model: scores x as `factor` times x."""

    def __init__(self, folder):
        if (folder / "broken").exists():
            raise ValueError("cannot parse the graph")
        self.factor = float((folder / "factor").read_text())


class Stepping(Repository):
    """The development server without its network and TensorFlow; it looks at its files when it is asked.

    An answer is what was so before the look, which is as late as it may be. `outages` are labels that named a version
    that was unloaded before they moved.
    """

    def __init__(self, config):
        super().__init__(Path(config), load=Scaled)
        self.outages = []
        self.look()

    def _move_labels(self, wanted):
        for name, labels in self._labels.items():
            self.outages += [each for each in labels.items() if self.models[name][each[1]].model is None]
        super()._move_labels(wanted)

    # As `mixrank.serving.rollout.model_server.Server`.

    def state(self, version):
        found = self.models.get("shop", {}).get(version, Version("UNKNOWN"))
        self.look()
        return State(found.state, found.message)

    def resolve(self, label):
        try:
            return self.find("shop", label=label)[0]
        except Refused:
            return None
        finally:
            self.look()

    def score(self, version, instances):
        return [{"click": self.find("shop", version)[1].factor * instance["x"]} for instance in instances]


@pytest.fixture
def shop(save_tiny, tmp_path):
    """Versions 1 and 2 of the model `shop`, and `new` beside it, with the development server that follows them."""
    from mixrank.serving.dev_server import running

    base = tmp_path / "shop"
    for folder, version, factor in ((base, 1, 0.25), (base, 2, 0.5), (tmp_path / "new", 9, 0.75)):
        golden = save_tiny(folder, version, factor=factor) / "assets.extra" / "golden.jsonl"
        rows = [{"x": 1.0, "page": ""}, {"x": 2.0, "page": ""}]
        write_golden(golden, rows, [{"click": factor * row["x"], "buy": 1 - factor * row["x"]} for row in rows])
        write_sums(folder / str(version))
    (base / "models.config").touch()
    with running(base / "models.config", poll_seconds=0.02) as server:
        yield SimpleNamespace(base=base, new=tmp_path / "new", url=server.rest_url)


@pytest.fixture(autouse=True)
def no_sleep(monkeypatch):
    hurry()
    yield
    model_server.time = time


def hurry():
    model_server.time = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: time.sleep(0.001))


@pytest.fixture
def base(tmp_path):
    """Versions 1 and 2 of the model `shop`."""
    save(tmp_path / "shop" / "1")
    save(tmp_path / "shop" / "2", weights=b"others.")
    return tmp_path / "shop"


@pytest.fixture
def mixrank(monkeypatch):
    from typer.testing import CliRunner

    from mixrank.pipeline import cli
    from mixrank.pipeline.commands import terminal

    monkeypatch.setattr(terminal.console, "width", 250)
    return lambda *arguments: CliRunner().invoke(cli.app, ["rollout", *map(str, arguments)])


def labels(base):
    return Rollout(base).entry.labels


def loaded(base):
    return Rollout(base).entry.loaded


def rollout(base, serving=None, wait=5.0):
    # Some tests change a version.
    return Rollout(base, server=serving, wait=wait, say=str, verified=False)


# The commands.


def test_a_version_goes_from_push_to_stable_and_back(shop, mixrank):
    base, url = shop.base, shop.url

    def succeeds(*arguments):
        result = mixrank(*arguments)
        assert result.exit_code == 0, result.output
        assert "next:\n  mixrank rollout " in result.output
        return result.output

    assert "version 1 is the canary" in succeeds("canary", base, "--version", 1, "--url", url)
    assert (labels(base), loaded(base)) == ({"canary": 1}, {1})
    assert "version 1 scores 2 golden rows as expected" in succeeds("promote", base, "--url", url)
    assert labels(base) == {"stable": 1, "canary": 1}
    pushed = succeeds("push", base, shop.new)
    (third,) = set(versions(base)) - {1, 2}
    assert f"pushed version {third}; nothing serves it yet" in pushed and loaded(base) == {1}
    assert abs(third - time.time()) < 60
    succeeds("canary", base, "--url", url)
    assert (labels(base), loaded(base)) == ({"stable": 1, "canary": third}, {1, third})
    succeeds("promote", base, "--url", url)
    assert (labels(base), loaded(base)) == ({"stable": third, "canary": third, "previous": 1}, {1, third})
    assert RestServer(url, "shop").resolve("stable") == third
    succeeds("rollback", base, "--url", url)
    assert (labels(base), loaded(base)) == ({"stable": 1, "canary": 1}, {1})
    assert RestServer(url, "shop").resolve("stable") == 1
    model_server.wait_label(RestServer(url, "shop"), "previous", None, seconds=20)


def test_status_is_a_table_of_what_is_there_and_what_is_served(shop, mixrank):
    base, url = shop.base, shop.url
    (base / "2" / "assets.extra" / "mixrank.json").write_text('{"model": {"name": "hemix", "preset": "tiny"}}')
    write_sums(base / "2")
    mixrank("canary", base, "--version", 1, "--url", url), mixrank("promote", base, "--url", url)
    mixrank("canary", base, "--version", 2, "--url", url, "--unchecked")
    mixrank("push", base, shop.new)
    result = mixrank("status", base, "--url", url)
    assert result.exit_code == 0, result.output
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.output.splitlines() if "│" in line]
    newest, second, first = rows
    assert first[:2] == ["1", "stable"] and first[-1] == "AVAILABLE"
    assert second == ["2", "canary", "", "hemix tiny", "", "AVAILABLE"]
    assert newest[1] == "" and newest[-1] == "UNKNOWN"
    assert abs(time.time() - time.mktime(time.strptime(newest[2] + " UTC", "%Y-%m-%d %H:%M:%S %Z"))) < 26 * 3600
    assert f"mixrank rollout promote {base} --url {url}" in result.output
    unasked = mixrank("status", base).output
    assert "in models.config" in unasked and "no" in unasked


def test_status_shows_the_metrics_of_the_run_that_pushed_a_version(tmp_path, mixrank, record_of, toy_spec):
    import pandas as pd

    from mixrank.pipeline.run_record import Judgement

    base = save(tmp_path / "run" / "serving" / "shop" / "5").parent
    save(base / "4")
    judgement = Judgement(evaluation=tmp_path, pushed=Path(f"/elsewhere/serving/shop/{5}"))
    record_of(toy_spec, model_run=tmp_path / "run", judgement=judgement).write(tmp_path / "run")
    frame = {"person": [1, 1, 2], "clip": ["a", "b", "c"], "at": [1, 2, 3], "page": ["home", "home", "cart"]}
    frame.update(label_click=[1, 0, 0], score_click=[0.5, 0.4, 0.6], label_buy=[1, 0, 0], score_buy=[0.9, 0.4, 0.6])
    pd.DataFrame(frame).to_parquet(tmp_path / "run" / "predictions.parquet")
    newest, older = (line for line in mixrank("status", base).output.splitlines() if line.startswith("│"))
    assert "click AUC 0.5000, buy AUC 1.0000" in newest and "AUC" not in older
    (tmp_path / "run" / "predictions.parquet").unlink()
    assert "AUC" not in mixrank("status", base).output


def test_without_a_server_the_file_is_written_and_that_is_said(base, mixrank):
    result = mixrank("canary", base, "--version", 1)
    assert result.exit_code == 0
    assert "version 1 is the canary in models.config; no server was asked whether it follows" in result.output
    result = mixrank("promote", base)
    assert result.exit_code == 1 and "give its --url, or say --unchecked" in result.output
    assert mixrank("promote", base, "--unchecked").exit_code == 0
    assert labels(base) == {"stable": 1, "canary": 1}


def test_a_trial_can_be_ended_alone(base):
    steps = rollout(base)
    steps.canary(1), steps.promote(golden=None), steps.canary(2)
    with pytest.raises(
        ValueError, match="no previous stable version to return to; to end the canary's trial: --canary"
    ):
        steps.rollback()
    assert steps.rollback(trial=True) == 1
    assert (labels(base), loaded(base)) == ({"stable": 1, "canary": 1}, {1})


def test_after_a_trial_has_ended_rollback_still_goes_back(base):
    save(base / "3", weights=b"thirds.")
    steps = rollout(base)
    steps.canary(1), steps.promote(golden=None), steps.canary(2), steps.promote(golden=None), steps.canary(3)
    assert steps.rollback(trial=True) == 2
    assert labels(base) == {"stable": 2, "canary": 2, "previous": 1}
    assert steps.rollback() == 1
    assert labels(base) == {"stable": 1, "canary": 1}


def test_rollback_returns_to_a_named_version_that_it_loads_first(base):
    serving = Stepping(base / "models.config")
    steps = rollout(base, serving)
    steps.canary(2), steps.promote()
    with pytest.raises(ValueError, match="no previous stable version to return to; name a version: --to VERSION"):
        steps.rollback()
    assert steps.rollback(1) == 1
    assert (labels(base), loaded(base), serving.outages) == ({"stable": 1, "canary": 1}, {1}, [])
    with pytest.raises(ValueError, match="there is no version 7; there are 1, 2"):
        steps.rollback(7)


def test_a_repeated_rollback_changes_nothing(base):
    said = []
    steps = Rollout(base, server=Stepping(base / "models.config"), say=said.append)
    steps.canary(1), steps.promote(), steps.canary(2), steps.promote()
    assert steps.rollback() == steps.rollback() == 1
    assert said[-1] == "version 1 is stable already, by the last rollback; to go further back, name a version: --to"
    assert labels(base) == {"stable": 1, "canary": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["canary", "{empty}"], "holds no version; begin with: mixrank rollout push"),
        (["canary", "{base}", "--version", "9"], "there is no version 9; there are 1, 2"),
        (["promote", "{base}"], "there is no canary to promote"),
        (["rollback", "{base}"], "there is no previous stable version to return to"),
        (["rollback", "{base}", "--canary"], "no version is stable yet"),
        (["push", "{base}", "{empty}"], "is not a SavedModel"),
        (["push", "{base}", "{base}", "--keep", "0"], "`keep` must be at least 1, received 0"),
        (["status", "{base}/nowhere"], "does not exist"),
        (["canary", "{base}", "--url", "localhost:8501"], "must be like http://localhost:8501"),
        (["canary", "{base}", "--url", "http://127.0.0.1:9"], "at http://127.0.0.1:9: UNAVAILABLE: no answer"),
    ],
)
def test_mistakes_are_one_readable_line(base, tmp_path, mixrank, arguments, message):
    (tmp_path / "empty").mkdir()
    result = mixrank(*(each.format(base=base, empty=tmp_path / "empty") for each in arguments))
    assert result.exit_code == 1 and message in result.output, result.output
    assert "Traceback" not in result.output
    assert labels(base) == {} and loaded(base) == set()


# Golden rows.


def test_a_version_that_scores_golden_rows_otherwise_is_not_promoted(shop, mixrank):
    base, url = shop.base, shop.url
    mixrank("canary", base, "--version", 1, "--url", url), mixrank("promote", base, "--url", url)
    golden = base / "2" / "assets.extra" / "golden.jsonl"
    write_golden(golden, [{"x": 1.0, "page": ""}] * 2, [{"click": 0.5}, {"click": 0.48}])
    write_sums(base / "2")
    assert mixrank("canary", base, "--version", 2, "--url", url, "--unchecked").exit_code == 0
    before = (base / "models.config").read_bytes()
    result = mixrank("promote", base, "--url", url)
    assert result.exit_code == 1
    assert "off by 0.02, more than the tolerance 0.0001" in result.output
    assert "golden row 2, click: 0.5 instead of 0.48" in result.output
    assert (base / "models.config").read_bytes() == before
    assert mixrank("promote", base, "--url", url, "--tolerance", 0.03).exit_code == 0
    assert labels(base)["stable"] == 2


def test_a_canary_that_scores_golden_rows_otherwise_gets_no_label_and_is_unloaded(base):
    serving = Stepping(base / "models.config")
    steps = rollout(base, serving)
    steps.canary(1), steps.promote()
    (base / "2" / "factor").write_text("nan")
    with pytest.raises(ValueError, match="golden row 1, click: nan instead of 0.25"):
        steps.canary(2)
    assert (labels(base), loaded(base), serving.outages) == ({"stable": 1, "canary": 1}, {1}, [])
    assert steps.journal.last()["event"] == "failed" and "nan" in steps.journal.last()["reason"]


def test_a_server_that_has_not_loaded_the_canary_stops_a_promotion(base):
    serving = Stepping(base / "models.config")
    rollout(base).canary(1)
    steps = rollout(base, serving)
    with pytest.raises(ValueError, match="the server is not ready: version 1 is UNKNOWN"):
        steps.promote()
    assert labels(base) == {"canary": 1}
    steps.promote()
    assert labels(base) == {"stable": 1, "canary": 1}


def test_a_version_without_golden_rows_needs_a_word_to_be_promoted(base):
    (base / "1" / "assets.extra" / "golden.jsonl").unlink()
    steps = rollout(base, Stepping(base / "models.config"))
    steps.canary(1)
    with pytest.raises(ValueError, match="version 1 has no golden rows to check"):
        steps.promote()
    assert steps.promote(golden=None) == 1


def test_golden_rows_can_be_given_and_scored_by_any_callable(base, tmp_path):
    write_golden(tmp_path / "given.jsonl", [{"x": 3}], [{"click": 0.6, "buy": 0.1}])
    steps, asked = rollout(base), []

    def scorer(version, instances):
        asked.append((version, list(instances)))
        return [{"click": 0.6, "buy": 0.1}]

    steps.canary(1, golden=None)
    steps.promote(golden=Golden(tmp_path / "given.jsonl", scorer=scorer))
    assert asked == [(1, [{"x": 3}])]
    steps.canary(2, golden=None)
    with pytest.raises(ValueError, match=r"answers no `buy`, only \['click'\]"):
        steps.promote(golden=Golden(tmp_path / "given.jsonl", scorer=lambda *_: [{"click": 0.6}]))
    with pytest.raises(ValueError, match="answered 0 of 1 golden rows"):
        steps.promote(golden=Golden(tmp_path / "given.jsonl", scorer=lambda *_: []))
    assert labels(base)["stable"] == 1


def test_a_golden_row_is_padded_by_the_spec_of_its_version(base, toy_spec, tmp_path):
    (base / "1" / "assets.extra" / "mixrank.json").write_text(json.dumps({"spec": toy_spec.model_dump(mode="json")}))
    write_golden(tmp_path / "g.jsonl", [{"page": "home", "person": 8, "clip": "z"}], [{"click": 0.5}])
    steps, asked = rollout(base), []
    steps.canary(1, golden=Golden(tmp_path / "g.jsonl", scorer=lambda _, rows: asked.extend(rows) or [{"click": 0.5}]))
    assert asked[0]["tag"] == ["", "", ""] and asked[0]["person"] == 8
    write_golden(tmp_path / "g.jsonl", [{"page": "home", "persn": 8, "clip": "z"}], [{"click": 0.5}])
    with pytest.raises(ValueError, match="did you mean `person`"):
        steps.canary(1, golden=Golden(tmp_path / "g.jsonl", scorer=lambda *_: [{"click": 0.5}]))


def test_pushed_golden_rows_lie_in_the_version(base, tmp_path):
    write_golden(tmp_path / "given.jsonl", [{"x": 3}], [{"click": 0.75}])
    model = save(tmp_path / "new")
    version = rollout(base).push(model, golden=tmp_path / "given.jsonl")
    assert read_golden(base / str(version) / "assets.extra" / "golden.jsonl")[0].scores == {"click": 0.75}
    assert len(read_golden(model / "assets.extra" / "golden.jsonl")) == 2
    assert rollout(base).push(model, golden=tmp_path / "given.jsonl") == version


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no golden rows"),
        ("[" * 50_000, "line 1: expected {'row'"),
        ('{"row": {"x": 1}, "scores": {"click": 0.5}}\n{"row"', "line 2: expected"),
        ('{"row": {"x": 1}}', "line 1: expected"),
        ('{"row": {"x": 1}, "scores": {}}', "line 1: `scores` must be finite numbers"),
        ('{"row": {"x": 1}, "scores": {"click": NaN}}', "line 1: `scores` must be finite numbers"),
        ('{"row": {"x": 1}, "scores": {"click": "much"}}', "line 1: expected"),
        ("[]", "line 1: expected"),
        (f'{{"row": {{"x": 1}}, "scores": {{"click": {10**400}}}}}', "line 1: expected"),
    ],
)
def test_a_golden_file_that_is_none_is_refused(tmp_path, text, message):
    (tmp_path / "golden.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_golden(tmp_path / "golden.jsonl")


# The server.


def test_a_version_that_does_not_load_gets_no_label_and_the_others_keep_serving(base):
    serving = Stepping(base / "models.config")
    rollout(base, serving).canary(1), rollout(base, serving).promote()
    before = (base / "models.config").read_bytes()
    (base / "2" / "broken").touch()
    with pytest.raises(ValueError, match="the server could not load version 2: cannot parse the graph"):
        rollout(base, serving).canary()
    assert (base / "models.config").read_bytes() == before
    assert serving.resolve("stable") == 1 and serving.outages == []


def test_a_first_version_that_does_not_load_leaves_no_model_behind(base):
    (base / "2" / "broken").touch()
    with pytest.raises(ValueError, match="could not load version 2"):
        rollout(base, Stepping(base / "models.config")).canary()
    assert model_config.find(model_config.read(base / "models.config"), "shop") is None


def test_a_failure_of_an_earlier_attempt_is_not_taken_for_one_of_this(base, monkeypatch):
    serving = Stepping(base / "models.config")
    answers = iter([State("END", "out of memory"), State("END", "out of memory"), State("LOADING"), State("AVAILABLE")])
    monkeypatch.setattr(serving, "state", lambda version: next(answers))
    model_server.wait_available(serving, 1, seconds=5)
    assert next(answers, None) is None


def test_a_server_that_never_looks_at_the_file_is_told_apart(base, tmp_path):
    blind = Stepping(tmp_path / "another.config")
    with pytest.raises(ValueError, match="version 2 is UNKNOWN after 0 s; was the server started with --model_config"):
        rollout(base, blind, wait=0).canary()
    assert labels(base) == {}


def test_a_label_that_the_server_does_not_take_is_an_error_and_the_command_can_go_on(base, monkeypatch):
    serving = Stepping(base / "models.config")
    steps = rollout(base, serving)
    steps.canary(1), steps.promote(), steps.canary(2), steps.promote()
    monkeypatch.setattr(serving, "resolve", lambda label: 2)
    with pytest.raises(ValueError, match="gives `stable` to version 1, but after 0 s the server answers with 2"):
        rollout(base, serving, wait=0).rollback()
    monkeypatch.undo()
    hurry()
    assert loaded(base) == {1, 2}
    assert rollout(base, serving).rollback() == 1
    assert (labels(base), loaded(base), serving.outages) == ({"stable": 1, "canary": 1}, {1}, [])


def test_a_deployed_version_is_followed_by_what_the_pusher_adds(base, tmp_path, monkeypatch):
    from mixrank.serving.rollout import Options, served, write_deployment

    write_deployment(tmp_path / "out", [served(base / "1")], Options())
    config = tmp_path / "out" / "models.config"
    # In the container the folder has another path.
    monkeypatch.setattr(repository, "versions", lambda path: versions({Path("/models/shop"): base}[path]))
    serving = Stepping(config)
    steps = Rollout(base, config=config, server=serving, wait=5.0, say=str)
    assert serving.resolve("canary") == 1, "version 2 was there and is not served"
    assert (steps.canary(), steps.promote(), serving.resolve("stable")) == (2, 2, 2)
    assert (steps.rollback(), serving.resolve("stable"), serving.outages) == (1, 1, [])
    (entry,) = model_config.read(config).model_config_list.config
    assert entry.base_path == "/models/shop"


def test_several_models_share_a_models_config(base, tmp_path):
    other = save(tmp_path / "clips" / "7").parent
    config = tmp_path / "deploy" / "models.config"
    for folder in (base, other):
        steps = Rollout(folder, config=config, base_path=f"/models/{folder.name}", say=str)
        steps.canary(), steps.promote(golden=None)
    found = {model.name: model for model in model_config.read(config).model_config_list.config}
    assert {name: dict(model.version_labels) for name, model in found.items()} == {
        "shop": {"stable": 2, "canary": 2},
        "clips": {"stable": 7, "canary": 7},
    }
    assert found["clips"].base_path == "/models/clips"
    assert not (base / "models.config").exists()


def test_a_model_served_as_the_latest_is_pinned_before_a_push(base, tmp_path):
    config = model_config.new()
    model_config.add(config, "shop", str(base))
    model_config.write(base / "models.config", config)
    rollout(base).push(save(tmp_path / "new", weights=b"newest."))
    assert (labels(base), loaded(base)) == ({"stable": 2, "canary": 2}, {2})


# Folders.


def test_the_same_model_is_not_pushed_twice(base, tmp_path):
    model = save(tmp_path / "new", weights=b"newest.")
    version = rollout(base).push(model)
    assert rollout(base).push(model) == version
    assert rollout(base).push(base) == version
    changed = save(tmp_path / "changed", weights=b"newer..")
    assert rollout(base).push(changed) == version + 1 or len(versions(base)) == 4


def test_pruning_never_removes_what_is_labelled(base, tmp_path):
    steps = rollout(base, Stepping(base / "models.config"))
    for number in (3, 4, 5, 6):
        save(base / str(number), weights=b"version" + bytes([number]))
    steps.canary(1), steps.promote(), steps.canary(3), steps.promote(), steps.canary(4)
    newest = steps.push(save(tmp_path / "new"), keep=1)
    assert newest == 1, "the same files are there as version 1"
    assert sorted(versions(base)) == [1, 3, 4, 6]
    steps.promote(keep=1)
    assert labels(base) == {"stable": 4, "canary": 4, "previous": 3}
    assert sorted(versions(base)) == [3, 4, 6]


def test_nothing_is_removed_where_nobody_says_what_is_used(base, mixrank):
    result = mixrank("push", base, base / "1", "--keep", 1)
    assert result.exit_code == 0 and "nothing is removed" in result.output
    assert sorted(versions(base)) == [1, 2]


def test_a_second_roll_out_is_refused_while_one_is_at_work(base, mixrank):
    other = base.parent / "deploy" / "models.config"
    with locked(base, "mixrank rollout canary, model shop"):
        for command in (["promote", base], ["push", base, base / "1", "--config", other]):
            result = mixrank(*command)
            assert result.exit_code == 1
            assert f"in use by `mixrank rollout canary, model shop`, process {os.getpid()} on " in result.output
    assert mixrank("canary", base).exit_code == 0
    with locked(other.parent, "mixrank rollout canary, model clips"):
        assert "model clips" in mixrank("canary", base, "--config", other).output


def test_a_models_config_beside_the_versions_by_another_path_is_one_lock(base, mixrank):
    (base.parent / "link").symlink_to(base)
    assert mixrank("canary", base, "--config", base.parent / "link" / "models.config").exit_code == 0


def test_pruning_spares_what_another_models_config_uses(base, tmp_path):
    for number in (3, 4):
        save(base / str(number), weights=b"version" + bytes([number]))
    other = Rollout(base, config=tmp_path / "deploy" / "models.config", name="store", say=str)
    other.canary(2)
    steps = rollout(base)
    steps.canary(1), steps.promote(golden=None, keep=1)
    assert sorted(versions(base)) == [1, 2, 4]


def test_a_version_that_is_a_link_is_unlinked_and_no_more(base, tmp_path):
    elsewhere = save(tmp_path / "elsewhere", weights=b"linked.")
    (base / "0").symlink_to(elsewhere)
    steps = rollout(base)
    steps.canary(1), steps.promote(golden=None), steps.canary(2)
    steps.promote(golden=None, keep=1)
    assert sorted(versions(base)) == [1, 2] and (elsewhere / "saved_model.pb").exists()
    assert steps.rollback() == 1


def test_what_cannot_be_removed_is_a_warning(base, monkeypatch):
    from mixrank.schemas import files

    save(base / "3", weights=b"thirds.")
    said = []
    steps = Rollout(base, say=said.append)
    steps.canary(2), steps.promote(golden=None)

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(files, "remove", refuse)
    monkeypatch.setattr(model_versions, "remove", refuse)
    steps.push(base / "3", keep=1)
    (left,) = files.leftovers(base)
    assert said[-1].startswith(f"warning: version 1 cannot be removed: `{base / '1'}`: permission denied")
    monkeypatch.setattr(files, "is_gone", lambda name: True)
    steps.canary(3)
    assert any(f"`{left}`: permission denied" in line for line in said)
    monkeypatch.undo()
    assert sorted(versions(base)) == [2, 3]


def test_only_what_the_dead_left_is_swept(base):
    from mixrank.schemas import files

    def begun_by(owner):
        folder = base / f".7.{owner}-0123456789abcdef.partial"
        folder.mkdir()
        return folder

    me, machine = f"{os.getpid()}-{files._start_of(os.getpid())}", files._machine()
    dead = begun_by(f"{machine}-{os.getpid()}-1")
    living, elsewhere = begun_by(f"{machine}-{me}"), begun_by(f"00000000-{os.getpid()}-1")
    foreign = base / ".7.somebody.partial"
    foreign.mkdir()
    rollout(base).canary(1)
    assert (dead.exists(), living.exists(), elsewhere.exists(), foreign.exists()) == (False, True, True, True)


@pytest.mark.parametrize("inside", ["assets.extra/rows", "variables/more"])
def test_a_link_out_of_the_model_is_not_followed(base, tmp_path, inside):
    model = save(tmp_path / "new", weights=b"newest.")
    (tmp_path / "secret").write_text("secret")
    (model / inside).symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=rf"{inside} is a link to .*secret, outside the model"):
        rollout(base).push(model)
    (model / inside).unlink()
    (model / inside).symlink_to(model / "factor")
    version = rollout(base).push(model)
    assert (base / str(version) / inside).read_text() == "0.25" and not (base / str(version) / inside).is_symlink()
    (model / inside).unlink()
    (model / inside).symlink_to(inside.rpartition("/")[2])
    with pytest.raises(ValueError, match=f"{inside} is neither a file nor a folder"):
        rollout(base).push(model)
    (model / inside).unlink()
    os.mkfifo(model / inside)
    with pytest.raises(ValueError, match=f"{inside} is neither a file nor a folder"):
        rollout(base).push(model)


def test_a_lock_whose_process_was_killed_is_free(base):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time, pathlib; from mixrank.schemas.files import locked\n"
            "with locked(pathlib.Path(sys.argv[1]), 'held'): print('held', flush=True); time.sleep(60)",
            base,
        ],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(ValueError, match="shop is in use by `held`"):
        rollout(base).canary()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert rollout(base).canary() == 2


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO])
def test_a_push_to_a_disk_that_fails_at_any_write_publishes_nothing(base, tmp_path, mixrank, monkeypatch, fault):
    model = save(tmp_path / "new", weights=b"newest.")
    reached = 0

    def fail_at(number, patch):
        nonlocal reached
        reached = 0

        def counted(function):
            def call(*arguments, **options):
                nonlocal reached
                reached += 1
                if reached == number:
                    raise OSError(fault, os.strerror(fault))
                return function(*arguments, **options)

            return call

        for module, name in ((os, "fsync"), (os, "mkdir"), (os, "rename"), (shutil, "copyfile")):
            patch.setattr(module, name, counted(getattr(module, name)))

    before, number = versions(base), 0
    while True:
        number += 1
        with monkeypatch.context() as patch:
            fail_at(number, patch)
            result = mixrank("push", base, model)
        if reached < number:
            break
        assert (result.exit_code == 1) == (versions(base) == before), result.output
        if result.exit_code == 1:
            (line,) = result.output.splitlines()
            assert line.startswith("error: ") and os.strerror(fault).lower() in line
        assert not [path for path in base.iterdir() if path.name.endswith(".partial")]
        for version in set(versions(base)) - set(before):
            shutil.rmtree(base / str(version))
    assert number > 10 and result.exit_code == 0 and len(versions(base)) == 3


def test_a_torn_line_of_the_journal_is_dropped(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    assert journal.last() is None
    journal.append("push", "begun", version=3)
    journal.path.write_text(journal.path.read_text() + '{"at": "2026-01-')
    assert journal.last()["version"] == 3
    journal.append("push", "done", version=3)
    assert [each["event"] for each in journal.records()] == ["begun", "done"]


@pytest.mark.parametrize(
    "line",
    [
        b"7",
        b"[]",
        b"no JSON",
        b"\xff",
        b"[" * 10**5,
        b'{"command": "canary", "event": 1, "config": "models.config"}',
        b'{"command": "push", "event": "begun", "config": "models.config"}',
        b'{"command": "push", "event": "begun", "config": "models.config", "version": [1]}',
        b'{"command": "canary", "event": "begun", "config": "models.config", "labels": 7}',
        b'{"command": "decide", "event": "done", "config": "models.config", "version": 3, "reasons": []}',
        b'{"command": "decide", "event": "done", "config": "models.config", "verdict": "promote", "reasons": []}',
    ],
)
def test_a_line_of_the_journal_that_no_command_wrote_is_named(tmp_path, line):
    journal = Journal(tmp_path / "journal.jsonl", config="models.config")
    journal.append("canary", "begun", version=3)
    with journal.path.open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(ValueError, match=r"journal.jsonl, line 2 was not written by mixrank"):
        journal.last()


# Kill -9.

FIRST, SECOND = {"stable": 1, "canary": 1}, {"stable": 1, "canary": 2}
THIRD = {"stable": 2, "canary": 2, "previous": 1}
SCENARIOS = {
    # Name: labels before, command, labels after.
    "push": (FIRST, lambda steps: steps.push(steps.base.parent / "new"), FIRST),
    "push-and-pin": (None, lambda steps: steps.push(steps.base.parent / "new"), {"stable": 3, "canary": 3}),
    "apply": (FIRST, lambda steps: steps.apply(steps.base.parent / "delta"), FIRST),
    "canary": (FIRST, lambda steps: steps.canary(2), SECOND),
    "promote": (SECOND, lambda steps: steps.promote(keep=1), THIRD),
    "rollback": (THIRD, lambda steps: steps.rollback(), FIRST),
    "rollback-canary": (SECOND, lambda steps: steps.rollback(trial=True), FIRST),
}


def drive(scenario, template, folder):
    """Runs a scenario's command again and again, killed at one more step each time, until it comes through.

    A step is anything that changes what another process sees: a file opened for writing, made, synced, renamed,
    removed, locked. Run `number` is left in FOLDER/number.
    """
    hurry()
    # Imported by now, so that imports are no steps.
    model_config.parse("")
    number = 0
    while True:
        # Links are enough: whoever changes a file writes another and renames it.
        shutil.copytree(template, folder / str(number), copy_function=os.link)
        base = folder / str(number) / "shop"
        config = model_config.read(base / "models.config")
        config.model_config_list.config[0].base_path = str(base)
        model_config.write(base / "models.config", config)
        child = os.fork()
        if not child:
            kill_at(number)
            SCENARIOS[scenario][1](rollout(base, Stepping(base / "models.config")))
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            sys.exit(os.WEXITSTATUS(status))
        assert os.WTERMSIG(status) == signal.SIGKILL
        number += 1


def kill_at(number):
    left = number
    changes = {"os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.truncate", "shutil.copyfile", "fcntl.flock"}

    def step():
        nonlocal left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    def hook(event, arguments):
        if event in changes or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            step()

    # A killed process loses nothing that it wrote, so nothing is synced here; it is a step all the same.
    os.fsync = lambda handle: step()
    sys.addaudithook(hook)


QUICK = ("push",)


@pytest.mark.parametrize(
    "scenario", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in SCENARIOS]
)
def test_a_kill_leaves_the_old_or_the_new_state_and_the_command_can_be_repeated(scenario, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    before, command, after = SCENARIOS[scenario]
    template = tmp_path / "template"
    base = template / "shop"
    for number in (0, 1, 2, 3):
        save(base / str(number), weights=b"version%d" % number)
    model = save(template / "new", weights=b"newest..")
    write_delta(base / "3", save(tmp_path / "made" / "9", weights=b"of delta"), template / "delta", say=str)
    config = model_config.new()
    entry = model_config.add(config, "shop", "/models/shop")
    if before:
        model_config.pin(entry, set(before.values()), before)
    model_config.write(base / "models.config", config)
    before = before or {}
    arguments = [sys.executable, __file__, scenario, str(template), str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    runs = sorted((path for path in tmp_path.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    assert len(runs) > 8, "the command takes more steps than that"
    seen = set()
    for run in runs:
        base = run / "shop"
        found, state = versions(base), labels(base)
        seen.add((tuple(sorted(state.items())), len(found)))
        assert state in (before, after)
        assert set(state.values()) <= loaded(base) and loaded(base) <= set(found)
        whole = {path.relative_to(model) for path in model.rglob("*")}
        for path in found.values():
            assert {each.relative_to(path) for each in path.rglob("*")} == whole
            assert (path / "variables" / "variables.data-00000-of-00001").stat().st_size == 8
        serving = Stepping(base / "models.config")
        command(rollout(base, serving))
        assert labels(base) == after and serving.outages == []
        assert loaded(base) == set(after.values())
        final = versions(base)
        assert len(final) == {"push": 5, "push-and-pin": 5, "apply": 5, "promote": 3}.get(scenario, 4)
        assert {path.name for path in base.iterdir()} == {"models.config", ".rollout", ".lock", *map(str, final)}
        assert Rollout(base).journal.last()["event"] in ("done", "interrupted")
    assert len(seen) > 1, "some kills came before the change and some after"


if __name__ == "__main__":
    drive(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
