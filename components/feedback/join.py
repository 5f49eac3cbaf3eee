"""Which outcome belongs to which impression, and what becomes of each: the rule of the join, on rows in memory.

An outcome belongs to the impression with its id; without ids, to the latest impression of its user and item at or
before it. It counts if it comes within the window after the impression. An impression is decided when its window has
passed, whatever came so far: if those with an outcome were taken at once, the newest rows would be positives alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

# Whether an impression was shown; the name is no column of a log.
SHOWN = "_shown"
# What becomes of an impression ...
JOINED, WAITING, DUPLICATE, NOT_SHOWN, NO_KEY, NO_TIME, LACKS = range(7)
SERVED_REASONS = {
    JOINED: "joined",
    WAITING: "its window has not passed",
    DUPLICATE: "an earlier row is the same impression",
    NOT_SHOWN: "was not shown",
    NO_KEY: "has no key to join by",
    NO_TIME: "has no time",
    LACKS: "lacks a column that rows for training need",
}
# ... and of an outcome.
USED, OF_WAITING, TWICE, LATE, EARLY, UNMATCHED, KEYLESS, OF_LEFT_OVER = range(8)
OUTCOME_REASONS = {
    USED: "used",
    OF_WAITING: "the window of its impression has not passed",
    TWICE: "another outcome of its impression counts",
    LATE: "came after the window",
    EARLY: "came before its impression",
    UNMATCHED: "no impression",
    KEYLESS: "has no key to join by",
    OF_LEFT_OVER: "its impression is left over",
}


@dataclass(frozen=True)
class Joined:
    """What a join found.

    Args:
        served: int array (impressions,), of `SERVED_REASONS`.
        outcomes: int array (outcomes,), of `OUTCOME_REASONS`.
        values: the columns of outcomes that impressions got, (impressions,) each; missing where none gave it.
    """

    served: np.ndarray
    outcomes: np.ndarray
    values: pd.DataFrame


def join(
    served: pd.DataFrame,
    outcomes: pd.DataFrame,
    *,
    keys: Sequence[str],
    time: str,
    flags: Sequence[str],
    numbers: Sequence[str],
    within_ms: int,
    until_ms: int,
) -> Joined:
    """Joins impressions with outcomes.

    Of several outcomes of an impression, a flag is what the first says that sets it, else the first; a number is what
    the last says.

    Args:
        served: `keys`, `time` in milliseconds (may be missing), `_shown` (bool), in the order of the log.
        outcomes: `keys`, `time`, missing only if `keys` is an id, `flags` and `numbers`, in the order of the files.
        keys: the id, or user and item; by those an outcome finds the latest impression before it.
        time: the column.
        flags, numbers: columns of the outcomes, each may be missing in a row.
        within_ms: int >= 0. Longest time from an impression to its outcome.
        until_ms: up to when outcomes are known.
    """
    by_id = len(keys) == 1
    served = served.reset_index(drop=True)
    what = np.full(len(served), JOINED)
    moment = served[time].to_numpy(float)
    what[moment + within_ms > until_ms] = WAITING
    what[~served[SHOWN].to_numpy(bool)] = NOT_SHOWN
    keyed = served[list(keys)].notna().all(axis=1).to_numpy()
    what[np.isnan(moment)] = NO_TIME
    what[served.duplicated(list(keys) if by_id else [*keys, time]).to_numpy()] = DUPLICATE
    what[~keyed] = NO_KEY
    # An id leads to its impression, whatever became of that one.
    open_to = np.isin(what, (JOINED, WAITING)) if not by_id else ~np.isin(what, (DUPLICATE, NO_KEY))
    found_by = list(keys) if by_id else [*keys, time]
    owner = _owners(served[open_to], outcomes, keys, time, by_id)

    # -1, no impression, is the place of what is appended.
    after = outcomes[time].to_numpy(float) - np.append(moment, np.nan)[owner]
    fate = np.full(len(outcomes), USED)
    of = np.append(what, -1)[owner]
    fate[of == WAITING] = OF_WAITING
    fate[~np.isin(of, (JOINED, WAITING))] = OF_LEFT_OVER
    # Without a time of its own it is in time.
    fate[after > within_ms] = LATE
    fate[after < 0] = EARLY
    fate[owner < 0] = UNMATCHED
    fate[outcomes[found_by].isna().any(axis=1).to_numpy()] = KEYLESS

    values = pd.DataFrame(index=served.index)
    good = np.flatnonzero(fate == USED)
    # Those without a time come first, as if it were that of the impression.
    order = good[np.lexsort([good, np.nan_to_num(after[good], nan=0.0)])]
    used = np.zeros(len(outcomes), bool)
    for name in (*flags, *numbers):
        given = order[outcomes[name].notna().to_numpy()[order]]
        if name in flags:
            # Stable: those that set it before the others, each in the order of time.
            given = given[np.argsort(outcomes[name].to_numpy(float)[given] <= 0, kind="stable")]
        else:
            given = given[::-1]
        rows, first = np.unique(owner[given], return_index=True)
        chosen = given[first]
        values[name] = pd.Series(outcomes[name].to_numpy(float)[chosen], index=rows).reindex(served.index)
        used[chosen] = True
    fate[(fate == USED) & ~used] = TWICE
    return Joined(what, fate, values)


def _owners(served: pd.DataFrame, outcomes: pd.DataFrame, keys: Sequence[str], time: str, by_id: bool) -> np.ndarray:
    """Row of the impression of every outcome, by the index of `served`; -1 for none."""
    owner = np.full(len(outcomes), -1)
    known = outcomes[list(keys) if by_id else [*keys, time]].notna().all(axis=1).to_numpy()
    if not known.any() or served.empty:
        return owner
    if by_id:
        rows = pd.Series(served.index.to_numpy(), index=served[keys[0]].to_numpy())
        found = rows.reindex(outcomes.loc[known, keys[0]].to_numpy())
        owner[known] = found.fillna(-1).to_numpy(int)
        return owner
    left = outcomes.loc[known, [*keys, time]].assign(_place=np.flatnonzero(known)).astype({time: np.int64})
    right = served[[*keys, time]].assign(_row=served.index).astype({time: np.int64})
    left, right = (each.sort_values(time, kind="stable") for each in (left, right))
    found = pd.merge_asof(left, right, on=time, by=list(keys))
    owner[found["_place"].to_numpy()] = found["_row"].fillna(-1).to_numpy(int)
    return owner
