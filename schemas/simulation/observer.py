"""Ideal predictions: Bayes' rule over taste and intent, given the clicks in a reader's histories.

The reader knows the laws of the log (`World`) and the row of every impression: topic and quality of the item,
scenario, age of the user. It does not know the user's taste and today's intent, and infers them from earlier clicks:

    P(taste, intent | clicks) ~ P(taste) P(intent) prod over earlier days sum over that day's intents P(clicks | ...)
                                prod over today's earlier events P(click | taste, intent)

No function of a row can have a lower expected log loss than the prediction that follows, so its metrics are what a
model can attain, up to the luck of the draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixrank.schemas.simulation.log import Events
from mixrank.schemas.simulation.world import World

# Impressions whose posterior is in memory at a time.
CHUNK = 50_000


@dataclass(frozen=True)
class Observer:
    """A reader's information, besides the topic of an item and the age of a user.

    Args:
        before: int >= 0. Events of the long-term history, the newest from before the impression's day.
        within: int >= 0. Events of the real-time history, the newest of the impression's day.
        scenario: bool. Whether it knows the impression's scenario. That of an earlier event is in no history.
        quality: bool. Whether it knows items one by one, and so their quality.
    """

    before: int = 0
    within: int = 0
    scenario: bool = True
    quality: bool = True

    def __post_init__(self) -> None:
        for name in ("before", "within"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be >= 0, received {getattr(self, name)}")

    def predict(self, world: World, events: Events, rows: NDArray | None = None) -> NDArray[np.float64]:
        """Probability of a click given what the reader sees.

        Args:
            world: the laws of the log.
            events: all impressions of some users, ordered by user and time.
            rows: int array. Which impressions to predict; None for all.
        """
        rows = np.arange(len(events)) if rows is None else rows
        tastes, intents = world.simulation.tastes, world.simulation.intents
        cells = world.cells(events.item, events.scenario, events.age)
        unsure = () if self.quality else ("quality",)
        past = world.by_cell((*unsure, "scenario"))
        now = world.by_cell(unsure if self.scenario else (*unsure, "scenario"))

        # Log-likelihoods of outcomes, summed from the first event: any run of events is a difference of two sums.
        outcomes = np.log(np.stack([1 - past, past], axis=1)).reshape(-1, tastes * intents)
        total = np.zeros((len(events) + 1, tastes * intents))
        np.cumsum(outcomes[2 * cells + events.click], axis=0, out=total[1:])
        days = _Days(events.user, events.day)
        taste = self._taste(days, total.reshape(-1, tastes, intents))

        result = np.empty(len(rows))
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            first = np.maximum(days.start[days.of[part]], part - self.within)
            today = (total[part] - total[first]).reshape(-1, tastes, intents)
            joint = taste[days.of[part]][:, :, None] + today
            joint = np.exp(joint - joint.max(axis=(1, 2), keepdims=True))
            chance = (joint * now[cells[part]]).sum(axis=(1, 2)) / joint.sum(axis=(1, 2))
            result[start : start + CHUNK] = chance
        return result

    def _taste(self, days: _Days, total: NDArray) -> NDArray[np.float64]:
        """Log-probability (days, tastes), up to a constant, of each taste at the start of each user's day.

        Args:
            days: days of users.
            total: float (events + 1, tastes, intents).
        """
        whole = _any_intent(total[days.end] - total[days.start])
        before = np.zeros((len(whole) + 1, whole.shape[1]))
        np.cumsum(whole, axis=0, out=before[1:])
        # The window begins within a day, so only the rest of that day counts, and then all later days.
        opens = np.maximum(days.start[days.first], days.start - self.before)
        number = np.arange(len(whole))
        partial = np.minimum(np.searchsorted(days.end, opens, side="right"), number)
        rest = _any_intent(total[days.end[partial]] - total[np.minimum(opens, days.end[partial])])
        result = rest + before[number] - before[np.minimum(partial + 1, number)]
        return np.where((opens < days.start)[:, None], result, 0.0)


class _Days:
    """The days of users, in the order of the events.

    Attributes:
        of: int (events,). Number of the day that holds each event.
        start, end: ints (days,). First event of a day, and the event after its last.
        first: int (days,). Number of the first day of the same user.
    """

    def __init__(self, user: NDArray, day: NDArray) -> None:
        new = np.ones(len(user), dtype=bool)
        new[1:] = (user[1:] != user[:-1]) | (day[1:] != day[:-1])
        self.of = np.cumsum(new) - 1
        self.start = np.flatnonzero(new)
        self.end = np.append(self.start[1:], len(user))
        owner = user[self.start]
        self.first = np.searchsorted(owner, owner, side="left")


def _any_intent(likelihood: NDArray) -> NDArray[np.float64]:
    """Log-mean over intents: how likely a day's clicks are under each taste, whatever the intent was."""
    top = likelihood.max(axis=2, keepdims=True)
    return np.asarray(np.log(np.exp(likelihood - top).mean(axis=2)) + top[:, :, 0])
