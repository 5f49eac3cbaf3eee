"""Damaged requests to the development server."""

from __future__ import annotations

import gzip
import http.client
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fault_parts.common import (
    HANGS,
    Ground,
    Tally,
)
from fault_parts.damage import as_json, changed, damaged

CLIENTS, ROUND = 4, 500


def requests(ground: Ground) -> list[Tally]:
    with _server(ground) as server:
        return [_rest(ground, server), _grpc(ground, server), _afterwards(server)]


@dataclass
class Server:
    """`mixrank serve` in a process of its own, and good requests to it."""

    process: subprocess.Popen[bytes]
    said: Path
    host: str
    port: int
    target: str
    model: str
    bodies: list[dict[str, Any]]
    messages: list[Any]

    def memory(self, key: str) -> float:
        """Megabytes: VmRSS now, VmHWM the most so far."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(rf"{key}:\s+(\d+)", text)[0]) / 1024

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=HANGS)

    def good(self) -> list[Any]:
        """Answers to the good requests."""
        connection, answers = self.connection(), []
        for body in self.bodies:
            connection.request("POST", f"/v1/models/{self.model}:predict", as_json(body))
            answer = connection.getresponse()
            answers.append((answer.status, answer.read()))
        connection.close()
        return answers


@contextmanager
def _server(ground: Ground) -> Iterator[Server]:
    from mixrank.pipeline.request_files import example_lines
    from mixrank.schemas.encode import columns
    from mixrank.serving.base import load_spec
    from mixrank.serving.client import Address, Inputs, stack
    from mixrank.serving.client.protocol import Predict
    from mixrank.serving.client.transport_grpc import encode

    base = ground.model().parent
    spec = load_spec(base)
    inputs, kinds = Inputs(spec), {column.name: column.kind for column in columns(spec)}
    (rank,) = example_lines(base, True, 3)
    asked = {"score_rows": stack(inputs.rows(example_lines(base, False, 3))), "rank_candidates": inputs.request(**rank)}
    bodies = [{"signature_name": name, "inputs": values} for name, values in asked.items()]
    messages = [encode(Address("grpc://host:1", base.name), Predict(*each, kinds)) for each in asked.items()]
    said = ground.folder / "said"
    command = [sys.executable, "-m", "mixrank.pipeline.cli", "serve", base, "--rest-port", "0", "--grpc-port", "0"]
    with said.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        end = time.monotonic() + 600
        while not (found := re.search(r"REST http://([\d.]+):(\d+)\s+gRPC (\S+)", said.read_text())):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"mixrank serve did not start: {said.read_text()[-1000:]}")
            time.sleep(0.1)
        yield Server(process, said, found[1], int(found[2]), found[3], base.name, bodies, messages)
    finally:
        process.kill()
        process.wait()


def _rest(ground: Ground, server: Server) -> Tally:
    tally, statuses, settled = Tally("damaged REST requests", ground.tries(85_000)), Counter[str](), 0.0
    good = server.good()
    tally.expect(all(status == 200 for status, _ in good), f"good requests are refused: {good}")
    client = RestClient(server, ground.seed)
    for status, text, sent in _rounds(tally, client.ask, server, good):
        statuses["cut off" if status == 0 else str(status)] += 1
        fine = status == 0 or 200 <= status < 300 or 400 <= status < 500
        tally.expect(fine, f"{status} {text[:300]!r} to {sent[:300]!r}")
        if tally.tried == tally.of // 5:
            settled = server.memory("VmRSS")
    grown = server.memory("VmRSS") - settled
    tally.expect(grown < 300, f"the server has grown by {grown:.0f} MB since a fifth of the requests")
    told = ", ".join(f"{number:,} {name}" for name, number in sorted(statuses.items()))
    tally.note, tally.megabytes = f"{told}; {grown:+.0f} MB since a fifth of them", server.memory("VmHWM")
    return tally


def _rounds(tally: Tally, ask: Callable[[int], Any], server: Server, good: Any) -> Iterator[Any]:
    """Answers to numbered requests from several clients at once; good requests come in between."""
    with ThreadPoolExecutor(CLIENTS) as clients:
        while tally.tried < tally.of:
            for answer in clients.map(ask, range(tally.tried, min(tally.of, tally.tried + ROUND))):
                yield answer
                tally.count()
            tally.expect(server.good() == good, "good requests are answered otherwise")


class RestClient:
    """Sends damaged requests, most of them over one connection of each thread.

    Args:
        server: to ask.
        seed: of all draws.
    """

    def __init__(self, server: Server, seed: int) -> None:
        self.server, self.seed, self.path = server, seed, f"/v1/models/{server.model}:predict"
        rows = [{name: values[0] for name, values in server.bodies[0]["inputs"].items()}]
        self.bodies = [*server.bodies, {"signature_name": "score_rows", "instances": rows}]
        self.local = threading.local()

    def ask(self, number: int) -> tuple[int, bytes, bytes]:
        """Status and text of an answer, and the body that was sent; status 0 if the connection was closed."""
        rng = random.Random(f"{self.seed} {number}")
        body = rng.choice(self.bodies)
        sent = as_json(changed(rng, body)) if rng.random() < 0.5 else damaged(rng, as_json(body))
        kind, headers = rng.random(), {}
        if kind > 0.8:
            return *self._raw(_head(rng, self.path, len(sent)), sent), sent
        if kind < 0.15:
            headers["Content-Encoding"] = "gzip"
            sent = gzip.compress(sent, 1)
            if kind < 0.1:
                sent = damaged(rng, sent)
        connection = getattr(self.local, "connection", None) or self.server.connection()
        self.local.connection = None
        try:
            connection.request("POST", self.path, sent, headers)
            answer = connection.getresponse()
            text = answer.read()
        except OSError as error:
            return 599, repr(error).encode(), sent
        if answer.status < 500:
            self.local.connection = connection
        return answer.status, text, sent

    def _raw(self, head: bytes, body: bytes) -> tuple[int, bytes]:
        answer = b""
        with (
            suppress(ConnectionError),
            socket.create_connection((self.server.host, self.server.port), HANGS) as connection,
        ):
            connection.sendall(head + body)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(1 << 16):
                answer += piece
        found = re.match(rb"HTTP/1\.1 (\d+)", answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n"))
        return int(found[1]) if found else 0, answer


def _head(rng: random.Random, path: str, length: int) -> bytes:
    """Request line and headers, damaged."""
    model, _, _ = path.rpartition(":")
    number = rng.choice(["1", "0", "-1", "9" * 19, "9" * 5000, "1e3", "٣", "01", "", " 1"])
    label = rng.choice(["stable", "", "a" * 9000, "%2e%2e", "\x1b[31m", "é"])
    urls = [path, f"{model}/versions/{number}:predict", f"{model}/labels/{label}:predict", f"{model}/metadata", model]
    urls += [f"{path}?{label}", f"/v1/models/{label}:predict", f"{model}/../../x", "/", "*", "//", "/v1/models/"]
    headers = [f"Host: {rng.choice(['127.0.0.1', 'localhost', 'evil.example', '', '[::1', 'a' * 9000])}"]
    headers += [f"Content-Length: {rng.choice([length] * 4 + ['-1', 'x', 10**30, length + 1, 0])}"]
    headers += rng.sample(
        ["Transfer-Encoding: chunked", "Origin: http://evil.example", "Origin: null", "Content-Encoding: gzip, gzip",
         "Content-Encoding: br", "Expect: 100-continue", "Upgrade: websocket", "Connection: upgrade",
         "X: " + "y" * 70_000, "Content-Type: text/plain", "Accept-Encoding: gzip", ": empty", "no colon",
         "Host: again", "Range: bytes=0-1"],
        rng.randint(0, 3),
    )  # fmt: skip
    line = f"{rng.choice(['POST'] * 4 + ['GET', 'PUT', 'HEAD', 'OPTIONS', 'post', ''])} {rng.choice(urls)} HTTP/1.1"
    head = "\r\n".join([line, *headers, "Connection: close"]).encode() + b"\r\n\r\n"
    return head if rng.random() < 0.6 else damaged(rng, head)


def _grpc(ground: Ground, server: Server) -> Tally:
    import grpc

    tally, good, statuses = Tally("damaged gRPC requests", ground.tries(15_000)), server.good(), Counter[str]()
    refusals = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "OUT_OF_RANGE", "UNIMPLEMENTED"}

    def ask(number: int) -> tuple[str, str, bytes]:
        rng = random.Random(f"{ground.seed} {number}")
        message = rng.choice(server.messages)
        sent = _message(rng, message) if rng.random() < 0.6 else damaged(rng, message.SerializeToString())
        try:
            predict(sent, timeout=HANGS)
        except grpc.RpcError as error:
            # What gRPC itself says of bytes that are no message.
            text = error.details() or ""
            return "no message" if "deserializing request" in text else error.code().name, text, sent
        return "OK", "", sent

    with grpc.insecure_channel(server.target) as channel:
        predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        for name, text, sent in _rounds(tally, ask, server, good):
            statuses[name] += 1
            tally.expect(name in refusals or name == "no message", f"{name} {text[:300]} to {sent[:300]!r}")
    tally.note = ", ".join(f"{number:,} {name}" for name, number in sorted(statuses.items()))
    tally.megabytes = server.memory("VmHWM")
    return tally


def _message(rng: random.Random, good: Any) -> bytes:
    """A message with another model, version, signature, type, shape or value."""
    message = type(good)()
    message.CopyFrom(good)
    tensor = message.inputs[rng.choice(list(good.inputs))]
    for _ in range(rng.randint(1, 3)):
        match rng.randrange(9):
            case 0:
                message.model_spec.name = rng.choice(["", "x", "é" * 300, "\x1b[31m"])
            case 1:
                message.model_spec.version.value = rng.choice([0, -1, 1, 2**63 - 1])
            case 2:
                message.model_spec.version_label = rng.choice(["", "stable", "x" * 9000])
            case 3:
                message.model_spec.signature_name = rng.choice(["", "x", "__saved_model_init_op", "rank_candidates"])
            case 4:
                tensor.dtype = rng.choice([0, 1, 2, 3, 7, 9, 10, 20, 21, 101, 999])
            case 5:
                sizes = [rng.choice([-1, 0, 1, 2, 3, 7, 2**31, 2**62]) for _ in range(rng.randint(0, 9))]
                del tensor.tensor_shape.dim[:]
                for size in sizes:
                    tensor.tensor_shape.dim.add(size=size)
            case 6:
                tensor.tensor_content = damaged(rng, tensor.tensor_content)
            case 7:
                tensor.string_val.append(rng.choice([b"", b"\xff", b"x" * 9000]))
            case _:
                message.output_filter.append(rng.choice(["", "x", "click"]))
    return bytes(message.SerializeToString())


def _afterwards(server: Server) -> Tally:
    """What the server said meanwhile."""
    text = server.said.read_text(errors="replace")
    tally = Tally("tracebacks in the server's output", 0)
    tally.expect(
        "Traceback" not in text,
        f"{text.count('Traceback')}, the first: {text[max(0, text.find('Traceback')) :][:1500]}",
    )
    tally.expect(server.process.poll() is None, "the server has ended")
    return tally
