"""The rows of a day as they were served, in place of those that ExampleGen makes of the raw log."""

from __future__ import annotations

import shutil
from pathlib import Path

from mixrank.components.gates import REPORT
from mixrank.schemas.files import write_folder_atomically

SERVED = "served"


def take_served(served: Path | None, home: Path, day: str) -> None:
    """Copies the rows that `join_feedback` made for a day, if there are any and they are not there yet.

    Args:
        served: folder of folders `YYYY-MM-DD`, or None.
        home: folder of the day.
        day: ISO date.

    Raises:
        ValueError: if the day's folder is not one of `join_feedback`.
    """
    source = None if served is None else served / day
    if source is None or not source.is_dir() or (home / SERVED).is_dir():
        return
    rows, report = source / "Split-train", source / REPORT
    if not rows.is_dir() or not report.is_file():
        raise ValueError(f"{source} was not written by `mixrank join-feedback`: it lacks {rows.name}/ or {REPORT}")

    def write(folder: Path) -> None:
        shutil.copytree(rows, folder / rows.name)
        shutil.copy(report, folder / REPORT)

    write_folder_atomically(home / SERVED, write)


def rows_of(home: Path) -> Path:
    """Folder of the rows that a day is judged and trained on: as served, where that is known."""
    return home / SERVED if (home / SERVED).is_dir() else home / "examples"
