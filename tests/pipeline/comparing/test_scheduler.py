"""Jobs run once, side by side, in spite of failures and kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mixrank.pipeline.comparing.scheduler import Job, run_jobs

WORKER = """
import json, os, sys, time
from pathlib import Path
from mixrank.pipeline.comparing.trial import run

def work(folder):
    about = json.loads((folder / "trial.json").read_text())
    (folder / "starts").open("a").write("x")
    if about["do"] == "wait for":
        # Until another one has begun as well.
        while not Path(about["path"]).exists():
            time.sleep(0.02)
    if about["do"] == "sleep":
        time.sleep(60)
    if about["do"] == "fail":
        print("before")
        raise ValueError("the rows are odd")
    if about["do"] == "die":
        os.kill(os.getpid(), 9)
    return {"threads": os.environ["TF_NUM_INTRAOP_THREADS"]}

if __name__ == "__main__":
    run(work)
"""
LAUNCHER = """
import sys
from pathlib import Path
from mixrank.pipeline.comparing.scheduler import Job, run_jobs
run_jobs([Job("sleeper", "s", "a_worker", Path(sys.argv[1]))], parallel=1, say=print)
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    (tmp_path / "a_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(name: str, do: str = "work", **about: str) -> Job:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "trial.json").write_text(json.dumps({"do": do, **about}))
        return Job(name, do, "a_worker", folder)

    return make


def starts(job: Job) -> int:
    return len((job.folder / "starts").read_text())


@pytest.mark.slow
def test_jobs_run_side_by_side_and_once(job, tmp_path):
    one = job("one", "wait for", path=str(tmp_path / "two" / "starts"))
    two = job("two", "wait for", path=str(tmp_path / "one" / "starts"))
    said: list[str] = []
    assert run_jobs([one, two, one], parallel=2, say=said.append) == {}
    assert (starts(one), starts(two)) == (1, 1)
    result = json.loads((one.folder / "result.json").read_text())
    assert result["seconds"] > 0 < result["peak_mb"]
    assert int(result["threads"]) == max(1, (os.cpu_count() or 1) // 2)
    assert said[-1].startswith("[2/2] ")
    assert "min left" in said[0]
    said.clear()
    three = job("three")
    assert run_jobs([one, two, three], parallel=2, say=said.append) == {}
    assert (starts(one), starts(three)) == (1, 1)
    assert said[0] == "2 of 3 are done already"
    assert run_jobs([one], parallel=1, say=said.append) == {}
    assert starts(one) == 1


@pytest.mark.slow
def test_a_job_that_fails_or_dies_is_named_the_others_go_on_and_it_is_tried_again(job):
    bad, dead, good = job("bad", "fail"), job("dead", "die"), job("good")
    said: list[str] = []
    failed = run_jobs([bad, dead, good], parallel=1, say=said.append)
    assert set(failed) == {"bad", "dead"}
    assert failed["bad"] == f"ValueError: the rows are odd ({bad.folder / 'log.txt'})"
    assert failed["dead"].startswith("killed by signal 9")
    assert good.done
    assert "before" in (bad.folder / "log.txt").read_text()
    run_jobs([bad, dead, good], parallel=1, say=said.append)
    assert (starts(bad), starts(good)) == (2, 1)


@pytest.mark.slow
def test_the_jobs_end_with_the_one_that_started_them(job):
    sleeper = job("sleeper", "sleep")
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ["PYTHONPATH"]])}
    parent = subprocess.Popen([sys.executable, "-c", LAUNCHER, str(sleeper.folder)], env=environment)
    while not (sleeper.folder / "starts").exists():
        assert parent.poll() is None
        time.sleep(0.05)
    (child,) = [int(pid) for pid in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and "(zombie)" not in Path(f"/proc/{child}/status").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
    assert not sleeper.done
