"""The laws of a simulated log: every click probability, as one table over everything that it depends on.

    p(click) = sigmoid(bias + a (-1 if opposite) <taste of the user, topic> + b <intent of the user today, topic>
                       + c (scenario + scenario x topic) + d quality of the item + e age of the user)

Taste, intent, topic, scenario, quality and age are drawn from small sets, so that Bayes' rule over the hidden ones is a
sum over a table, not an integral.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mixrank.schemas.naming import Declaration

SCENARIOS = ("home", "search", "following")
AGES = ("young", "middle", "old")
# Not equal, so that an ablation that forgets them is not a plain mean.
SCENARIO_SHARES, AGE_SHARES = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.35, 0.25])
QUALITIES = 5
# Beyond it a float can hardly tell a probability from 0 or 1, whose logarithms Bayes' rule needs.
LARGEST_LOGIT = 30.0
# Axes of `World.probability`.
AXES = ("taste", "intent", "topic", "scenario", "quality", "age")


class Simulation(Declaration):
    """Sizes of a simulated log and strengths of what drives its clicks.

    The strengths are standard deviations in logits.

    Args:
        users: int >= 1.
        items: int >= 1.
        days: int in [4, 182]. The last two are for evaluation, the day before them for validation.
        impressions: float > 0. Mean impressions of a user on a day; Poisson.
        topics: int >= 5. Topics of items, more than `tastes` and `intents` together.
        tastes: int >= 2. Kinds of long-term taste; a user has one for good.
        intents: int >= 2. Kinds of intent; a user draws one each day.
        bias: float. Logit of a click when all other terms are 0.
        taste, intent, scenario, scenario_topic, quality, age: floats >= 0. Strengths.
        opposite: some of the scenarios. There a taste draws users away from what it draws them to elsewhere, so that
            what is learned about a user in one scenario is wrong in another.
        seed: int >= 0. The same values give the same files.
    """

    users: int = Field(default=3000, ge=1)
    items: int = Field(default=100, ge=1)
    days: int = Field(default=10, ge=4, le=182)
    impressions: float = Field(default=12.0, gt=0, le=10_000)
    topics: int = Field(default=5, ge=5)
    tastes: int = Field(default=2, ge=2)
    intents: int = Field(default=2, ge=2)
    bias: float = Field(default=-0.5, allow_inf_nan=False)
    taste: float = Field(default=1.5, ge=0, allow_inf_nan=False)
    intent: float = Field(default=1.8, ge=0, allow_inf_nan=False)
    scenario: float = Field(default=0.5, ge=0, allow_inf_nan=False)
    scenario_topic: float = Field(default=0.3, ge=0, allow_inf_nan=False)
    quality: float = Field(default=0.5, ge=0, allow_inf_nan=False)
    age: float = Field(default=0.3, ge=0, allow_inf_nan=False)
    opposite: tuple[Literal["home", "search", "following"], ...] = ()
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Simulation:
        if self.tastes + self.intents >= self.topics:
            raise ValueError(
                f"`tastes` + `intents` must be below `topics` ({self.topics}), received {self.tastes} + {self.intents}"
            )
        return self

    def generator(self, *key: int) -> np.random.Generator:
        """A separate random stream for every key."""
        return np.random.default_rng([self.seed, *key])


@dataclass(frozen=True)
class World:
    """The laws of a simulated log, fixed before its first impression.

    Args:
        simulation: what it was made from.
        probability: float (tastes, intents, topics, scenarios, qualities, ages). Of a click.
        topic: int (items,). Topic of each item.
        quality: int (items,). Level of each item's quality.
        share: float (items,). Share of the impressions that show it.
    """

    simulation: Simulation
    probability: NDArray[np.float64]
    topic: NDArray[np.int64]
    quality: NDArray[np.int64]
    share: NDArray[np.float64]

    def cells(self, item: NDArray, scenario: NDArray, age: NDArray) -> NDArray[np.int64]:
        """Position of each impression in `by_cell`, which covers all its visible properties."""
        place = np.ravel_multi_index((self.topic[item], scenario, self.quality[item], age), self.probability.shape[2:])
        return np.asarray(place, dtype=np.int64)

    def by_cell(self, unknown: tuple[str, ...] = ()) -> NDArray[np.float64]:
        """Probability (cells, tastes, intents), its mean over the axes that are unknown.

        Args:
            unknown: "scenario", "quality" or both. The mean over the shares of the impressions is the probability for
                someone who does not know them; qualities have the shares that they have among the items of the topic.
        """
        table = self.probability
        for axis in unknown:
            weights = SCENARIO_SHARES[:, None, None] if axis == "scenario" else self._quality_shares()
            table = np.broadcast_to((table * weights).sum(axis=AXES.index(axis), keepdims=True), table.shape)
        return np.moveaxis(table, (0, 1), (-2, -1)).reshape(-1, *table.shape[:2])

    def _quality_shares(self) -> NDArray[np.float64]:
        """Shares (topics, 1, qualities, 1) of the impressions of a topic; equal where it has no items."""
        shares = np.zeros((self.simulation.topics, QUALITIES))
        np.add.at(shares, (self.topic, self.quality), self.share)
        shares[shares.sum(axis=1) == 0] = 1
        return (shares / shares.sum(axis=1, keepdims=True))[:, None, :, None]


@functools.lru_cache(maxsize=8)
def make_world(simulation: Simulation) -> World:
    """Draws the laws that all users and items share."""
    draw, s = simulation.generator(0), simulation
    mixed = draw.standard_normal((len(SCENARIOS), s.topics))
    mixed -= mixed.mean(0) + mixed.mean(1, keepdims=True) - mixed.mean()
    kinds = contrasts(draw, s.tastes + s.intents, s.topics)
    logits = np.full((s.tastes, s.intents, s.topics, len(SCENARIOS), QUALITIES, len(AGES)), s.bias)
    for axes, effect in (
        (("taste", "topic", "scenario"), s.taste * kinds[: s.tastes, :, None] * _signs(s)),
        (("intent", "topic"), s.intent * kinds[s.tastes :]),
        (("scenario",), s.scenario * _standard(draw.permutation(len(SCENARIOS)), SCENARIO_SHARES)),
        (("topic", "scenario"), s.scenario_topic * mixed.T / mixed.std()),
        (("quality",), s.quality * _standard(_normal_levels(), np.full(QUALITIES, 1 / QUALITIES))),
        (("age",), s.age * _standard(np.arange(len(AGES)), AGE_SHARES)),
    ):
        logits += effect.reshape([size if axis in axes else 1 for axis, size in zip(AXES, logits.shape, strict=True)])
    share = draw.lognormal(sigma=1.0, size=s.items)
    return World(
        simulation,
        probability=1 / (1 + np.exp(-np.clip(logits, -LARGEST_LOGIT, LARGEST_LOGIT))),
        topic=draw.integers(s.topics, size=s.items),
        quality=draw.integers(QUALITIES, size=s.items),
        share=share / share.sum(),
    )


def contrasts(draw: np.random.Generator, rows: int, topics: int) -> NDArray[np.float64]:
    """Inner products of random vectors with topics: each row has mean 0 and variance 1, and rows are orthogonal.

    So a taste or intent says which topics are clicked and not how often, and none is taken for another: a reader need
    not know where one past day ends to tell the taste from the intents of those days.

    Args:
        draw: the random stream.
        rows: int in [1, topics - 1].
        topics: int.

    Returns:
        Float array (rows, topics).
    """
    directions = np.column_stack([np.ones(topics), draw.standard_normal((topics, rows))])
    return np.linalg.qr(directions)[0][:, 1:].T * np.sqrt(topics)


def _signs(simulation: Simulation) -> NDArray[np.float64]:
    """-1 for scenarios with opposite tastes, else 1."""
    return np.array([-1.0 if scenario in simulation.opposite else 1.0 for scenario in SCENARIOS])


def _normal_levels() -> NDArray[np.float64]:
    return np.array([NormalDist().inv_cdf((level + 0.5) / QUALITIES) for level in range(QUALITIES)])


def _standard(values: NDArray, shares: NDArray) -> NDArray:
    """Mean 0 and variance 1 under the shares."""
    centred = values - shares @ values
    return np.asarray(centred / np.sqrt(shares @ centred**2))
