"""Nothing that is printed can command the terminal, and no error gives a secret away."""

from __future__ import annotations

import io

import pytest
import typer
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from mixrank.pipeline.commands import terminal

NASTY = "[/bad] [red]\x1b]0;title\x07\x1b[2J :smile: http://me:hunter22@host"


def printed(*what, **options):
    console = terminal.SafeConsole(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    console.print(*what, **options)
    return console.file.getvalue()


@pytest.mark.parametrize("wrap", [str, Text, lambda text: Text(text, "bold"), lambda text: _table(text)])
def test_what_is_printed_is_seen_and_not_obeyed(wrap):
    output = printed(wrap(NASTY))
    # Rich drops the bell of its own texts.
    assert "[/bad] [red]\\x1b]0;title" in output and "\\x1b[2J :smile: http://***@host" in output
    assert "\x1b" not in output and "\x07" not in output


def _table(text):
    table = Table(text, title=text)
    table.add_row(text)
    return table


@pytest.mark.parametrize("debug", [False, True])
def test_an_error_is_cleaned_and_cut_with_and_without_its_traceback(monkeypatch, debug):
    stderr = io.StringIO()
    monkeypatch.setattr(terminal, "errors", terminal.SafeConsole(file=stderr, width=100))

    def command():
        raise ValueError(f"cell {NASTY} {'x' * 10**6}")

    app = typer.Typer()
    app.command()(terminal.guarded(command))
    assert CliRunner().invoke(app, ["--debug"] * debug).exit_code == 1
    text = stderr.getvalue()
    assert ("Traceback" in text) == debug
    assert "\x1b" not in text and "hunter22" not in text and "http://***@host" in text
    assert len(text) < 10_000
