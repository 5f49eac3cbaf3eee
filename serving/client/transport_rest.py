"""A client's requests over the REST interface of TensorFlow Serving, with httpx."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

import httpx

from mixrank.serving.client.protocol import (
    DEADLINE_EXCEEDED,
    INTERNAL,
    UNAVAILABLE,
    UNNAMED,
    Address,
    Metadata,
    Predict,
    Request,
    ServingError,
    State,
    Status,
)

STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: INTERNAL,
    501: "UNIMPLEMENTED",
    503: UNAVAILABLE,
    504: DEADLINE_EXCEEDED,
}
HEADERS = {"Content-Type": "application/json"}


class RestTransport:
    """Asks and waits.

    Args:
        address: the model to ask.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._http = httpx.Client(headers=HEADERS, verify=_verify(address))

    def ask(self, request: Request, seconds: float) -> Any:
        """One request.

        Args:
            request: what to ask.
            seconds: how long it may take. If the answer arrives in pieces, the limit is checked between pieces.

        Raises:
            ServingError: if there is no usable answer.
        """
        left = TimeLeft(seconds)
        method, url, body = encode(self.address, request)
        text = bytearray()
        try:
            with self._http.stream(method, url, content=body, extensions={"timeout": left}) as reply:
                for piece in reply.iter_bytes():
                    text += piece
                    if time.monotonic() > left.ends:
                        raise httpx.ReadTimeout("")
        except httpx.RequestError as error:
            raise _failure(error, seconds) from error
        return decode(request, reply.status_code, bytes(text))

    def close(self) -> None:
        self._http.close()


class AsyncRestTransport:
    """Asks on an event loop.

    Args:
        address: the model to ask.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._http = httpx.AsyncClient(headers=HEADERS, verify=_verify(address))

    async def ask(self, request: Request, seconds: float) -> Any:
        """As `RestTransport.ask`."""
        method, url, body = encode(self.address, request)
        try:
            async with asyncio.timeout(seconds):
                reply = await self._http.request(method, url, content=body, timeout=None)
        except TimeoutError as error:
            raise _failure(httpx.ReadTimeout(""), seconds) from error
        except httpx.RequestError as error:
            raise _failure(error, seconds) from error
        return decode(request, reply.status_code, reply.content)

    async def close(self) -> None:
        await self._http.aclose()


class TimeLeft(dict[str, float]):
    """Time-outs of a request's phases: httpx gives each phase the whole time; here each gets what is left.

    Args:
        seconds: for all phases together.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(dict.fromkeys(("pool", "connect", "write", "read"), seconds))
        self.ends = time.monotonic() + seconds

    def get(self, phase: str, default: Any = None) -> float:
        # Zero would mean no wait, or no limit.
        return max(0.001, self.ends - time.monotonic())


def encode(address: Address, request: Request) -> tuple[str, str, bytes | None]:
    """Method, URL and body of a request.

    Raises:
        ValueError: if the inputs hold values that JSON cannot represent.
    """
    url = f"{address.target.rstrip('/')}/v1/models/{urllib.parse.quote(address.model, safe='')}"
    if address.version is not None:
        url += f"/versions/{address.version}"
    elif address.label is not None and not isinstance(request, Status):
        url += f"/labels/{urllib.parse.quote(address.label, safe='')}"
    if isinstance(request, Status):
        return "GET", url, None
    if isinstance(request, Metadata):
        return "GET", f"{url}/metadata", None
    try:
        # A missing number is written as a bare NaN, which TensorFlow Serving reads.
        body = json.dumps({"signature_name": request.signature, "inputs": dict(request.inputs)})
    except TypeError as error:
        raise ValueError(f"rows take numbers, text and lists of them: {error}") from None
    return "POST", f"{url}:predict", body.encode()


def decode(request: Request, code: int, body: bytes) -> Any:
    """The answer to a request.

    Args:
        request: what was asked.
        code: HTTP status of the answer.
        body: its bytes.

    Returns:
        Output -> nested lists for `Predict`; version -> `State` for `Status`; for `Metadata` a mapping with the
        `version` that answered and the `outputs` of each signature.

    Raises:
        ServingError: if the server says so, or its answer is not what was asked for.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = body.decode(errors="replace")
    if code != 200:
        message = str(answer.get("error", answer) if isinstance(answer, dict) else answer)[:500]
        status = STATUS.get(code)
        raise ServingError(status or "UNKNOWN", message if status else f"HTTP status {code}: {message}")
    try:
        if isinstance(request, Predict):
            outputs = answer["outputs"]
            return outputs if isinstance(outputs, dict) else {UNNAMED: outputs}
        return _states(answer) if isinstance(request, Status) else _metadata(answer)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ServingError(INTERNAL, f"its answer cannot be read: {str(answer)[:200]}") from None


def _states(answer: Mapping[str, Any]) -> dict[int, State]:
    states = {}
    for found in answer["model_version_status"]:
        about = found.get("status", {})
        failed = about.get("error_code", "OK") != "OK"
        message = about.get("error_message") or about["error_code"] if failed else ""
        states[int(found["version"])] = State(found["state"], message)
    return dict(sorted(states.items()))


def _metadata(answer: Mapping[str, Any]) -> dict[str, Any]:
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    outputs = {name: list(signature["outputs"]) for name, signature in signatures.items()}
    return {"version": int(answer["model_spec"]["version"]), "outputs": outputs}


def _failure(error: httpx.RequestError, seconds: float) -> ServingError:
    if isinstance(error, httpx.TimeoutException):
        return ServingError(DEADLINE_EXCEEDED, f"no answer within {seconds:.3g} s")
    if isinstance(error, httpx.TransportError):
        # Connection refused or lost. Scoring changes nothing on the server, so a retry is safe.
        return ServingError(UNAVAILABLE, f"no answer: {error or type(error).__name__}")
    return ServingError(INTERNAL, f"its answer cannot be read: {error}")


def _verify(address: Address) -> bool:
    # Certificates take time to load, and plain http needs none.
    return address.target.startswith("https:")
