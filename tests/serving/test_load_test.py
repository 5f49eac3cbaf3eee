"""A load test counts what its loops say, on a clock that jumps from one event to the next."""

from __future__ import annotations

import asyncio
import math
import selectors
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
import pytest

from serving.calls import Address, Predict
from serving.load_result import Closed, Open
from serving.load_test import Bounds, load_test, sweep
from serving.prepared import GrpcSender, Prepared, RestSender, sender
from serving.protos import PREDICT, PredictRequest
from serving.tensors import from_tensor

# Not quite ten seconds: what is due then must not hang on the last bit of a number.
BARE = Bounds(seconds=9.99, warm_up=0, deadline=60)
ONE = [Prepared(b"", 1)]


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits: its clock jumps to the next timer."""

    def __init__(self):
        super().__init__(Jumping(self))
        self.now = 0.0

    def time(self):
        return self.now


class Jumping(selectors.SelectSelector):
    def __init__(self, loop):
        super().__init__()
        self.loop = loop

    def select(self, timeout=None):
        assert timeout is not None, "nothing would ever happen again"
        self.loop.now += timeout
        return []


def run(coroutine):
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(coroutine)


def now():
    return asyncio.get_running_loop().time()


def under(load, send, bounds=BARE, requests=ONE, **given):
    async def measure():
        return await load_test(send, requests, load, bounds, **given)

    return run(measure())


def takes(*seconds, statuses=("OK",)):
    """A server whose answers take so long and have these statuses, in turn; any number at once."""
    count = 0

    async def send(request):
        nonlocal count
        count += 1
        position = count - 1
        await asyncio.sleep(seconds[position % len(seconds)])
        return statuses[position % len(statuses)]

    return send


def one_by_one(seconds):
    """A server that answers one request at a time."""
    free = 0.0

    async def send(request):
        nonlocal free
        free = max(free, now()) + seconds
        await asyncio.sleep(free - now())
        return "OK"

    return send


def stalls(begin, end, seconds):
    """A server that takes so long for any number at once, but holds what it is asked between two moments."""

    async def send(request):
        await asyncio.sleep((end - now() if begin <= now() < end else 0) + seconds)
        return "OK"

    return send


def test_known_latencies_give_the_percentiles_of_numpy():
    seconds = np.random.default_rng(5).lognormal(-4, 1, 500)
    result = under(Open(50, "constant"), takes(*seconds))
    # 50 a second for almost ten seconds, the first 20 ms after the start.
    assert result.sent == 499 and result.latencies == pytest.approx(np.sort(seconds[:499]))
    for percent in (50, 95, 99, 100):
        assert result.percentile(percent) == pytest.approx(np.percentile(seconds[:499], percent))


def test_each_client_of_a_closed_loop_waits_for_its_answer():
    result = under(Closed(4), takes(0.25))
    # Four clients, four answers a second each; the last ones come as the time is over.
    assert result.sent == 160 and result.at_once == 4 and result.statuses == {"OK": 160}
    assert result.requests_per_second == pytest.approx(16, rel=0.03) and set(result.latencies.round(6)) == {0.25}


def test_more_clients_than_a_server_takes_only_wait_longer():
    results = run(sweep(one_by_one(0.05), ONE, [Closed(1), Closed(8)], BARE))
    assert [result.requests_per_second for result in results] == pytest.approx([20, 20], rel=0.02)
    assert [result.percentile(50) for result in results] == pytest.approx([0.05, 0.4])


def test_an_open_loop_counts_the_wait_behind_a_stalled_server():
    stalled = stalls(3.999, 6, 0.01)
    opened = under(Open(64, "constant"), stalled)
    # Due at 4, 4 1/64, 4 2/64 ... 5 63/64: they wait until 6, and 10 ms for their answers.
    held = 2.01 - np.arange(128) / 64
    quick = np.full(639 - 128, 0.01)
    assert opened.latencies == pytest.approx(np.sort(np.concatenate([quick, held])), abs=1e-6)
    assert opened.percentile(95) > 1 and opened.at_once >= 128
    # One client of a closed loop stalls with the server, and hardly notices.
    closed = under(Closed(1), stalled)
    assert closed.percentile(99) == pytest.approx(0.01) and closed.percentile(100) == pytest.approx(2.01, abs=0.01)


def test_an_open_loop_counts_from_the_due_time_even_if_the_client_is_late():
    async def send(request):
        # Work that holds the event loop, as a busy client's.
        asyncio.get_running_loop().now += 0.5 if now() == pytest.approx(2) else 0
        await asyncio.sleep(0.01)
        return "OK"

    result = under(Open(10, "constant"), send)
    late = sorted(result.latencies)[-5:]
    # Due at 2.0, 2.1, ... 2.4, sent at 2.5 at the earliest.
    assert late == pytest.approx([0.11, 0.21, 0.31, 0.41, 0.51], abs=1e-6)


def test_an_open_loop_holds_back_what_is_over_its_limit_and_counts_its_wait():
    result = under(Open(10, "constant"), takes(1.0), Bounds(seconds=1.15, warm_up=0, deadline=60, at_once=5))
    # Eleven requests a tenth of a second apart: five are sent at once, five wait for them, one waits twice.
    expected = [1.0] * 5 + [1.5] * 5 + [2.0]
    assert result.latencies == pytest.approx(expected) and result.at_once >= 10


def test_poisson_arrivals_have_the_rate_and_are_as_irregular_as_chance():
    async def arrivals(load):
        times = []

        async def send(request):
            times.append(now())
            return "OK"

        await load_test(send, ONE, load, Bounds(seconds=99.99, warm_up=0))
        return times

    times = run(arrivals(Open(50)))
    gaps = np.diff(times)
    assert len(times) == pytest.approx(5000, rel=0.05)
    # The standard deviation of exponential gaps is their mean.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)
    assert run(arrivals(Open(50))) == times and run(arrivals(Open(50, seed=1))) != times
    assert np.diff(run(arrivals(Open(50, "constant")))) == pytest.approx(np.full(4998, 0.02))


def test_errors_are_counted_by_status_and_give_no_latency():
    statuses = ("OK", "UNAVAILABLE", "OK", "RESOURCE_EXHAUSTED", "UNAVAILABLE")
    result = under(Open(10, "constant"), takes(0.2, 0.001, 0.2, 0.001, 0.001, statuses=statuses), requests=ONE)
    assert result.sent == 99 and result.errors == {"UNAVAILABLE": 39, "RESOURCE_EXHAUSTED": 20}
    assert list(result.errors) == ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]
    assert result.latencies == pytest.approx(np.full(40, 0.2))


def test_a_request_without_an_answer_counts_with_the_time_it_was_waited_for():
    async def send(request):
        await asyncio.Event().wait()

    result = under(Open(10, "constant"), send, Bounds(seconds=2, warm_up=0, deadline=3))
    assert result.statuses == {"DEADLINE_EXCEEDED": 19} and result.latencies == pytest.approx(np.full(19, 3.0))
    assert result.requests_per_second == 0


def test_what_is_due_in_the_warm_up_is_not_counted():
    async def send(request):
        await asyncio.sleep(1.0 if now() < 1.5 else 0.1)
        return "OK"

    result = under(Closed(1), send, Bounds(seconds=4, warm_up=1.95))
    assert result.sent == 40 and result.latencies.max() == pytest.approx(0.1) and result.seconds == pytest.approx(4)


def test_rows_per_second_count_the_rows_of_the_requests_sent_in_turn():
    requests = [Prepared(b"a", 3), Prepared(b"b", 5)]
    seen = []

    async def send(request):
        seen.append(request.content)
        await asyncio.sleep(0.1)
        return "OK"

    result = under(Open(10, "constant"), send, Bounds(seconds=2.05, warm_up=0), requests)
    assert seen == [b"a", b"b"] * 10
    # Twenty were sent, nineteen were answered in time: ten of three rows, nine of five.
    assert result.rows_per_second == pytest.approx((10 * 3 + 9 * 5) / 2.05)


@pytest.mark.parametrize("load", [Closed(2), Open(20, "constant")])
def test_a_test_ends_at_its_number_of_requests(load):
    result = under(load, takes(0.1), Bounds(seconds=60, warm_up=0, requests=40))
    assert result.sent in (40, 41) and result.seconds == pytest.approx(2.1, abs=0.11)
    assert result.requests_per_second == pytest.approx(20, rel=0.06)


@pytest.mark.parametrize("load", [Closed(2), Open(20)])
def test_a_test_ends_in_time_whatever_the_server_does(load):
    async def measure():
        await load_test(takes(1e9), ONE, load, Bounds(seconds=5, warm_up=1, deadline=2))
        return now()

    assert 6 <= run(measure()) <= 8


def test_a_busy_client_is_named():
    async def send(request):
        asyncio.get_running_loop().now += 0.02
        await asyncio.sleep(0.01)
        return "OK"

    result = under(Closed(1), send)
    assert result.late >= 0.01 and any("the client was late by up to" in note for note in result.notes())

    async def measure():
        clock = asyncio.get_running_loop().time
        return await load_test(takes(0.1), ONE, Closed(1), BARE, processor=lambda: 0.9 * clock())

    result = run(measure())
    assert result.processor == pytest.approx(0.9) and result.late == pytest.approx(0, abs=1e-6)
    (note,) = result.notes()
    assert note.startswith("the client used 0.90 processor cores")


def test_a_server_that_does_not_keep_up_is_named():
    result = under(Open(40, "constant"), one_by_one(0.05))
    assert result.requests_per_second == pytest.approx(20, rel=0.02)
    (note,) = result.notes()
    assert note.startswith("19.9 of 39.9 requests per second were answered")
    assert under(Open(10, "constant"), one_by_one(0.05)).notes() == []


def test_results_are_json_even_if_nothing_was_answered():
    result = under(Open(10, "constant"), takes(0.1, statuses=("UNAVAILABLE",)))
    assert math.isnan(result.percentile(50))
    assert result.as_dict()["latency_ms"] == {"p50": None, "p95": None, "p99": None, "max": None}
    assert result.as_dict()["rate"] == 10 and result.as_dict()["statuses"] == {"UNAVAILABLE": 99}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Closed(0), "`clients` must be at least 1, received 0"),
        (lambda: Open(0.0), "`rate` must be a positive number of requests per second, received 0"),
        (lambda: Open(math.inf), "`rate` must be a positive number"),
        (lambda: Open(1.0, "bursts"), '`arrivals` must be "poisson" or "constant", received \'bursts\''),
        (lambda: Bounds(seconds=0), "`seconds` must be a number of seconds > 0, received 0"),
        (lambda: Bounds(warm_up=-1), "`warm_up` must be a number of seconds >= 0, received -1"),
        (lambda: Bounds(deadline=math.nan), "`deadline` must be a number of seconds > 0"),
        (lambda: Bounds(requests=0), "`requests` must be at least 1, received 0"),
        (lambda: under(Closed(1), takes(1), requests=[]), "`requests` must hold at least one request"),
    ],
)
def test_what_is_out_of_bounds_is_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)


REQUEST = Predict("score_rows", {"x": [1, 2]}, {"x": "int"})


@contextmanager
def wire(answers):
    """A server that gives these bytes, one answer per connection's request; `None` closes the connection instead.

    Yields its address, the bytes of the requests, and from how many connections they came.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    seen, connections = [], []
    answers = iter(answers)

    def serve(connection):
        with connection:
            while piece := connection.recv(65536):
                seen.append(piece)
                answer = next(answers)
                if answer is None:
                    return
                connection.sendall(answer)
                if b"Connection: close" in answer:
                    return

    def accept():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            connections.append(connection)
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield Address(f"http://127.0.0.1:{listening.getsockname()[1]}", "toy", version=3), seen, connections
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def ask(address, times=1):
    async def sent():
        asking = sender(address)
        request = asking.prepare(REQUEST, 2)
        try:
            return [await asyncio.wait_for(asking.send(request), 10) for _ in range(times)]
        finally:
            await asking.close()

    return asyncio.run(sent())


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def test_rest_requests_are_sent_whole_over_one_connection():
    with wire([OK, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", OK]) as found:
        address, seen, connections = found
        assert ask(address, 3) == ["OK"] * 3 and len(connections) == 1
        head, _, body = seen[0].partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        assert lines[0] == "POST /v1/models/toy/versions/3:predict HTTP/1.1"
        assert f"Host: {address.target.removeprefix('http://')}" in lines and f"Content-Length: {len(body)}" in lines
        assert body == b'{"signature_name": "score_rows", "inputs": {"x": [1, 2]}}' and len(set(seen)) == 1


def test_a_connection_that_the_server_closes_is_replaced():
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
    with wire([closing, OK]) as (address, _, connections):
        assert ask(address, 2) == ["OK", "OK"] and len(connections) == 2


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 429 Too Many\r\nContent-Length: 0\r\n\r\n", "RESOURCE_EXHAUSTED"),
        (b"HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n", "UNAVAILABLE"),
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", "NOT_FOUND"),
        (b"HTTP/1.1 418 Tea\r\nContent-Length: 0\r\n\r\n", "UNKNOWN"),
        (b"SSH-2.0-hello\r\n\r\n", "INTERNAL"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\n\r\n{}", "INTERNAL"),
        (None, "UNAVAILABLE"),
    ],
)
def test_rest_answers_have_the_status_that_they_say(answer, status):
    with wire([answer, OK]) as (address, _, _):
        # The next request is not harmed by what came before.
        assert ask(address, 2) == [status, "OK"]


def test_a_server_that_is_not_there_is_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert ask(Address(f"http://127.0.0.1:{port}", "toy")) == ["UNAVAILABLE"]


def test_grpc_requests_are_official_messages_and_have_the_status_of_their_answer():
    seen = []

    def predict(content, context):
        seen.append(PredictRequest.FromString(content))
        if len(seen) == 2:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "later")
        return b""

    server = grpc.server(ThreadPoolExecutor(1))
    service, _, method = PREDICT.strip("/").partition("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(predict)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert ask(Address(f"grpc://127.0.0.1:{port}", "toy", label="canary"), 3) == ["OK", "RESOURCE_EXHAUSTED", "OK"]
    finally:
        server.stop(None)
    spec = seen[0].model_spec
    assert (spec.name, spec.version_label, spec.signature_name) == ("toy", "canary", "score_rows")
    assert from_tensor(seen[0].inputs["x"]).tolist() == [1, 2]


def test_the_interface_is_told_by_the_target():
    assert isinstance(sender(Address("https://h", "m")), RestSender)
    assert isinstance(sender(Address("grpc://h:1", "m")), GrpcSender)
