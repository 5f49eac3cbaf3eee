"""Requests of our own to the versions on trial and in service, side by side: errors, latency and scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from mixrank.schemas.safe_text import brief, safe
from mixrank.serving.client import Row, Scores, ServingError

# The first requests of a connection open it, which says nothing about the version.
UNTIMED = 3


class Scoring(Protocol):
    """A `Client` of one label."""

    def score(self, rows: Sequence[Row]) -> list[Scores]:
        """One mapping task -> score per row."""


@dataclass
class Probes:
    """Answers to the requests for one label.

    Args:
        requests: how many were sent.
        errors: how many of them failed.
        error: what the first failure said; empty if there is none.
        milliseconds: of those that were answered, but for the first ones.
        scores: position of a row -> its scores, of the rows that were answered.
    """

    requests: int = 0
    errors: int = 0
    error: str = ""
    milliseconds: list[float] = field(default_factory=list)
    scores: dict[int, Scores] = field(default_factory=dict)

    def latency(self, share: float) -> float | None:
        """Milliseconds in which this share of the requests was answered, or None if none was timed."""
        return float(np.quantile(self.milliseconds, share)) if self.milliseconds else None

    def numbers(self) -> dict[str, Any]:
        """For the log: requests, errors, latency."""
        known = {f"p{share:.0f}_ms": self.latency(share / 100) for share in (50, 99)}
        timed = {name: round(value, 2) for name, value in known.items() if value is not None}
        return (
            {"requests": self.requests, "errors": self.errors} | timed | ({"error": self.error} if self.errors else {})
        )

    def ask(self, client: Scoring, rows: Mapping[int, Row]) -> None:
        """Sends a request and takes note of what comes back."""
        self.requests += 1
        began = time.perf_counter()
        try:
            answers = client.score(list(rows.values()))
        except ServingError as error:
            self.errors += 1
            self.error = self.error or brief(safe(str(error)))
            return
        if self.requests > UNTIMED:
            self.milliseconds.append(1000 * (time.perf_counter() - began))
        self.scores.update(zip(rows, answers, strict=True))


def watch(
    clients: Mapping[str, Scoring],
    rows: Sequence[Row],
    *,
    seconds: float,
    per_second: float,
    rows_per_request: int,
    enough: Callable[[Mapping[str, Probes]], bool] = lambda probes: False,
) -> dict[str, Probes]:
    """Sends the same rows to every label, in turns.

    Args:
        clients: label -> its client. It must not retry, so that every failure is seen.
        rows: at least one; each is sent once before the first is sent again.
        seconds: how long, >= 0; longer if not every row was sent by then.
        per_second: requests per label and second, > 0; fewer if they take longer.
        rows_per_request: int >= 1.
        enough: asked after each turn; ends it early.

    Returns:
        Label -> what was answered.
    """
    probes = {label: Probes() for label in clients}
    size = min(rows_per_request, len(rows))
    began, turn = time.monotonic(), 0
    while True:
        places = [(turn * size + place) % len(rows) for place in range(size)]
        sent = {place: rows[place] for place in places}
        # None is always the one that finds the machine as the other has left it.
        for label in list(clients)[:: -1 if turn % 2 else 1]:
            probes[label].ask(clients[label], sent)
        turn += 1
        passed = time.monotonic() - began
        if enough(probes) or (passed >= seconds and turn * size >= len(rows)):
            return probes
        time.sleep(max(0.0, turn / per_second - passed))
