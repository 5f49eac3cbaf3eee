"""Follows a run on Kubeflow Pipelines: a table of its tasks in a terminal, one line per change in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

WAITING = "WAITING"
ENDED = frozenset({"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"})
# In a row, before following is given up. The run itself continues.
MOST_FAILURES = 5
COLOURS = {"SUCCEEDED": "green", "FAILED": "red", "CANCELED": "red", "RUNNING": "yellow"}


class KubeflowError(ValueError):
    """A request to Kubeflow Pipelines that failed.

    Args:
        message: one line.
        transient: whether the same request may succeed later.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class Runs(Protocol):
    """Source of a run's progress."""

    def run(self, run: str) -> Any:
        """The run as it is now; raises `KubeflowError`."""


@dataclass(frozen=True)
class TaskState:
    """One task of a run.

    Args:
        name: of the task.
        state: as the API names it, or WAITING while the API does not know the task.
        seconds: since it began, or from begin to end; None before.
        error: what went wrong, or an empty text.
    """

    name: str
    state: str
    seconds: float | None
    error: str


@dataclass(frozen=True)
class RunState:
    """A run and its tasks at one moment."""

    state: str
    error: str
    tasks: tuple[TaskState, ...]


def read_run(run: Any, tasks: Sequence[str], now: datetime) -> RunState:
    """The progress that a `V2beta1Run` describes.

    The API lists drivers and the root beside the tasks of the pipeline; they are left out. A task that ran again is
    listed more than once, and the latest attempt counts.

    Args:
        run: the answer of the API.
        tasks: names of the pipeline's tasks, in the order to show them in.
        now: for tasks that are running.
    """
    details = (run.run_details.task_details if run.run_details else None) or []
    latest: dict[str, Any] = {}
    for detail in details:
        known = latest.get(detail.display_name)
        if known is None or (detail.create_time and known.create_time and detail.create_time >= known.create_time):
            latest[detail.display_name] = detail
    return RunState(
        state=run.state or "PENDING",
        error=run.error.message or "" if run.error else "",
        tasks=tuple(_task(name, latest.get(name), now) for name in tasks),
    )


def follow(
    runs: Runs,
    run: str,
    tasks: Sequence[str],
    console: Console,
    *,
    every: float,
    sleep: Callable[[float], None] = time.sleep,
) -> RunState:
    """Asks for the state of a run until it has ended, and shows it.

    Args:
        runs: the service to ask.
        run: id.
        tasks: names of the pipeline's tasks.
        console: where to show it.
        every: float > 0. Seconds between two requests.
        sleep: how to wait.

    Returns:
        How it ended.

    Raises:
        KubeflowError: if a request fails for good, or `MOST_FAILURES` times in a row.
    """
    shown: dict[str, str] = {}
    failures = 0
    with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        while True:
            try:
                state = read_run(runs.run(run), tasks, datetime.now(UTC))
            except KubeflowError as error:
                failures += 1
                if not error.transient or failures >= MOST_FAILURES:
                    raise
                console.print(
                    f"{error}; asking again ({failures} of {MOST_FAILURES - 1})",
                    style="dim",
                    soft_wrap=True,
                )
            else:
                failures = 0
                if live is None:
                    _log_changes(console, state, shown)
                else:
                    live.update(table(state), refresh=True)
                if state.state in ENDED:
                    return state
            sleep(every)


def table(state: RunState) -> Table:
    """The tasks of a run."""
    found = Table("task", "state", title=f"run {state.state.lower()}")
    found.add_column("elapsed", justify="right")
    for task in state.tasks:
        colour = COLOURS.get(task.state, "dim")
        found.add_row(task.name, Text(task.state.lower(), colour), _elapsed(task.seconds))
    return found


def _log_changes(console: Console, state: RunState, shown: dict[str, str]) -> None:
    for task in state.tasks:
        if task.state != shown.get(task.name, WAITING):
            shown[task.name] = task.state
            line = f"{task.name}: {task.state.lower()} {_elapsed(task.seconds)}"
            console.print(line.rstrip(), soft_wrap=True)


def _task(name: str, detail: Any, now: datetime) -> TaskState:
    if detail is None:
        return TaskState(name, WAITING, None, "")
    # The API writes an end before the beginning while a task has not ended.
    begin = detail.start_time or detail.create_time
    over = detail.state in ENDED and detail.end_time and begin and detail.end_time >= begin
    seconds = ((detail.end_time if over else now) - begin).total_seconds() if begin else None
    return TaskState(name, detail.state or "PENDING", seconds, (detail.error.message or "") if detail.error else "")


def _elapsed(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
