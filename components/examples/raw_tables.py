"""Raw tables of a dataset: their files, the columns needed from each, and the reader of a piece of a file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, assert_never

from apache_beam.io.filesystems import FileSystems

from mixrank.schemas import Categorical, Dataset, Join, MultiCategorical, Numeric, Table
from mixrank.schemas.arrow import pa
from mixrank.schemas.naming import nearest
from mixrank.schemas.raw import Batch, RawColumn, column_names, read_file, row_groups, uncompressed_size

LOG, PRIOR = "log", "prior"
# Uncompressed columns. KuaiRand shards of this size have 50,000 rows and take about 140 MB to build.
SHARD_BYTES = 2 * 2**20
LEAST_SHARDS = 4


@dataclass(frozen=True)
class RawTable:
    """A table of the source as found on disk.

    Args:
        name: "log", "user_0", "item_1", ... (joins by position) or "prior".
        files: its paths, sorted.
        format: "parquet", "csv" or "tfrecord".
        separator: of a text file.
        names: name used here -> column in the file.
        columns: the columns to read, after renaming.
        key: column to partition by, or None for a table that every shard reads completely.
    """

    name: str
    files: tuple[str, ...]
    format: str
    separator: str
    names: dict[str, str]
    columns: tuple[RawColumn, ...]
    key: str | None
    bytes: int = field(default=0, compare=False)

    def chunks(self) -> Iterator[tuple[str, int, int, int]]:
        """(file, file number, row group or -1, rows before it): pieces that can be read independently."""
        for number, file in enumerate(self.files):
            if self.format == "parquet":
                for group, before in row_groups(file):
                    yield file, number, group, before
            else:
                yield file, number, -1, 0


def find_tables(dataset: Dataset, data_dir: str) -> dict[str, RawTable]:
    """The tables of a dataset under a folder, with every needed column checked in every file.

    A feature comes from the log if the log has its column, else from the first join that has it. Keys, time,
    labels and flags must be in the log or derived.

    Args:
        dataset: the declaration.
        data_dir: folder with the raw files; any file system Beam can read.

    Returns:
        name -> table; "log" is always present, "prior" only if its files are.

    Raises:
        ValueError: naming the missing file, or the file, the missing column and the nearest one it has.
    """
    source = dataset.source
    declared: list[tuple[str, Table]] = [(LOG, source.log)]
    declared += [(join_name(number, join), join.table) for number, join in enumerate(source.joins)]
    if source.prior is not None:
        declared.append((PRIOR, source.prior.table))
    files = {name: _files(table, data_dir) for name, table in declared}
    tables = {name: table for name, table in declared if files[name]}
    found = {name: _columns(table, files[name][0]) for name, table in tables.items()}

    needed = _needed(dataset, found, files)
    keys = {LOG: dataset.spec.user.name, PRIOR: dataset.spec.user.name}
    keys |= {join_name(n, j): dataset.spec.user.name for n, j in enumerate(source.joins) if j.on == "user"}
    result = {}
    for name, table in tables.items():
        for file in files[name]:
            _check_columns(file, [column.name for column in needed[name]], _columns(table, file))
        result[name] = RawTable(
            name=name,
            files=files[name],
            format=_format(table, files[name][0]),
            separator=_separator(table, files[name][0]),
            names=found[name],
            columns=tuple(needed[name]),
            key=keys.get(name),
            bytes=sum(uncompressed_size(file, _format(table, file)) for file in files[name]),
        )
    return result


def default_shards(tables: dict[str, RawTable]) -> int:
    """Number of user shards for tables of this size."""
    partitioned = sum(table.bytes for table in tables.values() if table.key is not None)
    return max(LEAST_SHARDS, math.ceil(partitioned / SHARD_BYTES))


def join_name(number: int, join: Join) -> str:
    return f"{join.on}_{number}"


def _files(table: Table, data_dir: str) -> tuple[str, ...]:
    for pattern in table.files:
        (match,) = FileSystems.match([FileSystems.join(data_dir, pattern)])
        if match.metadata_list:
            return tuple(sorted(metadata.path for metadata in match.metadata_list))
    if table.optional:
        return ()
    raise ValueError(f"no file matches {' or '.join(map(repr, table.files))} in {data_dir}")


def _format(table: Table, file: str) -> str:
    if table.format is not None:
        return table.format
    name = file.removesuffix(".gz")
    for ending, kind in ((".parquet", "parquet"), (".tfrecord", "tfrecord")):
        if name.endswith(ending):
            return kind
    if name.endswith((".csv", ".tsv", ".inter", ".item", ".user")):
        return "csv"
    raise ValueError(f"cannot tell the format of {file} from its ending; set `format` of its table")


def _separator(table: Table, file: str) -> str:
    return table.separator or ("," if file.removesuffix(".gz").endswith(".csv") else "\t")


def _columns(table: Table, file: str) -> dict[str, str]:
    """Name used here -> column in the file."""
    kind = _format(table, file)
    return {table.rename.get(name, name): name for name in column_names(file, kind, _separator(table, file))}


def _check_columns(file: str, needed: list[str], present: dict[str, str]) -> None:
    for name in needed:
        if name not in present:
            raise ValueError(f"{file} has no column `{name}`{nearest(name, present)}")


def _needed(
    dataset: Dataset, found: dict[str, dict[str, str]], files: dict[str, tuple[str, ...]]
) -> dict[str, list[RawColumn]]:
    """Columns to read per table, keys first."""
    spec, source = dataset.spec, dataset.source
    user = RawColumn(spec.user.name, spec.user.dtype, required=True)
    item = RawColumn(spec.item.name, spec.item.dtype, required=True)
    needed: dict[str, dict[str, RawColumn]] = {name: {} for name in found}
    needed[LOG] = {c.name: c for c in (user, item, RawColumn(spec.time.name, "time", True, unit=spec.time.unit))}
    for flag in spec.flags:
        if flag not in source.derive:
            needed[LOG][flag] = RawColumn(flag, "flag", required=True)
    _check_columns(files[LOG][0], list(needed[LOG]), found[LOG])
    for number, join in enumerate(source.joins):
        key = user if join.on == "user" else item
        needed[join_name(number, join)] = {key.name: key}

    for column in _features(dataset):
        if column.name in {*source.derive, *source.popularity, *needed[LOG]}:
            continue
        home = next((name for name in found if name != PRIOR and column.name in found[name]), None)
        if home is None:
            options = [name for table, names in found.items() if table != PRIOR for name in names]
            places = ", ".join(files[name][0] for name in found if name != PRIOR)
            raise ValueError(f"no table has column `{column.name}` ({places}){nearest(column.name, options)}")
        needed[home].setdefault(column.name, column)
    for name, rule in source.derive.items():
        for columns in needed.values():
            if rule.column in columns and columns[rule.column].kind == "str":
                raise ValueError(f"`{name}` is derived from `{rule.column}`, which holds text; it takes numbers")
    if PRIOR in found and source.prior is not None:
        lists = (source.prior.items, *source.prior.flags.values())
        needed[PRIOR] = {user.name: user}
        needed[PRIOR] |= {name: RawColumn(name, spec.item.dtype, many=True) for name in lists}
    return {name: list(columns.values()) for name, columns in needed.items()}


def _features(dataset: Dataset) -> Iterator[RawColumn]:
    spec = dataset.spec
    # A row without a scenario is bad, but a joined or derived scenario is known only after the join.
    yield RawColumn(spec.scenario.name, spec.scenario.dtype)
    for feature in spec.inputs:
        match feature:
            case MultiCategorical():
                yield RawColumn(feature.name, feature.kind, many=True, separator=feature.separator)
            case Categorical() | Numeric():
                yield RawColumn(feature.name, feature.kind)
            case _:
                assert_never(feature)
    for rule in dataset.source.derive.values():
        yield RawColumn(rule.column, "float")


def read_batches(table: RawTable, file: str, group: int, before: int) -> Iterator[Batch]:
    """Batches of the needed columns of one piece of a file, under the names used here.

    Args:
        table: the table.
        file: one of its files.
        group: row group of a Parquet file, -1 otherwise.
        before: rows of the file before this piece.
    """
    names: dict[str, Any] = {table.names[column.name]: column.name for column in table.columns}
    for batch in read_file(file, table.format, table.separator, list(names), group, before):
        renamed = pa.Table.from_arrays(batch.table.columns, [names[name] for name in batch.table.column_names])
        yield Batch(renamed, batch.rows, batch.bad)
