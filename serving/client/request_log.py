"""The client's own log of what it asked and what was answered, for drift and for training on what was served.

    folder/2026-12-01T14-<process>.jsonl

A line is a request:

    {"logged_at": 1796133600000, "model": "shop", "label": "stable", "impression_ids": ["a", "b"],
     "instances": [{...}, {...}], "scores": [{"click": 0.31}, {"click": 0.44}]}

or, of a ranking, `request` and `candidates` in place of `instances`. Rows are as they were sent, without padding, and
with the keys and the time that the caller gave. `mixrank drift` and `mixrank join-feedback` read it.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from numbers import Integral, Number
from pathlib import Path
from typing import Any, Self

from mixrank.schemas import FeatureSpec
from mixrank.schemas.encode import to_logged
from mixrank.schemas.files import owner
from mixrank.schemas.safe_text import shown
from mixrank.serving.client.request_rows import Row

Ids = Sequence[str | int]


class RequestLog:
    """Appends lines to a file of this process, a new one every hour.

    A line is one write at the end of the file, so that a kill leaves whole lines. Several clients and threads may share
    a log. A log that cannot be written never fails a request: what it lost is counted in `lost` and said as a warning.

    Args:
        folder: is made; other processes may log to it too.
        now: returns the time, in seconds since 1970.
    """

    def __init__(self, folder: Path | str, now: Callable[[], float] = time.time) -> None:
        self.folder, self.lost = Path(folder), 0
        self.now, self._owner, self._lock = now, owner(), threading.Lock()
        self._hour, self._file = "", -1
        self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, entry: dict[str, Any], rows: int) -> None:
        """Appends a line.

        Args:
            entry: the request; `logged_at` is when it was made, in milliseconds since 1970.
            rows: how many rows it has, to count what is lost.
        """
        line = json.dumps(entry, default=_plain, separators=(",", ":")).encode() + b"\n"
        try:
            with self._lock:
                self._open(entry["logged_at"])
                if os.write(self._file, line) < len(line):
                    raise OSError("the file system took a part of a line")
        except OSError as error:
            self.lost += rows
            logging.getLogger(__name__).warning("%s: %d rows were not logged: %s", self.folder, rows, error)

    def _open(self, milliseconds: int) -> None:
        hour = datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H")
        if hour != self._hour:
            self._close()
            path = self.folder / f"{hour}-{self._owner}.jsonl"
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            self._hour = hour

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._hour, self._file = "", -1

    def close(self) -> None:
        """Closes the file; a later request opens it again."""
        with self._lock:
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def as_logged(spec: FeatureSpec | None, row: Row) -> Row:
    """A row as it is logged; without a spec, as it is."""
    return row if spec is None else to_logged(spec, row)


def checked_ids(impression_ids: Ids | None, rows: int, log: RequestLog | None) -> list[str] | None:
    """Impression ids as text.

    Args:
        impression_ids: one per row, each distinct, or None.
        rows: how many rows are asked for.
        log: where they go.

    Raises:
        ValueError: if there is no log, another number of ids, or one that is neither text nor a whole number, is empty
            or occurs twice.
    """
    if impression_ids is None:
        return None
    if log is None:
        raise ValueError("`impression_ids` go to the client's log, and it has none: give it `log`")
    if len(impression_ids) != rows:
        raise ValueError(f"`impression_ids` must be one per row, received {len(impression_ids)} for {rows} rows")
    found: list[str] = []
    for each in impression_ids:
        if not isinstance(each, str | Integral) or isinstance(each, bool) or each == "":
            raise ValueError(f"`impression_ids` must be text or whole numbers, received {shown(each)}")
        found.append(str(each))
    if len(set(found)) < len(found):
        twice = next(each for each in found if found.count(each) > 1)
        raise ValueError(f"`impression_ids` must be distinct, {shown(twice)} is there twice")
    return found


def _plain(value: Any) -> Any:
    """What JSON does not know and a request may hold, such as numbers of NumPy."""
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Number):
        return float(value)  # type: ignore[arg-type]
    return str(value)
