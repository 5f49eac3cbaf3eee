"""The REST interface of TensorFlow Serving as an ASGI application."""

from __future__ import annotations

import asyncio
import gzip
import io
import ipaddress
import urllib.parse
import zlib
from collections.abc import Collection
from typing import Any

from google.protobuf.json_format import MessageToDict
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.convertors import IntegerConvertor, StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mixrank.serving.dev_server import grpc_service
from mixrank.serving.dev_server.errors import REQUEST_BYTES, Refused
from mixrank.serving.dev_server.json_tensors import parse, render, to_arrays
from mixrank.serving.dev_server.loaded_model import DEFAULT_SIGNATURE
from mixrank.serving.dev_server.prediction_logs import PredictionLogs
from mixrank.serving.dev_server.repository import Repository

# An unzipped body of more than `UNZIPPED` bytes may have at most `RATIO` times as many as the gzipped one.
UNZIPPED, RATIO = 4 << 20, 100
# Seconds that a body may take to arrive.
BODY_SECONDS = 60.0


class _Name(StringConvertor):
    regex = "[^/:]+"


class _Version(IntegerConvertor):
    regex = "[0-9]{1,19}"


register_url_convertor("name", _Name())
register_url_convertor("version", _Version())


def rest_app(repository: Repository, hosts: Collection[str] = (), logs: PredictionLogs | None = None) -> Starlette:
    """The ASGI application that serves a repository.

    Args:
        repository: the models.
        hosts: names under which the server may be asked, besides localhost and any IP address.
        logs: get what was answered, or None.
    """

    async def predict(request: Request) -> Response:
        body, zipped = await _body(request), "gzip" in request.headers.get("content-encoding", "")
        return Response(await run_in_threadpool(scores, body, zipped, *_which(request)), media_type="application/json")

    def scores(body: bytes, zipped: bool, *which: Any) -> str:
        asked = parse(_unzipped(body) if zipped else body)
        version, model = repository.find(*which)
        name = asked.get("signature_name", "")
        signature = model.signature(name)
        inputs = to_arrays(asked, signature)
        answer = model.run(signature, inputs)
        if logs is not None:
            logs.write(which[0], version, name or DEFAULT_SIGNATURE, inputs, answer)
        return render(answer, by_row="instances" in asked)

    def status(request: Request) -> Response:
        name, version, _ = _which(request)
        return JSONResponse(_dict(grpc_service.status(repository, name, version)))

    def metadata(request: Request) -> Response:
        found = _dict(grpc_service.metadata(repository, *_which(request)))
        del found["metadata"]["signature_def"]["@type"]
        return JSONResponse(found)

    routes = []
    for which in ("", "/versions/{version:version}", "/labels/{label:name}"):
        path = "/v1/models/{name:name}" + which
        routes.append(Route(f"{path}:predict", predict, methods=["POST"]))
        routes.append(Route(f"{path}/metadata", metadata, methods=["GET"]))
        routes.append(Route(path, status, methods=["GET"]))
    handlers: dict[Any, Any] = {Refused: _refused, HTTPException: _no_route, ClientDisconnect: _gone}
    app = Starlette(
        routes=routes, exception_handlers=handlers, middleware=[Middleware(_Guard, hosts={"localhost", *hosts})]
    )
    app.router.redirect_slashes = False
    return app


class _Guard:
    """Refuses requests that a web page sends without the user's knowledge, and those with a query.

    A page from anywhere may post to localhost, and by a name that resolves to 127.0.0.1 it could read the answers too
    (DNS rebinding). An IP address as host cannot be such a name.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self.app
        if scope["type"] == "http":
            request = Request(scope)
            host, origin = request.headers.get("host"), request.headers.get("origin")
            if host is not None and not self._known(host):
                answer = JSONResponse({"error": f"`Host` {host[:100]!r} is not a name of this server"}, 403)
            elif origin is not None and origin.partition("://")[2] != host:
                answer = JSONResponse({"error": f"`Origin` {origin[:100]!r} is another site"}, 403)
            elif scope["query_string"]:
                answer = _no_route(request)
        await answer(scope, receive, send)

    def _known(self, host: str) -> bool:
        try:
            name = urllib.parse.urlsplit(f"//{host}").hostname
            if name in self.hosts:
                return True
            ipaddress.ip_address(name or "")
        except ValueError:
            return False
        return True


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > REQUEST_BYTES:
                    raise Refused(f"The body has more than {REQUEST_BYTES} bytes")
    except TimeoutError:
        raise Refused(f"The body did not arrive within {BODY_SECONDS:g} s", "DEADLINE_EXCEEDED") from None
    return bytes(body)


def _unzipped(body: bytes) -> bytes:
    most = min(REQUEST_BYTES, max(UNZIPPED, RATIO * len(body)))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
            text = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Refused(f"Failed to uncompress the gzipped body: {error}") from None
    if len(text) > most:
        raise Refused(f"The gzipped body of {len(body)} bytes has more than {most} bytes")
    return text


def _which(request: Request) -> tuple[str, int | None, str | None]:
    parts = request.path_params
    version = parts.get("version")
    if version is not None and version >= 2**63:
        raise Refused(f"Failed to convert version: {version} to numeric.")
    return parts["name"], version, parts.get("label")


def _dict(message: Any) -> Any:
    return MessageToDict(message, preserving_proto_field_name=True, including_default_value_fields=True)


def _refused(request: Request, error: Refused) -> Response:
    return JSONResponse({"error": str(error)}, error.http_status)


def _no_route(request: Request, error: HTTPException | None = None) -> Response:
    # TensorFlow Serving answers anything unknown under /v1 with a bad request, a wrong method included.
    if not request.url.path.startswith("/v1/"):
        return JSONResponse({"error": "Not Found"}, 404)
    return JSONResponse({"error": f"Malformed request: {request.method} {request.url.path[:200]}"}, 400)


def _gone(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=400)
