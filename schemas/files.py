"""Atomic writes of files and folders, and locks on folders."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

LOCK = ".lock"
# `.NAME.MACHINE-PROCESS-START-RANDOM.partial`: whose a temporary name is, so that only those of the dead are removed.
PARTIAL = ".partial"
_OWNER = re.compile(r"([0-9a-f]{8})-(\d+)-(\d+)-[0-9a-f]{16}")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under a temporary name beside it, flushes it to disk and renames it.

    A kill at any moment leaves the old file or the new one, and perhaps one of the `leftovers`. A link at `path` is
    replaced, not followed.

    Args:
        path: the file; one that exists is replaced, and stays as it was if `write` raises.
        write: is given the temporary path, an empty file, and writes there.

    Raises:
        OSError: naming `path` if the disk is full or fails.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder, "note.txt"), lambda path: path.write_text("whole"))
    ...     [path.name for path in Path(folder).iterdir()]
    ['note.txt']
    """
    temporary = _temporary(path)
    with _about(path, temporary):
        # Fails where the name is taken, so that no two processes write to one file and no link is followed.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            write(temporary)
            sync(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)


def write_text_atomically(path: Path, text: str) -> None:
    """Writes a text file in UTF-8 as `write_atomically` does."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_folder_atomically(folder: Path, write: Callable[[Path], object]) -> None:
    """Writes a folder under a temporary name beside it, flushes it to disk and renames it.

    A kill at any moment leaves no folder or the whole one, and perhaps one of the `leftovers`.

    Args:
        folder: must not exist, or be empty; the folders above it are made.
        write: is given the temporary path, an empty folder, and writes there.

    Raises:
        OSError: if `folder` holds something, after the work is done: a caller checks that first. Or naming a file of
            `folder` if the disk is full or fails; then there is no `folder`.
    """
    temporary = _temporary(folder)
    with _about(folder, temporary):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            write(temporary)
            for path in (*temporary.rglob("*"), temporary):
                sync(path)
            temporary.rename(folder)
            try:
                sync(folder.parent)
            except OSError:
                # A name that a power cut could take back is not given out.
                folder.rename(temporary)
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def leftovers(folder: Path, name: str = "*") -> list[Path]:
    """Temporary files and folders that dead or running writers have in a folder.

    Args:
        folder: need not exist.
        name: final name of the file or folder.
    """
    return sorted(folder.glob(f".{name}.*{PARTIAL}"))


def abandoned(folder: Path, name: str = "*") -> list[Path]:
    """The `leftovers` of processes of this machine that are gone: nobody writes to them any more."""
    return [path for path in leftovers(folder, name) if is_gone(path.name)]


def owner() -> str:
    """This process, for a temporary name; no two calls give the same."""
    return f"{_machine()}-{os.getpid()}-{_start_of(os.getpid())}-{secrets.token_hex(8)}"


def is_gone(name: str) -> bool:
    """Whether the `owner` that a name holds was a process of this machine and has ended."""
    found = _OWNER.search(name)
    if found is None or found[1] != _machine():
        return False
    process, start = int(found[2]), _start_of(int(found[2]))
    if start is not None:
        # Another process may have the number of a dead one.
        return start != int(found[3])
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        # Another user's, on a machine that hides those.
        return False
    # It has ended, but its parent has not yet asked how.
    return True


def withdraw(path: Path) -> None:
    """Takes a file, folder or link away at once, by a name of its own, and then removes it.

    A kill at any moment leaves it, or nothing under its name and perhaps one of the `leftovers`.
    """
    temporary = _temporary(path)
    with _about(path, temporary):
        path.rename(temporary)
        sync(path.parent)
        remove(temporary)


def remove(path: Path) -> None:
    """Removes a file, a folder with all that is in it, or a link but not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def sync(path: Path) -> None:
    """Flushes a file, or the names in a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(
    folder: Path, command: str, *, wait: Callable[[str], object] | None = None, hint: str = "wait for it or stop it"
) -> Iterator[None]:
    """Holds the lock on a folder, which one process at a time can have.

    It is a lock of the kernel (`flock`) on the file `.lock` in the folder. The kernel drops it when its process ends,
    however that happens; the file stays and says who holds the lock, or who held it last.

    Args:
        folder: is made if it does not exist.
        command: what the holder does, for those who are refused.
        wait: called with who holds the lock before waiting for it; None refuses at once.
        hint: what whoever is refused can do.

    Raises:
        ValueError: if another process, or another part of this one, holds the lock; says who.
        OSError: if the file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with open(handle, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = f"{folder} is in use by {file.read().strip() or 'a process that has not said its name yet'}"
            if wait is None:
                raise ValueError(f"{holder}: {hint}") from None
            wait(holder)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            error.filename = str(folder / LOCK)
            raise
        file.seek(0)
        file.truncate()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(f"`{command}`, process {os.getpid()} on {socket.gethostname()}, since {now}\n")
        file.flush()
        yield


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{owner()}{PARTIAL}")


def _machine() -> str:
    """This machine, or container, as the numbers of its processes go."""
    known = f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    return hashlib.sha256(known.encode()).hexdigest()[:8]


def _start_of(process: int) -> int | None:
    """When a process started, in clock ticks since the machine did; None if it is gone or cannot be looked at."""
    try:
        state, *numbers = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(numbers[18])


@contextmanager
def _about(path: Path, temporary: Path) -> Iterator[None]:
    """Errors of the system name the file that was to be written."""
    try:
        yield
    except OSError as error:
        # `write` and `fsync` say what is wrong, not with which file; a copy names what it reads first.
        if error.errno is not None:
            copied = str(error.filename2 or "").startswith(str(temporary))
            named = error.filename2 if copied else error.filename
            error.filename = str(named or temporary).replace(str(temporary), str(path))
        raise
