"""Roll-out log and lock of a served model."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mixrank.schemas import files


@contextmanager
def locked(path: Path, command: str) -> Iterator[None]:
    """Keeps a second roll-out of the same model away.

    Args:
        path: the lock file.
        command: written into the lock, for the message to a refused process.

    Raises:
        ValueError: if another process holds the lock; names its command.
    """

    def refusal(holder: str) -> str:
        return (
            f"another roll-out is at work: {holder or 'it did not say which'}. "
            "Wait for it; if its process has died, the lock is free already"
        )

    with files.locked(path, refusal) as file:
        file.write(f"`{command}`, process {os.getpid()} on {socket.gethostname()}, since {_now()}\n")
        file.flush()
        yield


class Journal:
    """Records of the commands on one model: each has a begin, and then is done, failed or interrupted.

    models.config and the version folders hold the state; the log says when and why it changed, and which command
    was running when a process died.

    Args:
        path: file of one JSON object per line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def records(self) -> list[dict[str, Any]]:
        """All complete records, oldest first; an incomplete last line of a killed process is skipped."""
        if not self.path.exists():
            return []
        whole, _, _ = self.path.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def last(self) -> dict[str, Any] | None:
        """The newest complete record, or None."""
        return next(reversed(self.records()), None)

    def append(self, command: str, event: str, **about: Any) -> None:
        """Appends a record and flushes it to disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            file.seek(0)
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
            file.write(json.dumps({"at": _now(), "command": command, "event": event, **about}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def step(self, command: str, **about: Any) -> Iterator[None]:
        """Records that a command began, and how it ended."""
        self.append(command, "begun", **about)
        try:
            yield
        except BaseException as error:
            self.append(command, "failed", reason=str(error) or type(error).__name__, **about)
            raise
        self.append(command, "done", **about)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
