"""Atomic writes of files and folders, and locks."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

# Suffix of temporary names, which begin with a dot.
PARTIAL = ".partial"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under a temporary name beside it, flushes it to disk and renames it.

    A kill at any moment leaves the old file or the new one, and perhaps one of the `leftovers`.

    Args:
        path: the file; one that exists is replaced, and stays as it was if `write` raises.
        write: is given the temporary path, an empty file, and writes there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder, "note.txt"), lambda path: path.write_text("whole"))
    ...     [path.name for path in Path(folder).iterdir()]
    ['note.txt']
    """
    temporary = _temporary(path)
    # Fails where the name is taken, so that no two processes write to one file.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        write(temporary)
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_folder_atomically(folder: Path, write: Callable[[Path], object], mark: str = "") -> None:
    """Writes a folder under a temporary name beside it, flushes it to disk and renames it.

    A kill at any moment leaves no folder or the whole one, and perhaps one of the `leftovers`.

    Args:
        folder: must not exist, or be empty; the folders above it are made.
        write: is given the temporary path, an empty folder, and writes there.
        mark: part of the temporary name, by which its owner finds it again after a kill.

    Raises:
        OSError: if `folder` holds something, after the work is done: a caller checks that first.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(folder, mark)
    temporary.mkdir()
    try:
        write(temporary)
        for path in (*temporary.rglob("*"), temporary):
            sync(path)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(folder.parent)


def leftovers(folder: Path, name: str = "*", mark: str = "") -> list[Path]:
    """Temporary files and folders that killed or running writers have in a folder.

    Args:
        folder: need not exist.
        name: final name of the file or folder.
        mark: as in `write_folder_atomically`.
    """
    return sorted(folder.glob(f".{name}.{mark}*{PARTIAL}"))


def sync(path: Path) -> None:
    """Flushes a file, or the names in a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _temporary(path: Path, mark: str = "") -> Path:
    return path.with_name(f".{path.name}.{mark}{uuid.uuid4().hex}{PARTIAL}")


@contextmanager
def locked(path: Path, refusal: Callable[[str], str]) -> Iterator[TextIO]:
    """Holds an exclusive lock on a file, or refuses at once.

    The kernel drops the lock when its process ends, however that happens; the file stays and means nothing by itself.

    Args:
        path: the lock file; its folder is made.
        refusal: what the holder has written into the file -> message for a process that is refused.

    Yields:
        The empty file, for a line on who holds it.

    Raises:
        ValueError: if another process, or another part of this one, holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(refusal(file.read().strip())) from None
        file.truncate(0)
        yield file
