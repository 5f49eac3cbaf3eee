"""Input files -> work items. An item is one output file; a restart keeps it or redoes it as a whole."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from mixrank.schemas import FeatureSpec, Format
from mixrank.schemas.arrow import pa
from mixrank.schemas.encode import Column, columns
from mixrank.schemas.naming import nearest
from mixrank.schemas.raw import Piece, RawFile, files_at

FORMATS: tuple[Format, ...] = get_args(Format)
ROWS_PER_ITEM = 250_000


@dataclass(frozen=True)
class Item:
    """A piece of one input file.

    Args:
        number: position among the items of a run; names the output file.
        file: where it is read from.
        piece: the part of the file.
    """

    number: int
    file: RawFile
    piece: Piece

    @property
    def name(self) -> str:
        return f"part-{self.number:05d}"


def find_files(source: Path, format: Format | None = None) -> list[RawFile]:
    """Files to score, sorted.

    Args:
        source: a file, a folder, or a pattern with `*`. If a folder holds `Split-*` folders, as ExampleGen writes
            them, only those are read.
        format: of all files; told from each if left out.

    Raises:
        ValueError: if there is no file, or the format of one cannot be told.
    """
    if not source.exists() and not glob.has_magic(str(source)):
        raise ValueError(f"input {source} does not exist")
    splits = sorted(source.glob("Split-*")) if source.is_dir() else []
    return [file for place in splits or [source] for file in files_at(place, format).files]


def plan(files: Sequence[RawFile], rows_per_item: int = ROWS_PER_ITEM) -> list[Item]:
    """Cuts Parquet files at row groups into items of about `rows_per_item` rows; any other file is one item."""
    pieces = [(file, piece) for file in files for piece in file.pieces(rows_per_item)]
    return [Item(number, file, piece) for number, (file, piece) in enumerate(pieces)]


def output_schema(spec: FeatureSpec, files: Sequence[RawFile], keep: Sequence[str]) -> pa.Schema:
    """The columns that are copied to the output: keys and scenario where every file has them, and those of `keep`.

    Args:
        spec: columns of a row.
        files: as `find_files` gives them.
        keep: more columns, which every file must have; for TFRecord files, only columns of the spec.

    Raises:
        ValueError: naming the file that lacks a column of `keep`, or one that every row must have.
    """
    known = {column.name: column for column in columns(spec)}
    present = {file.path: _fields(file, known) for file in files}
    for path, fields in present.items():
        for name in [*keep, *(c.name for c in known.values() if c.required)]:
            if name not in fields:
                raise ValueError(f"{path} has no column `{name}`{nearest(name, fields)}")
    keys = (*spec.key_columns, spec.scenario.name)
    names = [key for key in dict.fromkeys(keys) if all(key in fields for fields in present.values())]
    first = next(iter(present.values()))
    return pa.schema([(name, first[name]) for name in dict.fromkeys([*names, *keep])])


def _fields(file: RawFile, known: dict[str, Column]) -> dict[str, pa.DataType]:
    """Column of a file -> its type in the output."""
    types = {name: arrow_type(column) for name, column in known.items()}
    # The first rows of JSON lines and examples tell nothing about optional columns; every row is checked for required
    # ones later.
    serving = {name: types[name] for name, column in known.items() if column.serving}
    if file.format == "tfrecord":
        names = _example_names(file)
        return serving | {name: kind for name, kind in types.items() if names is None or name in names}
    found = file.schema()
    if not found.names:
        # It has no row that could lack a column.
        return types
    fields = {field.name: field.type if file.format == "parquet" else pa.string() for field in found}
    fields |= serving if file.format == "json" else {}
    return {name: types.get(name, kind) for name, kind in fields.items()}


def _example_names(file: RawFile) -> set[str] | None:
    """Columns of the first tf.Example; None if it is missing or broken."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    for records in file.records(1):
        try:
            return set(tf.train.Example.FromString(records[0]).features.feature)
        except DecodeError:
            break
    return None


def arrow_type(column: Column) -> pa.DataType:
    """Arrow type of a column: 64-bit integers, 32-bit floats, text, and lists of those."""
    plain = {"int": pa.int64(), "float": pa.float32(), "str": pa.string()}[column.kind]
    return plain if column.length is None else pa.list_(plain)


def input_identity(items: Sequence[Item]) -> list[Any]:
    """Fingerprint of the input: its items, with the size and modification time of their files."""
    return [asdict(item) for item in items]
