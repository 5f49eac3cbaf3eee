"""Where raw files lie: on this machine, or in an object store. The one place that lists and opens them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from mixrank.schemas import stores
from mixrank.schemas.stores import is_url


@dataclass(frozen=True)
class Entry:
    """A file of a listing.

    Args:
        path: its path or URL.
        size: bytes, as stored.
        modified: nanoseconds since 1970, or 0 where a store does not say.
    """

    path: str
    size: int
    modified: int


def list_files(folder: str, pattern: str) -> list[Entry]:
    """Files below a folder that match a pattern, or lie at any depth in a folder that matches, sorted by path.

    Args:
        folder: path or URL; characters such as `[` have no special meaning in it.
        pattern: glob pattern, relative to the folder; `*` stays within a name, `**` stands for any number of folders.

    Raises:
        ValueError: if a store cannot be listed.
    """
    found = _in_store(folder, pattern) if is_url(folder) else _on_disk(folder, pattern)
    return sorted({entry.path: entry for entry in found}.values(), key=lambda entry: entry.path)


def open_stored(path: str) -> BinaryIO:
    """The bytes of a file, as stored.

    Raises:
        OSError: if it is missing or must not be read.
        ValueError: naming the address, if a store refuses it or cannot be reached.
    """
    return stores.open_file(path) if is_url(path) else open(path, "rb")


def _on_disk(folder: str, pattern: str) -> Iterator[Entry]:
    for name in glob.iglob(pattern, root_dir=folder, recursive=True, include_hidden=True):
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            below = (os.path.join(above, file) for above, _, files in os.walk(path) for file in files)
            yield from (_entry(file) for file in below if os.path.isfile(file))
        elif os.path.isfile(path):
            yield _entry(path)


def _entry(path: str) -> Entry:
    known = Path(path).stat()
    return Entry(path, known.st_size, known.st_mtime_ns)


def _in_store(folder: str, pattern: str) -> Iterator[Entry]:
    parts = pattern.strip("/").split("/")
    fixed = next((place for place, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    # Only what lies below the part without wildcards is listed; a store may hold millions of other files.
    base = "/".join([folder, *parts[:fixed]])
    for name, file in stores.files(base).items():
        below = name.split("/") if name else []
        if _matches([*parts[:fixed], *below], parts):
            yield Entry("/".join([base, *below]), file.size, int(file.changed * 1e9))


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path, or a folder above it, matches a pattern, part by part."""
    if not pattern:
        return True
    if not parts:
        return False
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or _matches(parts[1:], pattern)
    return fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
