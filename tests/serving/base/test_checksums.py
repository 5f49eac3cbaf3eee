"""A version that was changed, or copied by half, is refused by the name of the file, by every command that loads it."""

from __future__ import annotations

import json
import subprocess

import pytest
from typer.testing import CliRunner

from mixrank.serving.base import check_sums, publish, write_sums
from mixrank.serving.base.checksums import SUMS


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(b"weights")
    return folder


@pytest.fixture
def version(model, tmp_path):
    return publish(model, tmp_path / "shop")


def test_a_pushed_version_has_the_sums_of_its_files(version):
    check_sums(version)
    # "graph" by `printf graph | sha256sum`.
    graph = "eef93e1d14482804277fca0172464032d1a4fdbcc338524059fa1e861454ad4d"
    lines = (version / SUMS).read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == [
        "saved_model.pb", "variables/variables.data-00000-of-00001", "variables/variables.index"
    ]  # fmt: skip
    assert lines[0].split("  ")[0] == graph
    done = subprocess.run(["sha256sum", "--strict", "--check", SUMS], cwd=version, capture_output=True)
    assert done.returncode == 0, done.stderr


def changed(folder):
    with (folder / "variables" / "variables.index").open("r+b") as file:
        file.write(b"I")
    return r"variables/variables.index was changed after the version was written"


def halved(folder):
    (folder / "variables" / "variables.data-00000-of-00001").unlink()
    return r"variables/variables.data-00000-of-00001 is missing"


def added(folder):
    (folder / "assets.extra" / "more").touch()
    return r"assets.extra/more is not in assets.extra/SHA256SUMS"


def without_sums(folder):
    (folder / SUMS).unlink()
    return r"has no assets.extra/SHA256SUMS, which says whether it is complete"


def torn(folder):
    (folder / SUMS).write_text((folder / SUMS).read_text()[:40])
    return r"SHA256SUMS line 1 is not a SHA-256 sum and a name"


DAMAGES = (changed, halved, added, without_sums, torn)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damage_is_named_with_its_file(version, damage):
    with pytest.raises(ValueError, match=damage(version)):
        check_sums(version)
    write_sums(version)
    check_sums(version)


def test_a_damaged_version_is_not_pushed_elsewhere_and_a_pushed_one_is_found_again(version, model, tmp_path):
    from mixrank.serving.rollout import Rollout

    assert Rollout(version.parent, say=str).push(model) == int(version.name)
    again = publish(version, tmp_path / "other")
    assert (again / SUMS).read_text() == (version / SUMS).read_text()
    problem = changed(version)
    with pytest.raises(ValueError, match=problem):
        publish(version, tmp_path / "other")
    assert check_sums(publish(version, tmp_path / "other", verified=False)) is None


@pytest.mark.parametrize("command", ["canary", "promote", "rollback", "deploy", "score", "parity", "predict", "serve"])
def test_every_command_that_loads_a_version_refuses_a_changed_one(command, version, tmp_path, toy_spec):
    from mixrank.pipeline import cli
    from mixrank.serving.rollout import Rollout

    base, rows = version.parent, tmp_path / "rows.jsonl"
    (version / "assets.extra" / "mixrank.json").write_text(json.dumps({"spec": toy_spec.model_dump(mode="json")}))
    write_sums(version)
    rows.write_text('{"x": 1}\n')
    if command == "promote":
        Rollout(base, say=str).canary(golden=None)
    problem = changed(version)
    arguments = {
        "canary": ["rollout", "canary", base],
        "promote": ["rollout", "promote", base, "--unchecked"],
        "rollback": ["rollout", "rollback", base, "--to", version.name],
        "deploy": ["deploy", base, "--output", tmp_path / "deploy"],
        "score": ["score", base, rows, tmp_path / "out"],
        "parity": ["parity", base, "--examples", rows],
        "predict": ["predict", base, rows],
        "serve": ["serve", base, "--rest-port", 0, "--grpc-port", 0],
    }[command]
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 1 and problem in result.output, result.output
