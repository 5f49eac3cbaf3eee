"""The REST interface of TensorFlow Serving as an ASGI application, with a status page and metrics."""

from __future__ import annotations

import asyncio
import json
import re
import time
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from mixrank.serving.dev_server.batching import Runner
from mixrank.serving.dev_server.errors import Refused, invalid
from mixrank.serving.dev_server.json_tensors import parse_body, parse_tensors, render
from mixrank.serving.dev_server.loaded_model import DEFAULT_SIGNATURE, Signature
from mixrank.serving.dev_server.page import status_page
from mixrank.serving.dev_server.prometheus import Metrics
from mixrank.serving.dev_server.repository import Repository

_WHICH = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
PREDICT = re.compile(rf"/v1/models/(?P<name>[^/:]+){_WHICH}:(?P<verb>predict|classify|regress)", re.I | re.A)
STATUS = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_WHICH}(?P<metadata>/metadata)?", re.I | re.A)
METRICS = "/monitoring/prometheus/metrics"
MAX_BODY = 256 << 20
# Longer ones are read and written in a worker, so that short ones need not wait.
LONG_BODY = 1 << 16


class RestApp:
    """ASGI application.

    Args:
        repository: the models.
        runner: runs them.
        metrics: counts requests.
    """

    def __init__(self, repository: Repository, runner: Runner, metrics: Metrics) -> None:
        self.repository, self.runner, self.metrics = repository, runner, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except ClientDisconnect:
            return
        except Refused as error:
            response = _json({"error": str(error)}, error.http_status)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        raw = request.scope.get("raw_path") or request.url.path.encode()
        path, method = raw.partition(b"?")[0].decode("latin-1"), request.method
        if path == "/" and method == "GET":
            return HTMLResponse(status_page(self.repository, self.metrics))
        if path == METRICS and method == "GET":
            return PlainTextResponse(self.metrics.text())
        if not path.lower().startswith("/v1/"):
            return _json({"error": "Not Found"}, 404)
        if method == "POST" and (match := PREDICT.fullmatch(path)):
            return await self._predict(request, **_parts(match))
        if method == "GET" and (match := STATUS.fullmatch(path)):
            return self._status(**_parts(match))
        raise invalid(f"Malformed request: {method} {path}")

    def _status(self, name: str | None, version: int | None, label: str | None, metadata: str | None) -> Response:
        if name is None:
            raise invalid("Missing model name in request.")
        if metadata:
            with self.repository.use(name, version, label) as (number, model):
                signatures = {key: _definition(value) for key, value in sorted(model.definitions.items())}
                spec = {"name": name, "signature_name": "", "version": str(number)}
                return _json({"model_spec": spec, "metadata": {"signature_def": {"signature_def": signatures}}})
        states = [
            {
                "version": str(number),
                "state": state.name,
                "status": {"error_code": state.code, "error_message": state.message},
            }
            for number, state in self.repository.states(name, version).items()
        ]
        return _json({"model_version_status": states})

    async def _predict(
        self, request: Request, name: str, version: int | None, label: str | None, verb: str
    ) -> Response:
        began, status = time.monotonic(), "UNKNOWN"
        try:
            body = await _body(request)
            parsed = await self._maybe_in_worker(len(body), lambda: parse_body(body))
            with self.repository.use(name, version, label) as (_, model):
                wanted = parsed.get("signature_name") or DEFAULT_SIGNATURE
                if wanted not in model.signatures:
                    raise invalid(f'Serving signature name: "{wanted}" not found in signature def')
                signature = model.signatures[wanted]
                if verb.lower() != "predict":
                    raise invalid(_no_predict(verb.lower(), signature))
                inputs, by_row = await self._maybe_in_worker(len(body), lambda: parse_tensors(parsed, signature))
                signature.check_shapes(inputs)
                at_work = time.monotonic()
                answer = await self.runner.run(model, signature, inputs, sorted(signature.outputs))
                self.metrics.runtime(name, time.monotonic() - at_work)
            size = 8 * sum(value.size for value in answer.values())
            text = await self._maybe_in_worker(size, lambda: render(answer, by_row))
            status = "OK"
            return Response(text, media_type="application/json")
        except Refused as error:
            status = error.code
            raise
        finally:
            if name in self.repository.served:
                self.metrics.request(name, verb.lower(), "REST", status, time.monotonic() - began)

    async def _maybe_in_worker(self, size: int, work: Callable[[], Any]) -> Any:
        if size < LONG_BODY:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self.runner.workers, work)


def _parts(match: re.Match[str]) -> dict[str, Any]:
    parts: dict[str, Any] = match.groupdict()
    if parts["version"] is not None:
        if int(parts["version"]) >= 2**63:
            raise invalid(f"Failed to convert version: {parts['version']} to numeric.")
        parts["version"] = int(parts["version"])
    for key in ("name", "label"):
        parts[key] = parts[key] and unquote(parts[key], errors="replace")
    return parts


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > MAX_BODY:
            raise invalid(f"the body is longer than {MAX_BODY} bytes")
    body = b"".join(parts)
    if "gzip" not in request.headers.get("content-encoding", "").lower():
        return body
    unpacking = zlib.decompressobj(wbits=31)
    try:
        text = unpacking.decompress(body, MAX_BODY)
    except zlib.error as error:
        raise invalid(f"Failed to uncompress the gzipped body: {error}") from None
    if not unpacking.eof:
        raise invalid("Failed to uncompress the gzipped body: it is cut off or too long")
    return text


def _no_predict(verb: str, signature: Signature) -> str:
    kind = {"classify": "classification", "regress": "regression"}[verb]
    return (
        f"Expected {kind} signature method_name to be tensorflow/serving/{verb}. Was: tensorflow/serving/predict "
        f"(signature `{signature.name}`)"
    )


def _definition(definition: Any) -> dict[str, Any]:
    def infos(tensors: Any) -> dict[str, Any]:
        return {name: _info(tensors[name]) for name in sorted(tensors)}

    return {
        "inputs": infos(definition.inputs),
        "outputs": infos(definition.outputs),
        "method_name": definition.method_name,
        "defaults": {},
    }


def _info(tensor: Any) -> dict[str, Any]:
    kinds = type(tensor).DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_number
    shape = tensor.tensor_shape
    return {
        "dtype": kinds[tensor.dtype].name,
        "tensor_shape": {
            "dim": [{"size": str(dim.size), "name": dim.name} for dim in shape.dim],
            "unknown_rank": shape.unknown_rank,
        },
        "name": tensor.name,
    }


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value, indent=1) + "\n", status, media_type="application/json")
