"""The script of faults still works: a few of each kind, and nothing is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "faults.py"


@pytest.mark.slow
def test_a_few_faults_of_every_kind_lose_nothing(kept, tmp_path):
    parts = ["rollout", "races", "disk", "requests", "files"]
    command = [sys.executable, SCRIPT, *parts, "--share", "0.004", "--config", kept.config]
    done = subprocess.run([*command, "--folder", tmp_path / "faults"], capture_output=True, text=True, cwd=kept.root)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("|")[1:5] for line in done.stdout.splitlines() if line.startswith("| ")]
    assert {row[0].strip() for row in rows[1:]} == set(parts)
    assert all(int(lost) == 0 for *_, lost in rows[1:])
