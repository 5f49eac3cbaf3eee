"""REST client of a running TensorFlow Serving, for roll-outs."""

from __future__ import annotations

import math
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mixrank.schemas.safe_text import shown
from mixrank.serving.client import Client, ServingError, State

AVAILABLE, END = "AVAILABLE", "END"


class BadVersion(ValueError):
    """A version cannot be loaded, or does not score as it should; trying again would not help."""


class Server(Protocol):
    """Interface that a roll-out needs from a server of one model."""

    def state(self, version: int) -> State:
        """The state of a version."""

    def resolve(self, label: str) -> int | None:
        """The version that answers requests for a label, or None."""

    def score(self, version: int, instances: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
        """One mapping task -> score per instance."""


def wait_available(server: Server, version: int, *, seconds: float, poll: float = 0.2, stale: float = 10.0) -> None:
    """Waits until a version is loaded.

    Args:
        server: the server.
        version: the version.
        seconds: how long to wait.
        poll: seconds between two polls.
        stale: seconds during which a failure seen from the start may belong to an earlier attempt.

    Raises:
        BadVersion: if it fails to load.
        ValueError: if it takes longer.
    """
    began, waited_for = time.monotonic(), False
    while (state := server.state(version)).name != AVAILABLE:
        passed = time.monotonic() - began
        if state.name == END and state.message and (waited_for or passed > stale):
            raise BadVersion(f"the server could not load version {version}: {state.message}")
        waited_for = waited_for or state.name != END
        if passed > seconds:
            raise ValueError(
                f"version {version} is {state.name} after {seconds:g} s"
                f"{f' ({state.message})' if state.message else ''}; was the server started with --model_config_file "
                f"for this models.config, and --model_config_file_poll_wait_seconds?"
            )
        time.sleep(poll)


def wait_label(server: Server, label: str, version: int, *, seconds: float, poll: float = 0.2) -> None:
    """Waits until requests for a label are answered by a version.

    Raises:
        ValueError: if that takes longer than `seconds`.
    """
    began = time.monotonic()
    while (found := server.resolve(label)) != version:
        if time.monotonic() - began > seconds:
            raise ValueError(
                f"models.config gives `{label}` to version {version}, but after {seconds:g} s the server answers with "
                f"{found or 'none'}; its log says why. Run the same command again to resume"
            )
        time.sleep(poll)


class RestServer:
    """A model of a TensorFlow Serving at an address such as `http://localhost:8501`.

    Args:
        url: scheme, host and REST port.
        name: the model.
        timeout: seconds per request.
        chunk: maximum rows per predict request; at most the server's `max_batch_size`, which may be 1.

    Raises:
        ValueError: if `url` is not an http address.
    """

    def __init__(self, url: str, name: str, *, timeout: float = 30.0, chunk: int = 1) -> None:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(f"`url` must be like http://localhost:8501, received {shown(url)}")
        self.url, self.name, self.timeout, self.chunk = url, name, timeout, chunk

    def state(self, version: int) -> State:
        """As `Server.state`; an unknown model or version is UNKNOWN.

        Raises:
            ServingError: if the server cannot be reached or answers with another error.
        """
        try:
            with self._client(version=version) as client:
                return client.status().get(version, State("UNKNOWN"))
        except ServingError as error:
            if error.status != "NOT_FOUND":
                raise
            return State("UNKNOWN", error.message)

    def resolve(self, label: str) -> int | None:
        """As `Server.resolve`.

        Raises:
            ServingError: as `state`.
        """
        try:
            with self._client(label=label) as client:
                return client.version()
        except ServingError as error:
            # The label, its version or the model does not exist.
            if error.status not in ("INVALID_ARGUMENT", "NOT_FOUND"):
                raise
            return None

    def score(self, version: int, instances: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
        """As `Server.score`, through the signature `score_rows`.

        Raises:
            ServingError: as `state`, or if the answer is not one number per row and task.
        """
        deadline = self.timeout * math.ceil(max(1, len(instances)) / self.chunk)
        with self._client(version=version, deadline=deadline, max_rows=self.chunk) as client:
            return client.score(instances)

    def _client(self, **settings: Any) -> Client:
        return Client(self.url, self.name, **{"deadline": self.timeout, "retries": 0} | settings)
