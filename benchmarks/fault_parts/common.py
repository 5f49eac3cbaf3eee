"""What the parts share: tallies, the commands under test, and how they end."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Seconds after which a command hangs, and losses of a kind that are shown.
HANGS, SHOWN = 120, 30


@dataclass
class Tally:
    """What was tried in a part, and what was lost."""

    what: str
    of: int
    tried: int = 0
    lost: list[str] = field(default_factory=list)
    note: str = ""
    megabytes: float = 0.0
    seconds: float = 0.0
    _said: float = field(default_factory=time.monotonic)

    def expect(self, holds: bool, otherwise: str) -> bool:
        if not holds:
            self.lost.append(otherwise)
            if len(self.lost) <= SHOWN:
                print(f"    LOST {self.what}: {otherwise}", flush=True)
        return holds

    def count(self) -> None:
        self.tried += 1
        if self.tried >= self.of or time.monotonic() - self._said > 15:
            self._said = time.monotonic()
            print(f"  {self.what}: {self.tried} of {self.of}, {len(self.lost)} lost", flush=True)


@dataclass(frozen=True)
class Ground:
    """Where the faults happen.

    Args:
        config: of a run that is finished.
        folder: an empty one to work in.
        seed: of all draws.
        share: of the full number of tries.
    """

    config: str
    folder: Path
    seed: int
    share: float

    def tries(self, whole: int) -> int:
        return max(1, round(whole * self.share))

    @property
    def record(self) -> Any:
        from mixrank.pipeline.config import load_config
        from mixrank.pipeline.run_record import RunRecord

        return RunRecord.read(load_config(self.config).run_dir)

    def model(self) -> Path:
        """The model of the run as a version of its own."""
        from mixrank.serving.base import publish

        return publish(self.record.local_model, self.folder / "model", version=1)


def mixrank(*arguments: object) -> int:
    """A command in this process; its exit code."""
    from mixrank.pipeline.cli import app

    return int(app([*map(str, arguments)], standalone_mode=False) or 0)


def fork(action: Callable[[], int | None], said: Path) -> int:
    """Does something in a child of this process; what it prints goes to a file."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1), os.dup2(handle, 2)
        code = action() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def end_of(child: int) -> int:
    """Waits for a child: its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill(child: int, after: float) -> bool:
    """Kills a child; whether it was still at work."""
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    return end_of(child) == -signal.SIGKILL


def each_in_a_child(tally: Tally, said: Path, attempt: Callable[[int], list[str]]) -> None:
    """Makes the tries of a tally in a child of this process: a crash or a hang is one more thing that may happen.

    Args:
        tally: to count in.
        said: file for what a child prints.
        attempt: number of a try -> what was lost.
    """
    while tally.tried < tally.of:
        reader, writer = os.pipe()
        child = fork(partial(_attempts, attempt, range(tally.tried, tally.of), writer), said)
        os.close(writer)
        with open(reader) as lines:
            for line in lines:
                for lost in json.loads(line):
                    tally.expect(False, lost)
                tally.count()
        if code := end_of(child):
            tally.expect(False, f"number {tally.tried} ended the process: {code} {said.read_text()[-2000:]}")
            tally.count()


def _attempts(attempt: Callable[[int], list[str]], numbers: range, writer: int) -> None:
    for number in numbers:
        # Ends the process if the try hangs.
        signal.alarm(HANGS)
        lost = attempt(number)
        signal.alarm(0)
        os.write(writer, json.dumps(lost).encode() + b"\n")


def unclear(said: str) -> bool:
    """Whether a command ended in a way that nobody thought of."""
    return "Traceback" in said or "run it again with --debug" in said


def temporary(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob(".*.partial")]


def frame(model: Path, number: int) -> Any:
    """Rows to score, as a log has them."""
    import pandas as pd

    from mixrank.pipeline.request_files import example_lines

    return pd.DataFrame(example_lines(model, False, number))


@contextmanager
def silence() -> Iterator[None]:
    """Nothing that is printed in this process comes out."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
