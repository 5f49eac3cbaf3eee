"""The terminal shows a run's own lines; everything else goes to its log."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import absl.logging
import pytest

from mixrank.pipeline.runners import _component_progress, _outputs, quiet

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
    # Of the runner alone: a server of other tests, in a thread of this process, reads the clock as well.
    monkeypatch.setattr("mixrank.pipeline.runners.time", SimpleNamespace(monotonic=lambda: next(clock)))
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


def test_what_a_run_made_is_found_by_its_id_and_not_by_the_time():
    from ml_metadata import metadata_store
    from ml_metadata.proto import metadata_store_pb2 as mlmd

    connection = mlmd.ConnectionConfig()
    connection.fake_database.SetInParent()
    store = metadata_store.MetadataStore(connection)
    kinds = {name: store.put_context_type(mlmd.ContextType(name=name)) for name in ("pipeline_run", "node")}
    trainer = store.put_execution_type(mlmd.ExecutionType(name="Trainer"))
    model = store.put_artifact_type(mlmd.ArtifactType(name="Model"))
    node = mlmd.Context(type_id=kinds["node"], name="films.Trainer")
    for run in ("today", "two days ago, by the clock"):
        event = mlmd.Event(type=mlmd.Event.OUTPUT)
        event.path.steps.add().key = "model"
        store.put_execution(
            mlmd.Execution(type_id=trainer),
            [(mlmd.Artifact(type_id=model, uri=f"/{run}"), event)],
            [mlmd.Context(type_id=kinds["pipeline_run"], name=run), node],
            reuse_context_if_already_exist=True,
        )
    assert {run: _outputs(store, run)["Trainer", "model"].uri for run in ("today", "two days ago, by the clock")} == {
        "today": "/today",
        "two days ago, by the clock": "/two days ago, by the clock",
    }


def test_a_training_at_a_time_that_was_there_before_gets_a_number(tmp_path):
    from datetime import datetime

    from mixrank.pipeline.config.run_config import RunConfig
    from mixrank.pipeline.fast_loop import new_folder

    config = RunConfig(name="mine", dataset="movielens", data=".", output=str(tmp_path))
    noon = datetime(2026, 1, 2, 12)
    names = [new_folder(config, noon, "-dlrm").name for _ in range(3)]
    assert names == ["20260102-120000-dlrm", "20260102-120000-dlrm-2", "20260102-120000-dlrm-3"]
