"""Input files -> work items. An item is one output file; a restart keeps it or redoes it as a whole."""

from __future__ import annotations

import csv
import glob
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from mixrank.schemas import FeatureSpec
from mixrank.schemas.arrow import open_parquet, pa
from mixrank.schemas.encode import Column, columns
from mixrank.schemas.naming import nearest
from mixrank.serving.batch_scoring.text import open_text

Format = Literal["parquet", "csv", "tfrecord"]
FORMATS: tuple[Format, ...] = get_args(Format)
ROWS_PER_ITEM = 250_000


@dataclass(frozen=True)
class Item:
    """A piece of one input file.

    Args:
        number: position among the items of a run; names the output file.
        file: its path.
        format: how it is read.
        groups: row groups of a Parquet file, as (first, last + 1); None for other formats, which cannot be split.
        before: number of rows of the file before the piece.
        rows: number of rows in the piece, None if unknown until it is read.
    """

    number: int
    file: str
    format: Format
    groups: tuple[int, int] | None = None
    before: int = 0
    rows: int | None = None

    @property
    def name(self) -> str:
        return f"part-{self.number:05d}"


def find_files(source: Path, format: Format | None = None) -> dict[Path, Format]:
    """Files to score, sorted, each with its format.

    Args:
        source: a file, a folder, or a pattern with `*`. If a folder holds `Split-*` folders, as ExampleGen writes
            them, only those are read; names that begin with `.` or `_` never are.
        format: of all files; inferred from each name if left out.

    Raises:
        ValueError: if there is no file, or a format cannot be inferred from a name.
    """
    if source.is_file():
        found = [source]
    elif source.is_dir():
        folders = sorted(source.glob("Split-*")) or [source]
        found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        found = [path for path in found if not any(p[0] in "._" for p in path.relative_to(source).parts)]
    else:
        found = [Path(path) for path in glob.glob(str(source), recursive=True) if Path(path).is_file()]
    if not found:
        what = "holds no file to score" if source.is_dir() else "does not exist"
        raise ValueError(f"input {source} {what}")
    return {path: format or _format(path) for path in sorted(found)}


def _format(path: Path) -> Format:
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        return "parquet"
    if name.endswith(".csv"):
        return "csv"
    if "tfrecord" in name:
        return "tfrecord"
    raise ValueError(f"cannot tell the format of {path} from its name; say --format {'|'.join(FORMATS)}")


def plan(files: dict[Path, Format], rows_per_item: int = ROWS_PER_ITEM) -> list[Item]:
    """Cuts Parquet files at row groups into items of about `rows_per_item` rows; any other file is one item."""
    pieces: list[dict[str, Any]] = []
    for path, format in files.items():
        if format == "parquet":
            pieces += _row_groups(path, rows_per_item)
        else:
            pieces.append({"file": str(path), "format": format})
    return [Item(number=number, **piece) for number, piece in enumerate(pieces)]


def _row_groups(path: Path, rows_per_item: int) -> Iterator[dict[str, Any]]:
    metadata = open_parquet(path).metadata
    counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    first, before, rows = 0, 0, 0
    for group, count in enumerate(counts):
        rows += count
        if rows >= rows_per_item or group == len(counts) - 1:
            yield {
                "file": str(path), "format": "parquet", "groups": (first, group + 1), "before": before, "rows": rows
            }  # fmt: skip
            first, before, rows = group + 1, before + rows, 0


def output_schema(spec: FeatureSpec, files: dict[Path, Format], keep: Sequence[str]) -> pa.Schema:
    """The columns that are copied to the output: user, item, time and scenario where every file has them, and `keep`.

    Args:
        spec: columns of a row.
        files: as `find_files` gives them.
        keep: more columns, which every file must have; for TFRecord files, only columns of the spec.

    Raises:
        ValueError: naming the file that lacks a column of `keep`, or one that every row must have.
    """
    known = {column.name: column for column in columns(spec)}
    present = {path: _fields(path, format, known) for path, format in files.items()}
    for path, fields in present.items():
        for name in [*keep, *(c.name for c in known.values() if c.required)]:
            if name not in fields:
                raise ValueError(f"{path} has no column `{name}`{nearest(name, fields)}")
    keys = (spec.user.name, spec.item.name, spec.time.name, spec.scenario.name)
    names = [key for key in dict.fromkeys(keys) if all(key in fields for fields in present.values())]
    first = next(iter(present.values()))
    return pa.schema([(name, first[name]) for name in dict.fromkeys([*names, *keep])])


def _fields(path: Path, format: Format, known: dict[str, Column]) -> dict[str, pa.DataType]:
    """Column of a file -> its type in the output."""
    if format == "parquet":
        schema = open_parquet(path).schema_arrow
        return {field.name: arrow_type(known[field.name]) if field.name in known else field.type for field in schema}
    if format == "csv":
        with open_text(path) as lines:
            header = next(csv.reader(lines), None)
        if not header:
            raise ValueError(f"{path} is empty; its first line must name the columns")
        return {name: arrow_type(known[name]) if name in known else pa.string() for name in header}
    return _example_fields(path, known)


def _example_fields(path: Path, known: dict[str, Column]) -> dict[str, pa.DataType]:
    """Columns of the first tf.Example; all columns of the spec if it is missing or broken."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    names = set(known)
    try:
        for record in tf.data.TFRecordDataset(str(path), compression(path)).take(1).as_numpy_iterator():
            names &= set(tf.train.Example.FromString(record).features.feature)
    except tf.errors.DataLossError as error:
        raise ValueError(f"{path} cannot be read as tfrecord: {error.message}") from None
    except DecodeError:
        names = set(known)
    # The first row tells nothing about required columns; every row is checked for those later.
    names |= {column.name for column in known.values() if column.serving}
    return {name: arrow_type(column) for name, column in known.items() if name in names}


def compression(path: str | Path) -> str:
    """Compression of a TFRecord file, from its first bytes."""
    with open(path, "rb") as file:
        return "GZIP" if file.read(2) == b"\x1f\x8b" else ""


def arrow_type(column: Column) -> pa.DataType:
    """Arrow type of a column: 64-bit integers, 32-bit floats, text, and lists of those."""
    plain = {"int": pa.int64(), "float": pa.float32(), "str": pa.string()}[column.kind]
    return plain if column.length is None else pa.list_(plain)


def input_identity(items: Sequence[Item]) -> list[Any]:
    """Fingerprint of the input: its items, and the size and modification time of their files."""
    files = {item.file: Path(item.file).stat() for item in items}
    return [
        [asdict(item) for item in items],
        {name: [stat.st_size, stat.st_mtime_ns] for name, stat in files.items()},
    ]
