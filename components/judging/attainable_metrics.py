"""The best possible metrics of a simulated log, and what each kind of knowledge adds to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mixrank.components.metrics import Rows, headlines, measure
from mixrank.schemas import FeatureSpec
from mixrank.schemas.simulation import Events, Observer, make_world, read_blocks, read_settings
from mixrank.schemas.task_kinds import BINARY

# Days at the end of a log that are evaluated, as declared in `mixrank.schemas.datasets.simulated`.
EVALUATED_DAYS = 2
TRUTH, IDEAL, PRIOR = "told taste and intent", "ideal reader", "without histories"


def observers(spec: FeatureSpec) -> dict[str, Observer]:
    """Readers of the rows of a spec: one that uses everything, and one without each kind of knowledge.

    Args:
        spec: says how long the histories are; 0 events of a window that it does not declare.
    """
    before, within = (
        max((history.length for history in spec.histories if history.window == window), default=0)
        for window in ("before", "within")
    )
    return {
        IDEAL: Observer(before, within),
        "without real-time history": Observer(before, 0),
        "without long-term history": Observer(0, within),
        "without scenario": Observer(before, within, scenario=False),
        "without item quality": Observer(before, within, quality=False),
        PRIOR: Observer(0, 0),
    }


def attainable(folder: Path, spec: FeatureSpec) -> dict[str, dict[str, float]]:
    """Headline metrics of ideal readers on the evaluated days of a written log.

    Args:
        folder: written by `mixrank.schemas.simulation.log.write_log`.
        spec: says how long the histories are.

    Returns:
        `TRUTH` (the probabilities that the clicks were drawn with, which no reader knows), the readers of `observers`,
        and "constant" (the same score for all: AUC 0.5); each -> metric -> value, groups are users.

    Raises:
        ValueError: if the folder holds no simulated log.
    """
    simulation = read_settings(folder)
    world, readers = make_world(simulation), observers(spec)
    clicks: list[NDArray] = []
    users: list[NDArray] = []
    scores: dict[str, list[NDArray]] = {name: [] for name in (TRUTH, *readers)}
    for events in read_blocks(folder):
        rows = evaluated(events, simulation.days)
        clicks.append(events.click[rows].astype(np.int8))
        users.append(events.user[rows])
        scores[TRUTH].append(events.probability[rows])
        for name, reader in readers.items():
            scores[name].append(reader.predict(world, events, rows))
    click, user = np.concatenate(clicks), np.concatenate(users)
    found = {name: np.concatenate(parts) for name, parts in scores.items()}
    found["constant"] = np.full(len(click), click.mean())
    return {
        name: measure(Rows(click, score, user), headlines(BINARY.name, requests=False)) for name, score in found.items()
    }


def evaluated(events: Events, days: int) -> NDArray[np.int64]:
    """Positions of the impressions on the evaluated days of a log that is `days` long."""
    return np.flatnonzero(events.day >= days - EVALUATED_DAYS)


def gain(score: float, best: float, prior: float) -> float:
    """Share of the attainable gain of an AUC over the prior's: `(score - prior) / (best - prior)`.

    >>> round(gain(0.69, 0.70, 0.60), 2)
    0.9
    """
    return (score - prior) / (best - prior)
