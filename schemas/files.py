"""Files that are there whole or not at all, and folders that one process has to itself."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under a temporary name beside it and renames it, so that a kill leaves no half of it.

    Args:
        path: the file; one that exists is replaced, and stays as it was if `write` raises.
        write: is given the temporary path and writes there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder, "note.txt"), lambda path: path.write_text("whole"))
    ...     [path.name for path in Path(folder).iterdir()]
    ['note.txt']
    """
    temporary = path.with_name(path.name + ".partial")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, refusal: Callable[[str], str]) -> Iterator[TextIO]:
    """Holds an exclusive lock on a file, or refuses at once.

    The kernel drops the lock when its process ends, however that happens; the file stays and means nothing by itself.

    Args:
        path: the lock file; its folder is made.
        refusal: what the holder has written into the file -> message for whoever is refused.

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
