"""Puts load on a server: in a closed loop (clients that wait) or an open one (a rate that does not).

Time is that of the event loop, so a test may run minutes of load on a loop whose clock jumps.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.calls import DEADLINE_EXCEEDED
from serving.load_result import OK, Closed, Load, Result
from serving.prepared import Prepared

# Seconds between two looks at how late the event loop is.
WATCH = 0.01

Send = Callable[[Prepared], Awaitable[str]]


@dataclass(frozen=True)
class Bounds:
    """When a load test ends, and what it counts.

    Args:
        seconds: how long requests are counted, > 0.
        warm_up: seconds of load before, which are not counted, >= 0.
        deadline: seconds from when a request is due until it is given up, > 0.
        requests: most requests that are counted, >= 1.
        at_once: most requests of an open loop that are under way; others wait, and their time counts, >= 1.
    """

    seconds: float = 10.0
    warm_up: float = 1.0
    deadline: float = 10.0
    requests: int = 1_000_000
    at_once: int = 500

    def __post_init__(self) -> None:
        for name, value, least in (
            ("seconds", self.seconds, "> 0"),
            ("warm_up", self.warm_up, ">= 0"),
            ("deadline", self.deadline, "> 0"),
        ):
            if not (0 <= value < math.inf) or (value == 0 and least == "> 0"):
                raise ValueError(f"`{name}` must be a number of seconds {least}, received {value:g}")
        for name, count in (("requests", self.requests), ("at_once", self.at_once)):
            if count < 1:
                raise ValueError(f"`{name}` must be at least 1, received {count}")


async def sweep(
    send: Send,
    requests: Sequence[Prepared],
    loads: Sequence[Load],
    bounds: Bounds,
    begun: Callable[[Load], object] = lambda load: None,
) -> list[Result]:
    """A load test for each load, one after the other.

    Args:
        send, requests, bounds: as in `load_test`.
        loads: the loads.
        begun: is told of each load that begins.
    """
    results = []
    for load in loads:
        begun(load)
        results.append(await load_test(send, requests, load, bounds))
    return results


async def load_test(
    send: Send,
    requests: Sequence[Prepared],
    load: Load,
    bounds: Bounds,
    *,
    processor: Callable[[], float] = time.process_time,
) -> Result:
    """Puts load on a server until the bounds are reached and all its requests are answered or given up.

    A request is due when its client has the answer before (closed loop) or when its time has come (open loop). Latency
    is counted from then, even if the client or a connection was not ready: the wait behind a server that stalls is part
    of it.

    Args:
        send: sends a request and gives the status of the answer; cancelled at the deadline.
        requests: are sent in turn, at least one.
        load: the load.
        bounds: when it ends.
        processor: seconds of processor time that this process has used.

    Raises:
        ValueError: if there are no requests.
    """
    if not requests:
        raise ValueError("`requests` must hold at least one request, received none")
    run = _Run(send, requests, load, bounds, processor)
    watch = asyncio.create_task(run.watch())
    try:
        await (run.closed(load.clients) if isinstance(load, Closed) else run.open(load.gaps()))
    finally:
        watch.cancel()
    return run.result()


class _Run:
    def __init__(
        self, send: Send, requests: Sequence[Prepared], load: Load, bounds: Bounds, processor: Callable[[], float]
    ) -> None:
        self.send, self.requests, self.load, self.bounds = send, requests, load, bounds
        self.clock = asyncio.get_running_loop().time
        self.slots = asyncio.Semaphore(load.clients if isinstance(load, Closed) else bounds.at_once)
        self.begins = self.clock()
        self.opens = self.begins + bounds.warm_up
        self.closes = self.opens + bounds.seconds
        self.processor, self.cores = processor, 0.0
        self.sent = self.counted = self.waiting = self.at_once = self.answered = self.rows = 0
        self.statuses: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.lags: list[float] = []

    async def closed(self, clients: int) -> None:
        async def client() -> None:
            while not self.over(now := self.clock()):
                await self.ask(now)

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())

    async def open(self, gap: Callable[[], float]) -> None:
        due = self.begins
        async with asyncio.TaskGroup() as group:
            while not self.over(due := due + gap()):
                # At least once around the loop, so that answers are read while the client catches up.
                await asyncio.sleep(max(0.0, due - self.clock()))
                group.create_task(self.ask(due))

    def over(self, due: float) -> bool:
        return due >= self.closes or self.counted >= self.bounds.requests

    def ask(self, due: float) -> Coroutine[Any, Any, None]:
        request = self.requests[self.sent % len(self.requests)]
        self.sent += 1
        counts = due >= self.opens
        self.counted += counts
        return self._ask(request, due, counts)

    async def _ask(self, request: Prepared, due: float, counts: bool) -> None:
        self.waiting += 1
        self.at_once = max(self.at_once, self.waiting)
        try:
            async with asyncio.timeout_at(due + self.bounds.deadline), self.slots:
                status = await self.send(request)
        except TimeoutError:
            status = DEADLINE_EXCEEDED
        self.waiting -= 1
        now = self.clock()
        if counts:
            self.statuses[status] += 1
            if status in (OK, DEADLINE_EXCEEDED):
                self.latencies.append(now - due)
        if status == OK and self.opens <= now < self.closes:
            self.answered += 1
            self.rows += request.rows

    async def watch(self) -> None:
        """Measures the client while requests are counted: its processor time, and how late the event loop is."""
        await asyncio.sleep(self.bounds.warm_up)
        used = self.processor()
        looked = began = self.clock()
        while looked < self.closes:
            await asyncio.sleep(WATCH)
            now = self.clock()
            self.lags.append(max(0.0, now - looked - WATCH))
            self.cores = (self.processor() - used) / (now - began)
            looked = now

    def result(self) -> Result:
        ends = self.closes
        if self.counted >= self.bounds.requests:
            ends = min(ends, self.clock())
        return Result(
            load=self.load,
            seconds=ends - self.opens,
            statuses=dict(self.statuses),
            latencies=np.sort(np.array(self.latencies)),
            answered=self.answered,
            rows=self.rows,
            at_once=self.at_once,
            late=float(np.percentile(self.lags, 99)) if self.lags else 0.0,
            processor=self.cores,
        )
