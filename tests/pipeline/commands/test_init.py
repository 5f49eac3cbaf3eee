"""`mixrank init` writes two files, says what to look at and what to do next, in a few seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mixrank.pipeline.commands.init import ask, init
from mixrank.pipeline.starting import Question

ROWS = 400


@pytest.fixture
def shop(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [f"{i % 20},s{i % 11},{1_704_067_200 + i * 2000},{'ab'[i % 2]},{i % 3 // 2}" for i in range(ROWS)]
    Path("shop").mkdir()
    Path("shop/shown.csv").write_text("\n".join(["user_id,sku,ts,page,clicked", *rows, ""]))
    return tmp_path


def run(*arguments: str):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(init)
    return CliRunner().invoke(app, arguments)


def test_two_files_are_written_and_the_next_commands_named(shop):
    result = run("shop", "--yes")
    assert result.exit_code == 0, result.output
    assert "wrote my_log.py" in result.output
    assert "mixrank check my_log.yaml" in result.output
    assert "mixrank run my_log.yaml" in result.output
    assert "Declared by `mixrank init shop`" in Path("my_log.py").read_text()
    again = run("shop", "--yes")
    assert again.exit_code == 1
    assert "my_log.py exists, and nothing is written over" in again.output


def test_told_columns_and_another_name_are_used(shop):
    result = run("shop", "--yes", "--name", "shop", "--scenario", "none", "--label", "clicked")
    assert result.exit_code == 0, result.output
    assert 'name="shop"' in Path("shop.py").read_text()
    assert "surface" in Path("shop.py").read_text()
    assert run("shop", "--name", "a b").exit_code == 1


def test_an_answer_is_a_column_and_an_empty_one_is_the_guess(monkeypatch, capsys):
    question = Question("label", "What should be predicted?", "clicked", ("bought", "liked"))
    monkeypatch.setattr("builtins.input", lambda *_: " bought ")
    assert ask(question) == "bought"
    assert "or: bought, liked" in capsys.readouterr().out
    monkeypatch.setattr("builtins.input", lambda *_: "")
    assert ask(question) == "clicked"


@pytest.mark.slow
def test_neither_tensorflow_nor_tfx_nor_beam_is_imported(shop):
    heavy = ("tensorflow", "keras", "tfx", "apache_beam", "tensorflow_data_validation")
    code = (
        "import sys; from mixrank.pipeline.cli import app; app(['init', 'shop', '--yes'], standalone_mode=False); "
        f"print(sorted(set({heavy}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
