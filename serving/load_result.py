"""Loads that a server can be put under, and what a load test found."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

OK = "OK"
# From here on the client is the likely limit: cores, and seconds late together with their share of the median.
BUSY, LATE, LATE_SHARE = 0.85, 0.002, 0.2
# A server that answers less than this share of what it is asked does not keep up.
KEPT_UP = 0.95
PERCENTILES = {"p50": 50, "p95": 95, "p99": 99, "max": 100}


@dataclass(frozen=True)
class Closed:
    """Clients that each send a request when the one before is answered.

    Args:
        clients: how many, >= 1.
    """

    clients: int

    def __post_init__(self) -> None:
        if self.clients < 1:
            raise ValueError(f"`clients` must be at least 1, received {self.clients}")

    def __str__(self) -> str:
        return f"{self.clients} client{'s' if self.clients > 1 else ''}"

    @property
    def amount(self) -> float:
        return float(self.clients)


@dataclass(frozen=True)
class Open:
    """Requests at a rate, whether the ones before are answered or not.

    Args:
        rate: requests per second, > 0.
        arrivals: "poisson", independent of each other as those of many users, or "constant".
        seed: of the arrivals.
    """

    rate: float
    arrivals: Literal["poisson", "constant"] = "poisson"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf:
            raise ValueError(f"`rate` must be a positive number of requests per second, received {self.rate:g}")
        if self.arrivals not in ("poisson", "constant"):
            raise ValueError(f'`arrivals` must be "poisson" or "constant", received {self.arrivals!r}')

    def __str__(self) -> str:
        return f"{self.rate:g}/s"

    @property
    def amount(self) -> float:
        return self.rate

    def gaps(self) -> Callable[[], float]:
        """A function that gives the seconds from each request to the next."""
        if self.arrivals == "constant":
            return lambda: 1 / self.rate
        draw = random.Random(self.seed)
        return lambda: draw.expovariate(self.rate)


Load = Closed | Open


@dataclass(frozen=True, eq=False)
class Result:
    """What a load test found.

    Args:
        load: the load.
        seconds: how long it was counted.
        statuses: status -> requests that were due in this time.
        latencies: seconds, ascending, of those that were answered with scores or given up at the deadline, counted from
            when they were due. Other errors have none: a quick refusal would pass for a quick answer.
        answered: requests answered with scores in this time.
        rows: rows or candidates in them.
        at_once: most requests that waited for an answer at the same time.
        late: seconds by which the client's event loop was late, 99th percentile.
        processor: processor cores that the client's process used.
    """

    load: Load
    seconds: float
    statuses: Mapping[str, int]
    latencies: np.ndarray
    answered: int
    rows: int
    at_once: int
    late: float
    processor: float

    @property
    def sent(self) -> int:
        return sum(self.statuses.values())

    @property
    def errors(self) -> dict[str, int]:
        """Status -> requests that failed, most frequent first."""
        return {status: count for status, count in Counter(self.statuses).most_common() if status != OK}

    @property
    def requests_per_second(self) -> float:
        return self.answered / self.seconds

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds

    def percentile(self, percent: float) -> float:
        """Seconds within which so many percent were answered; NaN if none was."""
        return float(np.percentile(self.latencies, percent)) if len(self.latencies) else math.nan

    def notes(self) -> list[str]:
        """What a reader of the numbers should know, one sentence each."""
        found = []
        if self.processor >= BUSY:
            found.append(
                f"the client used {self.processor:.2f} processor cores and has one for sending: "
                "it may be the limit, not the server"
            )
        if self.late > LATE and self.late > LATE_SHARE * self.percentile(50):
            found.append(
                f"the client was late by up to {1000 * self.late:.1f} ms (p99), which is part of the latencies: "
                "its machine is busy"
            )
        asked = self.sent / self.seconds
        if isinstance(self.load, Open) and self.requests_per_second < KEPT_UP * asked:
            found.append(
                f"{self.requests_per_second:.1f} of {asked:.1f} requests per second were answered with scores: the "
                "server does not keep up, or the test is short for its latency"
            )
        return found

    def as_dict(self) -> dict[str, Any]:
        """The numbers as JSON has them; latencies in milliseconds."""
        amount = {"clients": self.load.clients} if isinstance(self.load, Closed) else {"rate": self.load.rate}
        latencies = {name: 1000 * self.percentile(percent) for name, percent in PERCENTILES.items()}
        return {
            **amount,
            "seconds": self.seconds,
            "requests_per_second": self.requests_per_second,
            "rows_per_second": self.rows_per_second,
            "latency_ms": {name: None if math.isnan(value) else value for name, value in latencies.items()},
            "statuses": dict(self.statuses),
            "at_once": self.at_once,
            "client_late_ms": 1000 * self.late,
            "client_processor_cores": self.processor,
            "notes": self.notes(),
        }
