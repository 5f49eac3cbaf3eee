"""Impressions of some users -> point-in-time rows: sort, cut histories, split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, assert_never

import numpy as np
import pandas as pd

from mixrank.components.examples import splits
from mixrank.components.examples.calendar import window_start
from mixrank.components.examples.columns import EntryColumn, GapColumn, HistoryColumn, LateActionColumn, ValueColumn
from mixrank.components.examples.dictionary_column import Coded
from mixrank.components.examples.histories import Sequences, Slices, sequences, slices
from mixrank.components.examples.joined_log import (
    BadRow,
    Columns,
    join,
    joined_events,
    joined_log,
    take_all,
    unique_rows,
)
from mixrank.components.examples.label_events import moment_of
from mixrank.components.examples.log_figures import shard_figures
from mixrank.components.examples.popularity import DailyCounts, count, daily_counts, merge, popularity_of
from mixrank.components.examples.raw_tables import PRIOR, join_name
from mixrank.components.gates import Figures, JoinFigures
from mixrank.schemas import (
    SPLITS,
    Action,
    Categorical,
    Dataset,
    History,
    MultiCategorical,
    Numeric,
    TimeGap,
    Vector,
)
from mixrank.schemas.encode import PADDING


@dataclass
class Shard:
    """The rows of some users, ready to write.

    Args:
        columns: the writers of the columns of the example files.
        split: int array (rows,). Position in `SPLITS`, -1 for none.
        figures: of its rows, for the report.
        log: columns of its joined rows.
        bad: (file number, row, column, value, reason) of rows found to be bad after the joins.
        keys: of the users, by their code.
        happened: what histories were cut from: the log under None, and every event table under its name.
    """

    columns: list[EntryColumn]
    split: np.ndarray
    figures: Figures
    log: Columns
    bad: list[BadRow]
    keys: list[Any]
    happened: dict[str | None, Happened]


def build_whole(dataset: Dataset, tables: dict[str, Columns]) -> Shard:
    """Builds the rows of a log that is no larger than a shard.

    Args:
        dataset, tables: as in `build`.

    Raises:
        ValueError: as `build`.
    """
    rules = dataset.source.popularity
    if not rules:
        return build(dataset, tables)
    log, *_ = joined_log(dataset, tables)
    counts = merge([count(rules, log, log[dataset.spec.time.name].numbers())])
    return build(dataset, tables, daily_counts(rules, counts))


def build(
    dataset: Dataset,
    tables: dict[str, Columns],
    popularity: Mapping[str, DailyCounts] = MappingProxyType({}),
    newest: int | None = None,
    since: int | None = None,
    left_behind: Mapping[str, Mapping[Any, int]] = MappingProxyType({}),
) -> Shard:
    """Builds the rows of one user shard.

    Args:
        dataset: the declaration.
        tables: table name -> its columns: the shard's rows of the log and user tables, all rows of item tables.
            The log also has `FILE` and `ROW`, in the order of the files.
        popularity: column -> its counts, for every column in `source.popularity`: of all shards, but of values that
            hold the user, those of this one.
        newest: latest time of all tables with times, in milliseconds; None takes that of the shard's log.
        since: earlier rows are there for the histories of others alone, and no figure counts them; None for all rows.
        left_behind: history -> user -> earlier events that the tables no longer hold.

    Returns:
        The shard.

    Raises:
        ValueError: if two rows of a joined table differ but have the same key.
    """
    spec, source = dataset.spec, dataset.source
    log, joined, bad = joined_log(dataset, tables)
    at = log[spec.time.name].numbers()
    log |= {column: popularity_of(rule, popularity[column], log, at) for column, rule in source.popularity.items()}

    users, user = np.unique(log[spec.user.name].codes, return_inverse=True)
    time = log[spec.time.name].numbers()
    # Stable, so that events with equal times keep the order of the log.
    order = np.lexsort((time, user))
    log, user, time = take_all(log, order), user[order], time[order]
    keys = [log[spec.user.name].values[code] for code in users]
    last = int(time.max(initial=0)) if newest is None else newest

    for label in spec.labels:
        if label.mature is not None:
            log[label.mature] = Coded((time <= last - label.matures_after_ms).astype(np.int64), [0, 1])
    columns, split = _row_columns(dataset, log), splits.assign(source.split, user, keys, time)
    left_out = _left_out(dataset, log, split)
    split = np.where(left_out, splits.NONE, split)
    histories: dict[str, Slices] = {}
    prior = _prior(dataset, tables, keys)
    happened: dict[str | None, Happened] = {
        None: Happened(
            user=user,
            time=time,
            columns=log,
            flags={name: np.concatenate([log[name].numbers(bool), prior.flags[name]]) for name in spec.flags},
            # When a label that comes from later events became 1.
            moments={label: log[moment_of(label)].numbers() for label in source.labels},
            prior=prior,
        )
    }
    found = {}
    for name in source.events:
        happened[name], found[name] = event_rows(dataset, name, tables, keys)
    starts = window_start(time, source.window)
    for history in spec.histories:
        if history.in_row is not None:
            written, histories[history.name] = _in_row(dataset, history, log)
        else:
            written, histories[history.name] = _history(dataset, history, happened[history.events], user, time, starts)
        columns += written
        if history.name in left_behind:
            gone = np.array([left_behind[history.name].get(key, 0) for key in keys], np.int64)[user]
            histories[history.name] = replace(histories[history.name], dropped=histories[history.name].dropped + gone)
    own = np.arange(len(time)) if since is None else np.flatnonzero(time >= since)
    figures = shard_figures(
        dataset,
        take_all(log, own),
        split[own],
        time[own],
        {name: cut.of(own) for name, cut in histories.items()},
        int(left_out[own].sum()),
    )
    figures = Figures.merged([joined, Figures(event_tables=found), figures])
    return Shard(columns, split, figures, log, bad, keys, happened)


@dataclass(frozen=True)
class Happened:
    """What may be in a history: the rows of the log or of an event table, then prior events.

    Args:
        user: int array (rows,), ascending. User code.
        time: int array (rows,), milliseconds.
        columns: of the rows.
        flags: flag -> bool array (rows + prior events,).
        moments: flag -> when it became 1, for those that are known later than their row, int array (rows,).
        prior: events from before the log.
    """

    user: np.ndarray
    time: np.ndarray
    columns: Columns
    flags: dict[str, np.ndarray]
    moments: dict[str, np.ndarray]
    prior: Prior

    def events_of(self, history: History) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows that a history may hold, by user and then by when they were known; when each row was known; and which
        prior events it may hold."""
        every = np.ones(len(self.user) + len(self.prior.user), bool)
        kept = every if history.only is None else self.flags[history.only]
        rows = np.flatnonzero(kept[: len(self.user)])
        moment = self.moments.get(history.only or "", self.time)
        return rows[np.lexsort((moment[rows], self.user[rows]))], moment, kept[len(self.user) :]


def _history(
    dataset: Dataset, history: History, happened: Happened, user: np.ndarray, time: np.ndarray, starts: np.ndarray
) -> tuple[list[EntryColumn], Slices]:
    """The columns of a history, and where each row finds its events.

    Args:
        dataset, history: the declaration.
        happened: what it is cut from.
        user, time, starts: of the rows: code, time and begin of the window, int arrays (rows,).
    """
    own, prior = happened.user, happened.prior
    rows, moment, keep_prior = happened.events_of(history)
    sequence = sequences(rows, own, prior.user, int(user.max(initial=-1)) + 1, keep_prior)
    cut = slices(sequence, own[rows], moment[rows], user, time, starts, history.window, history.length)
    written: list[EntryColumn] = []
    for name, feature in dataset.spec.history_fields(history):
        match feature:
            case TimeGap():
                written.append(GapColumn(name, time, moment, sequence, cut))
            case Action():
                written.append(_action_column(name, feature, happened, time, sequence, cut))
            case Categorical() | MultiCategorical() | Numeric() | Vector():
                events = _attribute(feature.name, happened.columns, prior)
                written.append(HistoryColumn(name, feature.kind, events, feature.raw_width, sequence, cut))
            case _:
                assert_never(feature)
    for name, weighted in dataset.spec.weights_in(history):
        weights = _attribute(str(weighted.weights), happened.columns, prior)
        written.append(HistoryColumn(name, "float", weights, weighted.raw_width, sequence, cut))
    return written, cut


def _in_row(dataset: Dataset, history: History, log: Columns) -> tuple[list[EntryColumn], Slices]:
    """The columns of a history whose events the rows bring themselves, and how many each has.

    Args:
        dataset, history: the declaration.
        log: the columns, one tuple of events or None in each row.
    """

    def newest_first(missing: Any, events: tuple[Any, ...]) -> tuple[Any, ...]:
        known = tuple(missing if each is None else each for each in events)
        return known if history.in_row == "newest_first" else known[::-1]

    written: list[EntryColumn] = []
    for name, field in dataset.spec.history_fields(history):
        events = log[name].map(partial(newest_first, PADDING[field.kind]))
        written.append(ValueColumn(name, field.kind, events, history.length))
    lists = log[history.column(history.of[0])]
    found = np.array([len(events or ()) for events in lists.values])[lists.codes]
    counts = np.minimum(found, history.length)
    return written, Slices(np.zeros_like(counts), counts, found - counts)


def event_rows(
    dataset: Dataset, name: str, tables: dict[str, Columns], keys: list[Any]
) -> tuple[Happened, JoinFigures]:
    """An event table, with rows of the shard's users only, and how many have one."""
    spec, rule = dataset.spec, dataset.source.events[name]
    table = joined_events(dataset, name, tables)
    codes = {key: code for code, key in enumerate(keys)}
    owner = table[spec.user.name]
    user = np.array([codes.get(value, -1) for value in owner.values], dtype=np.int64)[owner.codes]
    time = table[(rule.time or spec.time).name].numbers()
    order = np.lexsort((time, user))
    order = order[user[order] >= 0]
    rows = take_all(table, order)
    flags = {flag: rows[flag].numbers(bool) for flag in spec.flags_of_events(name)}
    nothing = Prior(np.zeros(0, dtype=np.int64), {}, {})
    happened = Happened(user[order], time[order], rows, flags, {}, nothing)
    return happened, JoinFigures(rows=len(user), matched=len(order))


def _left_out(dataset: Dataset, log: Columns, split: np.ndarray) -> np.ndarray:
    """Whether a row is a negative of training that is not kept, bool array (rows,)."""
    spec = dataset.spec
    if (label := spec.sampled) is None:
        return np.zeros(len(split), bool)
    negatives = np.flatnonzero((split == SPLITS.index("train")) & ~log[label.name].numbers(bool))
    keys = [take_all({"key": log[key.name]}, negatives)["key"].tolist() for key in (spec.user, spec.item, spec.time)]
    # A float holds 53 bits exactly.
    share = np.array([(splits.stable_hash(each, label.name) >> 11) / 2**53 for each in zip(*keys, strict=True)])
    found = np.zeros(len(split), bool)
    found[negatives] = share >= label.keep_negatives
    return found


def _row_columns(dataset: Dataset, log: Columns) -> list[EntryColumn]:
    """The columns that do not belong to a history."""
    spec = dataset.spec
    result: list[EntryColumn] = [
        ValueColumn(key.name, key.dtype, log[key.name]) for key in (spec.user, spec.item) if spec.get(key.name) is None
    ]
    result.append(ValueColumn(spec.time.name, "int", log[spec.time.name]))
    if spec.request is not None:
        result.append(ValueColumn(spec.request.name, spec.request.dtype, log[spec.request.name]))
    result.append(ValueColumn(spec.scenario.name, spec.scenario.dtype, log[spec.scenario.name]))
    result += [ValueColumn(label.name, label.values.column, log[label.name]) for label in spec.labels]
    result += [ValueColumn(name, "float", log[name]) for name in spec.row_weights]
    result += [ValueColumn(name, "int", log[name]) for name in spec.mature]
    if spec.position is not None:
        result.append(ValueColumn(spec.position.name, "int", log[spec.position.name]))
    result += [ValueColumn(f.name, f.kind, log[f.name], f.max_values) for f in spec.inputs]
    result += [ValueColumn(name, "float", log[name], f.max_values) for name, f in spec.weights.items()]
    return result


def _action_column(
    name: str,
    feature: Action,
    happened: Happened,
    time: np.ndarray,
    sequence: Sequences,
    cut: Slices,
) -> EntryColumn:
    """The bit mask of every event, of the table and then prior."""
    flags, moments = happened.flags, happened.moments
    bits = {flag: flags[flag].astype(np.int64) << bit for bit, flag in enumerate(feature.flags)}
    late = [flag for flag in bits if flag in moments]
    masks = sum((bits[flag] for flag in bits if flag not in late), np.zeros(len(flags[feature.flags[0]]), np.int64))
    if not late:
        return HistoryColumn(name, feature.kind, Coded(masks, list(range(2 ** len(bits)))), 1, sequence, cut)
    # Prior events are over.
    over = np.full(len(masks) - len(happened.time), -1)
    known = [(bits[flag], np.concatenate([moments[flag], over])) for flag in late]
    return LateActionColumn(name, masks, known, time, sequence, cut)


def _attribute(name: str, columns: Columns, prior: Prior) -> Coded:
    """The attribute of every event, of the table and then prior."""
    missing = Coded(np.zeros(len(prior.user), dtype=np.int64), [None])
    return columns[name].concat(prior.columns.get(name, missing))


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
    for number, declaration in enumerate(dataset.source.joins):
        if declaration.on == "item":
            columns[spec.item.name] = item
            join(columns, tables[join_name(number, declaration)], spec.item.name)
    columns[spec.item.name] = item
    always = {flag: np.full(len(items), flag in declared.always) for flag in spec.flags}
    return Prior(
        np.array(owners, dtype=np.int64), columns, always | {flag: np.array(marks[flag], dtype=bool) for flag in marks}
    )
