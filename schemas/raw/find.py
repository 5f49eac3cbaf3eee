"""Which files a table has below a folder, and the format of each."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote

from mixrank.schemas import Format, Table
from mixrank.schemas.raw.compression import codec_of, codec_within, open_raw
from mixrank.schemas.raw.raw_file import RawFile
from mixrank.schemas.raw.storage import Entry, list_files, open_stored
from mixrank.schemas.raw.text import TextFormat
from mixrank.schemas.stores import is_url

ENDINGS: dict[str, Format] = {
    "parquet": "parquet",
    "pq": "parquet",
    "csv": "csv",
    "tsv": "tsv",
    "tab": "tsv",
    "inter": "tsv",
    "item": "tsv",
    "user": "tsv",
    "jsonl": "json",
    "ndjson": "json",
    "json": "json",
    "tfrecord": "tfrecord",
    "tfrecords": "tfrecord",
}
# Folder name that Hive and Spark write for a null.
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
HEAD_BYTES = 64


@dataclass(frozen=True)
class Found:
    """Files of a table.

    Args:
        files: sorted by path.
        hidden: files that were left out because a name on their way begins with `_` or `.`.
        empty: files that were left out because they hold no byte.
    """

    files: tuple[RawFile, ...]
    hidden: int = 0
    empty: int = 0


def find_files(table: Table, folder: str) -> Found:
    """The files of a table below a folder.

    Args:
        table: patterns and options.
        folder: path, or address in an object store.

    Returns:
        The files that any pattern of `files` matches, or of `or_files` if `files` has none; no file only if the table
        is optional.

    Raises:
        ValueError: naming the pattern that matches no file, or the file whose format cannot be told.
    """
    matched = _matched(table.files, folder)
    if not any(matched.values()) and table.or_files:
        matched = _matched(table.or_files, folder)
    missing = [pattern for pattern, entries in matched.items() if not entries]
    if missing and not table.optional:
        if not is_url(folder) and not Path(folder).is_dir():
            raise ValueError(f"there is no folder {folder}")
        tried = [*table.files, *table.or_files] if len(missing) == len(matched) else missing
        raise ValueError(f"no file matches {' or '.join(map(repr, tried))} in {folder}")
    entries = {entry.path: (entry, pattern) for pattern, found in matched.items() for entry in found}
    shown = [entry for entry, pattern in entries.values() if not _is_hidden(_below(entry.path, folder), pattern)]
    full = sorted((entry for entry in shown if entry.size), key=lambda entry: entry.path)
    if shown and not full and not table.optional:
        raise ValueError(f"{shown[0].path} is empty, and so is every file that matches {' or '.join(matched)}")
    if entries and not shown and not table.optional:
        raise ValueError(f"{next(iter(entries))} is hidden by a `_` or `.` in its name; name it without wildcards")
    files = tuple(_raw_file(entry, table, folder) for entry in full)
    return Found(files, hidden=len(entries) - len(shown), empty=len(shown) - len(full))


def files_at(source: str | os.PathLike[str], format: Format | None = None) -> Found:
    """The files of a path: a file, all files of a folder, or those that match a pattern.

    Args:
        source: path, URL or pattern.
        format: of all files, None to tell it from each.

    Raises:
        ValueError: as `find_files`.
    """
    path = os.fspath(source).rstrip("/")
    if not is_url(path) and Path(path).is_dir():
        return find_files(Table(files=("*",), format=format), path)
    folder, _, name = path.rpartition("/")
    if not is_url(path) and Path(path).exists():
        return find_files(Table(files=(glob.escape(name),), format=format), folder or ("/" if "/" in path else "."))
    # A pattern may have wildcards in its folders too.
    parts = path.split("/")
    fixed = next((place for place, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    folder = "/".join(parts[:fixed]) or ("/" if path.startswith("/") else ".")
    return find_files(Table(files=("/".join(parts[fixed:]),), format=format), folder)


def _matched(patterns: Sequence[str], folder: str) -> dict[str, list[Entry]]:
    return {pattern: list_files(folder, pattern) for pattern in patterns}


def _below(path: str, folder: str) -> list[str]:
    return path.removeprefix(folder.rstrip("/")).strip("/").split("/")


def _is_hidden(parts: Sequence[str], pattern: str) -> bool:
    named = [part for part in pattern.split("/") if part[:1] in ("_", ".")]
    return any(part[:1] in ("_", ".") and not any(fnmatchcase(part, name) for name in named) for part in parts)


def _raw_file(entry: Entry, table: Table, folder: str) -> RawFile:
    codec = codec_of(entry.path)
    name = entry.path.rpartition("/")[2].lower().removesuffix(f".{codec}")
    format = table.format or ENDINGS.get(name.rpartition(".")[2])
    if format is None and "tfrecord" in name:
        # As TensorFlow names shards: `data_tfrecord-00000-of-00004.gz`.
        format = "tfrecord"
    if format is None:
        codec, format = _by_content(entry.path, codec)
    if format == "parquet" and codec is not None:
        raise ValueError(f"{entry.path} is a Parquet file within {codec}, which cannot be read in parts: unpack it")
    separator = table.separator or ("\t" if format == "tsv" else ",")
    quotes = table.quotes if table.quotes is not None else separator != "\t"
    text = TextFormat(separator, quotes, table.escape == "backslash", table.columns)
    return RawFile(entry.path, format, codec, text, _folders(entry.path, folder), entry.size, entry.modified)


def _by_content(path: str, codec: str | None) -> tuple[str | None, Format]:
    """Codec and format of a file whose name does not tell."""
    if codec is None:
        with open_stored(path) as source:
            codec = codec_within(source.read(HEAD_BYTES))
    with open_raw(path, codec) as source:
        head = source.read(HEAD_BYTES)
    if head.startswith(b"PAR1"):
        return codec, "parquet"
    if head.lstrip().startswith(b"{"):
        return codec, "json"
    try:
        from mixrank.schemas.raw.tfrecord import is_tfrecord
    except ImportError:
        pass
    else:
        if is_tfrecord(head):
            return codec, "tfrecord"
    known = ", ".join(dict.fromkeys(ENDINGS.values()))
    raise ValueError(f"cannot tell the format of {path} from its ending; set `format` to one of {known}")


def _folders(path: str, folder: str) -> tuple[tuple[str, str | None], ...]:
    found = {}
    for part in _below(path, folder)[:-1]:
        name, equals, value = part.partition("=")
        if equals and name:
            found[unquote(name)] = None if value == HIVE_NULL else unquote(value)
    return tuple(found.items())
