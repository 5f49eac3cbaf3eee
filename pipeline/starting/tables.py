"""The tables among some files: which belong together, how they are read, and a sample of each."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from mixrank.pipeline.starting import words
from mixrank.pipeline.starting.columns import Column, profile
from mixrank.schemas import Table
from mixrank.schemas.arrow import pa, pc
from mixrank.schemas.raw import RawFile, find_files, list_files, open_raw

# Rows of a table that are looked at, bytes of text that are read for them, and files that are opened.
MOST_ROWS, MOST_BYTES, MOST_FILES = 400_000, 1_500_000_000, 400
ENDINGS = frozenset(
    (
        "parquet",
        "pq",
        "csv",
        "tsv",
        "txt",
        "data",
        "dat",
        "jsonl",
        "ndjson",
        "json",
        "tfrecord",
        "inter",
        "item",
        "user",
    )
)
CODECS = ("gz", "bz2", "xz", "zst", "lz4")
SEPARATORS = ("\t", ",", ";", "|")
# Lines of text that tell how it is separated, and files of a kind whose names are listed without a pattern.
LINES, MOST_NAMES, HEAD_BYTES = 50, 20, 2**16


@dataclass(frozen=True)
class Found:
    """A table of some files.

    Args:
        name: for messages and comments: the files' name or pattern.
        files: their paths below the data folder.
        table: how it is declared, without what a role adds.
        columns: cleaned name -> column of the sample.
        names: cleaned name -> column in the file.
        rows: about how many there are.
        sampled: how many were looked at.
        has_names: whether the file names its columns.
    """

    name: str
    files: tuple[str, ...]
    table: Table
    columns: dict[str, Column]
    names: dict[str, str]
    rows: int
    sampled: int
    has_names: bool = True


@dataclass(frozen=True)
class Form:
    """How files are read, and the names of their columns.

    Args:
        columns: names, in the order of the file.
        options: of `Table`, apart from `files`.
        has_names: whether the first line names the columns.
    """

    columns: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    has_names: bool = True


def find_tables(logs: Sequence[str]) -> tuple[str, list[Found], list[str]]:
    """The tables among files and folders.

    Args:
        logs: files, folders or prefixes of an object store.

    Returns:
        The data folder; its tables, in the order of their names; and what is passed over, with the reason.

    Raises:
        ValueError: if nothing is there that can be read as a table.
    """
    folder, files = _files(logs)
    forms: dict[str, Form] = {}
    skipped: list[str] = []
    for skeleton, alike in _by_skeleton(files).items():
        try:
            forms[skeleton] = _form(folder, alike)
        except (ValueError, OSError) as error:
            skipped.append(f"{alike[0]}{f' and {len(alike) - 1} like it' if alike[1:] else ''}: {error}")
    groups: dict[tuple[Any, ...], list[str]] = {}
    for skeleton, alike in _by_skeleton(files).items():
        if skeleton in forms:
            form = forms[skeleton]
            key = (tuple(sorted(form.columns)), repr(sorted(form.options.items())))
            # Files without names of columns only look alike.
            groups.setdefault(key if form.has_names else (*key, skeleton), []).extend(alike)
    readable = [path for paths in groups.values() for path in paths]
    found = []
    for paths in groups.values():
        form = forms[_skeleton(paths[0])]
        try:
            found.append(_found(folder, sorted(paths), form, readable))
        except (ValueError, OSError) as error:
            skipped.append(f"{paths[0]}: {error}")
    if not found:
        why = f"; passed over: {'; '.join(skipped)}" if skipped else ""
        raise ValueError(f"no file of {', '.join(map(repr, logs))} can be read as a table{why}")
    return folder, sorted(found, key=lambda table: table.name), skipped


def _files(logs: Sequence[str]) -> tuple[str, list[str]]:
    """The folder that holds all files, and their paths below it."""
    whole: list[str] = []
    folders: list[str] = []
    for log in logs:
        if "://" not in log and os.path.isfile(log):
            whole.append(log)
            folders.append(os.path.dirname(log))
            continue
        entries = list_files(log.rstrip("/") or "/", "**/*")
        if not entries and "://" in log:
            # A file of a store.
            above, _, name = log.rpartition("/")
            entries = list_files(above, name)
            folders.append(above)
        elif not entries:
            raise ValueError(f"{log} is neither a file nor a folder with files")
        else:
            folders.append(log.rstrip("/") or "/")
        whole += [entry.path for entry in entries]
    folder = _common(folders)
    below = sorted({_below(path, folder) for path in whole})
    return folder or ".", [path for path in below if _is_data(path)]


def _common(folders: list[str]) -> str:
    if len(set(folders)) == 1:
        return folders[0]
    if any("://" in folder for folder in folders):
        return _common_start([f"{folder}/" for folder in folders]).rpartition("/")[0]
    if any(os.path.isabs(folder) for folder in folders):
        folders = [os.path.abspath(folder) for folder in folders]
    return os.path.commonpath(folders) if all(folders) else ""


def _below(path: str, folder: str) -> str:
    if "://" in path:
        return path.removeprefix(folder.rstrip("/") + "/")
    return PurePosixPath(os.path.relpath(path, folder or ".")).as_posix()


def _is_data(path: str) -> bool:
    """Whether a file may be data, by its name: hidden files, marks of a job and pages are not."""
    parts = path.split("/")
    if any(part.startswith(("_", ".")) for part in parts):
        return False
    name = parts[-1].lower()
    while name.rpartition(".")[2] in CODECS:
        name = name.rpartition(".")[0]
    stem, dot, ending = name.rpartition(".")
    return not dot or ending in ENDINGS or (ending.isdigit() and bool(stem))


def _skeleton(path: str) -> str:
    """A path without what differs between parts of one table: numbers, hashes, values of folders."""
    path = re.sub(r"=[^/]*", "=*", path)
    path = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{16,}", "*", path)
    return re.sub(r"\d+", "*", path)


def _by_skeleton(files: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in files:
        found.setdefault(_skeleton(path), []).append(path)
    return found


def _form(folder: str, files: Sequence[str]) -> Form:
    """How the first file with rows is read."""
    problem = "it is empty"
    for file in files[:MOST_FILES]:
        try:
            if (form := _form_of(folder, file)) is not None:
                return form
        except ValueError as error:
            problem = str(error)
    raise ValueError(problem)


def _form_of(folder: str, file: str) -> Form | None:
    # As text the file opens whatever it is.
    found = find_files(Table(files=(_escaped(file),), format="csv"), folder).files
    if not found:
        return None
    with open_raw(found[0].path, found[0].codec) as source:
        head = source.read(HEAD_BYTES)
    if head.startswith(b"PAR1") or b"\0" in head[:1000]:
        return _declared(folder, file, {})
    text = head.decode("utf-8-sig", "replace")
    if text.lstrip().startswith("{"):
        return _declared(folder, file, {})
    lines = text.splitlines()
    # The last line may be cut.
    rows = lines[: LINES + 1] if len(lines) > LINES else lines[:-1] or lines
    separator = separator_of(rows)
    if separator is None:
        raise ValueError("its lines are not divided into equally many values by a tab, comma, semicolon or |")
    cells = next(csv.reader(io.StringIO(rows[0]), delimiter=separator))
    options: dict[str, Any] = {}
    if not _is_header(cells):
        options["columns"] = tuple(f"c{number}" for number in range(1, len(cells) + 1))
    form = _declared(folder, file, options, separator)
    return Form(form.columns, form.options, has_names="columns" not in options)


def _declared(folder: str, file: str, options: dict[str, Any], separator: str | None = None) -> Form:
    """The least that a table must say for its files to be read so."""
    tried = [options]
    if separator is not None:
        kind = "tsv" if separator == "\t" else "csv"
        tried = [options, options | {"format": kind}]
        tried += [each | {"separator": separator} for each in tried]
    problem: ValueError | None = None
    for each in tried:
        try:
            (found,) = find_files(Table(files=(_escaped(file),), **each), folder).files
            if separator is None or found.text.separator == separator:
                return Form(tuple(found.schema().names), each)
        except ValueError as error:
            problem = error
    raise problem or ValueError("it cannot be read as a table")


def separator_of(lines: Sequence[str]) -> str | None:
    """What divides every line into equally many values; None for text that is no table."""
    best: tuple[float, int, str] | None = None
    for separator in SEPARATORS:
        try:
            sizes = Counter(len(row) for row in csv.reader(io.StringIO("\n".join(lines)), delimiter=separator) if row)
        except csv.Error:
            continue
        if not sizes:
            continue
        size, rows = sizes.most_common(1)[0]
        share = rows / sum(sizes.values())
        if size >= 2 and share >= 0.9:
            best = max(best or (0.0, 0, ""), (round(share, 2), size, separator))
    return best[2] if best else None


def _is_header(cells: Sequence[str]) -> bool:
    """Whether the cells are names of columns: none is a number or missing, and no two are equal."""
    plain = [cell.strip() for cell in cells]
    if not all(plain) or len(set(plain)) < len(plain):
        # pandas writes its index under an empty name.
        return plain[0] == "" and _is_header(plain[1:]) if len(plain) > 1 else False
    return not any(re.fullmatch(r"[+-]?[\d.,:\-/ TZ]+", cell) for cell in plain)


def _found(folder: str, paths: list[str], form: Form, all_paths: list[str]) -> Found:
    table = Table(files=patterns(paths, all_paths), **form.options)
    files = find_files(table, folder).files
    raw, rows = _sample(files)
    names = _cleaned(raw.column_names)
    renamed = {name: clean for name, clean in names.items() if name != clean}
    columns = _of_one_mark({names[name]: profile(names[name], raw[name]) for name in raw.column_names})
    options: dict[str, Any] = {"rename": renamed} if renamed else {}
    if words_found := tuple(dict.fromkeys(word for column in columns.values() for word in column.missing_words)):
        options["missing"] = words_found
    if any(column.decimal_comma for column in columns.values()):
        options["decimal"] = ","
        if any("." in str(v) for c in columns.values() if c.decimal_comma for v in c.values):
            options["thousands"] = "."
    name = paths[0] if len(paths) == 1 else table.files[0]
    return Found(
        name=name,
        files=tuple(paths),
        table=Table(files=table.files, **form.options, **options),
        columns=columns,
        names={clean: name for name, clean in names.items()},
        rows=rows,
        sampled=raw.num_rows,
        has_names=form.has_names,
    )


def _of_one_mark(columns: dict[str, Column]) -> dict[str, Column]:
    """The columns, numbers with the rarer decimal mark as such: a table is read by one."""
    commas = [name for name, column in columns.items() if column.decimal_comma]
    points = [name for name, column in columns.items() if column.decimal_point]
    rarer = () if not commas or not points else commas if len(commas) <= len(points) else points
    return columns | {
        name: replace(columns[name], look="other mark", numbers=None, missing_words=(), decimal_comma=False)
        for name in rarer
    }


def patterns(paths: Sequence[str], all_paths: Iterable[str]) -> tuple[str, ...]:
    """Patterns that match some files and no other ones."""
    if len(paths) == 1:
        return (_escaped(paths[0]),)
    rest = set(all_paths) - set(paths)
    found = []
    for depth in sorted({path.count("/") for path in paths}):
        same = [path.split("/") for path in paths if path.count("/") == depth]
        pattern = "/".join(_pattern(part) for part in zip(*same, strict=True))
        if any(_matches(path, pattern) for path in rest):
            if len(same) > MOST_NAMES:
                raise ValueError(f"{len(same)} files, and no pattern tells them from others; move them to a folder")
            found += [_escaped("/".join(parts)) for parts in same]
        else:
            found.append(pattern)
    return tuple(found)


def _pattern(parts: Sequence[str]) -> str:
    """A pattern of some names: what they begin and end with, and a star."""
    if len(set(parts)) == 1:
        return _escaped(parts[0])
    columns = {part.partition("=")[0] for part in parts if "=" in part}
    if len(columns) == 1 and all("=" in part for part in parts):
        # Later days come in folders of their own.
        return f"{_escaped(columns.pop())}=*"
    start = _common_start(parts)
    end = _common_start([part[len(start) :][::-1] for part in parts])[::-1]
    # Numbers are cut where they begin, so that part-00000 and part-00001 are part-*.
    start = re.sub(r"\d+$", "", start)
    return f"{_escaped(start)}*{_escaped(re.sub(r'^[0-9]+', '', end))}"


def _common_start(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)
    same = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:same]


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _matches(path: str, pattern: str) -> bool:
    one, other = path.split("/"), pattern.split("/")
    return len(one) == len(other) and all(map(fnmatchcase, one, other))


def _cleaned(names: Sequence[str]) -> dict[str, str]:
    """Column in the file -> a name that a declaration may use."""
    found: dict[str, str] = {}
    for name in names:
        clean, number = words.cleaned(name), 2
        while clean in found.values():
            clean, number = f"{words.cleaned(name)}_{number}", number + 1
        found[name] = clean
    return found


def _sample(files: Sequence[RawFile]) -> tuple[pa.Table, int]:
    """Rows from all parts of a table, and about how many rows it has."""
    chosen = files if len(files) <= MOST_FILES else [files[i * len(files) // MOST_FILES] for i in range(MOST_FILES)]
    pieces = [(file, piece) for file in chosen for piece in file.pieces(50_000)]
    quota = -(-MOST_ROWS // len(pieces))
    kept: list[pa.Table] = []
    rows, read, _size = 0, 0, sum(file.uncompressed_size() for file in chosen)
    budget = MOST_BYTES / len(pieces)
    for file, piece in pieces:
        taken, seen = 0, 0
        names = file.schema().names
        # Of a long text every batch gives its share, so that the sample reaches to its end.
        about = file.uncompressed_size() / 80 if piece.rows is None else piece.rows
        share = min(1.0, 1.2 * quota / max(1.0, about))
        for batch in file.read(names, piece):
            part = batch.table.slice(0, max(1, round(share * batch.table.num_rows)))
            kept.append(part.slice(0, quota - taken))
            taken += kept[-1].num_rows
            seen += batch.table.num_rows
            read += batch.table.nbytes
            if taken >= quota or (piece.rows is None and seen * 80 > budget):
                break
        rows += piece.rows if piece.rows is not None else seen
        if piece.rows is None and taken >= quota:
            rows += _unread(file, batch.table, seen)
    if not any(part.num_rows for part in kept):
        raise ValueError("it has no rows")
    table = _concatenated([part for part in kept if part.num_rows])
    return table, round(rows * len(files) / len(chosen))


def _unread(file: RawFile, table: pa.Table, seen: int) -> int:
    """About how many rows of a text follow those that were read."""
    separators = table.num_rows * len(table.column_names)
    width = max(1.0, (table.nbytes - 4 * separators + separators) / table.num_rows)
    return max(0, round(file.uncompressed_size() / width) - seen)


def _concatenated(parts: list[pa.Table]) -> pa.Table:
    """Tables below each other; a column whose types differ becomes text."""
    names = list(dict.fromkeys(name for part in parts for name in part.column_names))
    columns = []
    for name in names:
        arrays = [part[name] if name in part.column_names else pa.nulls(part.num_rows) for part in parts]
        types = {str(array.type) for array in arrays if not pa.types.is_null(array.type)}
        if len(types) > 1:
            arrays = [_as_text(array) for array in arrays]
        to = next((array.type for array in arrays if not pa.types.is_null(array.type)), pa.null())
        chunks = list(_chunks(arrays, to))
        columns.append(pa.chunked_array(chunks, to))
    return pa.table(columns, names)


def _as_text(array: Any) -> Any:
    if pa.types.is_binary(array.type):
        return array
    if pa.types.is_nested(array.type):
        raise ValueError("one column holds lists in some files and single values in others")
    return pc.cast(pc.cast(array, pa.string()), pa.binary())


def _chunks(arrays: Iterable[Any], to: Any) -> Iterator[Any]:
    for array in arrays:
        for chunk in array.chunks if isinstance(array, pa.ChunkedArray) else [array]:
            yield chunk if chunk.type == to else pc.cast(chunk, to)
