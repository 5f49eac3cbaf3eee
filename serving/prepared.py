"""Requests that are checked and encoded once and sent many times, as cheaply as Python can: for load tests.

A client checks and encodes the rows of every call, and httpx takes most of a millisecond of processor time per request;
a load test that did so would measure itself. Here only the status of an answer is read.
"""

from __future__ import annotations

import asyncio
import ssl
import urllib.parse
from dataclasses import dataclass
from typing import Any, Protocol

import h11

from serving.calls import INTERNAL, UNAVAILABLE, Address, Predict
from serving.load_result import OK
from serving.transport_rest import HEADERS, STATUS, encode

# Bytes that are read at once.
PIECE = 65536


@dataclass(frozen=True)
class Prepared:
    """A request as it goes over the wire.

    Args:
        content: its bytes.
        rows: rows or candidates in it.
    """

    content: bytes
    rows: int


class Sender(Protocol):
    """Sends prepared requests on one event loop."""

    def prepare(self, request: Predict, rows: int) -> Prepared:
        """Encodes a request of so many rows.

        Raises:
            ValueError: if its inputs hold what the interface has no form for.
        """

    async def send(self, request: Prepared) -> str:
        """Sends a request; may be cancelled.

        Returns:
            OK, or the name of a gRPC status, over REST too. A server that cannot be reached is UNAVAILABLE.
        """

    async def close(self) -> None:
        """Closes the connections."""


def sender(address: Address) -> Sender:
    """A sender for an address, over REST or gRPC as it says."""
    return GrpcSender(address) if address.target.startswith("grpc:") else RestSender(address)


class RestSender:
    """Over HTTP/1.1, with a connection for each request under way; they are kept open. No proxy is used.

    Args:
        address: whom to ask.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        url = urllib.parse.urlsplit(address.target)
        secure = url.scheme == "https"
        self._host, self._port = url.hostname, url.port or (443 if secure else 80)
        self._netloc, self._ssl = url.netloc, ssl.create_default_context() if secure else None
        self._asked = h11.Request(method="POST", target="/", headers=[("Host", url.netloc)])
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    def prepare(self, request: Predict, rows: int) -> Prepared:
        """As `Sender.prepare`."""
        method, url, body = encode(self.address, request)
        headers = {"Host": self._netloc, **HEADERS, "Content-Length": str(len(body or b""))}
        lines = [f"{method} {urllib.parse.urlsplit(url).path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
        return Prepared("\r\n".join([*lines, "", ""]).encode() + (body or b""), rows)

    async def send(self, request: Prepared) -> str:
        """As `Sender.send`."""
        try:
            code = await self._exchange(request.content)
        except OSError:
            return UNAVAILABLE
        except h11.RemoteProtocolError:
            return INTERNAL
        return OK if code == 200 else STATUS.get(code, "UNKNOWN")

    async def close(self) -> None:
        """As `Sender.close`."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()

    async def _exchange(self, content: bytes) -> int:
        reader, writer = await self._connection()
        try:
            writer.write(content)
            # h11 reads the answer; it has to hear of a request first.
            answer = h11.Connection(h11.CLIENT)
            answer.send(self._asked)
            answer.send(h11.EndOfMessage())
            code = await _read(reader, answer)
        except BaseException:
            writer.transport.abort()
            raise
        if answer.their_state is h11.DONE:
            self._idle.append((reader, writer))
        else:
            writer.close()
        return code

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            # Servers close what is idle for long.
            writer.close()
        return await asyncio.open_connection(self._host, self._port, ssl=self._ssl)


async def _read(reader: asyncio.StreamReader, answer: h11.Connection) -> int:
    code = 0
    while True:
        event = answer.next_event()
        if event is h11.NEED_DATA:
            piece = await reader.read(PIECE)
            if not piece and not code:
                raise ConnectionResetError("closed without an answer")
            answer.receive_data(piece)
        elif isinstance(event, h11.Response):
            code = event.status_code
        elif isinstance(event, h11.EndOfMessage):
            return code


class GrpcSender:
    """Over gRPC; all requests share a connection. No proxy is used.

    Args:
        address: whom to ask.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._channel: Any = None
        self._ask: Any = None

    def prepare(self, request: Predict, rows: int) -> Prepared:
        """As `Sender.prepare`."""
        from serving.transport_grpc import encode

        return Prepared(encode(self.address, request).SerializeToString(), rows)

    async def send(self, request: Prepared) -> str:
        """As `Sender.send`."""
        import grpc.aio

        if self._channel is None:
            from serving.protos import PREDICT
            from serving.transport_grpc import OPTIONS

            # A channel belongs to the loop that runs while it is made. Without serializers it sends and gives bytes.
            host = self.address.target.removeprefix("grpc://").rstrip("/")
            self._channel = grpc.aio.insecure_channel(host, (*OPTIONS, ("grpc.enable_http_proxy", 0)))
            self._ask = self._channel.unary_unary(PREDICT)
        try:
            await self._ask(request.content)
        except grpc.RpcError as error:
            return str(error.code().name)
        return OK

    async def close(self) -> None:
        """As `Sender.close`."""
        if self._channel is not None:
            await self._channel.close()
