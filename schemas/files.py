"""Files that are there whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


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
