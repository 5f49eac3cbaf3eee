"""Point-in-time histories of all rows, computed together.

A user's events, newest first and followed by the prior events from before the log, form one sequence. Each history of a
row of that user is a contiguous slice of it:

    sequence   e4  e3  e2  e1  e0 | p0  p1          a row at the time of e4, whose day began between e1 and e2
    within         [e3  e2]
    before                 [e1  e0   p0  p1]

So a history is a start and a count, found by counting the user's events before two times. An event counts from the
moment at which it is known: the time of its row, or in a history of `only` a label that comes from later events, the
time of the first of those. One of the same millisecond as the row is not known yet.

The events are the rows of the log, or those of another table, such as orders.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sequences:
    """Events of all users, user by user, newest first, with prior events after those of the table.

    Args:
        events: int array (events,). Row of the table, or `num_rows + j` for prior event j.
        starts: int array (users,). Where the user's sequence begins in `events`.
        logged: int array (users,). Number of its events from the table.
        prior: int array (users,). Number of prior events after them.
    """

    events: np.ndarray
    starts: np.ndarray
    logged: np.ndarray
    prior: np.ndarray


@dataclass(frozen=True)
class Slices:
    """A history of every row: `events[starts[r] : starts[r] + counts[r]]`, newest first.

    Args:
        starts, counts: int arrays (rows,).
        dropped: int array (rows,). Events that are older than the newest `length` of them.
    """

    starts: np.ndarray
    counts: np.ndarray
    dropped: np.ndarray

    def of(self, rows: np.ndarray) -> Slices:
        """Those of some rows."""
        return Slices(self.starts[rows], self.counts[rows], self.dropped[rows])


def sequences(
    events: np.ndarray, user: np.ndarray, prior_user: np.ndarray, num_users: int, keep_prior: np.ndarray
) -> Sequences:
    """Arranges the events of a table.

    Args:
        events: int array (events of the table,). Their rows, sorted by user, then by the time of the event.
        user: int array (rows of the table,). User code of each row.
        prior_user: int array (prior events,). User code of each prior event; within a user newest first.
        num_users: int. Number of user codes.
        keep_prior: bool array (prior events,). Which of them are events of this history.
    """
    prior = np.flatnonzero(keep_prior)
    owner = np.concatenate([user[events], prior_user[prior]])
    # The table backwards in time, then the prior forwards, since it is newest first already.
    rank = np.concatenate([-np.arange(len(events)) - 1, prior])
    order = np.lexsort((rank, owner))
    rows = np.concatenate([events, len(user) + prior])[order]
    logged = np.bincount(user[events], minlength=num_users)
    priors = np.bincount(prior_user[prior], minlength=num_users)
    totals = logged + priors
    return Sequences(rows, np.cumsum(totals) - totals, logged, priors)


def slices(
    sequence: Sequences,
    event_user: np.ndarray,
    moment: np.ndarray,
    user: np.ndarray,
    time: np.ndarray,
    window_start: np.ndarray,
    window: str,
    length: int,
) -> Slices:
    """The history of every row.

    before: moment(event) < window_start(row), then the prior events.
    within: window_start(row) <= moment(event) < time(row).

    Args:
        sequence: of the same events.
        event_user: int array (events of the table,), ascending. User code of each.
        moment: int array (events of the table,), ascending for a user. When each was known.
        user: int array (rows,). User code of the row.
        time: int array (rows,). Time of the row.
        window_start: int array (rows,), at most `time`.
        window: "before" or "within".
        length: int >= 1. Maximum number of events; the newest are kept.
    """
    before = _events_before(user, event_user, moment, window_start)
    newest, known = before, before + sequence.prior[user]
    if window == "within":
        newest = _events_before(user, event_user, moment, time)
        known = newest - before
    counts = np.minimum(known, length)
    return Slices(sequence.starts[user] + sequence.logged[user] - newest, counts, known - counts)


def _events_before(user: np.ndarray, event_user: np.ndarray, moment: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """Number of events of the row's user with a moment strictly below the row's bound."""
    # Ranks instead of times, so that (user, time) always fits into one integer.
    ranks = np.unique(moment)
    width = len(ranks) + 1
    events = event_user * width + np.searchsorted(ranks, moment)
    below = np.searchsorted(events, user * width + np.searchsorted(ranks, bound, side="left"), side="left")
    return below - np.searchsorted(events, user * width, side="left")
