"""The terminal shows a run's own lines; everything else goes to its log."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings

import absl.logging
import pytest

from mixrank.pipeline.runners import _component_progress, quiet

NAMES = ["ExampleGen", "StatisticsGen", "Trainer"]


def say(message):
    """Log lines of TFX's launcher, through absl."""
    logging.getLogger("absl").handle(logging.LogRecord("absl", logging.INFO, __file__, 1, message, None, None))


def test_each_component_has_a_line_as_it_begins_and_as_it_ends(capsys):
    with _component_progress(NAMES) as seconds:
        say("Component StatisticsGen is running.")
        assert capsys.readouterr().err == "[2/3] StatisticsGen\n"
        say("Component StatisticsGen is finished.")
    assert capsys.readouterr().err == "      StatisticsGen: 0.0 s\n"
    assert list(seconds) == ["StatisticsGen"]


def test_a_component_answered_by_the_cache_took_no_time(capsys, monkeypatch):
    clock = iter([10.0, 13.5, 20.0, 24.25])
    monkeypatch.setattr("mixrank.pipeline.runners.time.monotonic", lambda: next(clock))
    with _component_progress(NAMES) as seconds:
        say("Component ExampleGen is running.")
        say("A cached execution 7 is used.")
        say("Component ExampleGen is finished.")
        say("Component Trainer is running.")
        say("Component Trainer is finished.")
    assert seconds == {"ExampleGen": 0.0, "Trainer": 4.25}
    assert capsys.readouterr().err.splitlines() == [
        "[1/3] ExampleGen",
        "      ExampleGen: unchanged, taken from the cache",
        "[3/3] Trainer",
        "      Trainer: 4.2 s",
    ]


def test_other_messages_are_not_shown(capsys):
    with _component_progress(NAMES) as seconds:
        for message in ("Component Trainer depends on [Run[Transform]].", "Trainer is running.", "", "%s: 100 %"):
            say(message)
    assert (capsys.readouterr().err, seconds) == ("", {})


def test_nobody_listens_after_a_run_that_fails(capsys):
    before = logging.getLogger("absl").handlers[:]
    with pytest.raises(ValueError, match="stop"), _component_progress(NAMES):
        raise ValueError("stop")
    assert logging.getLogger("absl").handlers == before
    say("Component Trainer is running.")
    assert "Trainer" not in capsys.readouterr().err


def state():
    root = logging.getLogger()
    return sys.stderr, root.handlers[:], root.level, absl.logging.get_absl_logger().handlers[:], warnings.showwarning


@pytest.mark.parametrize("fails", [False, True])
def test_a_quiet_run_leaves_the_process_as_it_was(tmp_path, fails):
    before = state()
    try:
        with quiet(tmp_path / "run.log"):
            assert sys.stderr is not before[0]
            if fails:
                raise ValueError("stop")
    except ValueError:
        assert fails
    assert state() == before
    sys.stderr.write("")


def test_libraries_write_to_the_log_and_the_run_to_the_terminal(tmp_path):
    # In a process of its own, whose file descriptor 2 is a real one.
    code = """
import logging, os, sys, warnings
from pathlib import Path
from mixrank.pipeline.runners import quiet
with quiet(Path(sys.argv[1])):
    import absl.logging
    absl.logging.info("said through absl")
    logging.getLogger("some.library").warning("said through logging")
    warnings.warn("said as a warning")
    os.write(2, b"said by native code\\n")
    print("the run's own line", file=sys.stderr)
print("afterwards", file=sys.stderr)
os.write(2, b"native afterwards\\n")
"""
    log = tmp_path / "run.log"
    done = subprocess.run([sys.executable, "-c", code, str(log)], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["the run's own line", "afterwards", "native afterwards"]
    assert done.stdout == ""
    written = log.read_text()
    for said in ("said through absl", "said through logging", "said as a warning", "said by native code"):
        assert written.count(said) >= 1, said
    assert "INFO absl: said through absl" in written


def test_a_second_run_starts_a_new_log(tmp_path):
    for text in (b"first", b"second"):
        with quiet(tmp_path / "run.log"):
            os.write(2, text)
    assert (tmp_path / "run.log").read_text() == "second"
