"""Workers of a training: this process alone, or several that TF_CONFIG names.

All workers run the same program, each on its share of every batch. Only the chief validates, saves and exports.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from mixrank.schemas.safe_text import shown

# Errors that TensorFlow raises in the remaining workers when another is gone.
GONE = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,
)


class WorkerLostError(RuntimeError):
    """Another worker of the training no longer answers."""


@dataclass(frozen=True)
class Workers:
    """The workers of a training.

    Args:
        tasks: type and number of every worker in TF_CONFIG, the chief's first; empty for a training of one process.
        addresses: `host:port` of every worker.
        index: of this worker among them.
    """

    tasks: tuple[tuple[str, int], ...] = ()
    addresses: tuple[str, ...] = ()
    index: int = 0

    @classmethod
    def of_environment(cls) -> Workers:
        """The workers that TF_CONFIG names.

        Raises:
            ValueError: if TF_CONFIG cannot be read, or holds tasks that a synchronous training does not have.
        """
        text = os.environ.get("TF_CONFIG", "")
        if not text:
            return cls()
        try:
            config = json.loads(text)
            cluster, task = config.get("cluster", {}), config.get("task", {})
            tasks = {(job, i): at for job in ("chief", "worker") for i, at in enumerate(cluster.get(job, ()))}
        except (ValueError, AttributeError, TypeError) as error:
            raise ValueError(
                f"TF_CONFIG must be JSON with `cluster` and `task`, received {shown(text)}: {error}"
            ) from None
        if len(tasks) < 2:
            return cls()
        if wrong := sorted(set(cluster) - {"chief", "worker"}):
            raise ValueError(f"TF_CONFIG may name tasks of type chief and worker, received {', '.join(wrong)} as well")
        me = (task.get("type"), task.get("index"))
        if me not in tasks:
            raise ValueError(f"TF_CONFIG's `task` must be one of its `cluster`, received {task} for {cluster}")
        return cls(tuple(tasks), tuple(tasks.values()), list(tasks).index(me))

    @property
    def several(self) -> bool:
        """Whether there are other processes."""
        return len(self.tasks) > 1

    @property
    def chief(self) -> bool:
        """Whether this worker is the one that validates, saves and exports."""
        return self.index == 0

    def total(self, strategy: tf.distribute.Strategy, value: float) -> float:
        """Sum of a number over the workers; waits until all of them have reached this point.

        Args:
            strategy: as `mixrank.components.training.strategy.build_strategy` made it for these workers.
            value: this worker's number.
        """
        if not self.several:
            return value
        local = strategy.num_replicas_in_sync // len(self.tasks)
        share = tf.constant(value / local, tf.float32)
        replicated = strategy.run(tf.function(lambda: tf.identity(share)))
        return float(strategy.reduce(tf.distribute.ReduceOp.SUM, replicated, axis=None))

    def check_same_round(self, strategy: tf.distribute.Strategy, done: int, directory: Path) -> None:
        """Refuses to resume from states that differ between workers.

        Args:
            strategy: of these workers.
            done: number of rounds in the state that this worker has found.
            directory: where it looked.

        Raises:
            ValueError: if another worker found a different number.
        """
        if self.total(strategy, done) != done * max(1, len(self.tasks)):
            raise ValueError(
                f"this worker found {done} finished rounds in {directory}, another worker found another number: the "
                "folder must be on a file system that all workers share"
            )

    @contextmanager
    def watched(self, directory: Path) -> Iterator[None]:
        """Explains what happened and how to resume when another worker is gone.

        Args:
            directory: folder of the states from which the training resumes.

        Raises:
            WorkerLostError: in place of TensorFlow's error.
        """
        try:
            yield
        except tf.errors.OpError as error:
            if not self.several or not isinstance(error, GONE):
                raise
            raise WorkerLostError(self._lost(error.message, directory)) from error

    def _lost(self, message: str, directory: Path) -> str:
        others = [
            f"{job} {number} ({address})"
            for index, ((job, number), address) in enumerate(zip(self.tasks, self.addresses, strict=True))
            if index != self.index and re.search(rf"/job:{job}/\S*task:{number}\b", message)
        ]
        me = "{} {}".format(*self.tasks[self.index])
        lines = message.splitlines()
        said = next((line for line in lines if "/job:" in line), lines[0])
        rounds = sorted(path.name for path in directory.glob("round-*[0-9]"))
        state = f"from the state after round {int(rounds[-1][6:])} in {directory}" if rounds else "from the beginning"
        return (
            f"{' or '.join(others) or 'another worker'} no longer answers, so {me} has stopped as well. Start all "
            f"{len(self.tasks)} again with the same commands: they resume {state}. TensorFlow said: "
            f"{said.strip()}"
        )


ALONE = Workers()
