"""All impressions of some users -> point-in-time rows: deduplicate, join, derive, sort, cut histories, split."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from components import splits
from components.coded import Coded
from components.days import window_start
from components.example_columns import EntryColumn, GapColumn, HistoryColumn, ValueColumn
from components.histories import Slices, sequences, slices
from components.raw_tables import LOG, PRIOR, join_name
from schemas.features import Action, Categorical, MultiCategorical, TimeGap
from schemas.tables import SPLITS, Cut, Dataset, Derived

# Where a row of the log came from; not a column of the spec.
FILE, ROW = "_file", "_row"
Columns = dict[str, Coded]


@dataclass
class Shard:
    """The rows of some users, ready to be written.

    Args:
        columns: what can write each column of the example files.
        split: int array (rows,). Position in `SPLITS`, -1 for none.
        counts: what happened to the rows, for the report.
        bad: (file number, row, column, value, reason) of rows that turned out bad after the joins.
        time_range: earliest and latest time, milliseconds; empty without rows.
        histories: history name -> its slices.
    """

    columns: list[EntryColumn]
    split: np.ndarray
    counts: dict[str, int]
    bad: list[tuple[int, int, str, Any, str]] = field(default_factory=list)
    time_range: list[int] = field(default_factory=list)
    histories: dict[str, Slices] = field(default_factory=dict)


def build(dataset: Dataset, tables: dict[str, Columns]) -> Shard:
    """Builds the rows of one user shard.

    Args:
        dataset: the declaration.
        tables: table name -> its columns; of the log and the user tables the shard's part, of item tables all rows.
            The log also has `FILE` and `ROW`, in the order of the files.

    Returns:
        The shard.

    Raises:
        ValueError: if two rows of a joined table differ but have the same key.
    """
    spec, source = dataset.spec, dataset.source
    log, duplicates = drop_duplicates(tables[LOG])
    counts = {"duplicates_dropped": duplicates}
    for number, declared in enumerate(source.joins):
        name, key = join_name(number, declared), (spec.user if declared.on == "user" else spec.item).name
        counts[f"unmatched_{name}"] = _join(log, unique_rows(tables[name], key, name), key)
    for column, rule in source.derive.items():
        log[column] = log[rule.column].map(partial(derived, rule))
    bad = _bad_rows(dataset, log)
    if bad.any():
        report = _report_bad(dataset, log, bad)
        log = _take_all(log, np.flatnonzero(~bad))
    else:
        report = []

    users, user = np.unique(log[spec.user.name].codes, return_inverse=True)
    time = log[spec.time.name].numbers()
    # Stable, so that events of one time keep the order of the log.
    order = np.lexsort((time, user))
    log, user, time = _take_all(log, order), user[order], time[order]
    keys = [log[spec.user.name].values[code] for code in users]

    shard = Shard(_row_columns(dataset, log), splits.assign(source.split, user, keys, time), counts, report)
    shard.time_range = [int(time.min()), int(time.max())] if len(time) else []
    prior = _prior(dataset, tables, keys)
    flags = {name: np.concatenate([log[name].numbers(bool), prior.flags[name]]) for name in spec.flags}
    starts = window_start(time, source.window)
    for history in spec.histories:
        kept = flags[history.only] if history.only is not None else np.ones(len(time) + len(prior.user), dtype=bool)
        keep, keep_prior = kept[: len(time)], kept[len(time) :]
        sequence = sequences(user, prior.user, len(keys), keep, keep_prior)
        cut = slices(sequence, user, time, keep, starts, history.window, history.length)
        shard.histories[history.name] = cut
        for name, feature in spec.history_fields(history):
            if isinstance(feature, TimeGap):
                shard.columns.append(GapColumn(name, time, sequence, cut))
                continue
            events = _actions(feature, flags) if isinstance(feature, Action) else _attribute(feature, log, prior)
            kind = "int" if isinstance(feature, Action) else feature.dtype
            width = feature.max_length if isinstance(feature, MultiCategorical) else 1
            shard.columns.append(HistoryColumn(name, kind, events, width, sequence, cut))
    for position, name in enumerate(SPLITS):
        counts[f"rows_{name}"] = int((shard.split == position).sum())
    counts["rows_in_no_split"] = int((shard.split == splits.NONE).sum())
    return shard


def derived(rule: Derived, value: float) -> int | str:
    """The derived value of a number.

    >>> derived(Cut("age", edges=(25, 35), names=("young", "middle", "old")), 25)
    'middle'
    """
    if isinstance(rule, Cut):
        return rule.names[bisect.bisect_right(rule.edges, value)]
    return int(value >= rule.at_least)


def drop_duplicates(table: Columns) -> tuple[Columns, int]:
    """The rows that differ in a column of the spec from every row before them, and how many others there were."""
    names = [name for name in table if name not in (FILE, ROW)]
    repeated = pd.DataFrame({name: table[name].codes for name in names}).duplicated().to_numpy()
    if not repeated.any():
        return dict(table), 0
    return _take_all(table, np.flatnonzero(~repeated)), int(repeated.sum())


def unique_rows(table: Columns, key: str, name: str) -> Columns:
    """The table without repeated rows.

    Raises:
        ValueError: if a key is left with two rows.
    """
    table, _ = drop_duplicates(table)
    codes = table[key].codes
    distinct, counts = np.unique(codes, return_counts=True)
    if (counts > 1).any():
        value = table[key].values[distinct[np.argmax(counts > 1)]]
        raise ValueError(f"table `{name}` has {counts.max()} different rows with {key}={value!r}; at most one per key")
    return table


def _join(log: Columns, table: Columns, key: str) -> int:
    """Adds the table's columns to the log by key; returns how many rows found no match."""
    match = log[key].find_in(table[key])
    for name, column in table.items():
        if name not in (key, FILE, ROW):
            log[name] = column.take(match)
    return int((match < 0).sum())


def _take_all(table: Columns, rows: np.ndarray) -> Columns:
    return {name: column.take(rows) for name, column in table.items()}


def _required(dataset: Dataset) -> list[str]:
    derived_flags = [flag for flag in dataset.spec.flags if flag in dataset.source.derive]
    return [dataset.spec.scenario.name, *derived_flags]


def _bad_rows(dataset: Dataset, log: Columns) -> np.ndarray:
    bad = np.zeros(len(log[ROW]), dtype=bool)
    for name in _required(dataset):
        bad |= log[name].missing()
    return bad


def _report_bad(dataset: Dataset, log: Columns, bad: np.ndarray) -> list[tuple[int, int, str, Any, str]]:
    report = []
    for row in np.flatnonzero(bad):
        name = next(name for name in _required(dataset) if log[name].codes[row] == 0)
        rule = dataset.source.derive.get(name)
        reason = "is missing" if rule is None else f"is missing: it is derived from `{rule.column}`, which is missing"
        origin = _take_all({FILE: log[FILE], ROW: log[ROW]}, np.array([row]))
        report.append((origin[FILE].tolist()[0], origin[ROW].tolist()[0], name, None, reason))
    return report


def _row_columns(dataset: Dataset, log: Columns) -> list[EntryColumn]:
    """The columns that do not belong to a history."""
    spec = dataset.spec
    result: list[EntryColumn] = [
        ValueColumn(key.name, key.dtype, log[key.name]) for key in (spec.user, spec.item) if spec.get(key.name) is None
    ]
    result.append(ValueColumn(spec.time.name, "int", log[spec.time.name]))
    result.append(ValueColumn(spec.scenario.name, spec.scenario.dtype, log[spec.scenario.name]))
    result += [ValueColumn(label.name, "int", log[label.name]) for label in spec.labels]
    for feature in spec.inputs:
        length = feature.max_length if isinstance(feature, MultiCategorical) else None
        kind = feature.dtype if isinstance(feature, Categorical | MultiCategorical) else "float"
        result.append(ValueColumn(feature.name, kind, log[feature.name], length))
    return result


def _actions(feature: Action, flags: dict[str, np.ndarray]) -> Coded:
    """The bit mask of every event, of the log and then prior."""
    masks = sum(flags[flag].astype(np.int64) << bit for bit, flag in enumerate(feature.flags))
    return Coded(np.asarray(masks), list(range(2 ** len(feature.flags))))


def _attribute(feature: Categorical | MultiCategorical, log: Columns, prior: Prior) -> Coded:
    """The item attribute of every event, of the log and then prior."""
    missing = Coded(np.zeros(len(prior.user), dtype=np.int64), [None])
    return log[feature.name].concat(prior.columns.get(feature.name, missing))


@dataclass(frozen=True)
class Prior:
    """Events from before the log, within a user newest first.

    Args:
        user: int array (events,). User code.
        columns: item attributes, as far as the item tables have them.
        flags: flag -> bool array (events,).
    """

    user: np.ndarray
    columns: Columns
    flags: dict[str, np.ndarray]


def _prior(dataset: Dataset, tables: dict[str, Columns], users: list[Any]) -> Prior:
    spec, declared = dataset.spec, dataset.source.prior
    if declared is None or PRIOR not in tables:
        return Prior(np.zeros(0, dtype=np.int64), {}, {flag: np.zeros(0, dtype=bool) for flag in spec.flags})
    table = unique_rows(tables[PRIOR], spec.user.name, PRIOR)
    codes = {key: code for code, key in enumerate(users)}
    owners: list[int] = []
    items: list[Any] = []
    marks: dict[str, list[bool]] = {flag: [] for flag in declared.flags}
    lists = {flag: table[column].tolist() for flag, column in declared.flags.items()}
    for row, (key, seen) in enumerate(zip(table[spec.user.name].tolist(), table[declared.items].tolist(), strict=True)):
        if key not in codes or seen is None:
            continue
        owners += [codes[key]] * len(seen)
        items += seen if declared.order == "newest_first" else seen[::-1]
        for flag, rows in lists.items():
            marked = set(rows[row] or ())
            marks[flag] += [item in marked for item in items[len(items) - len(seen) :]]

    item_codes, distinct = pd.factorize(np.array(items, dtype=object))
    item = Coded(item_codes + 1, [None, *distinct])
    columns: Columns = {}
    for number, join in enumerate(dataset.source.joins):
        if join.on == "item":
            columns[spec.item.name] = item
            _join(columns, tables[join_name(number, join)], spec.item.name)
    columns[spec.item.name] = item
    always = {flag: np.full(len(items), flag in declared.always) for flag in spec.flags}
    return Prior(
        np.array(owners, dtype=np.int64), columns, always | {flag: np.array(marks[flag], dtype=bool) for flag in marks}
    )
