"""Blocking and asynchronous client of TensorFlow Serving, over REST or gRPC, without TensorFlow.

    with Client("http://localhost:8501", "movielens", spec="runs/movielens/serving/movielens") as client:
        scores = client.score([{"age_band": "25_34", "user_id": 196, "item_id": 242}])

`mixrank.serving.client.protocol` decides what a call does; the clients carry it out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from mixrank.schemas import FeatureSpec
from mixrank.serving.base import load_spec
from mixrank.serving.client.protocol import Address, Calls, Pause, Result, Scores, ServingError, State, Steps
from mixrank.serving.client.request_log import Ids, RequestLog, as_logged, checked_ids
from mixrank.serving.client.request_rows import Inputs, Row, Unknown


class _Configured:
    """The arguments of both clients."""

    def __init__(
        self,
        target: str,
        model: str,
        *,
        spec: FeatureSpec | Path | str | None = None,
        version: int | None = None,
        label: str | None = None,
        deadline: float = 10.0,
        retries: int = 3,
        max_rows: int = 128,
        unknown: Unknown = "refuse",
        log: RequestLog | None = None,
    ) -> None:
        self.address = Address(target, model, version, label)
        self.spec = load_spec(Path(spec)) if isinstance(spec, str | Path) else spec
        inputs = Inputs(self.spec, unknown)
        self._calls = Calls(self.address, inputs, deadline=deadline, retries=retries, max_rows=max_rows)
        self.log, self.max_rows = log, max_rows
        self._transport = self._connect()

    def _about(self) -> dict[str, Any]:
        """What a line of the log says of the request, which is made now."""
        about: dict[str, Any] = {"model": self.address.model}
        if self.address.version is not None:
            about["version"] = self.address.version
        if self.address.label is not None:
            about["label"] = self.address.label
        return {"logged_at": int(1000 * self.log.now()), **about} if self.log is not None else about

    def _log_rows(
        self, about: dict[str, Any], rows: Sequence[Row], scores: Sequence[Scores], ids: list[str] | None
    ) -> None:
        if self.log is None:
            return
        for start in range(0, len(rows), self.max_rows):
            part = slice(start, start + self.max_rows)
            known = {"impression_ids": ids[part]} if ids is not None else {}
            instances = [as_logged(self.spec, row) for row in rows[part]]
            self.log.write({**about, **known, "instances": instances, "scores": list(scores[part])}, len(instances))

    def _log_ranking(
        self,
        about: dict[str, Any],
        request: Row,
        candidates: Sequence[Row],
        scores: Sequence[Scores],
        ids: list[str] | None,
    ) -> None:
        if self.log is None:
            return
        known = {"impression_ids": ids} if ids is not None else {}
        shared, items = as_logged(self.spec, request), [as_logged(self.spec, each) for each in candidates]
        line = {**about, **known, "request": shared, "candidates": items, "scores": list(scores)}
        self.log.write(line, len(items))

    def _connect(self) -> Any:
        raise NotImplementedError

    @property
    def _over_grpc(self) -> bool:
        return self.address.target.startswith("grpc:")


class Client(_Configured):
    """Blocking client. Several threads may share one client.

    Args:
        target: `http://host:8501` or `https://...` for REST, `grpc://host:8500` for gRPC.
        model: the model's name.
        spec: the feature spec, or the folder (a version, or versions) to read it from; rows are checked and padded by
            it. Without one, rows are sent as they are.
        version: number of the version to use.
        label: label of the version to use, such as stable; without both, the server uses its highest version.
        deadline: seconds for a whole call with all its chunks and retries, > 0.
        retries: how often a request is retried while the server is unavailable or has no thread left, >= 0.
        max_rows: most rows per request, >= 1; at most the `max_batch_size` of the server.
        unknown: "refuse" fields that the spec does not know, or "drop" them.
        log: gets every request that was answered, with its scores; the caller closes it.

    Raises:
        ValueError: if an argument is out of bounds, or `spec` names a folder without one.
    """

    def score(self, rows: Sequence[Row], impression_ids: Ids | None = None) -> list[Scores]:
        """Scores rows.

        Args:
            rows: column -> value, each.
            impression_ids: one per row, text or whole numbers, by which outcomes find the rows in the log.

        Returns:
            Task -> probability, one mapping per row, in the order of the rows.

        Raises:
            RowError: if a row does not fit, before anything is sent.
            ServingError: if the server does not answer in time, or answers with something other than scores.
        """
        ids, about = checked_ids(impression_ids, len(rows), self.log), self._about()
        scores = self._run(self._calls.score(rows))
        self._log_rows(about, rows, scores, ids)
        return scores

    def rank(self, request: Row, candidates: Sequence[Row], impression_ids: Ids | None = None) -> list[Scores]:
        """Scores the items of one request through `rank_candidates`; all are sent at once.

        Args:
            request: user and context features, scenario and histories, column -> value.
            candidates: at least one; item features, column -> value, each.
            impression_ids: one per candidate, as in `score`.

        Returns:
            Task -> probability, one mapping per candidate, in the order of the candidates.

        Raises:
            ValueError: if the request or a candidate does not fit, before anything is sent.
            ServingError: as `score`.
        """
        ids, about = checked_ids(impression_ids, len(candidates), self.log), self._about()
        scores = self._run(self._calls.rank(request, candidates))
        self._log_ranking(about, request, candidates, scores, ids)
        return scores

    def status(self) -> dict[int, State]:
        """States of the model's versions, or of the one version that this client uses; a label is ignored.

        Raises:
            ServingError: if the server does not answer, or does not know the model or version (NOT_FOUND).
        """
        return self._run(self._calls.status())

    def version(self) -> int:
        """The version that answers this client: its `version`, the version of its `label`, or the server's highest.

        Raises:
            ServingError: if the server does not answer, or does not know the model, version (NOT_FOUND) or label
                (INVALID_ARGUMENT).
        """
        return self._run(self._calls.version())

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _connect(self) -> Any:
        # Each takes a third of a second to import; only one is needed.
        if self._over_grpc:
            from mixrank.serving.client.transport_grpc import GrpcTransport

            return GrpcTransport(self.address)
        from mixrank.serving.client.transport_rest import RestTransport

        return RestTransport(self.address)

    def _run(self, steps: Steps[Result]) -> Result:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = next(steps)
                    continue
                try:
                    answer = self._transport.ask(step.request, step.seconds)
                except ServingError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as done:
            return done.value


class AsyncClient(_Configured):
    """`Client` for one event loop: the same arguments, `await` before every call, `async with`.

    Any number of calls may be pending at once; over REST they share at most 100 connections.
    """

    async def score(self, rows: Sequence[Row], impression_ids: Ids | None = None) -> list[Scores]:
        """As `Client.score`."""
        ids, about = checked_ids(impression_ids, len(rows), self.log), self._about()
        scores = await self._run(self._calls.score(rows))
        self._log_rows(about, rows, scores, ids)
        return scores

    async def rank(self, request: Row, candidates: Sequence[Row], impression_ids: Ids | None = None) -> list[Scores]:
        """As `Client.rank`."""
        ids, about = checked_ids(impression_ids, len(candidates), self.log), self._about()
        scores = await self._run(self._calls.rank(request, candidates))
        self._log_ranking(about, request, candidates, scores, ids)
        return scores

    async def status(self) -> dict[int, State]:
        """As `Client.status`."""
        return await self._run(self._calls.status())

    async def version(self) -> int:
        """As `Client.version`."""
        return await self._run(self._calls.version())

    async def close(self) -> None:
        """Closes the connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def _connect(self) -> Any:
        if self._over_grpc:
            from mixrank.serving.client.transport_grpc import AsyncGrpcTransport

            return AsyncGrpcTransport(self.address)
        from mixrank.serving.client.transport_rest import AsyncRestTransport

        return AsyncRestTransport(self.address)

    async def _run(self, steps: Steps[Result]) -> Result:
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = next(steps)
                    continue
                try:
                    answer = await self._transport.ask(step.request, step.seconds)
                except ServingError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as done:
            return done.value
