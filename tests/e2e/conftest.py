"""A run of the first users of MovieLens, killed and resumed, that every test of whole runs can look at."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import chdir, contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

from mixrank.pipeline.cli import app
from mixrank.pipeline.run_record import RunRecord

USERS = 80
KILL_AFTER_S = 400
# The value of a secret that the config names; no file that a run writes may hold it.
SECRET = "c4n4ry-8fJk2-secret"


def write_subset(folder: Path) -> Path:
    """The ratings of the first users of MovieLens-100K, with all films."""
    folder.mkdir()
    source = Path(importlib.util.find_spec("recbole").submodule_search_locations[0]) / "dataset_example" / "ml-100k"
    for name in ("ml-100k.inter", "ml-100k.user"):
        header, *lines = (source / name).read_text().splitlines()
        kept = [line for line in lines if int(line.split("\t")[0]) <= USERS]
        (folder / name).write_text("\n".join([header, *kept]) + "\n")
    (folder / "ml-100k.item").write_bytes((source / "ml-100k.item").read_bytes())
    return folder


def write_config(path: Path, **changes) -> str:
    values = {
        "name": "films",
        "dataset": "movielens",
        "model": {"name": "dlrm", "preset": "tiny", "params": {"pooling": "target"}},
        "train": {
            "batch_size": 128,
            # With one, the baseline is better.
            "epochs": 2,
            # Short rounds, so that many are left when the first is done.
            "steps_per_round": 4,
            "optimizer": {"name": "adam", "learning_rate": 0.01},
            "jit_compile": "off",
        },
        "thresholds": {"min_auc": {"click": 0.5}, "max_log_loss": {"click": 1.0, "like": 1.0}},
        "check_rows": 100,
        "output": str(path.parent / "runs"),
        "beam": ["--runner=FnApiRunner", "--s3_secret_access_key=env:FILMS_STORE_KEY"],
        **changes,
    }
    path.write_text(yaml.safe_dump(values))
    return str(path)


@contextmanager
def stderr_in(path: Path):
    """Sends file descriptor 2 to a file: a run writes its progress there, past Python's `sys.stderr`."""
    kept = os.dup(2)
    with path.open("w") as target:
        os.dup2(target.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def mixrank(*arguments: str):
    """The command in this process, where TFX is loaded already; its own lines, and its progress."""
    with warnings.catch_warnings():
        # TFX and its components warn of their own deprecations.
        warnings.simplefilter("ignore")
        return CliRunner().invoke(app, arguments)


@pytest.fixture(scope="session")
def films():
    """Fixtures of whole runs."""
    return SimpleNamespace(write_config=write_config, mixrank=mixrank, stderr_in=stderr_in)


@pytest.fixture(scope="session")
def kubeflow_launcher() -> ModuleType:
    """The module beside this file; tests are not a package."""
    path = Path(__file__).with_name("kubeflow_launcher.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", autouse=True)
def store_key():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FILMS_STORE_KEY", SECRET)
        yield SECRET


def kill_and_resume(root: Path) -> None:
    """A run that is killed after its first round of training, and the same command again; what both said is kept.

    The folder they are started in has packages of its own with the names of two of ours; importing one ends the run.
    """
    for name in ("pipeline", "components"):
        (root / name).mkdir()
        (root / name / "__init__.py").write_text("raise SystemExit('a package of somebody else was imported')\n")
    config = write_config(root / "films.yaml", data=str(write_subset(root / "data")))
    log = root / "killed.txt"
    with log.open("w") as stderr:
        command = [sys.executable, "-m", "mixrank.pipeline.cli", "run", config]
        process = subprocess.Popen(command, cwd=root, stderr=stderr)
        end = time.monotonic() + KILL_AFTER_S
        while " round 1/" not in log.read_text():
            assert process.poll() is None, f"the run ended before it could be killed:\n{log.read_text()}"
            assert time.monotonic() < end, f"no round of training within {KILL_AFTER_S} s:\n{log.read_text()}"
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    run = root / "runs" / "films"
    # What it left, before the next run changes it.
    left = [path.relative_to(run).as_posix() for path in run.rglob("*")]
    with chdir(root), stderr_in(root / "finished.txt"):
        result = mixrank("run", config)
    assert result.exit_code == 0, result.output
    # Later runs change the run folder; this copy stays.
    shutil.copytree(run, root / "kept" / "films")
    write_config(root / "kept.yaml", data=str(root / "data"), output=str(root / "kept"))
    (root / "said.json").write_text(json.dumps({"left": left, "output": result.output}))


@pytest.fixture(scope="session")
def killed(made_once):
    """That run as its first process left it."""
    root = made_once("whole_run", kill_and_resume)
    run, said = root / "runs" / "films", json.loads((root / "said.json").read_text())
    return SimpleNamespace(root=root, progress=(root / "killed.txt").read_text(), run=run, left=set(said["left"]))


@pytest.fixture(scope="session")
def finished(killed):
    """That run once it is complete, and its config, for the file of tests that goes on with it."""
    return _complete(killed.root, "runs", "films.yaml")


@pytest.fixture(scope="session")
def kept(made_once):
    """A copy of that run for all other tests; nothing may change it."""
    return _complete(made_once("whole_run", kill_and_resume), "kept", "kept.yaml")


def _complete(root: Path, output: str, config: str) -> SimpleNamespace:
    run = root / output / "films"
    return SimpleNamespace(
        root=root,
        config=str(root / config),
        run=run,
        progress=(root / "finished.txt").read_text(),
        output=json.loads((root / "said.json").read_text())["output"],
        record=RunRecord.read(root / "kept" / "films"),
    )
