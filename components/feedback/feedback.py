"""Served rows and their outcomes -> rows to train on, and every row and outcome that is none, with the reason.

    OUT/
      Split-train/*.gz      tf.Examples with the features as served and the labels; in the form of ExampleGen
      report.json           figures of these rows, as the gates of a day read them
      feedback.json         what became of all impressions and outcomes
      waiting/served/, waiting/outcomes/     the window has not passed: give them to the next join
      left_over/served/, left_over/outcomes/     with the reason of each

Nothing of a log is kept in memory but a few shards' worth: keys and times are joined by a hash of the keys, the rows
then get their outcomes by a hash of the user.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixrank.components.feedback.join import (
    JOINED,
    LACKS,
    OF_WAITING,
    OUTCOME_REASONS,
    SERVED_REASONS,
    SHOWN,
    USED,
    WAITING,
    join,
)
from mixrank.components.feedback.outcomes import FILE, NUMBER, ORDER, OutcomeColumns, Outcomes
from mixrank.components.feedback.served import ServedRows, as_text, first_of, times_of
from mixrank.components.feedback.shards import Shards, shard_of, shards_for
from mixrank.components.feedback.training_rows import SPLIT, figures_of, training_rows, write_examples
from mixrank.components.gates import REPORT, Figures
from mixrank.schemas import FeatureSpec
from mixrank.schemas.arrow import pa, pc, pq
from mixrank.schemas.files import abandoned, remove, write_folder_atomically
from mixrank.schemas.naming import Declaration
from mixrank.schemas.raw import files_at
from mixrank.serving.drift import IMPRESSION

COUNTS = "feedback.json"
SCRATCH = ".scratch"
# Columns of files between the steps, beside those of a log whatever their names are.
ROW, PLACE, WHAT, REASON = "_row", "_place", "_what", "left_over_reason"
# Rows of a log without users that stay in one shard.
RUN = 1024
HOUR_MS = 3_600_000
Say = Callable[[str], object]


class Feedback(Declaration):
    """What became of a log and its outcomes.

    Args:
        joined_by: columns by which outcomes found their impressions.
        within_hours: longest time from an impression to its outcome.
        until_ms: up to when outcomes are known, milliseconds since 1970.
        served: reason -> impressions; each is counted once.
        outcomes: reason -> outcomes; each is counted once.
        rows: rows to train on.
        with_outcome: those that an outcome says something of.
        positives: label -> those whose label is not 0.
        missing: column -> impressions that were left over since they lack it.
        ignored: columns of the log that the spec does not know.
        absent: columns that a request may carry and no row of the log had.
    """

    joined_by: tuple[str, ...]
    within_hours: float
    until_ms: int
    served: dict[str, int]
    outcomes: dict[str, int]
    rows: int
    with_outcome: int
    positives: dict[str, int]
    missing: dict[str, int] = {}
    ignored: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


def join_feedback(
    spec: FeatureSpec,
    served: Sequence[Path],
    outcomes: Sequence[str],
    out: Path,
    *,
    within_hours: float,
    until_ms: int | None = None,
    shown: Sequence[str] = (),
    say: Say = lambda line: None,
) -> Feedback:
    """Joins served rows with their outcomes.

    Args:
        spec: the columns.
        served: logs of requests, files or folders: of the client, PredictionLogs, or what an earlier join left waiting.
        outcomes: tables, as `Outcomes` takes them.
        out: gets everything, whole or not at all; must not exist, or be empty.
        within_hours: float > 0. Longest time from an impression to its outcome.
        until_ms: up to when outcomes are known, milliseconds since 1970; None takes the time of the newest outcome, or
            of the newest served row if outcomes have no times.
        shown: tables with the `impression_id` of those that users saw; without one, all that was scored.
        say: gets lines of progress.

    Raises:
        ValueError: if an argument is wrong, or naming the file, row and column that cannot be read or does not fit.
    """
    if not 0 < within_hours < float("inf"):
        raise ValueError(f"`within_hours` must be a positive number of hours, received {within_hours}")
    if (out.is_dir() and any(out.iterdir())) or out.is_file():
        raise ValueError(f"`out` must be empty, {out} is not")
    if spec.sampled is not None:
        raise ValueError(
            f"label `{spec.sampled.name}` has `keep_negatives`, and all rows that were served are trained on: "
            "leave it out"
        )
    if not served or not outcomes:
        raise ValueError("there must be at least one log of served rows and one table of outcomes")
    for left in abandoned(out.parent, out.name):
        remove(left)
    rows, tables = ServedRows(served, spec), Outcomes(outcomes, spec)
    if shown and not tables.columns.by_id:
        raise ValueError(f"`shown` names impressions by `{IMPRESSION}`, and the outcomes have none")
    found: list[Feedback] = []

    def write(temporary: Path) -> None:
        scratch = temporary / SCRATCH
        work = _Join(spec, rows, tables, list(shown), round(within_hours * HOUR_MS), scratch, say)
        found.append(work.run(temporary, within_hours, until_ms))
        shutil.rmtree(scratch)

    write_folder_atomically(out, write)
    return found[0]


class _Join:
    """The steps of one join, with files between them."""

    def __init__(
        self,
        spec: FeatureSpec,
        rows: ServedRows,
        outcomes: Outcomes,
        shown: list[str],
        within_ms: int,
        scratch: Path,
        say: Say,
    ) -> None:
        self.spec, self.rows, self.outcomes, self.shown = spec, rows, outcomes, shown
        self.within_ms, self.say = within_ms, say
        columns: OutcomeColumns = outcomes.columns
        self.keys, self.time = columns.names, spec.time.name
        flags = {label.name for label in spec.labels if label.is_flag}
        self.flags = [column.name for column in columns.values if column.name in flags]
        self.numbers = [column.name for column in columns.values if column.name not in flags]
        self.count = shards_for(rows.size + sum(file.uncompressed_size() for file in outcomes.files))
        text, number, real = pa.string(), pa.int64(), pa.float64()
        keys = [(key, text) for key in self.keys]
        self.features = Shards(scratch / "features", rows.schema.append(pa.field(ROW, number)), self.count)
        self.impressions = Shards(
            scratch / "impressions",
            pa.schema([*keys, (self.time, number), (ROW, number), (PLACE, number)]),
            self.count,
        )
        self.of_outcomes = Shards(scratch / "outcomes", self._outcome_schema(), self.count)
        self.seen = Shards(scratch / "shown", pa.schema(keys), self.count)
        values = [(name, real) for name in (*self.flags, *self.numbers)]
        self.decisions = Shards(scratch / "decisions", pa.schema([(ROW, number), (WHAT, number), *values]), self.count)
        self.newest = 0

    def _outcome_schema(self) -> pa.Schema:
        # Keys are compared as text; what is left over keeps them so.
        return pa.schema(
            [pa.field(field.name, pa.string()) if field.name in self.keys else field for field in self.outcomes.schema]
        )

    def run(self, out: Path, within_hours: float, until_ms: int | None) -> Feedback:
        total = self._read_served()
        self._read_outcomes()
        self._read_shown()
        until = self.newest if until_ms is None else until_ms
        outcome_counts = dict.fromkeys(OUTCOME_REASONS, 0)
        with _Left(out, self.time) as left:
            for number in range(self.count):
                self.say(f"joining shard {number + 1} of {self.count}")
                self._join_shard(number, until, left, outcome_counts)
            served_counts = dict.fromkeys(SERVED_REASONS, 0)
            figures = [Figures(rows={SPLIT: 0}, labels=_no_labels(self.spec))]
            missing: dict[str, int] = {}
            with_outcome = 0
            (out / f"Split-{SPLIT}").mkdir()
            for number in range(self.count):
                self.say(f"writing shard {number + 1} of {self.count}")
                part, lacking, known = self._write_shard(number, until, out, left, served_counts)
                figures.append(part)
                with_outcome += known
                for name, rows in lacking.items():
                    missing[name] = missing.get(name, 0) + rows
        whole = Figures.merged(figures)
        (out / REPORT).write_text(whole.model_dump_json(indent=1))
        feedback = Feedback(
            joined_by=tuple(self.keys),
            within_hours=within_hours,
            until_ms=until,
            served={SERVED_REASONS[what]: rows for what, rows in served_counts.items()},
            outcomes={OUTCOME_REASONS[what]: rows for what, rows in outcome_counts.items()},
            rows=whole.rows[SPLIT],
            with_outcome=with_outcome,
            positives={name: whole.in_split(name, SPLIT).positives for name in self.spec.tasks},
            missing=missing,
            ignored=tuple(sorted(self.rows.ignored)),
            absent=tuple(self.rows.absent),
        )
        if sum(served_counts.values()) != total:
            raise AssertionError(f"{total} impressions were read and {sum(served_counts.values())} were counted")
        (out / COUNTS).write_text(feedback.model_dump_json(indent=1))
        return feedback

    def _read_served(self) -> int:
        total = keyed = 0
        for rows in self.rows:
            numbers = np.arange(total, total + len(rows))
            total += len(rows)
            self.say(f"reading served rows: {total:,}")
            user = as_text(first_of(rows, self.spec.user.name))
            place = shard_of([user], self.count)
            alone = pc.is_null(user).to_numpy(zero_copy_only=False)
            place = np.where(alone, numbers // RUN % self.count, place)
            time = times_of(rows, self.spec)
            if not self.outcomes.columns.timed:
                self._see(time)
            keys = [self._key(rows, name) for name in self.keys]
            keyed += len(rows) - keys[0].null_count
            thin = pa.Table.from_arrays(
                [*keys, time, pa.array(numbers), pa.array(place)], schema=self.impressions.schema
            )
            self.impressions.add(thin, shard_of(keys, self.count))
            self.features.add(rows.append_column(ROW, pa.array(numbers)), place)
        if total and not keyed and self.outcomes.columns.by_id:
            raise ValueError(
                f"the outcomes have a column `{IMPRESSION}`, and no served row has one: let the client log "
                "`impression_ids`, or join by user, item and time"
            )
        return total

    def _key(self, rows: pa.Table, name: str) -> pa.Array:
        if name != IMPRESSION:
            return as_text(first_of(rows, name))
        return as_text(first_of(rows, name)) if name in rows.column_names else pa.nulls(len(rows), pa.string())

    def _see(self, time: pa.Array) -> None:
        self.newest = max(self.newest, pc.max(time).as_py() or 0)

    def _read_outcomes(self) -> None:
        total = 0
        for rows in self.outcomes:
            total += len(rows)
            self.say(f"reading outcomes: {total:,}")
            self._see(rows[self.time])
            rows = rows.cast(self.of_outcomes.schema)
            self.of_outcomes.add(rows, shard_of([rows[key] for key in self.keys], self.count))

    def _read_shown(self) -> None:
        for source in self.shown:
            for file in files_at(source).files:
                if IMPRESSION not in file.schema().names:
                    raise ValueError(f"{file.path} has no column `{IMPRESSION}`: it must say which were shown")
                for batch in file.read([IMPRESSION]):
                    for row, _, reason in batch.bad:
                        raise ValueError(f"{file.path}, row {row} {reason}")
                    array = pa.concat_arrays(batch.table[IMPRESSION].chunks)
                    array = array.cast(pa.string())
                    self.seen.add(pa.Table.from_arrays([array], schema=self.seen.schema), shard_of([array], self.count))

    def _join_shard(self, number: int, until: int, left: _Left, counts: dict[int, int]) -> None:
        served = self.impressions.read(number).to_pandas().sort_values(ROW).reset_index(drop=True)
        table = self.of_outcomes.read(number)
        table = table.take(pa.array(np.argsort(table[ORDER].to_numpy(), kind="stable")))
        served[SHOWN] = True
        if self.shown:
            seen = set(self.seen.read(number).column(0).to_pylist())
            served[SHOWN] = served[self.keys[0]].isin(seen)
        # Numbers with gaps are floats in pandas; times are exact in them.
        outcomes = table.select([*self.keys, self.time, *self.flags, *self.numbers]).to_pandas()
        found = join(
            served,
            outcomes,
            keys=self.keys,
            time=self.time,
            flags=self.flags,
            numbers=self.numbers,
            within_ms=self.within_ms,
            until_ms=until,
        )
        for what in counts:
            counts[what] += int((found.outcomes == what).sum())
        left.outcomes(table.drop([ORDER]), found.outcomes)
        if len(served):
            values = [pa.array(found.values[name], pa.float64(), from_pandas=True) for name in found.values]
            arrays = [pa.array(served[ROW].to_numpy()), pa.array(found.served), *values]
            self.decisions.add(pa.Table.from_arrays(arrays, schema=self.decisions.schema), served[PLACE].to_numpy())

    def _write_shard(
        self, number: int, until: int, out: Path, left: _Left, counts: dict[int, int]
    ) -> tuple[Figures, dict[str, int], int]:
        rows, decided = self.features.read(number), self.decisions.read(number)
        if not len(rows):
            return Figures(), {}, 0
        decided = decided.take(pa.array(np.argsort(decided[ROW].to_numpy(), kind="stable")))
        what = decided[WHAT].to_numpy().copy()
        joined = np.flatnonzero(what == JOINED)
        own = rows.take(pa.array(joined))
        values = decided.select([*self.flags, *self.numbers]).take(pa.array(joined)).to_pandas()
        made = training_rows(own, values, self.spec, until, own[ROW].to_numpy())
        what[joined[~made.complete]] = LACKS
        for each in counts:
            counts[each] += int((what == each).sum())
        left.served(rows.drop([ROW]), what, number)
        if len(made.rows):
            path = out / f"Split-{SPLIT}" / f"data_tfrecord-{number:05d}-of-{self.count:05d}.gz"
            write_examples(made.rows, self.spec, path, number)
        known = values[made.complete].notna().any(axis=1).sum()
        return figures_of(made.rows, self.spec), made.missing, int(known)


class _Left:
    """Files of what waits and of what is left over; none without rows."""

    def __init__(self, out: Path, time: str) -> None:
        self.out, self.time = out, time
        self._writers: dict[str, pq.ParquetWriter] = {}

    def outcomes(self, rows: pa.Table, fate: np.ndarray) -> None:
        # A type that reads back as this time, whatever the log's own format is.
        place = rows.schema.get_field_index(self.time)
        rows = rows.set_column(place, self.time, rows[self.time].cast(pa.timestamp("ms", "UTC")))
        self._write("waiting/outcomes/part-00000.parquet", rows.drop([FILE, NUMBER]), fate == OF_WAITING)
        over = ~np.isin(fate, (USED, OF_WAITING))
        reasons = pa.array([OUTCOME_REASONS[each] for each in fate.tolist()], pa.string())
        self._write("left_over/outcomes/part-00000.parquet", rows.append_column(REASON, reasons), over)

    def served(self, rows: pa.Table, what: np.ndarray, number: int) -> None:
        self._write(f"waiting/served/part-{number:05d}.parquet", rows, what == WAITING)
        over = ~np.isin(what, (JOINED, WAITING))
        reasons = pa.array([SERVED_REASONS[each] for each in what.tolist()], pa.string())
        self._write(f"left_over/served/part-{number:05d}.parquet", rows.append_column(REASON, reasons), over)

    def _write(self, name: str, rows: pa.Table, kept: np.ndarray) -> None:
        if not kept.any():
            return
        path = self.out / name
        if name not in self._writers:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writers[name] = pq.ParquetWriter(str(path), rows.schema)
        self._writers[name].write_table(rows.filter(pa.array(kept)))

    def __enter__(self) -> _Left:
        return self

    def __exit__(self, *error: object) -> None:
        for writer in self._writers.values():
            writer.close()


def _no_labels(spec: FeatureSpec) -> dict[str, Any]:
    return {name: {SPLIT: {}} for name in spec.tasks}
