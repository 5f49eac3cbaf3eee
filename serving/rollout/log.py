"""What was done to a served model, one line each, and the lock that keeps two hands off it."""

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
        command: told to whoever is refused.

    Raises:
        ValueError: if another process holds it, with what that one wrote.
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
    """Records of the commands on one model: each begins, and is done, failed or interrupted.

    What is true stands in models.config and in the version folders; the journal says when and why, and which command
    was under way when a process died.

    Args:
        path: file of one JSON object per line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def records(self) -> list[dict[str, Any]]:
        """All whole records, oldest first; the torn last line of a killed process is left out."""
        if not self.path.exists():
            return []
        whole, _, _ = self.path.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def last(self) -> dict[str, Any] | None:
        """The newest whole record, or None."""
        return next(reversed(self.records()), None)

    def append(self, command: str, event: str, **about: Any) -> None:
        """Writes a record through to the disk."""
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
