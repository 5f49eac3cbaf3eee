"""Point-in-time histories of all rows, computed together.

A user's events, newest first and followed by the prior events from before the log, form one sequence. Each history of a
row of that user is a contiguous slice of it:

    sequence   e4  e3  e2  e1  e0 | p0  p1          a row at the time of e4, whose day began between e1 and e2
    within         [e3  e2]
    before                 [e1  e0   p0  p1]

So a history is a start and a count, found by counting the user's events before two times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sequences:
    """Events of all users, user by user, newest first, with prior events after those of the log.

    Args:
        events: int array (events,). Row of the log, or `num_rows + j` for prior event j.
        starts: int array (users,). Where the user's sequence begins in `events`.
        logged: int array (users,). Number of its events from the log.
        prior: int array (users,). Number of prior events after them.
    """

    events: np.ndarray
    starts: np.ndarray
    logged: np.ndarray
    prior: np.ndarray


@dataclass(frozen=True)
class Slices:
    """A history of every row: `events[starts[r] : starts[r] + counts[r]]`, newest first."""

    starts: np.ndarray
    counts: np.ndarray


def sequences(
    user: np.ndarray, prior_user: np.ndarray, num_users: int, keep: np.ndarray, keep_prior: np.ndarray
) -> Sequences:
    """Arranges the events of a log sorted by (user, time).

    Args:
        user: int array (rows,). User code of each row, ascending; within a user by time.
        prior_user: int array (prior events,). User code of each prior event; within a user newest first.
        num_users: int. Number of user codes.
        keep: bool array (rows,). Which rows are events of this history.
        keep_prior: bool array (prior events,).
    """
    rows, prior = np.flatnonzero(keep), np.flatnonzero(keep_prior)
    owner = np.concatenate([user[rows], prior_user[prior]])
    # The log backwards in time, then the prior forwards, since it is newest first already.
    rank = np.concatenate([-rows - 1, prior])
    order = np.lexsort((rank, owner))
    events = np.concatenate([rows, len(user) + prior])[order]
    logged = np.bincount(user[rows], minlength=num_users)
    priors = np.bincount(prior_user[prior], minlength=num_users)
    totals = logged + priors
    return Sequences(events, np.cumsum(totals) - totals, logged, priors)


def slices(
    sequence: Sequences,
    user: np.ndarray,
    time: np.ndarray,
    keep: np.ndarray,
    window_start: np.ndarray,
    window: str,
    length: int,
) -> Slices:
    """The history of every row.

    before: time(event) < window_start(row), then the prior events.
    within: window_start(row) <= time(event) < time(row).

    Args:
        sequence: of the same rows.
        user: int array (rows,), ascending.
        time: int array (rows,), ascending within a user.
        keep: bool array (rows,). As given to `sequences`.
        window_start: int array (rows,), at most `time`.
        window: "before" or "within".
        length: int >= 1. Maximum number of events; the newest are kept.
    """
    before = _events_before(user, time, keep, window_start)
    if window == "before":
        return Slices(
            sequence.starts[user] + sequence.logged[user] - before,
            np.minimum(before + sequence.prior[user], length),
        )
    now = _events_before(user, time, keep, time)
    return Slices(sequence.starts[user] + sequence.logged[user] - now, np.minimum(now - before, length))


def _events_before(user: np.ndarray, time: np.ndarray, keep: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """Number of kept events of the row's user with a time strictly below the row's bound."""
    # Ranks instead of times, so that (user, time) always fits into one integer.
    ranks = np.unique(time)
    width = len(ranks) + 1
    events = user[keep] * width + np.searchsorted(ranks, time[keep])
    below = np.searchsorted(events, user * width + np.searchsorted(ranks, bound, side="left"), side="left")
    return below - np.searchsorted(events, user * width, side="left")
