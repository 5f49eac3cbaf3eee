"""What the commands share: one at a time in a run folder, and errors of the system in one line."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack

import pytest
from typer.testing import CliRunner

from mixrank.pipeline import cli
from mixrank.pipeline.commands import terminal
from mixrank.schemas.files import locked

CONFIG = "name: mine\ndataset: movielens\ndata: package:recbole/dataset_example/ml-100k\noutput: {output}\n"
COMMANDS = ("run", "train", "compare", "tune", "tfrs-baseline", "report")


@pytest.fixture
def mixrank(tmp_path):
    """Runs a command on the run folder `mine`."""
    file = tmp_path / "mine.yaml"
    file.write_text(CONFIG.format(output=tmp_path))
    (tmp_path / "mine").mkdir()

    def invoke(command, *arguments):
        target = tmp_path / "mine" if command == "report" else file
        return CliRunner().invoke(cli.app, [command, str(target), *map(str, arguments)])

    return invoke


@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_command_in_a_run_folder_is_refused_and_told_who_is_there(mixrank, tmp_path, command):
    with locked(tmp_path / "mine", "mixrank run"):
        result = mixrank(command)
    assert result.exit_code == 1
    holder = f"{tmp_path / 'mine'} is in use by `mixrank run`, process {os.getpid()} on "
    assert holder in result.output and "give --wait to wait for it, or stop it" in result.output
    assert "loading" not in result.output, "it is said before anything heavy"


def test_a_command_can_wait_for_the_other(mixrank, tmp_path, monkeypatch):
    with ExitStack() as held:
        held.enter_context(locked(tmp_path / "mine", "mixrank run"))
        said = []

        def note(line="", *_, **__):
            said.append(str(line))
            held.close()

        monkeypatch.setattr(terminal.errors, "print", note)
        assert mixrank("report", "--wait").exit_code == 1
    assert "in use by `mixrank run`" in said[0] and said[0].endswith("; waiting for it")
    assert any("is not a run folder" in line for line in said[1:])


def test_a_report_to_another_place_is_not_in_the_way(mixrank, tmp_path):
    with locked(tmp_path / "mine", "mixrank run"):
        assert "is not a run folder" in mixrank("report", "--output", tmp_path / "page.html").output
        assert "run the pipeline once first" in mixrank("compare", "--report-only").output


def test_a_run_that_is_not_there_is_not_made_by_asking_for_it(mixrank, tmp_path):
    (tmp_path / "mine").rmdir()
    for command in ("train", "report"):
        assert mixrank(command).exit_code == 1
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/runs/a"), "error: `/runs/a`: no space left on device: f"),
        (OSError(errno.EROFS, "Read-only file system", "/runs/a"), "error: `/runs/a`: read-only file system: choose"),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), "error: `/a`: permission denied: ask for the right"),
        (OSError(errno.EIO, "Input/output error"), "error: input/output error: the disk does not work"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/a"), "error: `/a`: no such file or directory\n"),
        (RuntimeError("Traceback ...\nOSError: No space left on device [while running 'Score']\nmore"),
         "error: OSError: No space left on device [while running 'Score']: free"),
    ],
)  # fmt: skip
def test_an_error_of_the_system_is_one_line_with_what_to_do(capsys, error, said):
    def fail():
        raise error

    with pytest.raises(terminal.typer.Exit) as stopped:
        terminal.guarded(fail)()
    assert stopped.value.exit_code == 1
    printed = capsys.readouterr().err
    assert printed.startswith(said) and "Traceback" not in printed
    assert ("--debug" in printed) == isinstance(error, RuntimeError)
