"""Scheduler of trainings on few cores: in parallel, each once, robust to kills and failures."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixrank.pipeline.comparing.trial_plan import RESULT_FILE, TRIAL_LOG, Trial

POLL_S = 0.2


@dataclass(frozen=True)
class Job:
    """Work in a folder by a process of its own, `python -m MODULE FOLDER`; done once the folder holds a result.

    Attributes:
        title: what it is called in messages.
        kind: jobs of one kind take about as long as each other.
        module: dotted path.
        folder: with `trial.json`.
    """

    title: str
    kind: str
    module: str
    folder: Path

    @property
    def done(self) -> bool:
        return (self.folder / RESULT_FILE).is_file()


@dataclass
class _Running:
    job: Job
    slot: int
    process: subprocess.Popen[bytes]
    log: Any
    began: float = field(default_factory=time.monotonic)


def run_jobs(jobs: Sequence[Job], *, parallel: int, say: Callable[[str], None]) -> dict[str, str]:
    """Runs what is not done yet.

    A job that fails leaves its output in `log.txt` of its folder, and the others continue. When this process is
    interrupted or killed, so are those that it started; a later call does only what is missing.

    Args:
        jobs: in this order; two with one folder are one.
        parallel: int >= 1. Processes at once; the cores are shared out among them, and the GPUs go round.
        say: takes a line whenever a job ends.

    Returns:
        Title -> reason, of the jobs that failed.
    """
    jobs = list({job.folder: job for job in jobs}.values())
    waiting = [job for job in jobs if not job.done]
    finished = len(jobs) - len(waiting)
    if finished and waiting:
        say(f"{finished} of {len(jobs)} are done already")
    running: list[_Running] = []
    took: dict[str, list[float]] = {}
    failed: dict[str, str] = {}
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                slot = min(set(range(parallel)) - {one.slot for one in running})
                running.append(_start(waiting.pop(0), slot, parallel))
            time.sleep(POLL_S)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                one.log.close()
                finished += 1
                seconds = time.monotonic() - one.began
                took.setdefault(one.job.kind, []).append(seconds)
                if one.job.done:
                    ending = f"{seconds:.0f} s"
                else:
                    failed[one.job.title] = _reason(one)
                    ending = f"failed: {failed[one.job.title]}"
                left = _left(waiting, running, took, parallel)
                say(f"[{finished}/{len(jobs)}] {one.job.title}: {ending}{left}")
    finally:
        for one in running:
            one.process.kill()
            one.process.wait()
            one.log.close()
    return failed


def processes(wanted: int | None) -> int:
    """Trainings at once: as many as wanted, else one per GPU, else one per core."""
    return wanted or _gpus() or os.cpu_count() or 1


def training_jobs(trials: Sequence[Trial]) -> list[Job]:
    """A job for each training, its folder prepared."""
    for trial in trials:
        trial.prepare()
    return [Job(t.title, f"{t.variant} {t.budget}", "mixrank.pipeline.comparing.trial", t.folder) for t in trials]


def _gpus() -> int:
    """Number of NVIDIA GPUs, without waking TensorFlow."""
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


def _start(job: Job, slot: int, parallel: int) -> _Running:
    threads = str(max(1, (os.cpu_count() or 1) // parallel))
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_NUM_INTRAOP_THREADS": threads,
        "TF_NUM_INTEROP_THREADS": threads,
        "OMP_NUM_THREADS": threads,
    }
    if parallel > 1 and (devices := _gpus()):
        environment["CUDA_VISIBLE_DEVICES"] = str(slot % devices)
    log = (job.folder / TRIAL_LOG).open("wb")
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", job.module, str(job.folder)],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    return _Running(job, slot, process, log)


def _reason(one: _Running) -> str:
    lines = (one.job.folder / TRIAL_LOG).read_text(errors="replace").strip().splitlines()
    code = one.process.returncode
    what = f"killed by signal {-code}" if code < 0 else lines[-1].strip() if lines else f"exit code {code}"
    return f"{what} ({one.job.folder / TRIAL_LOG})"


def _left(waiting: Sequence[Job], running: Sequence[_Running], took: dict[str, list[float]], parallel: int) -> str:
    """Remaining time at the pace of the jobs so far; a job of a new kind counts as an average one."""
    if not waiting and not running:
        return ""
    known = {kind: statistics.mean(seconds) for kind, seconds in took.items()}
    usual = statistics.mean(known.values())
    now = time.monotonic()
    seconds = sum(known.get(job.kind, usual) for job in waiting)
    seconds += sum(max(0.0, known.get(one.job.kind, usual) - (now - one.began)) for one in running)
    return f"; about {max(1, round(seconds / parallel / 60))} min left"
