"""`mixrank simulate` writes a log, says what can be attained on it, and what to do next."""

from __future__ import annotations

import inspect
import re

import pytest
from typer.testing import CliRunner

from mixrank.pipeline.commands.simulate import app, clicks, repeat
from mixrank.pipeline.config import load_config
from mixrank.schemas.simulation import Repeats, Simulation, read_settings


def run(*arguments: str, law: str = "clicks"):
    return CliRunner().invoke(app, [law, *arguments])


def test_a_log_is_written_and_what_can_be_attained_is_shown(tmp_path):
    folder = tmp_path / "log"
    sizes = ["--users", "40", "--items", "20", "--days", "5", "--impressions", "6", "--seed", "9"]
    result = run(str(folder), *sizes, "--set", "intent=2.5", "--set", "topics=6", "--set", "tastes=3")
    assert result.exit_code == 0, result.output
    settings = read_settings(folder)
    assert (settings.users, settings.items, settings.days, settings.impressions, settings.seed) == (40, 20, 5, 6.0, 9)
    assert (settings.intent, settings.tastes) == (2.5, 3)
    assert re.search(r"1,\d{3} impressions of 20 items by 40 users on 5 days, \d\d\.\d% clicked", result.output)
    auc = {name: float(value) for name, value in re.findall(r"│ (\w[\w -]*?) +│ (0\.\d{4})", result.output)}
    assert auc["told taste and intent"] > auc["ideal reader"] > auc["without histories"] > auc["constant"] == 0.5
    assert result.output.endswith(f"next:\n  mixrank run simulated --set data={folder}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--days", "2"], "days: Input should be greater than or equal to 4, received 2"),
        (["--set", "intnet=1"], "Simulation has no field `intnet`; did you mean `intent`?"),
        (["--set", "intent"], "--set takes key=value, received 'intent'"),
        (["--set", "taste=much"], "taste: Input should be a valid number, unable to parse string as a number"),
    ],
)
def test_a_wrong_setting_writes_nothing(tmp_path, arguments, message):
    result = run(str(tmp_path / "log"), *arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    result = run(str(tmp_path))
    assert result.exit_code == 1
    assert "exists; a simulated log is written to a folder of its own" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.parametrize(("command", "settings"), [(clicks, Simulation()), (repeat, Repeats())])
def test_the_help_tells_the_defaults(command, settings):
    options = inspect.signature(command).parameters
    for name in ("users", "items", "days", "impressions", "seed"):
        shown = options[name].annotation.__metadata__[0].show_default
        assert float(shown) == getattr(settings, name), name


@pytest.mark.parametrize("name", ["simulated", "repeat"])
def test_the_shipped_config_is_for_the_shipped_declaration(name, tmp_path):
    config = load_config(name, [f"data={tmp_path}"])
    assert config.load_dataset().spec.name == name


def test_a_log_of_repeats_is_written_and_tells_what_a_rule_reaches(tmp_path):
    result = run(str(tmp_path / "log"), "--users", "80", "--items", "50", "--set", "again=0.3", law="repeat")
    assert result.exit_code == 0, result.output
    past, seen = (float(value) for value in re.findall(r"│ (0\.\d{4})", result.output))
    assert 0.95 < past < 1 and 0.5 < seen <= past
    # A narrow terminal wraps the cell.
    words = " ".join(re.sub(r"[│0-9.]*0\.\d{4}|│", " ", result.output).split())
    assert "among the newest 60 events of earlier days and 15 of the day" in words
    assert result.output.endswith(f"next:\n  mixrank run repeat --set data={tmp_path / 'log'}\n")
    refused = run(str(tmp_path / "other"), "--set", "agian=1", law="repeat")
    assert refused.exit_code == 1 and "Repeats has no field `agian`; did you mean `again`?" in refused.output
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
