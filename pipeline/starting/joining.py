"""Which tables have one row per user or item, and by which column they are joined to the log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mixrank.pipeline.starting import words
from mixrank.pipeline.starting.columns import Column
from mixrank.pipeline.starting.tables import Found

# Share of the log's rows whose key must be in a table, and of a table's rows that must have a key of their own.
LEAST_MATCHED, LEAST_UNIQUE = 0.5, 0.999


@dataclass(frozen=True)
class Joined:
    """A table with one row per key.

    Args:
        table: the table.
        on: "user" or "item".
        column: its column with the key.
        matched: share of the log's rows whose key it has.
    """

    table: Found
    on: Literal["user", "item"]
    column: str
    matched: float


@dataclass(frozen=True)
class Unused:
    """A table that is not joined, and why."""

    table: Found
    why: str


def join_tables(log: Found, others: Iterable[Found], user: str | None, item: str) -> tuple[list[Joined], list[Unused]]:
    """The tables that are joined to the log, users first, and those that are not."""
    joined: list[Joined] = []
    unused: list[Unused] = []
    for table in others:
        best: Joined | None = None
        why = "no column of it holds the keys of the log"
        for on, key in (("user", user), ("item", item)):
            if key is None:
                continue
            for column in _candidates(table, on, key):
                share = matched_share(log.columns[key], column)
                if share < LEAST_MATCHED:
                    if share > 0 or column.name == key:
                        why = f"`{column.name}` has the keys of {share:.0%} of the log's rows only"
                    continue
                if column.distinct < LEAST_UNIQUE * (column.rows - (column.codes < 0).sum()):
                    why = f"it has several rows per `{column.name}` ({column.distinct:,} in {column.rows:,} rows)"
                    continue
                if best is None or share > best.matched:
                    best = Joined(table, on, column.name, share)  # type: ignore[arg-type]
        if best is None:
            unused.append(Unused(table, why))
        else:
            joined.append(best)
    return sorted(joined, key=lambda each: each.on != "user"), [_explained(each, joined) for each in unused]


def _explained(unused: Unused, joined: Iterable[Joined]) -> Unused:
    """A table that belongs to a joined one, by a column that is not its key, says so."""
    for each in joined:
        shared = [name for name in unused.table.columns if name in each.table.columns and name != each.column]
        if shared:
            why = f"it belongs to `{shared[0]}` of {each.table.name}, and tables are joined by user or item only"
            return Unused(unused.table, why)
    return unused


def _candidates(table: Found, on: str, key: str) -> list[Column]:
    """Columns that may hold a key, the one of the same name first."""
    role = words.USER if on == "user" else words.ITEM
    about = {words.singular(word) for word in words.words(table.name)} & set(role)

    def rank(name: str) -> float:
        if words.cleaned(name) == words.cleaned(key):
            return 2.0
        if words.words(name) in (("id",), ("key",), ("code",)) and about:
            return 1.5
        return words.key_of(name, role)

    ranked = sorted(((rank(name), -place, name) for place, name in enumerate(table.columns)), reverse=True)
    return [table.columns[name] for score, _, name in ranked if score > 0 and table.columns[name].lengths is None]


def matched_share(key: Column, other: Column) -> float:
    """Share of the rows of the log whose key another column has, both read as numbers or both as text."""
    if key.numbers is not None and other.numbers is not None:
        found = np.isin(key.numbers, other.numbers)
    else:
        present = {str(value) for value in other.values}
        found = np.array([str(value) in present for value in key.values])
    total = key.counts.sum()
    return float(key.counts[found].sum() / total) if total else 0.0
