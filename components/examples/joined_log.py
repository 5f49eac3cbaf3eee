"""The log of some users, ready for features: duplicates dropped, labels made, tables joined, columns derived."""

from __future__ import annotations

import bisect
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from mixrank.components.examples.dictionary_column import Coded
from mixrank.components.examples.label_events import Outcome, moment_of, outcome
from mixrank.components.examples.log_figures import join_figures
from mixrank.components.examples.raw_tables import (
    FILE,
    LOG,
    PLACE,
    ROW,
    event_table,
    join_name,
    label_keys,
    label_table,
)
from mixrank.components.gates import Figures, JoinFigures
from mixrank.schemas import Cut, Dataset, Derived
from mixrank.schemas.safe_text import shown

Columns = dict[str, Coded]
BadRow = tuple[int, int, str, Any, str]


def joined_log(dataset: Dataset, tables: dict[str, Columns]) -> tuple[Columns, Figures, list[BadRow]]:
    """The good rows of the log, in the order of the files.

    Args:
        dataset: the declaration.
        tables: table name -> its columns, as in `mixrank.components.examples.user_shard.build`.

    Returns:
        The columns; figures of duplicates and joins; (file number, row, column, value, reason) of rows found to be bad.

    Raises:
        ValueError: if two rows of a joined table differ but have the same key.
    """
    spec, source = dataset.spec, dataset.source
    log, duplicates = drop_duplicates(tables[LOG])
    joins, events = {}, {}
    for label in source.labels:
        table = tables[label_table(label)]
        found = outcome_of(dataset, label, log, table)
        log[label], log[moment_of(label)] = found.label, found.moment
        events[label] = JoinFigures(rows=len(next(iter(table.values()))), matched=found.matched)
    for number, declared in enumerate(source.joins):
        name, key = join_name(number, declared), (spec.user if declared.on == "user" else spec.item).name
        table = unique_rows(tables[name], key, name)
        # A table may hold what only events take from it, since the log has it.
        joins[name] = join(log, {column: table[column] for column in table if column == key or column not in log}, key)
    for column, rule in source.derive.items():
        log[column] = log[rule.column].map(partial(derived, rule))
    figures = Figures(duplicates=duplicates, joins=joins, events=events)
    missing = _missing(dataset, log)
    bad = np.logical_or.reduce(list(missing.values()))
    report = _report_bad(dataset, log, missing, np.flatnonzero(bad))
    if report:
        log = take_all(log, np.flatnonzero(~bad))
    for task in spec.labels:
        if task.given is not None:
            # What a row without the other label may lack counts nowhere.
            own = log[task.name]
            codes = np.where(own.missing(), len(own.values), own.codes)
            log[task.name] = Coded(codes, [*own.values, 0])
    return log, figures, report


def joined_events(dataset: Dataset, name: str, tables: dict[str, Columns]) -> Columns:
    """The distinct rows of an event table, with what they take from tables of items, and derived columns.

    Args:
        dataset: the declaration.
        name: of the event table.
        tables: as in `joined_log`.

    Raises:
        ValueError: as `joined_log`.
    """
    spec, source = dataset.spec, dataset.source
    events, _ = drop_duplicates(tables[event_table(name)])
    for number, declared in enumerate(source.joins):
        if declared.on == "item" and spec.item.name in events:
            table = unique_rows(tables[join_name(number, declared)], spec.item.name, join_name(number, declared))
            join(events, {c: table[c] for c in table if c == spec.item.name or c not in events}, spec.item.name)
    for column, rule in source.derive.items():
        if column not in events and rule.column in events:
            events[column] = events[rule.column].map(partial(derived, rule))
    return events


def outcome_of(dataset: Dataset, label: str, log: Columns, events: Columns) -> Outcome:
    """The label that events make, in a log without duplicates."""
    spec, rule = dataset.spec, dataset.source.labels[label]
    keys = label_keys(spec, rule)
    time, event_time = log[spec.time.name].numbers(), events[(rule.time or spec.time).name].numbers()
    return outcome([log[key] for key in keys], time, [events[key] for key in keys], event_time, rule.within_ms)


def derived(rule: Derived, value: float) -> int | str:
    """The derived value of a number.

    >>> derived(Cut("age", edges=(25, 35), names=("young", "middle", "old")), 25)
    'middle'
    """
    if isinstance(rule, Cut):
        return rule.names[bisect.bisect_right(rule.edges, value)]
    return int(value >= rule.at_least)


def drop_duplicates(table: Columns) -> tuple[Columns, int]:
    """Rows that differ from all earlier rows in some column of the spec, and the number of duplicates."""
    names = [name for name in table if name not in (FILE, ROW, PLACE)]
    repeated = pd.DataFrame({name: table[name].codes for name in names}).duplicated().to_numpy()
    if not repeated.any():
        return dict(table), 0
    return take_all(table, np.flatnonzero(~repeated)), int(repeated.sum())


def unique_rows(table: Columns, key: str, name: str) -> Columns:
    """The table without repeated rows.

    Raises:
        ValueError: if a key still has two rows.
    """
    table, _ = drop_duplicates(table)
    codes = table[key].codes
    distinct, counts = np.unique(codes, return_counts=True)
    if (counts > 1).any():
        value = table[key].values[distinct[np.argmax(counts > 1)]]
        raise ValueError(
            f"table `{name}` has {counts.max()} different rows with {key}={shown(value)}; at most one per key"
        )
    return table


def join(log: Columns, table: Columns, key: str) -> JoinFigures:
    """Adds the table's columns to the log by key; returns how many rows found a match."""
    match = log[key].find_in(table[key])
    for name, column in table.items():
        if name not in (key, FILE, ROW):
            log[name] = column.take(match)
    return join_figures(log[key], table[key], match)


def take_all(table: Columns, rows: np.ndarray) -> Columns:
    return {name: column.take(rows) for name, column in table.items()}


def _missing(dataset: Dataset, log: Columns) -> dict[str, np.ndarray]:
    """Column that a row must have -> where it is missing."""
    spec = dataset.spec
    given = {label.name: label.given for label in spec.labels if label.given is not None}
    derived_flags = [flag for flag in spec.flags if flag in dataset.source.derive and flag not in given]
    found = {name: log[name].missing() for name in (spec.scenario.name, *derived_flags)}
    return found | {name: log[name].missing() & (log[other].numbers() > 0) for name, other in given.items()}


def _report_bad(
    dataset: Dataset, log: Columns, missing: dict[str, np.ndarray], rows: np.ndarray
) -> list[tuple[int, int, str, Any, str]]:
    report = []
    given = {label.name: label.given for label in dataset.spec.labels if label.given is not None}
    for row in rows:
        name = next(name for name, where in missing.items() if where[row])
        rule = dataset.source.derive.get(name)
        reason = "is missing" if rule is None else f"is missing: it is derived from `{rule.column}`, which is missing"
        if name in given:
            reason += f", in a row with `{given[name]}`"
        origin = take_all({FILE: log[FILE], ROW: log[ROW]}, np.array([row]))
        report.append((origin[FILE].tolist()[0], origin[ROW].tolist()[0], name, None, reason))
    return report
