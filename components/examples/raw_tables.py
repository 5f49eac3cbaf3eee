"""Raw tables of a dataset: their files, the columns needed from each, and the reader of a piece of a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, assert_never

import numpy as np

from mixrank.components.examples.candidates import exploded, row_numbers, uneven
from mixrank.schemas import (
    Action,
    Categorical,
    Dataset,
    EventTime,
    Explode,
    FeatureSpec,
    History,
    Join,
    LabelFrom,
    MultiCategorical,
    Numeric,
    RowFeature,
    Table,
    TimeGap,
    Vector,
)
from mixrank.schemas.arrow import pa
from mixrank.schemas.naming import nearest
from mixrank.schemas.raw import (
    Batch,
    Found,
    Piece,
    RawColumn,
    RawFile,
    convert,
    dead_letter,
    find_files,
    uneven_lists,
    uneven_weights,
)

LOG, PRIOR = "log", "prior"
# Where a row of the log came from, and its place in a table in memory; no columns of the spec.
FILE, ROW, PLACE = "_file", "_row", "_place"
# Uncompressed columns. KuaiRand shards of this size have 50,000 rows and take about 140 MB to build.
SHARD_BYTES = 2 * 2**20
LEAST_SHARDS = 4
# Files that a message about several names.
SHOWN_FILES = 3
T = TypeVar("T")


@dataclass(frozen=True)
class RawTable:
    """A table of the source as found on disk.

    Args:
        name: "log", "user_0", "item_1", ... (joins by position), "label_click", ... (of a `LabelFrom`),
            "events_orders", ... (of an `EventTable`) or "prior".
        files: its files, sorted by path.
        names: of each file, name used here -> column in the file.
        columns: the columns to read, after renaming.
        key: column to partition by, or None for a table that every shard reads completely.
        bytes: approximate size without compression.
        hidden, empty: files that were left out, as in `Found`.
        numbered: key column that no file has, which numbers the rows, or None.
        explode: how a row becomes several, or None.
        time: column with the time of a row, or None.
    """

    name: str
    files: tuple[RawFile, ...]
    names: tuple[dict[str, str], ...]
    columns: tuple[RawColumn, ...]
    key: str | None
    bytes: int = field(default=0, compare=False)
    hidden: int = 0
    empty: int = 0
    numbered: str | None = None
    explode: Explode | None = None
    time: str | None = None

    @property
    def fields(self) -> list[tuple[str, pa.DataType]]:
        """Columns, as `rows_of` makes them."""
        exploded = self.explode.columns if self.explode is not None else ()
        names = {c.name: c.value_type if c.name in exploded else c.arrow_type for c in self.columns}
        if self.explode is not None:
            for label, column in self.explode.chosen.items():
                names.pop(column, None)
                names[label] = pa.int64()
            if self.explode.position is not None:
                names[self.explode.position] = pa.int64()
        return [*names.items(), *([(self.numbered, pa.int64())] if self.numbered is not None else [])]

    def pieces(self) -> Iterator[tuple[int, Piece]]:
        """Pieces that can be read independently, each with the position of its file."""
        for number, file in enumerate(self.files):
            for piece in file.pieces():
                yield number, piece


def find_tables(dataset: Dataset, data_dir: str) -> dict[str, RawTable]:
    """The tables of a dataset under a folder, with every needed column checked in every file.

    A feature comes from the log if the log has its column, else from the first join that has it. Keys, time, row
    weights, labels and flags must be in the log, the last two unless they are derived.

    Args:
        dataset: the declaration.
        data_dir: folder with the raw files; any file system Beam can read.

    Returns:
        name -> table; "log" is always present, "prior" only if its files are.

    Raises:
        ValueError: naming the missing file, or the file, the missing column and the nearest one it has.
    """
    source = dataset.source
    declared = declared_tables(dataset)
    found = {name: find_files(table, data_dir) for name, table in declared.items()}
    tables = {name: _with_columns(name, declared[name], files) for name, files in found.items() if files.files}

    needed = _needed(dataset, declared, tables)
    keys = {LOG: dataset.spec.user.name, PRIOR: dataset.spec.user.name}
    keys |= {join_name(n, j): dataset.spec.user.name for n, j in enumerate(source.joins) if j.on == "user"}
    shared = {label: label_keys(dataset.spec, rule) for label, rule in source.labels.items()}
    keys |= {label_table(label): dataset.spec.user.name for label, on in shared.items() if dataset.spec.user.name in on}
    keys |= {event_table(events): dataset.spec.user.name for events in source.events}
    result = {}
    for name, table in tables.items():
        for file, names in zip(table.files, table.names, strict=True):
            _check_columns(file.path, [column.stored for column in needed[name]], names)
        result[name] = replace(
            table,
            columns=tuple(needed[name]),
            key=keys.get(name),
            bytes=sum(file.uncompressed_size() for file in table.files),
            numbered=dataset.spec.user.name if name == LOG and dataset.spec.user.per_row else None,
            explode=source.explode if name == LOG else None,
            time=next((column.name for column in needed[name] if column.kind == "time"), None),
        )
    return result


def declared_tables(dataset: Dataset) -> dict[str, Table]:
    """Name -> table of a dataset, the log first."""
    source = dataset.source
    tables = {LOG: source.log} | {join_name(number, join): join.table for number, join in enumerate(source.joins)}
    tables |= {label_table(label): rule.table for label, rule in source.labels.items()}
    tables |= {event_table(events): rule.table for events, rule in source.events.items()}
    return tables if source.prior is None else tables | {PRIOR: source.prior.table}


def default_shards(tables: dict[str, RawTable]) -> int:
    """Number of user shards for tables of this size."""
    partitioned = sum(table.bytes for table in tables.values() if table.key is not None)
    return max(LEAST_SHARDS, math.ceil(partitioned / SHARD_BYTES))


def join_name(number: int, join: Join) -> str:
    return f"{join.on}_{number}"


def label_table(label: str) -> str:
    return f"label_{label}"


def event_table(events: str) -> str:
    return f"events_{events}"


def label_keys(spec: FeatureSpec, rule: LabelFrom) -> tuple[str, ...]:
    """Columns that an impression and its event share."""
    return rule.on or (spec.user.name, spec.item.name)


def _with_columns(name: str, table: Table, found: Found) -> RawTable:
    """A table with the names of all columns of its files; files without a row are left out."""
    names = dict(zip(found.files, each_file(name, found.files, lambda file: _names(table, file)), strict=True))
    files = tuple(file for file in found.files if names[file])
    if not files:
        raise ValueError(f"{found.files[0].path} is empty; its first line must name the columns")
    empty = found.empty + len(found.files) - len(files)
    return RawTable(name, files, tuple(names[file] for file in files), (), None, 0, found.hidden, empty)


def each_file(name: str, files: Sequence[RawFile], act: Callable[[RawFile], T]) -> list[T]:
    """The result of `act` for every file.

    Raises:
        ValueError: naming all files for which it fails, and how many are fine.
    """
    done: list[T] = []
    wrong: list[str] = []
    for file in files:
        try:
            done.append(act(file))
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise ValueError(unreadable(name, wrong, len(files)))
    return done


def unreadable(name: str, wrong: Sequence[str], files: int) -> str:
    """The message about files that cannot be read, with the first few reasons.

    Args:
        name: of the table.
        wrong: the reason of each file.
        files: of the table.
    """
    if files == 1:
        return wrong[0]
    more = f"; and {len(wrong) - SHOWN_FILES} more" if len(wrong) > SHOWN_FILES else ""
    return f"{len(wrong)} of {files} files of table `{name}` cannot be read: {'; '.join(wrong[:SHOWN_FILES])}{more}"


def _names(table: Table, file: RawFile) -> dict[str, str]:
    """Name used here -> column in the file; none if the file is empty."""
    names: dict[str, str] = {}
    for column in file.schema().names:
        name = table.rename.get(column, column)
        if name in names:
            raise ValueError(
                f"{file.path} has columns `{names[name]}` and `{column}`, and `rename` gives both the name `{name}`"
            )
        names[name] = column
    return names


def _check_columns(file: str, needed: list[str], present: dict[str, str]) -> None:
    for name in needed:
        if name not in present:
            raise ValueError(f"{file} has no column `{name}`{nearest(name, present)}")


def _needed(dataset: Dataset, declared: dict[str, Table], tables: dict[str, RawTable]) -> dict[str, list[RawColumn]]:
    """Columns to read per table, keys first."""
    spec, source = dataset.spec, dataset.source
    user = RawColumn(spec.user.name, spec.user.dtype, required=True)
    item = RawColumn(spec.item.name, spec.item.dtype, required=True)
    # The columns of the first file stand for those of its table; the others are checked against what is needed.
    found = {name: table.names[0] for name, table in tables.items()}
    first = {name: table.files[0].path for name, table in tables.items()}
    needed: dict[str, dict[str, RawColumn]] = {name: {} for name in found}
    keys = (item,) if spec.user.per_row else (user, item)
    needed[LOG] = {c.name: c for c in (*keys, _time(spec.time))}
    if spec.request is not None:
        needed[LOG][spec.request.name] = RawColumn(spec.request.name, spec.request.dtype, required=True)
    chosen = source.explode.chosen if source.explode is not None else {}
    conditional = {label.name for label in spec.labels if label.given is not None}
    for flag in spec.flags:
        if flag not in {*source.derive, *source.labels, *chosen}:
            # Whether a row may lack a label that is given another is known when both are.
            needed[LOG][flag] = RawColumn(flag, "flag", required=flag not in conditional)
    for label in spec.labels:
        if not label.is_flag:
            kind, required = label.values.column, label.given is None
            needed[LOG][label.name] = RawColumn(
                label.name, kind, required=required, label=label.kind, classes=label.classes
            )
    if spec.position is not None and (source.explode is None or source.explode.position != spec.position.name):
        needed[LOG][spec.position.name] = RawColumn(spec.position.name, "int")
    for name in spec.row_weights:
        needed[LOG][name] = RawColumn(name, "float", required=True, weight=True)
    _check_columns(first[LOG], list(needed[LOG]), found[LOG])
    for number, join in enumerate(source.joins):
        key = user if join.on == "user" else item
        needed[join_name(number, join)] = {key.name: key}

    homes = [LOG, *(join_name(number, join) for number, join in enumerate(source.joins))]
    filled = {*source.derive, *source.popularity, *source.labels, *needed[LOG], spec.user.name}
    if source.explode is not None and source.explode.position is not None:
        filled.add(source.explode.position)
    for column in _features(dataset):
        if column.name in filled:
            continue
        home = next((name for name in homes if column.stored in found[name]), None)
        if home is None:
            options = [name for table in homes for name in found[table]]
            places = ", ".join(first[name] for name in homes)
            raise ValueError(f"no table has column `{column.stored}` ({places}){nearest(column.stored, options)}")
        needed[home].setdefault(column.name, column)
    for history in spec.histories:
        _need_lists_of_rows(dataset, history, needed, found, first)
    _need_events(dataset, needed)
    for events in source.events:
        _need_event_table(dataset, events, needed, found, first)
    if source.explode is not None:
        _need_lists(source.explode, needed[LOG], item, found[LOG], first[LOG])
    for name, rule in source.derive.items():
        for columns in needed.values():
            if rule.column in columns and columns[rule.column].kind == "str":
                raise ValueError(f"`{name}` is derived from `{rule.column}`, which holds text; it takes numbers")
    if PRIOR in found and source.prior is not None:
        lists = (source.prior.items, *source.prior.flags.values())
        needed[PRIOR] = {user.name: user}
        needed[PRIOR] |= {name: RawColumn(name, spec.item.dtype, many=True) for name in lists}
    return {
        name: [_in_table(column, declared[name]) for column in columns.values()] for name, columns in needed.items()
    }


def _time(declared: EventTime) -> RawColumn:
    return RawColumn(
        declared.name, "time", True, format=declared.format, unit=declared.unit, timezone=declared.timezone
    )


def _in_table(column: RawColumn, table: Table) -> RawColumn:
    """A column, read as the text of its table is written."""
    return replace(column, decimal=table.decimal, thousands=table.thousands, missing=table.missing)


def _need_events(dataset: Dataset, needed: dict[str, dict[str, RawColumn]]) -> None:
    """The columns of every `LabelFrom`, in its table and in the log."""
    spec = dataset.spec
    for label, rule in dataset.source.labels.items():
        own = needed[label_table(label)]
        for name in label_keys(spec, rule):
            # Ids of requests are compared by their text.
            needed[LOG].setdefault(name, RawColumn(name, "str"))
            own[name] = replace(needed[LOG][name], required=True)
        time = _time(rule.time or spec.time)
        own[time.name] = time


def _need_event_table(
    dataset: Dataset,
    events: str,
    needed: dict[str, dict[str, RawColumn]],
    found: dict[str, dict[str, str]],
    first: dict[str, str],
) -> None:
    """The columns of an `EventTable`, and those that its histories take from tables of items.

    Args:
        dataset, events: the declaration, and the name of the table.
        needed: table -> the columns to read, which are added.
        found: table -> its columns.
        first: table -> path of its first file.

    Raises:
        ValueError: for a field that neither the table nor a table of items has.
    """
    spec, source, name = dataset.spec, dataset.source, event_table(events)
    if name not in found:
        return
    own = needed[name]
    time = _time(source.events[events].time or spec.time)
    own |= {column.name: column for column in (RawColumn(spec.user.name, spec.user.dtype, required=True), time)}
    own |= {flag: RawColumn(flag, "flag", required=True) for flag in spec.flags_of_events(events)}
    item = RawColumn(spec.item.name, spec.item.dtype, required=True)
    homes = [join_name(number, join) for number, join in enumerate(source.joins) if join.on == "item"]
    histories = [history for history in spec.histories if history.events == events]
    for feature in {f.name: f for history in histories for _, f in spec.history_fields(history)}.values():
        match feature:
            case Action() | TimeGap():
                continue
            case Categorical() | MultiCategorical() | Numeric() | Vector():
                column, *weights = _columns_of(feature)
            case _:
                assert_never(feature)
        if column.stored not in found[name] and feature.name in source.derive:
            column = RawColumn(source.derive[feature.name].column, "float")
        home = next((each for each in (name, *homes) if column.stored in found[each]), None)
        if home is None:
            places = ", ".join(first[each] for each in (name, *homes))
            options = [each for table in (name, *homes) for each in found[table]]
            raise ValueError(
                f"history of `{events}`: neither the event table nor a table of items has column `{column.stored}` "
                f"({places}){nearest(column.stored, options)}"
            )
        # Weights stand beside their values.
        _check_columns(first[home], [each.stored for each in weights], found[home])
        for each in (column, *weights):
            needed[home].setdefault(each.name, each)
        if home != name:
            own[item.name] = item


def _need_lists_of_rows(
    dataset: Dataset,
    history: History,
    needed: dict[str, dict[str, RawColumn]],
    found: dict[str, dict[str, str]],
    first: dict[str, str],
) -> None:
    """The columns of a history whose rows bring its events, all of one table: the log, or one of users.

    Args:
        dataset, history: the declaration.
        needed, found, first: as in `_need_event_table`.

    Raises:
        ValueError: for a field whose column none of them has, or not the one with the other fields.
    """
    if history.in_row is None:
        return
    homes = [LOG, *(join_name(number, join) for number, join in enumerate(dataset.source.joins) if join.on == "user")]
    fields = list(dataset.spec.history_fields(history))
    along, _ = fields[0]
    home = next((each for each in homes if along in found[each]), None)
    for name, feature in fields:
        if home is None or name not in found[home]:
            asked = homes if home is None else [home]
            options = [each for table in asked for each in found[table]]
            places = ", ".join(first[each] for each in asked)
            raise ValueError(
                f"history `{history.name}`: no column `{name}` ({places}){nearest(name, options)}; the log or a table "
                "of users has a list for each field, and `rename` of a table gives its columns their names"
            )
        needed[home][name] = RawColumn(
            name,
            feature.kind,
            many=True,
            separator=history.separator,
            keep_places=True,
            # Where a number is missing, its event says what else it has.
            filled=feature.kind != "float",
            along=along if name != along else None,
        )


def _need_lists(explode: Explode, log: dict[str, RawColumn], item: RawColumn, found: Iterable[str], file: str) -> None:
    """Makes lists of the columns of candidates."""
    _check_columns(file, [*explode.columns, *explode.chosen.values()], dict.fromkeys(found, ""))
    for name in explode.columns:
        if name not in log:
            raise ValueError(
                f"`explode` lists `{name}` in `columns`, which no key, label or feature takes from the log"
            )
        log[name] = replace(log[name], many=True, separator=explode.separator, keep_places=True)
    for name in explode.chosen.values():
        log[name] = RawColumn(name, item.kind, many=True, separator=explode.separator, single=True)


def _features(dataset: Dataset) -> Iterator[RawColumn]:
    spec = dataset.spec
    # A row without a scenario is bad, but a joined or derived scenario is known only after the join.
    yield RawColumn(spec.scenario.name, spec.scenario.dtype)
    of_log = {field for history in spec.histories if history.of_impressions for field in history.of}
    for feature in (*spec.inputs, *(each for each in spec.events_only if each.name in of_log)):
        yield from _columns_of(feature)
    for rule in dataset.source.derive.values():
        yield RawColumn(rule.column, "float")


def _columns_of(feature: RowFeature) -> Iterator[RawColumn]:
    """The column of a feature, then that of its weights."""
    match feature:
        case MultiCategorical():
            own, mark = feature.separator, feature.weight_separator
            yield RawColumn(feature.name, feature.kind, many=True, separator=own, mark=mark)
            if feature.weights is not None:
                yield RawColumn(
                    feature.weights,
                    "float",
                    many=True,
                    separator=own,
                    source=feature.name if mark is not None else "",
                    mark=mark,
                    weighs=feature.name,
                )
        case Vector():
            yield RawColumn(feature.name, feature.kind, many=True, separator=feature.separator, exactly=feature.dim)
        case Categorical() | Numeric():
            yield RawColumn(feature.name, feature.kind)
        case _:
            assert_never(feature)


def read_batches(table: RawTable, number: int, piece: Piece) -> Iterator[Batch]:
    """Batches of the needed columns of one piece of a file, under the names used here.

    Args:
        table: the table.
        number: position of the file in the table.
        piece: of the file.
    """
    wanted = [column.name for column in table.columns]
    names = [table.names[number][column.stored] for column in table.columns]
    # Values and weights may be one column of the file.
    for batch in table.files[number].read(list(dict.fromkeys(names)), piece):
        arrays = [batch.table[name] for name in names]
        yield Batch(pa.Table.from_arrays(arrays, wanted), batch.rows, batch.bad)


def checked_rows(table: RawTable, number: int, batch: Batch) -> tuple[dict[str, pa.Array], list[dict[str, Any]]]:
    """Good rows of a batch, one per candidate, and a dead letter for every bad row.

    Args:
        table: the table.
        number: position of the file in it.
        batch: of that file.

    Returns:
        The columns of `stored_fields(table)`, and the letters.

    Raises:
        ValueError: if the type of a column cannot be converted at all.
    """
    columns, letters = _typed(table, number, batch)
    letters += [dead_letter(table.files[number].path, row, None, text, reason) for row, text, reason in batch.bad]
    keep = ~np.isin(batch.rows, [letter["row"] for letter in letters])
    if table.name == LOG:
        columns[FILE] = pa.array(np.full(len(batch.rows), number))
        columns[ROW] = pa.array(batch.rows)
    if table.numbered is not None:
        columns[table.numbered] = row_numbers(number, batch.rows)
    if not keep.all():
        kept = pa.array(np.flatnonzero(keep))
        columns = {column: array.take(kept) for column, array in columns.items()}
    if table.explode is not None:
        columns = exploded(table.explode, columns)
    return {column: columns[column] for column, _ in stored_fields(table)}, letters


def stored_fields(table: RawTable) -> list[tuple[str, pa.DataType]]:
    """Columns of the rows of a table, as they go from job to job."""
    return table.fields + ([(FILE, pa.int64()), (ROW, pa.int64())] if table.name == LOG else [])


def _typed(table: RawTable, number: int, batch: Batch) -> tuple[dict[str, pa.Array], list[dict[str, Any]]]:
    """Converted columns, and a dead letter for the first bad value of every bad row."""
    file, names = table.files[number].path, table.names[number]
    columns: dict[str, pa.Array] = {}
    letters: dict[int, dict[str, Any]] = {}
    for column in table.columns:
        array = batch.table[column.name].combine_chunks()
        if isinstance(array, pa.ChunkedArray):
            array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
        try:
            columns[column.name], bad = convert(array, column)
        except ValueError as error:
            raise ValueError(f"{file}, column `{names[column.stored]}`: {error}") from error
        if column.weighs is not None and column.weighs in columns:
            bad = {**uneven_weights(columns[column.weighs], columns[column.name]), **bad}
        if column.along is not None:
            bad = {**uneven_lists(columns[column.name], columns[column.along], names[column.along]), **bad}
        for position, reason in bad.items():
            letter = dead_letter(file, int(batch.rows[position]), names[column.stored], array[position], reason)
            letters.setdefault(position, letter)
    if table.explode is not None:
        for position, (name, reason) in uneven(table.explode, columns).items():
            letters.setdefault(position, dead_letter(file, int(batch.rows[position]), names[name], None, reason))
    return columns, [letters[position] for position in sorted(letters)]
