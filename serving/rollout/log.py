"""Roll-out log of a served model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mixrank.schemas.files import sync
from mixrank.schemas.safe_text import brief, safe


class Journal:
    """Records of the commands on one model: each has a begin, and then is done, failed or interrupted.

    models.config and the version folders hold the state; the log says when and why it changed, and which command
    was running when a process died.

    Args:
        path: file of one JSON object per line.
        about: goes into every record: which models.config, and the model's name in it.
    """

    def __init__(self, path: Path, **about: str) -> None:
        self.path, self.about = path, about

    def records(self) -> list[dict[str, Any]]:
        """All complete records, oldest first; an incomplete last line of a killed process is skipped.

        Raises:
            ValueError: naming a line that no roll-out command has written.
        """
        if not self.path.exists():
            return []
        whole, _, _ = self.path.read_bytes().rpartition(b"\n")
        return [self._record(number, line) for number, line in enumerate(whole.splitlines(), 1)]

    def _record(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        texts = ("command", "event", *self.about)
        if isinstance(record, dict) and all(isinstance(record.get(name), str) for name in texts):
            decides = record["command"] == "decide"
            needs_number = decides or record["command"] == "push"
            number_fits = isinstance(record.get("version"), int if needs_number else int | None)
            told = not decides or (isinstance(record.get("verdict"), str) and isinstance(record.get("reasons"), list))
            if number_fits and told and isinstance(record.get("labels"), dict | None):
                return record
        raise ValueError(
            f"{self.path}, line {number} was not written by mixrank: repair or remove the line; models.config and the "
            "folders of the versions hold what is served"
        )

    def last(self) -> dict[str, Any] | None:
        """The newest complete record about the same as this journal, or None."""
        return next((each for each in reversed(self.records()) if self.about.items() <= each.items()), None)

    def append(self, command: str, event: str, **about: Any) -> None:
        """Appends a record and flushes it to disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists()
        with self.path.open("a+b") as file:
            file.seek(0)
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
            record = {"at": _now(), "command": command, "event": event, **self.about, **about}
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync(self.path.parent)

    @contextmanager
    def step(self, command: str, **about: Any) -> Iterator[None]:
        """Records that a command began, and how it ended."""
        self.append(command, "begun", **about)
        try:
            yield
        except BaseException as error:
            with suppress(OSError):
                self.append(command, "failed", reason=brief(safe(str(error))) or type(error).__name__, **about)
            raise
        # What is done stays done on a full disk; the next command writes the line.
        with suppress(OSError):
            self.append(command, "done", **about)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
