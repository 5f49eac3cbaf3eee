"""Where raw files lie: on this machine, or in a store that Beam's file systems know (`s3://`, `gs://`, `hdfs://`).

The one place that lists and opens them. Beam is imported for a store only, because that takes seconds.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO


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


def is_remote(path: str) -> bool:
    return "://" in path


def list_files(folder: str, pattern: str) -> list[Entry]:
    """Files below a folder that match a pattern, or lie at any depth in a folder that matches, sorted by path.

    Args:
        folder: path or URL; characters such as `[` have no special meaning in it.
        pattern: glob pattern, relative to the folder; `*` stays within a name, `**` stands for any number of folders.

    Raises:
        ValueError: if a store cannot be listed.
    """
    found = _in_store(folder, pattern) if is_remote(folder) else _on_disk(folder, pattern)
    return sorted({entry.path: entry for entry in found}.values(), key=lambda entry: entry.path)


def open_stored(path: str) -> BinaryIO:
    """The bytes of a file, as stored.

    Raises:
        OSError: if it is missing or must not be read.
    """
    if not is_remote(path):
        return open(path, "rb")
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    # Beam could decompress too, but not everything, and Arrow does not work with its file object.
    stored: BinaryIO = FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
    return stored


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
    from apache_beam.io.filesystem import BeamIOError
    from apache_beam.io.filesystems import FileSystems

    parts = pattern.strip("/").split("/")
    fixed = next((place for place, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    # Only what lies below the part without wildcards is listed; a store may hold millions of other files.
    base = "/".join([folder.rstrip("/"), *parts[:fixed]])
    wanted = [f"{_escaped(base)}/**"] if fixed < len(parts) else [_escaped(base), f"{_escaped(base)}/**"]
    try:
        results = FileSystems.match(wanted)
    except BeamIOError as error:
        raise ValueError(f"{folder} cannot be listed: {error}") from None
    root = folder.rstrip("/") + "/"
    for metadata in (each for result in results for each in result.metadata_list):
        if _matches(metadata.path.removeprefix(root).split("/"), parts):
            modified = int((metadata.last_updated_in_seconds or 0) * 1e9)
            yield Entry(metadata.path, metadata.size_in_bytes, modified)


def _escaped(path: str) -> str:
    scheme, _, rest = path.partition("://")
    return f"{scheme}://{glob.escape(rest)}"


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path, or a folder above it, matches a pattern, part by part."""
    if not pattern:
        return True
    if not parts:
        return False
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or _matches(parts[1:], pattern)
    return fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
