"""The development server: REST and gRPC from threads of this process."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import h11
import uvicorn
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
from uvicorn.protocols.http.h11_impl import H11Protocol

from mixrank.serving.base import check_sums
from mixrank.serving.dev_server.errors import REQUEST_BYTES
from mixrank.serving.dev_server.grpc_service import GrpcService
from mixrank.serving.dev_server.loaded_model import LoadedModel
from mixrank.serving.dev_server.prediction_logs import PredictionLogs
from mixrank.serving.dev_server.repository import AVAILABLE, END, Repository, Version
from mixrank.serving.dev_server.rest import rest_app

# gRPC requests in progress at the same time, and seconds that requests may still take once the server stops.
WORKERS, GRACE = 16, 30
# Seconds that a connection may be open without the complete head of a request.
IDLE = 60
GRPC_OPTIONS = [
    ("grpc.max_receive_message_length", REQUEST_BYTES),
    ("grpc.max_send_message_length", -1),
    # With this option on, a second server on the same port would silently take half of the requests.
    ("grpc.so_reuseport", 0),
]


@dataclass(frozen=True)
class DevelopmentServer:
    """A server that is running.

    Args:
        repository: its models.
        rest_url: address such as `http://127.0.0.1:8501`.
        grpc_target: address such as `127.0.0.1:8500`.
    """

    repository: Repository
    rest_url: str
    grpc_target: str

    def wait_for(self, model: str, version: int, *, state: str = AVAILABLE, seconds: float = 60.0) -> Version:
        """Waits until a version of a model is in a state.

        Args:
            model: its name.
            version: its number.
            state: LOADING, AVAILABLE or END.
            seconds: how long to wait.

        Raises:
            TimeoutError: if that takes longer.
            ValueError: if the version could not be loaded, saying why.
        """
        deadline = time.monotonic() + seconds
        while True:
            found = self.repository.states(model).get(version, Version("UNKNOWN"))
            if found.state == state:
                return found
            if found.state == END and found.message:
                raise ValueError(f"version {version} of `{model}` could not be loaded: {found.message}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"version {version} of `{model}` is {found.state} after {seconds:g} s, not {state}")
            time.sleep(0.01)


class Protocol(H11Protocol):
    """HTTP whose keep-alive time also limits how long the head of a request may take.

    uvicorn stops that timer at the first byte, and starts it only behind the first answer.
    """

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        self.conn.receive_data(data)
        # Stops the timer when it finds a request.
        self.handle_events()

    def send_400_response(self, msg: str) -> None:
        if self.cycle is not None:
            # The head of the request was good, so the application is at work: its answer would be a second one.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        # The answer may have begun, or may have no body because the method is HEAD.
        with suppress(h11.LocalProtocolError):
            super().send_400_response(msg)
        self.transport.close()


@contextmanager
def running(
    models: Mapping[str, Path] | Path,
    *,
    host: str = "127.0.0.1",
    rest_port: int = 0,
    grpc_port: int = 0,
    poll_seconds: float = 1.0,
    say: Callable[[str], object] = lambda line: None,
    verified: bool = False,
    log: Path | None = None,
) -> Iterator[DevelopmentServer]:
    """Serves models until the block ends, then finishes the requests already received.

    Args:
        models: name -> folder of versions (the newest is served) or one version; or a models.config.
        host: address to listen at.
        rest_port, grpc_port: ports; 0 picks a free one.
        poll_seconds: interval between checks of the folders and the models.config.
        say: called with a line for each change of a version.
        verified: bool. Load only versions whose files are as their SHA-256 sums say.
        log: folder that gets every answered predict request as a PredictionLog, or None.

    Raises:
        ValueError: if a model has no version that can be loaded, a models.config is not valid, or a port is in use.
        OSError: if the thread that answers REST could not start, or ended on a fault of its own.
    """

    def load(folder: Path) -> LoadedModel:
        if verified:
            check_sums(folder)
        return LoadedModel(folder)

    repository = Repository(models, load=load, say=say)
    repository.start()
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(poll_seconds):
            repository.look()

    with (
        _listening(host, rest_port) as sock,
        nullcontext() if log is None else closing(PredictionLogs(log)) as logs,
        ThreadPoolExecutor(2) as threads,
        ThreadPoolExecutor(WORKERS) as workers,
    ):
        service = GrpcService(repository, logs)
        rpc = grpc.server(workers, options=GRPC_OPTIONS)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, rpc)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(service, rpc)
        try:
            grpc_port = rpc.add_insecure_port(f"{host}:{grpc_port}")
        except RuntimeError:
            raise ValueError(f"gRPC cannot listen at {host}:{grpc_port}; is the port in use?") from None
        app = rest_app(repository, {host.lower(), socket.gethostname().lower()}, logs)
        rest = uvicorn.Server(
            uvicorn.Config(
                app, http=Protocol, log_config=None,
                log_level="error", access_log=False, lifespan="off", ws="none", timeout_keep_alive=IDLE,
                timeout_graceful_shutdown=GRACE,
            )
        )  # fmt: skip
        address = f"http://{host}:{sock.getsockname()[1]}"
        rpc.start()
        serving = threads.submit(rest.run, [sock])
        # Nobody would answer those who still connect: they shall be refused, not left to wait.
        serving.add_done_callback(lambda _: sock.close())
        threads.submit(follow)
        try:
            while not rest.started:
                if serving.done():
                    raise _ended(serving)
                time.sleep(0.01)
            yield DevelopmentServer(repository, address, f"{host}:{grpc_port}")
        finally:
            stop.set()
            rest.should_exit = True
            rpc.stop(GRACE).wait()
    if serving.exception() is not None:
        raise _ended(serving)


def _ended(serving: Future[None]) -> OSError:
    cause = serving.exception()
    error = OSError(f"the thread that answers REST ended: {cause or 'it was told to'} ({type(cause).__name__})")
    error.__cause__ = cause
    return error


def _listening(host: str, port: int) -> socket.socket:
    try:
        sock = socket.create_server((host, port))
    except OSError as error:
        raise ValueError(f"REST cannot listen at {host}:{port}: {os.strerror(error.errno or 0)}") from None
    # Connections inherit it; without it, the body of an answer waits 40 ms for the acknowledgement of its headers.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
