"""A log against its declaration: figures of a sample, and what is wrong with them."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo

import numpy as np

from mixrank.components.gates import Figures, bad_row, data_findings, empty_splits, stopping, too_many_bad_rows
from mixrank.pipeline.checking.estimate import Estimate, estimate
from mixrank.pipeline.checking.log_sample import LogSample, SampleLimits, SeenColumn, SeenTable, calendar_of, sample_log
from mixrank.pipeline.checking.split_drift import LEAST_ROWS, Drift, drifts
from mixrank.pipeline.config import RunConfig
from mixrank.schemas import SPLITS, Dataset
from mixrank.schemas.naming import Declaration
from mixrank.schemas.safe_text import shown

SHOWN_LETTERS = 20
# Known from any row that has it; all else may be otherwise in the rows that were not read.
PROVEN_BY_ONE_ROW = ("implausible_time",)


class Remark(Declaration):
    """Something that is wrong or doubtful.

    Args:
        kind, subject: as in a gate's `Finding`; also `bad_rows`, `empty_split`, `drift`, `few_rows`, `sample` and
            `unknown_scenario`.
        level: "stop" for what stops a run, "allowed" for what the config allows, "doubt" for what is worth a look.
        message: one sentence, and what to do.
        certain: whether rows that were not read cannot change it.
    """

    kind: str
    subject: str
    level: Literal["stop", "allowed", "doubt"]
    message: str
    certain: bool


class Period(Declaration):
    """Rows of a split and their days.

    Args:
        rows: of the sample.
        first, last: local days, or None without rows.
    """

    rows: int
    first: str | None = None
    last: str | None = None


class BadRow(Declaration):
    """A row that cannot be used, as in `dead_letter.jsonl`."""

    table: str
    file: str
    row: int
    column: str | None
    value: str
    reason: str


class LogCheck(Declaration):
    """All that is known about a log.

    Args:
        name: of the run.
        dataset, data: what was checked.
        whole: whether every row was looked at.
        share: of the users whose rows were kept.
        tables, columns: how much was read, and what it holds.
        timezone: of `first`, `last` and all days.
        first, last: earliest and latest time, ISO 8601.
        splits: split -> its rows and days.
        days: local day -> split -> rows.
        figures: counts, as in a run's `report.json`.
        drift: distances between the training rows and the other splits, largest first.
        bad_rows: the first few.
        remarks: worst first.
        estimate: what a run will take.
        seconds: how long the check took, without start-up.
    """

    name: str
    dataset: str
    data: str
    whole: bool
    share: float
    tables: tuple[SeenTable, ...]
    columns: tuple[SeenColumn, ...]
    timezone: str
    first: str | None
    last: str | None
    splits: dict[str, Period]
    days: dict[str, dict[str, int]]
    figures: Figures
    drift: tuple[Drift, ...]
    bad_rows: tuple[BadRow, ...]
    remarks: tuple[Remark, ...]
    estimate: Estimate
    seconds: float

    def of_level(self, level: str) -> list[Remark]:
        """The remarks of one level."""
        return [remark for remark in self.remarks if remark.level == level]


def check_log(config: RunConfig, dataset: Dataset, *, full: bool = False) -> LogCheck:
    """Looks at a log, or at a sample of it.

    Args:
        config: the run; its gates decide what is wrong.
        dataset: its declaration.
        full: bool. Whether every row is read.

    Raises:
        ValueError: for what cannot be read at all.
    """
    began = time.monotonic()
    limits = SampleLimits(None, None) if full else SampleLimits()
    data = config.data_dir()
    sample = sample_log(dataset, data, limits)
    calendar = calendar_of(dataset)
    zone = ZoneInfo(calendar.timezone)
    figures = sample.figures
    found = tuple(drifts(sample, dataset))
    known = estimate(dataset.spec, sample.tables[0].all_rows)
    return LogCheck(
        name=config.name,
        dataset=config.dataset,
        data=data,
        whole=sample.whole,
        share=sample.share,
        tables=sample.tables,
        columns=sample.columns,
        timezone=calendar.timezone,
        first=_moment(figures.first_ms, zone),
        last=_moment(figures.last_ms, zone),
        **_periods(sample, dataset),
        figures=figures,
        drift=found,
        bad_rows=tuple(_bad_row(letter) for letter in sample.letters[:SHOWN_LETTERS]),
        remarks=tuple(_remarks(config, dataset, sample, found)),
        estimate=known,
        seconds=round(time.monotonic() - began, 2),
    )


def _moment(time_ms: int | None, zone: ZoneInfo) -> str | None:
    if time_ms is None:
        return None
    return datetime.fromtimestamp(time_ms // 1000, UTC).astimezone(zone).isoformat(sep=" ", timespec="seconds")


def _periods(sample: LogSample, dataset: Dataset) -> dict[str, Any]:
    days = sample.days(dataset)
    splits: dict[str, Period] = {}
    by_day: dict[str, dict[str, int]] = {}
    for name in dataset.split_names:
        own, rows = np.unique(days[sample.split == SPLITS.index(name)], return_counts=True)
        first, last = (str(own[0]), str(own[-1])) if len(own) else (None, None)
        splits[name] = Period(rows=int(rows.sum()), first=first, last=last)
        for day, count in zip(own, rows, strict=True):
            by_day.setdefault(str(day), {})[name] = int(count)
    return {"splits": splits, "days": dict(sorted(by_day.items()))}


def _bad_row(letter: dict[str, Any]) -> BadRow:
    return BadRow(**{**letter, "value": shown(letter["value"])})


def _remarks(config: RunConfig, dataset: Dataset, sample: LogSample, found: tuple[Drift, ...]) -> list[Remark]:
    remarks = [
        *_of_gates(config, dataset, sample),
        *_bad_tables(dataset, sample),
        *_of_splits(config, dataset, sample),
        *_of_drift(sample, found),
        *_unknown_scenarios(dataset, sample),
        *_unread(sample),
    ]
    return sorted(remarks, key=lambda remark: ("stop", "doubt", "allowed").index(remark.level))


def _of_gates(config: RunConfig, dataset: Dataset, sample: LogSample) -> list[Remark]:
    findings = data_findings(sample.figures, dataset, config.gates)
    stops = stopping(findings, config.gates.allow)
    partial = {table.name for table in sample.tables if not table.whole}
    remarks = []
    for finding in findings:
        stop = finding in stops
        certain = sample.whole or finding.kind in PROVEN_BY_ONE_ROW
        # Rows of a table that were not read may be the ones that the log asks for.
        unread = finding.kind in ("unmatched_join", "empty_feature") and bool(partial - {"log"})
        level: Any = "allowed" if not stop else "doubt" if unread else "stop"
        message = finding.message if stop else finding.problem
        remarks.append(
            Remark(kind=finding.kind, subject=finding.subject, level=level, message=message, certain=certain)
        )
    return remarks


def _bad_tables(dataset: Dataset, sample: LogSample) -> list[Remark]:
    remarks = []
    for table, rows in sample.figures.rows_read.items():
        letters = [letter for letter in sample.letters if letter["table"] == table]
        if not letters:
            continue
        problem = too_many_bad_rows(table, letters, rows, dataset.source.max_bad_rows)
        level: Any = "stop" if problem else "doubt"
        few = f"{len(letters)} of {rows} rows of table `{table}` are bad and will be left out: {bad_row(letters[0])}"
        remarks.append(
            Remark(kind="bad_rows", subject=table, level=level, message=problem or few, certain=sample.whole)
        )
    return remarks


def _of_splits(config: RunConfig, dataset: Dataset, sample: LogSample) -> list[Remark]:
    rows = sample.figures.rows
    remarks = []
    # Of a sample of the users, all days are there.
    read = sample.tables[0].whole
    for split, problem in empty_splits(sample.figures, dataset).items():
        message = problem if read else f"split `{split}` has no row in the sample"
        level: Any = "stop" if read else "doubt"
        remarks.append(Remark(kind="empty_split", subject=split, level=level, message=message, certain=sample.whole))
    trained = sum(rows.get(split, 0) for split in config.train.splits)
    if sample.whole and 0 < trained < config.train.batch_size:
        message = (
            f"there are {trained} training rows, fewer than one batch of {config.train.batch_size}; lower "
            "`train.batch_size`"
        )
        remarks.append(Remark(kind="few_rows", subject="train", level="stop", message=message, certain=True))
    return remarks


def _of_drift(sample: LogSample, found: tuple[Drift, ...]) -> list[Remark]:
    remarks = []
    for drift in found:
        if drift.limit is not None and drift.distance > drift.limit and drift.rows >= LEAST_ROWS:
            message = (
                f"feature `{drift.feature}` differs between `train` and `{drift.split}` by {drift.distance:.3f} "
                f"({drift.measure}), more than its `drift` of {drift.limit:g}: find out why, or raise it"
            )
            remarks.append(
                Remark(kind="drift", subject=drift.feature, level="stop", message=message, certain=sample.whole)
            )
    return remarks


def _unknown_scenarios(dataset: Dataset, sample: LogSample) -> list[Remark]:
    scenario = dataset.spec.scenario
    values = {value for value in sample.log[scenario.name].values if value is not None}
    rows = {value: sum(sample.of_split(scenario.name, split).get(value, 0) for split in dataset.split_names)
            for value in values - set(scenario.values)}  # fmt: skip
    unknown = {value: count for value, count in rows.items() if count}
    if not unknown:
        return []
    most = max(unknown, key=lambda value: unknown[value])
    share = sum(unknown.values()) / max(1, sum(sample.figures.rows.values()))
    message = (
        f"{share:.1%} of the rows have a `{scenario.name}` that the spec does not list, such as {shown(most)}; they "
        "are trained and served as one more scenario, `other`"
    )
    return [Remark(kind="unknown_scenario", subject=scenario.name, level="doubt", message=message, certain=True)]


def _unread(sample: LogSample) -> list[Remark]:
    partial = [table for table in sample.tables if not table.whole]
    return [
        Remark(
            kind="sample",
            subject=table.name,
            level="doubt",
            message=f"table `{table.name}` is large: {table.rows:,} of about {table.all_rows:,} rows were read"
            + (
                ", so histories are longer than they look here"
                if table.name == "log"
                else ", so rows of the log may find more of it than they do here"
            )
            + "; --full reads all",
            certain=True,
        )
        for table in partial
    ]
