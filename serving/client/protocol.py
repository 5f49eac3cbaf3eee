"""Sans-I/O client protocol: chunks, deadline, retries, checks of the answer.

A call is a generator. It yields an action (`Ask` a server, `Pause`), receives the answer or a thrown
`ServingError`, and returns the result. So the same calls drive a blocking and an asynchronous client, and tests need
neither a network nor a clock.
"""

from __future__ import annotations

import math
import random
import time
import urllib.parse
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mixrank.schemas.encode import fits_float32
from mixrank.schemas.safe_text import masked, shown
from mixrank.schemas.wire import Kind
from mixrank.serving.client.request_rows import Inputs, Row, stack

UNAVAILABLE, DEADLINE_EXCEEDED, INTERNAL = "UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL"
# A server that is not up, and one that has no thread left: both pass.
ASKED_AGAIN = (UNAVAILABLE, "RESOURCE_EXHAUSTED")
# Seconds before the first retry, and the maximum before any; each is shortened at random by up to half.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
# TensorFlow Serving omits the name of a single output from a REST answer.
UNNAMED = ""

Scores = dict[str, float]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Address:
    """A model on a server.

    Args:
        target: `http://host:8501`, `https://...` or `grpc://host:8500`.
        model: name of the model.
        version: number of a version, or None.
        label: label of a version, such as stable, or None; without both, the server uses its highest version.

    Raises:
        ValueError: if `target` is something else, `model` is empty, or both version and label are given.
    """

    target: str
    model: str
    version: int | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if not _is_target(self.target):
            raise ValueError(
                "`target` must be like http://localhost:8501 or grpc://localhost:8500, "
                f"received {masked(shown(self.target))}"
            )
        if not self.model:
            raise ValueError("`model` must be the name of a model, received an empty text")
        if self.version is not None and self.label is not None:
            raise ValueError(f"give `version` or `label`, not both: received {self.version} and {self.label!r}")

    def __str__(self) -> str:
        which = f", version {self.version}" if self.version is not None else ""
        which += f", label `{self.label}`" if self.label is not None else ""
        return f"model `{self.model}`{which} at {masked(self.target)}"


def _is_target(target: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(target)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme == "grpc":
        return bool(parts.hostname and port and not parts.path.strip("/"))
    return bool(parts.scheme in ("http", "https") and parts.hostname)


class ServingError(ValueError):
    """A server did not answer, answered with an error, or with something other than scores.

    Args:
        status: name of the gRPC status, over REST too, such as NOT_FOUND, UNAVAILABLE or DEADLINE_EXCEEDED;
            INTERNAL if the answer cannot be used.
        message: what the server said, or what happened.
        address: the model that was asked.
        tries: how many times the request was sent.
    """

    def __init__(self, status: str, message: str, address: Address | None = None, tries: int = 1) -> None:
        where = f"{address}: " if address else ""
        super().__init__(f"{where}{status}: {message}{f' (asked {tries} times)' if tries > 1 else ''}")
        self.status, self.message, self.address, self.tries = status, message, address, tries


@dataclass(frozen=True)
class State:
    """State of a version on a server.

    Args:
        name: START, LOADING, AVAILABLE, UNLOADING, END; UNKNOWN if the server does not know the version.
        message: why, if something failed.
    """

    name: str
    message: str = ""


@dataclass(frozen=True)
class Predict:
    """A predict request, answered by output -> nested lists.

    Args:
        signature: its name.
        inputs: name -> value or nested lists.
        kinds: name -> "int", "float" or "str", as far as known.
    """

    signature: str
    inputs: Mapping[str, Any]
    kinds: Mapping[str, Kind] = field(default_factory=dict)


@dataclass(frozen=True)
class Metadata:
    """Asks which version answers, and over REST for the outputs of its signatures."""


@dataclass(frozen=True)
class Status:
    """Asks for the state of the model's versions; answered by version -> `State`. A label is ignored."""


Request = Predict | Metadata | Status


@dataclass(frozen=True)
class Ask:
    """Ask the server.

    Args:
        request: what to ask.
        seconds: how long it may take.
    """

    request: Request
    seconds: float


@dataclass(frozen=True)
class Pause:
    """Wait for a number of seconds."""

    seconds: float


Steps = Generator[Ask | Pause, Any, Result]


class Calls:
    """The calls of a client.

    Args:
        address: the model to ask.
        inputs: how rows are checked.
        deadline: seconds for a whole call, > 0.
        retries: further tries per request if the server is unavailable or has no thread left, >= 0.
        max_rows: most rows per request, >= 1.
        clock: returns a time in seconds, from any fixed origin.
        draw: returns a random number in [0, 1).

    Raises:
        ValueError: if a number is out of bounds.
    """

    def __init__(
        self,
        address: Address,
        inputs: Inputs,
        *,
        deadline: float,
        retries: int,
        max_rows: int,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        if not 0 < deadline < math.inf:
            raise ValueError(f"`deadline` must be a positive number of seconds, received {deadline}")
        if retries < 0:
            raise ValueError(f"`retries` must be at least 0, received {retries}")
        if max_rows < 1:
            raise ValueError(f"`max_rows` must be at least 1, received {max_rows}")
        self.address, self.inputs, self.deadline, self.retries = address, inputs, deadline, retries
        self.max_rows, self.clock, self.draw = max_rows, clock, draw

    def score(self, rows: Sequence[Row]) -> Steps[list[Scores]]:
        """Scores rows through `score_rows`, in chunks, in order."""
        ends = self.clock() + self.deadline
        checked = self.inputs.rows(rows)
        scores: list[Scores] = []
        for start in range(0, len(checked), self.max_rows):
            part = checked[start : start + self.max_rows]
            scores += yield from self._predict("score_rows", stack(part), len(part), ends)
        return scores

    def rank(self, request: Row, candidates: Sequence[Row]) -> Steps[list[Scores]]:
        """Scores the candidates of one request through `rank_candidates`, in one piece."""
        ends = self.clock() + self.deadline
        inputs = self.inputs.request(request, candidates)
        return (yield from self._predict("rank_candidates", inputs, len(candidates), ends))

    def status(self) -> Steps[dict[int, State]]:
        """Asks for the versions' states."""
        return (yield from self._ask(Status(), self.clock() + self.deadline))

    def version(self) -> Steps[int]:
        """Asks which version answers."""
        return (yield from self._ask(Metadata(), self.clock() + self.deadline))["version"]

    def _predict(self, signature: str, inputs: Mapping[str, Any], count: int, ends: float) -> Steps[list[Scores]]:
        answer = yield from self._ask(Predict(signature, inputs, self.inputs.kinds), ends)
        outputs = self.inputs.spec.outputs if self.inputs.spec else None
        if UNNAMED in answer:
            if outputs is None:
                found = yield from self._ask(Metadata(), ends)
                outputs = tuple(found["outputs"].get(signature, ()))
            if len(outputs) != 1:
                raise self._unusable(f"it answered scores without a name, where there are the tasks {list(outputs)}")
            answer = {outputs[0]: answer[UNNAMED]}
        columns = {name: self._column(answer, name, count) for name in outputs or sorted(answer)}
        if not columns:
            raise self._unusable("it answered no scores")
        return [{name: values[row] for name, values in columns.items()} for row in range(count)]

    def _column(self, answer: Mapping[str, Any], task: str, count: int) -> list[float]:
        if task not in answer:
            raise self._unusable(f"it answered no score for `{task}`, only {sorted(answer)}")
        values = answer[task]
        if not isinstance(values, list) or len(values) != count:
            what = f"{len(values)} scores" if isinstance(values, list) else str(values)[:200]
            raise self._unusable(f"it answered `{task}` of {count} rows with {what}")
        return [self._number(value, task, row) for row, value in enumerate(values)]

    def _number(self, value: Any, task: str, row: int) -> float:
        """A probability of shape () or (1,)."""
        while isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not isinstance(value, int | float) or isinstance(value, bool) or not fits_float32(value):
            raise self._unusable(f"it answered `{task}` of row {row} of a request with {str(value)[:100]}")
        return float(value)

    def _unusable(self, message: str) -> ServingError:
        return ServingError(INTERNAL, message, self.address)

    def _ask(self, request: Request, ends: float) -> Steps[Any]:
        tries = 0
        while True:
            left = ends - self.clock()
            if left <= 0:
                message = f"not done within {self.deadline:g} s"
                raise ServingError(DEADLINE_EXCEEDED, message, self.address, tries)
            tries += 1
            try:
                return (yield Ask(request, left))
            except ServingError as error:
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (tries - 1)) * (1 - self.draw() / 2)
                again = error.status in ASKED_AGAIN and tries <= self.retries and self.clock() + pause < ends
                if not again:
                    raise ServingError(error.status, error.message, self.address, tries) from error.__cause__
            yield Pause(pause)
