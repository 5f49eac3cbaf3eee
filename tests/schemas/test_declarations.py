"""A user's declaration is free of errors for type checkers without plugins, and a wrong one is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "your-own-log.md"
WRONG = """
from mixrank.schemas import Categorical, Cut, Key, Label, Threshold

Categorical("x", grop="item")
Categorical("x", group="itm")
Categorical("x", group="item", dim="4")
Label(3)
Key("person", "int")
Threshold("stars")
Cut(edges=(1,), names=("a", "b"))
"""


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """The log of the page and a wrong one, in a folder of their own."""
    folder = tmp_path_factory.mktemp("logs")
    declared = PAGE.read_text().partition("```python\n")[2].partition("```")[0]
    assert "DATASET = Dataset(" in declared
    (folder / "log.py").write_text(declared)
    (folder / "wrong.py").write_text(WRONG)
    return folder


def mypy(folder):
    """(file, line) of every error."""
    command = ["-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent", "log.py", "wrong.py"]
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)
    errors = [line.split(":") for line in done.stdout.splitlines() if ": error: " in line]
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return {(parts[0], int(parts[1])) for parts in errors}


def pyright(folder):
    """(file, line) of every error."""
    settings = {"typeCheckingMode": "strict", "include": ["log.py", "wrong.py"], "extraPaths": [str(ROOT)]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = ["-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, "--project", "."]
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {(Path(e["file"]).name, 1 + e["range"]["start"]["line"]) for e in found if e["severity"] == "error"}


@pytest.mark.slow
@pytest.mark.parametrize("checker", [mypy, pyright])
def test_a_declaration_type_checks_and_a_wrong_one_does_not(logs, checker, monkeypatch):
    monkeypatch.setenv("MYPYPATH", str(ROOT))
    assert checker(logs) == {("wrong.py", line) for line in range(4, 11)}
