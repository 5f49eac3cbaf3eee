"""`mixrank importance`: mistakes are answered before anything is loaded; the answer is a table and a file."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from mixrank.pipeline import cli


@pytest.fixture
def ask(monkeypatch):
    from mixrank.pipeline.commands import terminal

    monkeypatch.setattr(terminal.console, "width", 200)
    return lambda *arguments: CliRunner().invoke(cli.app, ["importance", *map(str, arguments)])


def test_a_run_without_a_model_and_an_unknown_feature_are_refused(ask, toy_spec, record_of, tmp_path):
    record_of(toy_spec, tmp_path, export=None).write(tmp_path)
    result = ask(tmp_path, "clp")
    assert result.exit_code == 1 and "`clp` is neither a feature nor a history; did you mean `clip`" in result.output
    result = ask(tmp_path, "clip")
    assert result.exit_code == 1 and "run toy has no exported model to ask" in result.output


@pytest.mark.slow
def test_the_model_of_a_run_is_asked(ask, toy_spec, toy_data, toy_export, record_of, tmp_path):
    record_of(toy_spec, tmp_path, examples=toy_data.examples, export=toy_export.folder).write(tmp_path)
    result = ask(tmp_path, "clip,tag", "realtime", "--permutations", 2, "--rows", 100)
    assert result.exit_code == 0, result.output
    assert "click: AUC" in result.output and "clip,tag" in result.output
    found = json.loads((tmp_path / "importance.json").read_text())
    assert {(each["group"], each["metric"]) for each in found if each["task"] == "click"} == {
        (group, metric) for group in ("clip,tag", "realtime") for metric in ("auc", "log_loss")
    }
    assert {each["rows"] for each in found if each["task"] == "click"} == {100}
