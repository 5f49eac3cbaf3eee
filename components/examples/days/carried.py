"""Which rows of earlier days a later day still needs: the state of a log that is read day by day.

A row is carried over the end of a day if a history of a later impression may hold it: the newest `length` events before
the earliest window that a later impression can have, and all events inside it; or if a label may still come to it. Rows
are carried raw, as they were read, so that the next day is built by the very code that builds a whole log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mixrank.components.examples.calendar import window_start
from mixrank.components.examples.dictionary_column import Coded
from mixrank.components.examples.joined_log import Columns, drop_duplicates, outcome_of
from mixrank.components.examples.raw_tables import LOG, PLACE, event_table, label_table
from mixrank.components.examples.user_shard import Happened, Shard, event_rows
from mixrank.schemas import Dataset

LeftBehind = Mapping[str, Mapping[Any, int]]


class Carried(NamedTuple):
    """What the days after one need of it and of those before.

    Attributes:
        rows: table -> places of the rows, ascending.
        left_behind: history -> user -> number of its events that are not carried, now and before.
    """

    rows: dict[str, np.ndarray]
    left_behind: dict[str, dict[Any, int]]


def with_places(tables: Mapping[str, Columns]) -> dict[str, Columns]:
    """Tables whose rows know their places, for those that can be carried."""

    def numbered(table: Columns) -> Columns:
        rows = len(next(iter(table.values())))
        return {**table, PLACE: Coded(1 + np.arange(rows), [None, *range(rows)])}

    return {name: numbered(table) if _carries(name) else table for name, table in tables.items()}


def carried(
    dataset: Dataset, shard: Shard, tables: Mapping[str, Columns], until: int, left_behind: LeftBehind
) -> Carried:
    """What later days need of a shard.

    Args:
        dataset: the declaration.
        shard: as `build` made it of these tables.
        tables: as `with_places` made them; all their times are below `until`.
        until: time from which on later rows are, in milliseconds.
        left_behind: what was left behind before.
    """
    source = dataset.source
    opens = int(window_start(np.array([until]), source.window)[0])
    happened: dict[str | None, tuple[Happened, list[Any]]] = {None: (shard.happened[None], shard.keys)}
    for name in source.events:
        # Users without an impression so far may have one tomorrow.
        everyone = list(dict.fromkeys(tables[event_table(name)][dataset.spec.user.name].tolist()))
        happened[name] = event_rows(dataset, name, dict(tables), everyone)[0], everyone
    keep = {name: np.zeros(len(each.user), bool) for name, (each, _) in happened.items()}
    for label in source.labels.values():
        keep[None] |= happened[None][0].time >= until - label.within_ms
    cut = [history for history in dataset.spec.histories if history.in_row is None]
    for history in cut:
        each, _ = happened[history.events]
        rows, moment, _ = each.events_of(history)
        inside = moment[rows] >= opens
        keep[history.events][rows[inside]] = True
        if history.window == "before":
            before = rows[~inside]
            user = each.user[before]
            # Rank of an event among those of its user, the newest first.
            newer = np.searchsorted(user, user, side="right") - 1 - np.arange(len(user))
            keep[history.events][before[newer < history.length]] = True
    gone: dict[str, dict[Any, int]] = {}
    for history in (each for each in cut if each.window == "before"):
        each, keys = happened[history.events]
        rows, _, _ = each.events_of(history)
        lost = np.bincount(each.user[rows[~keep[history.events][rows]]], minlength=len(keys))
        total = dict(left_behind.get(history.name, {}))
        for user in np.flatnonzero(lost).tolist():
            total[keys[user]] = total.get(keys[user], 0) + int(lost[user])
        gone[history.name] = total
    places = {
        LOG if name is None else event_table(name): np.sort(each.columns[PLACE].numbers()[keep[name]])
        for name, (each, _) in happened.items()
    }
    return Carried(places | _label_events(dataset, tables, places[LOG]), gone)


def _label_events(dataset: Dataset, tables: Mapping[str, Columns], impressions: np.ndarray) -> dict[str, np.ndarray]:
    """Places of the events that belong to carried impressions: each label's table -> places."""
    found = {}
    log, _ = drop_duplicates(tables[LOG])
    place = np.append(log[PLACE].numbers(), -1)
    for label in dataset.source.labels:
        table = label_table(label)
        owner = place[outcome_of(dataset, label, log, tables[table]).row]
        found[table] = np.flatnonzero(np.isin(owner, impressions))
    return found


def _carries(table: str) -> bool:
    return table == LOG or table.startswith((event_table(""), label_table("")))
