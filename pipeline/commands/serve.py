"""`mixrank serve`: the development server."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from mixrank.pipeline.commands.terminal import Unverified, console, errors, guarded, needs


@guarded
@needs("pipeline")
def serve(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[MODEL_DIR]...", help="Folders of versions, or single versions.")
    ] = None,
    model_name: Annotated[
        list[str] | None, typer.Option(help="Name of the model, once per MODEL_DIR (default: the folder's name).")
    ] = None,
    models_config: Annotated[
        Path | None, typer.Option(help="A models.config in place of MODEL_DIR; changes are picked up.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    rest_port: Annotated[int, typer.Option(help="REST port; 0 picks a free one.")] = 8501,
    grpc_port: Annotated[int, typer.Option(help="gRPC port; 0 picks a free one.")] = 8500,
    poll: Annotated[float, typer.Option(help="Seconds between checks of the folders.")] = 1.0,
    log: Annotated[
        Path | None, typer.Option(help="Folder for a log of what was asked and answered, as PredictionLogs.")
    ] = None,
    unverified: Unverified = False,
) -> None:
    """Start a development server that answers over REST and gRPC as TensorFlow Serving does."""
    models = _models(folders or [], model_name or [], models_config)
    if poll <= 0:
        raise ValueError(f"--poll must be positive, received {poll:g}")
    if not _is_loopback(host):
        errors.print(
            f"warning: --host {host} lets other machines ask this server, which asks nobody who they are",
            style="yellow", soft_wrap=True,
        )  # fmt: skip
    for option, port in (("--rest-port", rest_port), ("--grpc-port", grpc_port)):
        _check_free(host, port, option)
    console.print("mixrank development server; for production, see `mixrank deploy`")
    errors.print("loading TensorFlow ...", style="dim")
    began = time.monotonic()
    from mixrank.serving.dev_server import running

    errors.print(f"TensorFlow is loaded ({time.monotonic() - began:.0f} s); loading models ...", style="dim")
    say = partial(console.print, soft_wrap=True)
    options: dict[str, Any] = {"poll_seconds": poll, "say": say, "verified": not unverified, "log": log}
    with (
        running(models, host=host, rest_port=rest_port, grpc_port=grpc_port, **options) as server,
        _told_to_stop() as stop,
    ):
        console.print(f"REST {server.rest_url}   gRPC {server.grpc_target}", soft_wrap=True)
        name = next(iter(server.repository.models))
        console.print("try:")
        console.print(f"  curl {server.rest_url}/v1/models/{name}", soft_wrap=True)
        console.print(f"  mixrank predict {server.rest_url} rows.jsonl --model {name}", soft_wrap=True)
        stop.wait()
        console.print("stopping after the requests in progress ...")
    console.print("stopped")


@contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """An event that the signals of Ctrl-C and of `kill` set."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _models(folders: list[Path], names: list[str], config: Path | None) -> dict[str, Path] | Path:
    from mixrank.serving import model_config
    from mixrank.serving.rollout import served

    if config is not None:
        if folders or names:
            raise ValueError("--models-config names all models; leave MODEL_DIR and --model-name out")
        if not config.is_file():
            raise ValueError(f"--models-config {config} is not a file")
        if not model_config.read(config).model_config_list.config:
            raise ValueError(f"--models-config {config} names no model")
        return config
    if not folders:
        raise ValueError("name a folder of versions, such as runs/kuairand/serving/kuairand, or give --models-config")
    if names and len(names) != len(folders):
        raise ValueError(f"--model-name is given {len(names)} times for {len(folders)} folders")
    models: dict[str, Path] = {}
    for number, folder in enumerate(folders):
        name = served(folder, names[number] if names else None).name
        if name in models:
            raise ValueError(f"{models[name]} and {folder} have the same name `{name}`; give each a --model-name")
        models[name] = folder
    return models


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_free(host: str, port: int, option: str) -> None:
    try:
        socket.create_server((host, port)).close()
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise ValueError(f"{option} {port} on {host} cannot be used: {reason}") from None
