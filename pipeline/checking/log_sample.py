"""A sample of a log through the code of ExampleGen, in this process: what `mixrank check` looks at.

Rows are read at places all over the files. If they are too many, a share of the users is kept, with all of their rows
there, and of the joined tables the rows that these rows ask for. So histories are complete where every row was read,
and otherwise lack the events between the places.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mixrank.components.examples import (
    LOG,
    Coded,
    RawTable,
    build_whole,
    checked_rows,
    find_tables,
    local_days,
    read_batches,
    stable_hash,
    stored_fields,
)
from mixrank.components.gates import Figures, FileFigures, plain
from mixrank.schemas import SPLITS, CalendarDay, Dataset, SplitByDay
from mixrank.schemas.arrow import pa
from mixrank.schemas.naming import Declaration
from mixrank.schemas.raw import Batch, Place, RawColumn, convert, dead_letter, places_of
from mixrank.schemas.safe_text import safe
from mixrank.schemas.task_kinds import BINARY

# Rows of an item table that no row of the log asks for, to be shown where keys do not match.
OTHER_ROWS = 1000
INSPECTED = 1000
EXAMPLE_LENGTH = 24
_WHOLE_NUMBER, _NUMBER = re.compile(r"[+-]?\d+"), re.compile(r"[+-]?\d*[.,]?\d+(?:[eE][+-]?\d+)?")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}(?:[ T].*)?")


class SampleLimits(NamedTuple):
    """How much of a log is read for a sample; None for no limit.

    Attributes:
        log_rows: about as many rows of the log are kept.
        table_bytes: read of each table, without compression.
    """

    log_rows: int | None = 100_000
    table_bytes: int | None = 128 * 2**20


class SeenColumn(Declaration):
    """A column as it was declared and as it was found.

    Attributes:
        table, column: names; of the file.
        declared: type that it is read as.
        seen: type in the file; for text, what all values that were looked at are.
        rows, missing, bad: good rows, those without a value, and rows that are bad because of it.
        distinct: distinct values.
        example: a frequent value.
    """

    table: str
    column: str
    declared: str
    seen: str
    rows: int
    missing: int
    bad: int
    distinct: int
    example: str


class SeenTable(Declaration):
    """How much of a table was read.

    Attributes:
        name: as in `find_tables`.
        files: number of files.
        first_file: its path.
        bytes: of all files, without compression.
        rows: rows that were read.
        all_rows: rows of all files; an estimate unless `whole`.
        whole: whether every row was read.
    """

    name: str
    files: int
    first_file: str
    bytes: int
    rows: int
    all_rows: int
    whole: bool


@dataclass(frozen=True)
class LogSample:
    """Rows of a log, built as ExampleGen builds them.

    Args:
        tables, columns: what was read.
        share: of the users whose rows were kept.
        letters: bad rows, as in `dead_letter.jsonl`, each with its `table`.
        figures: of the rows that were kept.
        log: columns of the joined rows.
        split: int array (rows,). Position in `SPLITS`, -1 for none.
        time: int array (rows,), milliseconds.
    """

    tables: tuple[SeenTable, ...]
    columns: tuple[SeenColumn, ...]
    share: float
    letters: list[dict[str, Any]]
    figures: Figures
    log: dict[str, Coded]
    split: NDArray[np.int64]
    time: NDArray[np.int64]

    @property
    def whole(self) -> bool:
        """Whether it is no sample, but all of the log."""
        return self.share == 1 and all(table.whole for table in self.tables)

    def days(self, dataset: Dataset) -> NDArray[Any]:
        """Local day of every row, in the calendar of the split, or else of the window."""
        calendar = calendar_of(dataset)
        return local_days(self.time, calendar.timezone, calendar.starts_at)

    def of_split(self, name: str, split: str) -> dict[Any, int]:
        """Value -> rows of a split that have it, of any column of the joined log; None where it is missing."""
        column = self.log[name]
        counts = np.bincount(column.codes[self.split == SPLITS.index(split)], minlength=len(column.values))
        found: dict[Any, int] = {}
        for code in np.flatnonzero(counts):
            found[column.values[code]] = found.get(column.values[code], 0) + int(counts[code])
        return found


def calendar_of(dataset: Dataset) -> CalendarDay:
    """The calendar in which a dataset's days are given."""
    for rule in (dataset.source.split, dataset.source.window):
        if isinstance(rule, SplitByDay | CalendarDay):
            return CalendarDay(timezone=rule.timezone, starts_at=rule.starts_at)
    return CalendarDay()


def sample_log(dataset: Dataset, data_dir: str, limits: SampleLimits) -> LogSample:
    """Reads and builds a sample of a log.

    Args:
        dataset: the declaration.
        data_dir: folder with the raw files.
        limits: how much is read.

    Raises:
        ValueError: as ExampleGen, except for the number of bad rows and for empty splits.
    """
    reader = _Reader(dataset, find_tables(dataset, data_dir), limits)
    tables = {name: reader.columns(name) for name in reader.tables}
    shard = build_whole(dataset, tables)
    files = reader.tables[LOG].files
    late = [dead_letter(files[file].path, row, *rest) for file, row, *rest in shard.bad]
    letters = [*reader.letters, *({"table": LOG, **letter} for letter in late)]
    counted = Figures(
        rows_read=dict(reader.kept),
        files={
            name: FileFigures(read=len(table.files), hidden=table.hidden, empty=table.empty)
            for name, table in reader.tables.items()
        },
        bad_rows={name: sum(letter["table"] == name for letter in letters) for name in reader.kept},
    )
    return LogSample(
        tables=tuple(reader.seen),
        columns=tuple(column for name, table in tables.items() for column in reader.described(name, table)),
        share=reader.share,
        letters=letters,
        figures=Figures.merged([counted, shard.figures]),
        log=shard.log,
        split=shard.split,
        time=shard.log[dataset.spec.time.name].numbers(),
    )


class _Reader:
    """Reads the log first, then of the other tables what its rows ask for."""

    def __init__(self, dataset: Dataset, tables: dict[str, RawTable], limits: SampleLimits):
        self._spec, self._limits = dataset.spec, limits
        self.tables = {LOG: tables[LOG], **tables}
        self.share = 1.0
        self.seen: list[SeenTable] = []
        self.kept: dict[str, int] = {}
        self.letters: list[dict[str, Any]] = []
        self._items: set[str] = set()
        self._raw_types: dict[tuple[str, str], str] = {}

    def columns(self, name: str) -> dict[str, Coded]:
        """The sampled rows of a table."""
        table = self.tables[name]
        raw = list(self._read(table))
        if name == LOG and self._limits.log_rows is not None:
            rows = sum(len(batch.rows) for _, batch in raw)
            self.share = min(1.0, self._limits.log_rows / max(1, rows))
        fields = stored_fields(table)
        batches, self.kept[name] = [], 0
        for number, batch in raw:
            for column in table.columns:
                if (name, column.name) not in self._raw_types and len(batch.rows):
                    self._raw_types[name, column.name] = seen_type(batch.table[column.name])
            batch = self._wanted(table, batch)
            columns, letters = checked_rows(table, number, batch)
            self.letters += [{"table": name, **letter} for letter in letters]
            self.kept[name] += len(batch.rows) + len(batch.bad)
            batches.append(pa.RecordBatch.from_arrays([columns[column] for column, _ in fields], names=[*columns]))
        whole = pa.Table.from_batches(batches, pa.schema(fields))
        found = {column: Coded.from_arrow(whole[column]) for column in whole.column_names}
        if name == LOG and self.share < 1:
            self._items = {plain(value) for value in found[self._spec.item.name].values if value is not None}
        return found

    def _read(self, table: RawTable) -> Iterator[tuple[int, Batch]]:
        chosen = places_of(table.files, self._limits.table_bytes)
        rows, read_bytes = 0, 0
        for place in chosen:
            for batch in _of_place(table, place):
                rows += len(batch.rows) + len(batch.bad)
                yield place.file, batch
            read_bytes += place.piece.bytes or 0
        whole = all(place.rows is None and place.piece.bytes is None for place in chosen)
        whole = whole and len(chosen) == sum(1 for _ in table.pieces())
        known = [piece.rows for _, piece in table.pieces()]
        total = rows if whole else sum(n or 0 for n in known)
        if None in known and not whole:
            total = round(rows * table.bytes / max(1, read_bytes))
        first = table.files[0].path
        self.seen.append(
            SeenTable(
                name=table.name,
                files=len(table.files),
                first_file=first,
                bytes=table.bytes,
                rows=rows,
                all_rows=max(total, rows),
                whole=whole,
            )
        )

    def _wanted(self, table: RawTable, batch: Batch) -> Batch:
        """The rows of the users, or of the items, that are kept."""
        if self.share == 1 or not len(batch.rows):
            return batch
        by_row = _shares(batch.rows) < self.share
        if table.numbered is not None:
            mask = by_row
        elif table.key is not None:
            mask = self._by_key(table, batch, by_row, lambda key: stable_hash(plain(key), "check") < self.share * 2**64)
        elif table.columns[0].name == self._spec.item.name and table.name.startswith("item_"):
            mask = self._by_key(table, batch, by_row, lambda key: plain(key) in self._items)
            mask |= batch.rows <= OTHER_ROWS
        else:
            return batch
        kept = np.flatnonzero(mask)
        bad = [row for row in batch.bad if _shares(np.array([row[0]]))[0] < self.share]
        return Batch(batch.table.take(pa.array(kept)), batch.rows[kept], bad)

    def _by_key(
        self, table: RawTable, batch: Batch, by_row: NDArray[np.bool_], keep: Callable[[Any], bool]
    ) -> NDArray[np.bool_]:
        """Which rows have a key that is kept; those without a good one by their number."""
        name = table.key or self._spec.item.name
        column = next(column for column in table.columns if column.name == name)
        keys = Coded.from_arrow(convert(pa.concat_arrays(batch.table[name].chunks), column)[0])
        kept = np.array([value is not None and keep(value) for value in keys.values])[keys.codes]
        return np.where(keys.missing(), by_row, kept)

    def described(self, name: str, table: dict[str, Coded]) -> Iterator[SeenColumn]:
        """Every column of a table."""
        for column in self.tables[name].columns:
            stored = self.tables[name].names[0][column.stored]
            bad = sum(letter["table"] == name and letter["column"] == stored for letter in self.letters)
            found = table.get(column.name)
            if found is None:
                continue
            counts = np.bincount(found.codes, minlength=len(found.values))
            missing = int(found.missing().sum())
            present = [code for code in np.flatnonzero(counts) if found.values[code] is not None]
            best = found.values[max(present, key=lambda code: counts[code])] if present else None
            yield SeenColumn(
                table=name,
                column=stored,
                declared=declared_type(column),
                seen=self._raw_types.get((name, column.name), "no row"),
                rows=len(found),
                missing=missing,
                bad=bad,
                distinct=len(present),
                example=_example(column, best),
            )


def _of_place(table: RawTable, place: Place) -> Iterator[Batch]:
    left = place.rows
    for batch in read_batches(table, place.file, place.piece):
        if left is None:
            yield batch
            continue
        yield Batch(batch.table.slice(0, left), batch.rows[:left], batch.bad)
        left -= len(batch.rows)
        if left <= 0:
            return


def _shares(rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """A number in [0, 1) for every row number, spread evenly."""
    return (rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(11)) / 2.0**53


def declared_type(column: RawColumn) -> str:
    """Type of a column in a few words."""
    word = {"flag": BINARY.expected}.get(column.kind, column.kind)
    if column.kind == "time":
        word = "time, iso" if column.format == "iso" else f"time, {column.unit}"
    return f"list of {word}" if column.many else word


def seen_type(array: Any) -> str:
    """Type of a raw column; of text, what its first values are.

    >>> from mixrank.schemas.arrow import pa
    >>> seen_type(pa.array([b"1", b"-7", None])), seen_type(pa.array(["1.5", "x"])), seen_type(pa.array([1.5]))
    ('text (int)', 'text', 'double')
    """
    kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    texts = (pa.types.is_binary, pa.types.is_string, pa.types.is_large_string, pa.types.is_large_binary)
    if not any(is_text(kind) for is_text in texts):
        return str(kind).replace("item: ", "").replace("element: ", "")
    values = [value for value in array.slice(0, INSPECTED).to_pylist() if value not in (None, "", b"")]
    words = [value.decode(errors="replace") if isinstance(value, bytes) else value for value in values]
    for name, pattern in (("int", _WHOLE_NUMBER), ("float", _NUMBER), ("time", _DATE)):
        if words and all(pattern.fullmatch(word.strip()) for word in words):
            return f"text ({name})"
    return "text"


def _example(column: RawColumn, value: Any) -> str:
    if value is None:
        return ""
    if column.kind == "time":
        moment = np.datetime64(int(value), "ms")
        return str(moment)[:19].replace("T", " ")
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    if column.kind == "float" and not column.many:
        text = f"{value:g}"
    # Cut first: the whole of a long text need not be looked at.
    text = safe(text[: 4 * EXAMPLE_LENGTH]).replace("\n", " ")
    return text if len(text) <= EXAMPLE_LENGTH else f"{text[: EXAMPLE_LENGTH - 2]}.."
