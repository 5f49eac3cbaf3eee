"""A running TensorFlow Serving, asked over REST with the standard library alone."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

AVAILABLE, END = "AVAILABLE", "END"


@dataclass(frozen=True)
class State:
    """What a server says of a version.

    Args:
        name: START, LOADING, AVAILABLE, UNLOADING, END; UNKNOWN if it does not know the version.
        message: why, if something failed.
    """

    name: str
    message: str = ""


class Server(Protocol):
    """What a roll-out needs to know from a server of one model."""

    def state(self, version: int) -> State:
        """Whether a version is loaded."""

    def resolve(self, label: str) -> int | None:
        """The version that requests for a label get, or None."""

    def score(self, version: int, instances: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
        """One mapping task -> score per instance."""


def wait_available(server: Server, version: int, *, seconds: float, poll: float = 0.2, stale: float = 10.0) -> None:
    """Waits until a version is loaded.

    Args:
        server: the server.
        version: the version.
        seconds: how long to wait.
        poll: seconds between two questions.
        stale: seconds for which a failure that is there from the beginning may be that of an earlier attempt.

    Raises:
        ValueError: if it fails to load or takes longer.
    """
    began, waited_for = time.monotonic(), False
    while (state := server.state(version)).name != AVAILABLE:
        passed = time.monotonic() - began
        if state.name == END and state.message and (waited_for or passed > stale):
            raise ValueError(f"the server could not load version {version}: {state.message}")
        waited_for = waited_for or state.name != END
        if passed > seconds:
            raise ValueError(
                f"version {version} is {state.name} after {seconds:g} s"
                f"{f' ({state.message})' if state.message else ''}; was the server started with --model_config_file "
                f"for this models.config, and --model_config_file_poll_wait_seconds?"
            )
        time.sleep(poll)


def wait_label(server: Server, label: str, version: int, *, seconds: float, poll: float = 0.2) -> None:
    """Waits until requests for a label get a version.

    Raises:
        ValueError: if that takes longer than `seconds`.
    """
    began = time.monotonic()
    while (found := server.resolve(label)) != version:
        if time.monotonic() - began > seconds:
            raise ValueError(
                f"models.config gives `{label}` to version {version}, but after {seconds:g} s the server answers with "
                f"{found or 'none'}; its log says why. The same command goes on from here"
            )
        time.sleep(poll)


class RestServer:
    """A model of a TensorFlow Serving at an address such as `http://localhost:8501`.

    Args:
        url: scheme, host and REST port.
        name: the model.
        timeout: seconds per request.
        chunk: most rows per predict request; at most the `max_batch_size` of the server, which may be 1.

    Raises:
        ValueError: if `url` is no http address.
    """

    def __init__(self, url: str, name: str, *, timeout: float = 30.0, chunk: int = 1) -> None:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(f"`url` must be like http://localhost:8501, received {url!r}")
        self.url, self.name, self.timeout, self.chunk = url.rstrip("/"), name, timeout, chunk

    def state(self, version: int) -> State:
        """As `Server.state`; an unknown model or version is UNKNOWN.

        Raises:
            ValueError: if the server cannot be reached or answers with another error.
        """
        status, answer = self._ask(f"/versions/{version}")
        if status == 404:
            return State("UNKNOWN", _message(answer))
        found = self._checked(status, answer)["model_version_status"][0]
        about = found.get("status", {})
        failed = about.get("error_code", "OK") != "OK"
        return State(found["state"], about.get("error_message") or about["error_code"] if failed else "")

    def resolve(self, label: str) -> int | None:
        """As `Server.resolve`. A label in a status request is ignored, so its metadata are asked for.

        Raises:
            ValueError: as `state`.
        """
        status, answer = self._ask(f"/labels/{urllib.parse.quote(label, safe='')}/metadata")
        # 400: no such label; 404: the label's version, or the model, is not there.
        if status in (400, 404):
            return None
        return int(self._checked(status, answer)["model_spec"]["version"])

    def score(self, version: int, instances: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
        """As `Server.score`, through the signature `score_rows`.

        Raises:
            ValueError: as `state`, or if the answer is not one number per row and task.
        """
        scores: list[dict[str, float]] = []
        for start in range(0, len(instances), self.chunk):
            part = list(instances[start : start + self.chunk])
            body = {"signature_name": "score_rows", "instances": part}
            answer = self._checked(*self._ask(f"/versions/{version}:predict", body))
            predictions = answer.get("predictions")
            if not isinstance(predictions, list) or len(predictions) != len(part):
                raise ValueError(f"{self.url} answered {len(part)} rows with {str(answer)[:200]}")
            if not all(isinstance(each, dict) for each in predictions):
                # The name of a single output is left out of the answer.
                (task,) = self._outputs(version)
                predictions = [{task: each} for each in predictions]
            scores += [{task: _number(value) for task, value in each.items()} for each in predictions]
        return scores

    def _outputs(self, version: int) -> list[str]:
        metadata = self._checked(*self._ask(f"/versions/{version}/metadata"))["metadata"]
        return list(metadata["signature_def"]["signature_def"]["score_rows"]["outputs"])

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        address = f"{self.url}/v1/models/{urllib.parse.quote(self.name, safe='')}{path}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                return reply.status, _json(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _json(error.read())
        except OSError as error:
            raise ValueError(f"no answer from {address}: {getattr(error, 'reason', error)}") from None

    def _checked(self, status: int, answer: Any) -> Any:
        if status != 200 or not isinstance(answer, dict):
            raise ValueError(f"{self.url} answered {status} for model `{self.name}`: {_message(answer)}")
        return answer


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text.decode(errors="replace")


def _message(answer: Any) -> str:
    return str(answer.get("error", answer) if isinstance(answer, dict) else answer)[:500]


def _number(value: Any) -> float:
    """A probability of shape () or (1,)."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, int | float):
        raise ValueError(f"expected one score per row and task, received {str(value)[:100]}")
    return float(value)
