"""The rows of one day, built from its own rows and what was carried over from the days before.

    state after the day before + rows of the day -> examples of the day, state after it

A state holds for every user shard the raw rows that later days need (`carried.py`), what was left behind of each
history, and the counts of every `Popularity`. It is whole when its `state.json` is there. Only users with new rows are
built; the rows of all others are handed on as they are, also those that no history can reach any more: they are left
behind when their user comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pandas as pd
from apache_beam.io.filesystems import FileSystems

from mixrank.components.examples.calendar import day_starts
from mixrank.components.examples.days.carried import carried, with_places
from mixrank.components.examples.days.day_log import DayLog
from mixrank.components.examples.dictionary_column import Coded
from mixrank.components.examples.joined_log import Columns, joined_log
from mixrank.components.examples.popularity import COLUMNS, count, folded, merge, own_rules, shared_and_own
from mixrank.components.examples.raw_tables import FILE, LOG, PRIOR, RawTable, label_table, stored_fields
from mixrank.components.examples.splits import on_day
from mixrank.components.examples.stages import (
    ShardTables,
    SharedCounts,
    found_summaries,
    read_json,
    read_parquet,
    whole_file,
    write_examples_of,
    write_json,
    write_parquet,
)
from mixrank.components.examples.user_shard import build
from mixrank.components.gates import REPORT, Figures
from mixrank.schemas import Dataset, SplitByDay
from mixrank.schemas.arrow import pa, pc
from mixrank.schemas.raw import dead_letter

STATE = "state.json"
COUNTS = "counts.parquet"


@dataclass(frozen=True)
class DayState:
    """What the days up to one leave for those after it.

    Args:
        folder: of its files; empty before the first day.
        day: the last of its days, ISO date; empty before the first.
        newest: latest time of an impression or of an event that makes a label, milliseconds.
    """

    folder: str = ""
    day: str = ""
    newest: int = 0

    @classmethod
    def read(cls, folder: str) -> DayState:
        """The state in a folder.

        Raises:
            ValueError: if it is not whole.
        """
        path = FileSystems.join(folder, STATE)
        if not FileSystems.exists(path):
            raise ValueError(f"{folder} holds no whole state: {STATE} is missing")
        known = read_json(path)
        return cls(folder, known["day"], known["newest"])


@dataclass(frozen=True)
class DayRows:
    """Rows of a user shard.

    Args:
        old: table -> carried rows of users with new ones.
        new: table -> rows of the day.
        resting: table -> carried rows of all other users, of whom nothing changes.
        files: of the day's rows.
        users: those with new rows, None for all.
    """

    old: dict[str, pa.Table]
    new: dict[str, pa.Table]
    resting: dict[str, pa.Table]
    files: list[str]
    users: pa.Array | None


@dataclass(frozen=True)
class DayWork:
    """One step of the state: from which one, over which days, to where.

    Args:
        dataset: the declaration, as JSON.
        log: all rows that were read.
        timed: tables that have times.
        others: the other tables.
        before: the state to go on from.
        day: the day whose rows are written, or the last of all days up to it, of which none is.
        writes: whether they are.
        examples: folder of the examples.
        after: folder of the new state.
        scratch: folder for temporary files.
    """

    dataset: str
    log: DayLog
    timed: dict[str, RawTable]
    others: ShardTables
    before: DayState
    day: str
    writes: bool
    examples: str
    after: str
    scratch: str

    def takes(self, day: str) -> bool:
        """Whether a day's rows are new to the state."""
        return self.before.day < day <= self.day

    @property
    def declared(self) -> Dataset:
        return Dataset.model_validate_json(self.dataset)

    def newest(self) -> int:
        """Latest time of an impression, or of an event that makes a label, in milliseconds."""
        tables = {LOG, *map(label_table, self.declared.source.labels)}
        found = (each.newest for each in self.log.slices if each.table in tables and self.takes(each.day))
        return max([self.before.newest, *found])

    def bounds(self) -> tuple[int, int]:
        """First milliseconds of the day and of the next."""
        split = self.declared.source.split
        assert isinstance(split, SplitByDay)
        days = np.array([self.day, np.datetime64(self.day) + 1], "datetime64[D]")
        since, until = day_starts(days, split.timezone, split.starts_at).tolist()
        return since, until

    def load(self, number: int) -> DayRows:
        """Carried and new rows of a shard."""
        loaded = {name: self.log.load(table, self.takes, number) for name, table in self.timed.items()}
        new = {name: rows for name, (rows, _) in loaded.items()}
        users = self._active(new)
        old: dict[str, pa.Table] = {}
        resting: dict[str, pa.Table] = {}
        for name, table in self.timed.items():
            carried_rows = pa.schema(stored_fields(table)).empty_table()
            if self.before.folder:
                with FileSystems.open(_shard(self.before.folder, name, number)) as source:
                    carried_rows = pa.ipc.open_file(source).read_all()
            if name == LOG:
                place = carried_rows.schema.get_field_index(FILE)
                # Their files are those of other days.
                nowhere = pa.array(np.full(len(carried_rows), -1))
                carried_rows = carried_rows.set_column(place, carried_rows.schema.field(place), nowhere)
            rests = np.zeros(len(carried_rows), bool)
            if users is not None and table.key is not None:
                rests = ~pc.is_in(carried_rows[table.key], value_set=users).to_numpy().astype(bool)
            old[name], resting[name] = (carried_rows.filter(pa.array(mask)) for mask in (~rests, rests))
        _, files = loaded[LOG]
        return DayRows(old, new, resting, files, users)

    def _active(self, new: dict[str, pa.Table]) -> pa.Array | None:
        """Users with new rows; None for all, where new rows do not say whose they are."""
        keys = {name: self.timed[name].key for name in new}
        if any(len(rows) and keys[name] is None for name, rows in new.items()):
            return None
        columns = [rows[keys[name]] for name, rows in new.items() if keys[name] is not None]
        return pc.unique(pa.chunked_array([chunk for column in columns for chunk in column.chunks], columns[0].type))


def write_day(
    dataset: Dataset,
    log: DayLog,
    tables: dict[str, RawTable],
    others: ShardTables,
    *,
    before: DayState,
    day: str,
    examples: str | None,
    after: str,
    scratch: str,
    pipeline: Callable[[], beam.Pipeline],
) -> tuple[DayState, Figures]:
    """Writes a day's examples, and the state after it.

    Args:
        dataset: split by day.
        log: all rows that were read.
        tables: all tables, as `find_tables` found them.
        others: those without times, read.
        before: state after the day before, or the empty one.
        day: ISO date. With an empty state, and without examples, all days up to it make the new state.
        examples: folder of the examples, with `Split-train`; None writes none.
        after: folder of the new state.
        scratch: folder for temporary files.
        pipeline: makes the pipeline of each Beam job.

    Returns:
        The new state; figures of the day.

    Raises:
        ValueError: for a table that cannot be joined.
    """
    timed = {name: table for name, table in tables.items() if table.time is not None}
    work = DayWork(
        dataset.model_dump_json(), log, timed, others, before, day, examples is not None, examples or "", after, scratch
    )
    for folder in (scratch, after, *([FileSystems.join(examples, "Split-train")] if examples else [])):
        if FileSystems.exists(folder):
            FileSystems.delete([folder])
        FileSystems.mkdirs(folder)
    rules = dataset.source.popularity
    merged = pd.DataFrame({column: [] for column in COLUMNS})
    if rules:
        _each_shard("CountDay", CountDay(work), log.num_shards, pipeline)
        _summaries(scratch, "count-*.json")
        parts = [read_parquet(_counts(scratch, "shared", number)) for number in range(log.num_shards)]
        if before.folder:
            parts.append(read_parquet(FileSystems.join(before.folder, COUNTS)))
        merged = merge(parts)
        write_parquet(FileSystems.join(scratch, COUNTS), merged)
    _each_shard("BuildDay", BuildDay(work), log.num_shards, pipeline)
    found = _summaries(scratch, "build-*.json")
    _, until = work.bounds()
    if rules:
        write_parquet(FileSystems.join(after, COUNTS), folded(rules, merged, until))
    figures = Figures.merged(Figures.model_validate(each["figures"]) for each in found)
    letters = [letter for each in found for letter in each["bad"]]
    figures = figures.model_copy(update={"rows_read": log.rows_of(day), "bad_rows": {LOG: len(letters)}})
    newest = work.newest()
    if examples:
        write_json(FileSystems.join(examples, REPORT), figures.model_dump())
    # Last: without it the state does not count.
    write_json(FileSystems.join(after, STATE), {"day": day, "newest": newest, "num_shards": log.num_shards})
    FileSystems.delete([scratch])
    return DayState(after, day, newest), figures


class CountDay(beam.DoFn):
    """What a day adds to the counts of every `Popularity`, in one user shard."""

    def __init__(self, work: DayWork):
        self._work = work

    def process(self, number: int) -> Iterator[None]:
        work, dataset = self._work, self._work.declared
        summary: dict[str, Any] = {}
        try:
            rules = dataset.source.popularity
            rows = work.load(number)
            # No count reads what was before the log.
            others = work.others.load(number, rows.users, without={PRIOR})
            # An event of today may belong to an impression of yesterday: what both have, less what was counted.
            whole = _joined(dataset, others, _together(rows.old, rows.new) if dataset.source.labels else rows.new)
            counts = [count(rules, whole, whole[dataset.spec.time.name].numbers())]
            if dataset.source.labels:
                earlier = _joined(dataset, others, rows.old)
                counted = count(rules, earlier, earlier[dataset.spec.time.name].numbers())
                counted[["positives", "rows"]] *= -1
                counts.append(counted)
            shared, own = shared_and_own(dataset.spec, rules, merge(counts))
            write_parquet(_counts(work.scratch, "shared", number), shared)
            if own_rules(dataset.spec, rules):
                before = [read_parquet(_counts(work.before.folder, "own", number))] if work.before.folder else []
                # By the name under which `SharedCounts` looks for it.
                write_parquet(FileSystems.join(work.scratch, f"own-{number:06d}.parquet"), merge([*before, own]))
        except ValueError as error:
            summary["error"] = str(error)
        write_json(FileSystems.join(work.scratch, f"count-{number:06d}.json"), summary)
        yield from ()


class BuildDay(beam.DoFn):
    """Builds the rows of a day in one user shard, writes them, and what is carried over its end."""

    def __init__(self, work: DayWork):
        self._work = work

    def setup(self) -> None:
        path = FileSystems.join(self._work.scratch, COUNTS)
        rules = self._work.declared.source.popularity
        self._shared = SharedCounts(self._work.declared, read_parquet(path)) if rules else None

    def process(self, number: int) -> Iterator[None]:
        work = self._work
        summary: dict[str, Any] = {"bad": []}
        try:
            self._build(work, number, summary)
        except ValueError as error:
            summary["error"] = str(error)
        write_json(FileSystems.join(work.scratch, f"build-{number:06d}.json"), summary)
        yield from ()

    def _build(self, work: DayWork, number: int, summary: dict[str, Any]) -> None:
        dataset = on_day(work.declared, work.day)
        since, until = work.bounds()
        loaded = work.load(number)
        together = _together(loaded.old, loaded.new)
        tables = with_places(_columns(together) | work.others.load(number, loaded.users))
        counts = self._shared.of_shard(work.scratch, number) if self._shared is not None else {}
        gone = _left_behind(work.before.folder, number)
        shard = build(dataset, tables, counts, work.newest(), since=since, left_behind=gone)
        if work.writes:
            folders = {"train": FileSystems.join(work.examples, "Split-train")}
            write_examples_of(shard, dataset, folders, work.scratch, number, work.log.num_shards)
        summary["bad"] = [dead_letter(loaded.files[file], row, *rest) for file, row, *rest in shard.bad if file >= 0]
        summary["figures"] = shard.figures.model_dump()
        kept = carried(dataset, shard, tables, until, gone)
        for table, places in kept.rows.items():
            rows = together[table].take(pa.array(places, pa.int64()))
            rows = pa.concat_tables([loaded.resting[table].cast(rows.schema), rows]).combine_chunks()
            with whole_file(_shard(work.after, table, number)) as sink, pa.ipc.new_file(sink, rows.schema) as writer:
                writer.write_table(rows)
        lost = [[history, *pair] for history, users in kept.left_behind.items() for pair in users.items()]
        write_json(FileSystems.join(work.after, f"left-behind-{number:06d}.json"), lost)
        rules = own_rules(dataset.spec, dataset.source.popularity)
        if rules:
            own = read_parquet(FileSystems.join(work.scratch, f"own-{number:06d}.parquet"))
            write_parquet(_counts(work.after, "own", number), folded(rules, own, until))


def _joined(dataset: Dataset, others: dict[str, Columns], tables: dict[str, pa.Table]) -> Columns:
    log, *_ = joined_log(dataset, _columns(tables) | others)
    return log


def _together(old: dict[str, pa.Table], new: dict[str, pa.Table]) -> dict[str, pa.Table]:
    return {name: pa.concat_tables([old[name].cast(new[name].schema), new[name]]) for name in new}


def _columns(tables: dict[str, pa.Table]) -> dict[str, Columns]:
    return {
        name: {column: Coded.from_arrow(table[column]) for column in table.column_names}
        for name, table in tables.items()
    }


def _left_behind(folder: str, number: int) -> dict[str, dict[Any, int]]:
    found: dict[str, dict[Any, int]] = {}
    if folder:
        for history, user, events in read_json(FileSystems.join(folder, f"left-behind-{number:06d}.json")):
            found.setdefault(history, {})[user] = events
    return found


def _shard(folder: str, table: str, number: int) -> str:
    return FileSystems.join(folder, f"{table}-{number:06d}.arrow")


def _counts(folder: str, what: str, number: int) -> str:
    return FileSystems.join(folder, f"{what}-counts-{number:06d}.parquet")


def _each_shard(label: str, step: beam.DoFn, num_shards: int, pipeline: Callable[[], beam.Pipeline]) -> None:
    with pipeline() as job:
        (
            job
            | "Shards" >> beam.Create(range(num_shards))
            | "SpreadShards" >> beam.Reshuffle()
            | label >> beam.ParDo(step)
        )


def _summaries(scratch: str, pattern: str) -> list[dict[str, Any]]:
    found = found_summaries(scratch, pattern)
    for summary in found:
        if "error" in summary:
            raise ValueError(summary["error"])
    return found
