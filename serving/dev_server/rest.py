"""The REST interface of TensorFlow Serving as an ASGI application."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

from google.protobuf.json_format import MessageToDict
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.convertors import IntegerConvertor, StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mixrank.serving.dev_server import grpc_service
from mixrank.serving.dev_server.errors import Refused
from mixrank.serving.dev_server.json_tensors import parse, render, to_arrays
from mixrank.serving.dev_server.repository import Repository


class _Name(StringConvertor):
    regex = "[^/:]+"


class _Version(IntegerConvertor):
    regex = "[0-9]{1,19}"


register_url_convertor("name", _Name())
register_url_convertor("version", _Version())


def rest_app(repository: Repository) -> Starlette:
    """The ASGI application that serves a repository."""

    async def predict(request: Request) -> Response:
        body = await request.body()
        if "gzip" in request.headers.get("content-encoding", ""):
            try:
                body = gzip.decompress(body)
            except (OSError, EOFError, zlib.error) as error:
                raise Refused(f"Failed to uncompress the gzipped body: {error}") from None
        return Response(await run_in_threadpool(scores, body, *_which(request)), media_type="application/json")

    def scores(body: bytes, *which: Any) -> str:
        asked = parse(body)
        _, model = repository.find(*which)
        signature = model.signature(asked.get("signature_name", ""))
        return render(model.run(signature, to_arrays(asked, signature)), by_row="instances" in asked)

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
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return app


def _which(request: Request) -> tuple[str, int | None, str | None]:
    parts = request.path_params
    return parts["name"], parts.get("version"), parts.get("label")


def _dict(message: Any) -> Any:
    return MessageToDict(message, preserving_proto_field_name=True, including_default_value_fields=True)


def _refused(request: Request, error: Refused) -> Response:
    return JSONResponse({"error": str(error)}, error.http_status)


def _no_route(request: Request, error: HTTPException) -> Response:
    # TensorFlow Serving answers anything unknown under /v1 with a bad request, a wrong method included.
    if not request.url.path.startswith("/v1/"):
        return JSONResponse({"error": "Not Found"}, 404)
    return JSONResponse({"error": f"Malformed request: {request.method} {request.url.path}"}, 400)


def _gone(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=400)
