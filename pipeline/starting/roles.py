"""Which columns of a log are its user, item, labels and scenario: guesses, each with a confidence and a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from mixrank.pipeline.starting import words
from mixrank.pipeline.starting.columns import Column, separation, share_fixed_by
from mixrank.pipeline.starting.event_tables import Events
from mixrank.schemas.task_kinds import BINARY

# A guess below it is a question.
SURE = 0.75
# Rows with the outcome in the sample from which a task can be learned, and tasks to begin with.
LEAST_POSITIVES, MOST_LABELS = 100, 2
# Smallest share of rows of a value that is listed as a scenario, and the most values.
LEAST_SHARE, MOST_SCENARIOS = 0.001, 30
# How well a column alone tells the label, from which on it must have been written after it.
GIVES_AWAY = 0.95


@dataclass(frozen=True)
class Guess:
    """An answer with its reason.

    Args:
        value: a column, or None.
        confidence: in [0, 1]; below `SURE` it is a question.
        why: reason.
        others: other columns that it could be.
    """

    value: str | None
    confidence: float
    why: str
    others: tuple[str, ...] = ()


def guess_key(
    columns: Mapping[str, Column],
    role: str,
    taken: Iterable[str | None] = (),
    hint: str = "",
    again: Callable[[Column], bool] = lambda column: True,
) -> Guess:
    """The column with the user or the item of a row.

    Args:
        columns: name -> column of the log.
        role: "user" or "item".
        taken: columns that have another role.
        hint: a column that is the key of another table of the role, or empty.
        again: whether the values of a column come again on later days, unlike those of a request.
    """
    wanted = words.USER if role == "user" else words.ITEM
    free = [column for name, column in columns.items() if name not in taken and _may_be_key(column)]
    named = sorted(((words.key_of(c.name, wanted), c.name) for c in free), reverse=True)
    named = [(score, name) for score, name in named if score > 0]
    if named:
        score, name = named[0]
        others = tuple(other for _, other in named[1:])
        # A second name that is as good makes it a question.
        rival = named[1][0] if others else 0.0
        confidence = 0.95 if score - rival > 0.15 else 0.6
        return Guess(name, confidence, f"its name; {_many(columns[name])}", others)
    if hint and hint in columns and hint not in taken:
        return Guess(hint, 0.8, f"the key of the table of {role}s; {_many(columns[hint])}")
    ids = [c for c in free if 20 <= c.distinct <= 0.5 * c.rows and not words.key_of(c.name, words.USER) and again(c)]
    if role == "user" or not ids:
        article = "a" if role == "user" else "an"
        return Guess(None, 0.0, f"no column looks like the key of {article} {role}", tuple(c.name for c in ids))
    # An item is needed; an id with many values that come again is the likeliest.
    ranked = sorted(ids, key=lambda c: (words.words(c.name)[-1:] != ("id",), -c.distinct))
    others = tuple(c.name for c in ranked[1:])
    return Guess(ranked[0].name, 0.4, f"its values come again; {_many(ranked[0])}", others)


def guess_request(columns: Mapping[str, Column], taken: Iterable[str | None], user: str | None) -> Guess:
    """The column with the ranking request that showed a row; None if there is none.

    Its name says so, it has no gaps, its values come again, and each belongs to one user.

    Args:
        columns, taken: as in `guess_key`.
        user: key column of the user, or None.
    """
    named = sorted(((words.key_of(name, words.REQUEST), name) for name in columns if name not in taken), reverse=True)
    for score, name in named:
        column = columns[name]
        if not score or not _may_be_key(column) or column.missing_share or column.distinct > 0.7 * column.rows:
            continue
        if user is None or _one_each(columns[user], column):
            return Guess(name, 0.9, f"its name; {_many(column)}")
    return Guess(None, 0.8, "no column looks like the request that showed a row")


def _one_each(column: Column, owner: Column) -> bool:
    """Whether nearly all values of the owner have one value of the column."""
    pairs = len(np.unique(np.stack([owner.codes, column.codes]), axis=1).T)
    return pairs <= 1.01 * owner.distinct


def _may_be_key(column: Column) -> bool:
    return (
        column.lengths is None and column.look in ("int", "text") and column.distinct > 2 and not column.decimal_comma
    )


def _many(column: Column) -> str:
    return f"{column.distinct:,} values in {column.rows:,} rows"


@dataclass(frozen=True)
class Outcome:
    """A column that says what the user did.

    Args:
        column: its name.
        share: of rows with it.
        at_least: threshold that makes a flag of a number, or None if it is a flag already.
        name: of the flag.
        confidence: that it is an outcome.
        why: reason.
        events: the table of events that make it, or None if it is a column of the log.
    """

    column: str
    share: float
    at_least: float | None
    name: str
    confidence: float
    why: str
    events: Events | None = None


def outcomes(columns: Mapping[str, Column], taken: Iterable[str], user: str | None, item: str) -> list[Outcome]:
    """The outcomes among the columns of the log, the likeliest main task first.

    Columns of 0 and 1 come first; without one, a rating or a number that was measured after the impression is cut at
    a threshold.
    """
    found = []
    for name, column in columns.items():
        if name in taken or not column.is_binary:
            continue
        rank, why = _outcome_rank(name)
        if rank is None:
            continue
        found.append((rank, Outcome(name, _positive(column, 1), None, name, 0.9 if rank < 900 else 0.5, why)))
    if found:
        return [outcome for _, outcome in sorted(found, key=lambda pair: pair[0])]
    free = {name: column for name, column in columns.items() if name not in taken}
    rated = [_from_rating(column) for column in free.values() if _is_rating(column)]
    if rated:
        return rated
    binary = [c for c in free.values() if c.is_binary and not _is_attribute(c, columns, user, item)]
    if binary:
        return [
            Outcome(c.name, _positive(c, 1), None, c.name, 0.4, f"{BINARY.expected}, with another name than usual")
            for c in binary
        ]
    return [_from_number(c) for c in free.values() if c.is_number and c.distinct > 20 and is_after(c.name)][:1]


def _outcome_rank(name: str) -> tuple[int | None, str]:
    parts = words.words(name)
    if set(parts) & words.NEGATIVE:
        return 1000, "an unwanted outcome, by its name"
    if set(parts) & words.ATTRIBUTE:
        return None, ""
    places = [words.POSITIVE.index(part) for part in parts if part in words.POSITIVE]
    return (min(places), "an outcome, by its name") if places else (None, "")


def _is_attribute(column: Column, columns: Mapping[str, Column], user: str | None, item: str) -> bool:
    if set(words.words(column.name)) & words.ATTRIBUTE:
        return True
    return any((share_fixed_by(column, columns[key]) or 0.0) > 0.95 for key in (user, item) if key)


def _positive(column: Column, at_least: float) -> float:
    return float(np.mean(column.per_row() >= at_least))


def _is_rating(column: Column) -> bool:
    if not column.is_number or column.lengths is not None or not 3 <= column.distinct <= 100:
        return False
    assert column.numbers is not None
    named = set(words.words(column.name)) & words.RATING
    return bool(named) and column.numbers.min() >= -10 and column.numbers.max() <= 100


def looks_rated(column: Column) -> bool:
    """Whether the values of a column without a telling name are steps of a scale, such as 1 to 5."""
    if not column.is_number or column.lengths is not None or not 3 <= column.distinct <= 10:
        return False
    assert column.numbers is not None
    return column.numbers.min() in (0.0, 0.5, 1.0) and column.numbers.max() in (3.0, 4.0, 5.0, 7.0, 10.0)


def whole_steps(column: Column) -> tuple[int, ...]:
    """The values of a column of a few whole numbers >= 0, ascending; empty for any other."""
    if column.numbers is None or column.lengths is not None or not 3 <= column.distinct <= 10:
        return ()
    steps = np.unique(column.numbers)
    return tuple(int(step) for step in steps) if steps[0] >= 0 and (steps == steps.round()).all() else ()


def _from_rating(column: Column) -> Outcome:
    """The step of the scale that divides the rows most evenly."""
    assert column.numbers is not None
    steps = np.sort(column.numbers)[1:]
    shares = [_positive(column, step) for step in steps]
    best = int(np.argmin(np.abs(np.array(shares) - 0.5)))
    at_least = float(steps[best])
    why = f"{shares[best]:.0%} of the rows have at least {at_least:g}"
    return Outcome(column.name, shares[best], at_least, "liked", 0.6, why)


def _from_number(column: Column) -> Outcome:
    assert column.numbers is not None
    rows = column.per_row()
    present = rows[~np.isnan(rows)]
    at_least = float(np.median(present[present > 0])) if np.mean(present > 0) < 0.5 else float(np.median(present))
    share = _positive(column, at_least)
    return Outcome(column.name, share, at_least, "engaged", 0.3, f"{share:.0%} of the rows have at least {at_least:g}")


def is_after(name: str) -> bool:
    """Whether a number of this name is measured after the impression."""
    return bool(set(words.words(name)) & words.AFTER)


def choose_labels(found: list[Outcome], rows: int) -> list[Outcome]:
    """The outcomes to learn: the main one, and the next that has rows enough."""
    learnable = [o for o in found if min(o.share, 1 - o.share) * rows >= LEAST_POSITIVES]
    wanted = [o for o in learnable if not set(words.words(o.column)) & words.NEGATIVE]
    labels = wanted[:1]
    # The second task is the one with most rows, so that it can be learned beside the first.
    for outcome in sorted(wanted[1:], key=lambda o: -min(o.share, 1 - o.share)):
        if len(labels) < MOST_LABELS and min(outcome.share, 1 - outcome.share) >= 0.01 and outcome.at_least is None:
            labels.append(outcome)
    return labels or found[:1]


def guess_scenario(columns: Mapping[str, Column], taken: Iterable[str], user: str | None, item: str) -> Guess:
    """The column with the surface on which an item was shown; None if there is none."""
    found = []
    for name, column in columns.items():
        if name in taken or column.lengths is not None or column.look not in ("int", "text"):
            continue
        if not 2 <= column.distinct <= 100 or column.missing_share > 0 or column.decimal_comma:
            continue
        parts = words.words(name)
        places = [words.SCENARIO.index(part) for part in parts if part in words.SCENARIO]
        if not places or (set(parts) & {"user", "item", "feat", "feature"}):
            continue
        if any((share_fixed_by(column, columns[key]) or 0.0) > 0.95 for key in (user, item) if key):
            continue
        found.append((min(places), name))
    if not found:
        return Guess(None, 0.8, "no column looks like the surface on which an item was shown")
    place, name = min(found)
    others = tuple(other for _, other in sorted(found)[1:])
    return Guess(name, 0.9 if place < 12 else 0.6, f"its name; {columns[name].range()}", others)


def scenario_values(column: Column) -> tuple[tuple[int, ...] | tuple[str, ...], float]:
    """The values to list, numbers in order and texts by frequency, and the share of the rows with other values."""
    order = np.argsort(-column.counts, kind="stable")[:MOST_SCENARIOS]
    total = column.counts.sum()
    kept = [i for i in order if column.counts[i] >= LEAST_SHARE * total]
    rest = 1 - column.counts[kept].sum() / total
    if column.look == "int" and not column.padded:
        return tuple(sorted(int(float(column.values[i])) for i in kept)), float(rest)
    return tuple(str(column.values[i]) for i in kept), float(rest)


def gives_away(column: Column, label: np.ndarray) -> float | None:
    """The AUC with which the column alone tells the label, if that is too good to have been known before it."""
    found = separation(column, label)
    return found if found >= GIVES_AWAY else None
