"""The development server: REST and gRPC from a thread of this process."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import uvicorn
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from mixrank.serving.dev_server.batching import Batching, Runner
from mixrank.serving.dev_server.grpc_service import ModelService, PredictionService, RefuseUnreadable
from mixrank.serving.dev_server.prometheus import Metrics
from mixrank.serving.dev_server.repository import Repository
from mixrank.serving.dev_server.rest import RestApp
from mixrank.serving.dev_server.served import AVAILABLE, VersionState

GRPC_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # With it, a second server on the same port would silently take half of the requests.
    ("grpc.so_reuseport", 0),
]


class DevelopmentServer:
    """A server that is running.

    Args:
        repository: its models.
        app: its REST interface, an ASGI application that tests may call without a socket.
        rest_url: address such as `http://127.0.0.1:8501`.
        grpc_target: address such as `127.0.0.1:8500`.
    """

    def __init__(self, repository: Repository, app: RestApp, *, rest_url: str, grpc_target: str) -> None:
        self.repository, self.app = repository, app
        self.rest_url, self.grpc_target = rest_url, grpc_target

    def wait_for(self, model: str, version: int, *, state: str = AVAILABLE, seconds: float = 60.0) -> VersionState:
        """Waits until a version of a model is in a state.

        Args:
            model: its name.
            version: its number.
            state: LOADING, AVAILABLE, UNLOADING or END.
            seconds: how long to wait.

        Raises:
            TimeoutError: if that takes longer.
            ValueError: if the version cannot become AVAILABLE, saying why.
        """
        return self.repository.wait_for(model, version, state, seconds)


@contextmanager
def running(
    models: Mapping[str, Path] | Path,
    *,
    host: str = "127.0.0.1",
    rest_port: int = 0,
    grpc_port: int = 0,
    batching: Batching | None = None,
    poll_seconds: float = 1.0,
    workers: int = 4,
    grace: float = 30.0,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[DevelopmentServer]:
    """Serves models until the block ends, then answers the requests that it has and unloads them.

    Args:
        models: name -> folder of versions, of which the newest is served, or one version; or a models.config.
        host: address to listen at.
        rest_port, grpc_port: ports; 0 takes a free one.
        batching: how requests are merged; None runs each by itself.
        poll_seconds: between two looks at the folders.
        workers: requests that run at the same time.
        grace: seconds that requests may take after the end of the block.
        say: told each change of a version.

    Raises:
        ValueError: if a model has no version that can be loaded, a models.config is not valid, or a port is in use.
    """
    metrics = Metrics()
    with _listen(host, rest_port) as sock, ThreadPoolExecutor(workers, "mixrank-model") as pool:
        repository = Repository(models, metrics=metrics, poll_seconds=poll_seconds, say=say)
        runner = Runner(pool, batching)
        app = RestApp(repository, runner, metrics)
        repository.start()
        try:
            network = _Network(app, PredictionService(repository, runner, metrics), ModelService(repository))
            taken = network.start(sock, host, grpc_port, grace)
            try:
                yield DevelopmentServer(
                    repository,
                    app,
                    rest_url=f"http://{host}:{sock.getsockname()[1]}",
                    grpc_target=f"{host}:{taken}",
                )
            finally:
                network.stop()
        finally:
            repository.stop()


class _Network:
    """Both interfaces on one event loop in one thread."""

    def __init__(self, app: RestApp, predictions: PredictionService, models: ModelService) -> None:
        self._services = predictions, models
        # Idle connections live for a minute, so that clients which keep some need not reconnect all the time.
        settings: dict[str, Any] = {"lifespan": "off", "ws": "none", "http": "h11", "loop": "asyncio", "backlog": 2048}
        self._config = uvicorn.Config(
            app, log_config=None, log_level="error", access_log=False, timeout_keep_alive=60, **settings
        )
        self._ready, self._stopping = threading.Event(), threading.Event()
        self._failed: BaseException | None = None
        self._taken = 0

    def start(self, sock: socket.socket, host: str, grpc_port: int, grace: float) -> int:
        """Starts both; returns the gRPC port."""
        self._config.timeout_graceful_shutdown = max(1, round(grace))

        def serve() -> None:
            try:
                asyncio.run(self._serve(sock, host, grpc_port, grace))
            except BaseException as error:
                self._failed = error
            finally:
                self._ready.set()

        self._thread = threading.Thread(target=serve, name="mixrank-network", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failed is not None:
            raise self._failed
        return self._taken

    def stop(self) -> None:
        """Takes no more requests, and waits for those that are there."""
        self._stopping.set()
        self._thread.join()

    async def _serve(self, sock: socket.socket, host: str, grpc_port: int, grace: float) -> None:
        predictions, models = self._services
        server = grpc.aio.server(interceptors=[RefuseUnreadable()], options=GRPC_OPTIONS)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(predictions, server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(models, server)
        try:
            self._taken = server.add_insecure_port(f"{host}:{grpc_port}")
        except RuntimeError:
            self._taken = 0
        if not self._taken:
            raise ValueError(f"gRPC cannot listen at {host}:{grpc_port}; is the port in use?")
        await server.start()
        rest = uvicorn.Server(self._config)
        serving = asyncio.ensure_future(rest.serve(sockets=[sock]))
        while not rest.started and not serving.done():
            await asyncio.sleep(0.01)
        self._ready.set()
        while not self._stopping.is_set() and not serving.done():
            await asyncio.sleep(0.05)
        rest.should_exit = True
        await asyncio.gather(server.stop(grace), serving)


@contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    try:
        sock = socket.create_server((host, port), backlog=2048)
    except OSError as error:
        raise ValueError(f"REST cannot listen at {host}:{port}: {os.strerror(error.errno or 0)}") from None
    # Connections inherit it; without, an answer's body waits 40 ms for the receipt of its head.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with sock:
        yield sock
