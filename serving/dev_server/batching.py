"""Merges requests that arrive together, as TensorFlow Serving does with a batching configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from mixrank.serving.dev_server.errors import invalid
from mixrank.serving.dev_server.loaded_model import LoadedModel, Signature

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Batching:
    """How requests are merged.

    Args:
        max_batch_size: most rows per batch; a request with more is refused.
        timeout_ms: how long a request waits for others.

    Raises:
        ValueError: if a bound is not positive.
    """

    max_batch_size: int
    timeout_ms: float = 2.0

    def __post_init__(self) -> None:
        if self.max_batch_size < 1:
            raise ValueError(f"`max_batch_size` must be at least 1, received {self.max_batch_size}")
        if self.timeout_ms < 0:
            raise ValueError(f"`timeout_ms` must not be negative, received {self.timeout_ms}")


@dataclass
class _Batch:
    run: Callable[[Arrays], dict[str, np.ndarray]]
    parts: list[tuple[Arrays, int, asyncio.Future[dict[str, np.ndarray]]]] = field(default_factory=list)
    rows: int = 0
    timer: asyncio.TimerHandle | None = None


class Runner:
    """Runs requests in worker threads, several at a time or merged.

    Args:
        workers: where models run.
        batching: how to merge; None runs each request by itself.
    """

    def __init__(self, workers: Executor, batching: Batching | None) -> None:
        self.workers, self.batching = workers, batching
        self._open: dict[Any, _Batch] = {}
        self._at_work: set[asyncio.Task[None]] = set()

    async def run(
        self, model: LoadedModel, signature: Signature, inputs: Arrays, outputs: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """As `LoadedModel.run`.

        Raises:
            Refused: as that, or INVALID_ARGUMENT for more rows than a batch takes.
        """
        run = partial(model.run, signature, outputs=outputs)
        rows = {len(value) for value in inputs.values()} if signature.has_batch_axis else set()
        # Inputs of different lengths, or none: TensorFlow says what it thinks of them.
        if self.batching is None or len(rows) != 1 or rows == {0}:
            return await self._in_worker(run, inputs)
        (count,) = rows
        if count > self.batching.max_batch_size:
            raise invalid(f"Task size {count} is larger than maximum input batch size {self.batching.max_batch_size}")
        shapes = tuple((name, inputs[name].shape[1:]) for name in sorted(inputs))
        key = (id(model), signature.name, tuple(outputs), shapes)
        return await self._join(key, run, inputs, count)

    async def _join(self, key: Any, run: Any, inputs: Arrays, count: int) -> dict[str, np.ndarray]:
        assert self.batching is not None
        if key in self._open and self._open[key].rows + count > self.batching.max_batch_size:
            self._start(key)
        loop = asyncio.get_running_loop()
        if key not in self._open:
            batch = self._open[key] = _Batch(run)
            batch.timer = loop.call_later(self.batching.timeout_ms / 1000, self._start, key)
        batch = self._open[key]
        answer: asyncio.Future[dict[str, np.ndarray]] = loop.create_future()
        batch.parts.append((inputs, count, answer))
        batch.rows += count
        if batch.rows == self.batching.max_batch_size:
            self._start(key)
        return await answer

    def _start(self, key: Any) -> None:
        batch = self._open.pop(key)
        if batch.timer is not None:
            batch.timer.cancel()
        task = asyncio.get_running_loop().create_task(self._answer(batch))
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)

    async def _answer(self, batch: _Batch) -> None:
        if len(batch.parts) > 1:
            names = batch.parts[0][0]
            try:
                merged = {name: np.concatenate([inputs[name] for inputs, _, _ in batch.parts]) for name in names}
                answer = await self._in_worker(batch.run, merged)
            except Exception:
                # One bad request must not fail its neighbours: each gets its own answer below.
                pass
            else:
                if all(len(value) == batch.rows for value in answer.values()):
                    self._split(batch, answer)
                    return
        await asyncio.gather(*(self._answer_alone(batch, inputs, future) for inputs, _, future in batch.parts))

    def _split(self, batch: _Batch, answer: Arrays) -> None:
        start = 0
        for _, count, future in batch.parts:
            if not future.done():
                future.set_result({name: value[start : start + count] for name, value in answer.items()})
            start += count

    async def _answer_alone(self, batch: _Batch, inputs: Arrays, future: asyncio.Future[dict[str, np.ndarray]]) -> None:
        try:
            answer = await self._in_worker(batch.run, inputs)
        except Exception as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(answer)

    async def _in_worker(self, run: Callable[[Arrays], dict[str, np.ndarray]], inputs: Arrays) -> dict[str, np.ndarray]:
        return await asyncio.get_running_loop().run_in_executor(self.workers, run, inputs)
