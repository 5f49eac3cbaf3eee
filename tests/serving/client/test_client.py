"""A client sends rows as the signature takes them, in order and in time, and says readably why it has no scores."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from mixrank.schemas.encode import PADDING, columns
from mixrank.serving.base import load_spec
from mixrank.serving.client import AsyncClient, Client, RowError, transport_rest
from mixrank.serving.client import client as client_module
from mixrank.serving.client.protocol import ASKED_AGAIN, Address, Predict, ServingError, State
from mixrank.serving.dev_server import running
from mixrank.serving.dev_server.errors import HTTP_STATUS, Refused

WAYS = ["rest", "async rest", "grpc", "async grpc"]


@pytest.fixture(scope="module")
def toy_server(toy_export):
    with running({"toy": toy_export.base}) as server:
        yield server


@pytest.fixture
def naps(monkeypatch):
    """The pauses of clients, which then take no time."""
    taken = []

    async def nap(seconds):
        taken.append(seconds)

    monkeypatch.setattr(client_module, "time", SimpleNamespace(sleep=taken.append))
    monkeypatch.setattr(client_module, "asyncio", SimpleNamespace(sleep=nap))
    return taken


def target_of(server, interface):
    return server.rest_url if interface == "rest" else f"grpc://{server.grpc_target}"


@pytest.fixture(params=WAYS)
def call(request, tiny_server, naps):
    """`call("score", rows, **settings)` through one of the four ways to ask; `to` is a server with the model `toy`."""
    interface = request.param.split()[-1]

    def call(method, *arguments, target=None, to=None, **settings):
        target, model = target or target_of(to or tiny_server, interface), "toy" if to else "tiny"
        settings = {"deadline": 60.0} | settings
        if not request.param.startswith("async"):
            with Client(target, model, **settings) as client:
                return getattr(client, method)(*arguments)

        async def ask():
            async with AsyncClient(target, model, **settings) as client:
                return await getattr(client, method)(*arguments)

        return asyncio.run(ask())

    call.interface = interface
    return call


def rows(count):
    return [{"x": float(number), "page": f"p{number}"} for number in range(count)]


def clicks(scores):
    return [score["click"] for score in scores]


# Scores.


def test_scores_come_in_the_order_of_the_rows_and_chunks(call, served):
    scores = call("score", rows(5), max_rows=2)
    assert clicks(scores) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert [score["buy"] for score in scores] == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6])
    assert served.seen == [
        {"x": [0.0, 1.0], "page": ["p0", "p1"]},
        {"x": [2.0, 3.0], "page": ["p2", "p3"]},
        {"x": [4.0], "page": ["p4"]},
    ]


def test_no_rows_have_no_scores_and_ask_nobody(call, served):
    assert call("score", []) == [] and served.seen == []


@pytest.mark.parametrize("which", [{"version": 3}, {"label": "stable"}])
def test_the_version_named_answers_whose_single_output_rest_leaves_unnamed(call, which):
    assert call("score", [{"x": 2.0, "page": ""}], **which) == [{"click": pytest.approx(0.4)}]


@pytest.mark.parametrize(
    ("which", "status"), [({"version": 9}, "NOT_FOUND"), ({"label": "nobody"}, "INVALID_ARGUMENT")]
)
def test_an_unknown_version_or_label_is_an_error(call, which, status):
    with pytest.raises(ServingError) as caught:
        call("score", rows(1), **which)
    assert (caught.value.status, caught.value.tries) == (status, 1)
    with pytest.raises(ServingError) as caught:
        call("version", **which)
    assert caught.value.status == status


@pytest.mark.parametrize(("which", "answers"), [({}, 12), ({"version": 3}, 3), ({"label": "stable"}, 3)])
def test_the_version_that_answers_is_told(call, which, answers):
    assert call("version", **which) == answers


def test_status_is_the_state_of_every_version(call):
    states = call("status", label="stable")
    assert list(states) == [3, 7, 12]
    assert states[3] == states[12] == State("AVAILABLE")
    assert states[7].name == "END" and states[7].message
    assert call("status", version=12) == {12: State("AVAILABLE")}


def test_without_a_spec_a_request_and_its_candidates_are_sent_as_they_are(call, served):
    assert clicks(call("rank", {"user": 5}, [{"x": 1.0}, {"x": 2.0}])) == pytest.approx([0.1, 0.2])
    assert served.seen == [{"user": 5, "x": [1.0, 2.0]}]


# Scores of a whole model.


def test_rows_get_the_scores_of_the_keras_model(call, toy_server, toy_spec, toy_data, toy_scores):
    scores = call("score", toy_data.rows["eval"], spec=toy_spec, max_rows=64, to=toy_server)
    for task, expected in toy_scores.items():
        np.testing.assert_allclose([[score[task]] for score in scores], expected, atol=1e-5)


@pytest.fixture(scope="module")
def candidates(toy_spec, toy_data):
    """The request of the first row, the items of the first twenty, and both as rows."""
    items, rows = {column.name for column in columns(toy_spec) if column.candidate}, toy_data.rows["eval"][:20]
    request = {name: value for name, value in rows[0].items() if name not in items}
    candidates = [{name: row[name] for name in items} for row in rows]
    return request, candidates, [request | candidate for candidate in candidates]


def test_candidates_get_the_scores_of_their_rows(call, toy_server, toy_export, candidates):
    request, items, rows = candidates
    ranked = call("rank", request, items, spec=toy_export.base, to=toy_server)
    scored = call("score", rows, spec=toy_export.base, to=toy_server)
    for task in ("click", "buy"):
        np.testing.assert_allclose([s[task] for s in ranked], [s[task] for s in scored], atol=1e-5)
        assert np.ptp([score[task] for score in ranked]) > 1e-3


@pytest.mark.slow
def test_the_folder_without_a_server_says_the_same(toy_export, toy_data, toy_scores, candidates):
    from mixrank.serving.export import LocalModel

    model, (request, items, rows) = LocalModel(toy_export.base), candidates
    assert model.score([]) == []
    scored = model.score(toy_data.rows["eval"])
    for task, expected in toy_scores.items():
        np.testing.assert_allclose([[score[task]] for score in scored], expected, atol=1e-5)
    np.testing.assert_allclose(clicks(model.rank(request, items)), clicks(model.score(rows)), atol=1e-5)


def test_rows_are_checked_and_padded_by_the_spec(call, served, toy_server, toy_spec):
    full = {"page": "cart", "person": 7, "clip": "café", "tag": ["a"], "price": 2.5, "global_clip": ["x", "y"]}
    full |= {"global_tag": ["a", "", "", "b", "c", ""], "global_action": [3, 0], "global_gap": [10, -1]}
    short = {"page": "home", "person": 8, "clip": "z", "at": 5, "click": 1}
    assert len(call("score", [full, short], spec=toy_spec, to=toy_server)) == 2
    (inputs,) = served.seen
    assert set(inputs) == {column.name for column in columns(toy_spec) if column.serving}
    assert inputs["clip"] == ["café", "z"] and inputs["person"] == [7, 8]
    assert inputs["tag"] == [["a", "", ""], ["", "", ""]]
    assert inputs["global_action"] == [[3, 0, *[PADDING["int"]] * 4], [PADDING["int"]] * 6]
    assert inputs["price"][0] == 2.5 and np.isnan(inputs["price"][1])


def test_candidates_are_columns_and_the_request_has_no_batch_axis(call, served, toy_server, toy_spec):
    request = {"page": "cart", "person": 7, "age": 30, "realtime_clip": ["x"], "realtime_action": [1]}
    request |= {"realtime_tag": ["a", "", ""], "realtime_gap": [4]}
    candidates = [{"clip": "a", "price": 1.5}, {"clip": "b", "tag": ["t"]}, {"clip": "c"}]
    assert len(call("rank", request, candidates, spec=toy_spec, max_rows=2, to=toy_server)) == 3
    (inputs,) = served.seen
    assert (inputs["page"], inputs["person"], inputs["age"]) == ("cart", 7, 30.0)
    assert inputs["realtime_clip"] == ["x", "", "", ""]
    assert inputs["clip"] == ["a", "b", "c"]
    assert inputs["tag"] == [["", "", ""], ["t", "", ""], ["", "", ""]]


def test_only_the_tasks_of_the_spec_are_scores(call, served, toy_server, toy_spec):
    served.answer = lambda inputs: {"later": [[0.9]], "click": [[0.25]], "buy": [[0.5]]}
    row = {"page": "cart", "person": 7, "clip": "a"}
    assert call("score", [row], spec=toy_spec, to=toy_server) == [{"click": 0.25, "buy": 0.5}]
    served.answer = lambda inputs: {"click": [[0.5]], "other": [[0.5]]}
    with pytest.raises(ServingError, match=r"no score for `buy`, only \['click', 'other'\]"):
        call("score", [row], spec=toy_spec, to=toy_server)


# Rows that do not fit.

GOOD_ROW = {"page": "cart", "person": 7, "clip": "a"}


def test_unknown_fields_are_dropped_if_asked(call, served, toy_server, toy_spec):
    settings = {"spec": toy_spec, "unknown": "drop", "to": toy_server}
    assert len(call("score", [GOOD_ROW | {"colour": "red"}], **settings)) == 1
    request, candidate = {"page": "cart", "person": 7, "mood": 3}, {"clip": "a", "colour": "red"}
    assert len(call("rank", request, [candidate], **settings)) == 1
    assert len(served.seen) == 2 and all(not {"colour", "mood"} & set(inputs) for inputs in served.seen)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (GOOD_ROW | {"colour": "red"}, "row 1: spec `toy` has no column `colour`"),
        (GOOD_ROW | {"person": "7"}, "row 1: column `person` takes a 64-bit integer, received '7'"),
        ({"page": "cart", "person": 7}, "row 1: column `clip` is required but missing"),
        (["page"], r"row 1: expected column -> value, received \['page'\] \(list\)"),
    ],
)
def test_a_row_that_does_not_fit_is_named_before_anything_is_sent(served, tiny_server, toy_spec, row, message):
    with (
        Client(tiny_server.rest_url, "toy", spec=toy_spec, max_rows=1) as client,
        pytest.raises(RowError, match=message) as caught,
    ):
        client.score([GOOD_ROW, row])
    assert caught.value.position == 1 and served.seen == []


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([{"x": 1.0}, {"x": 1.0, "y": 2.0}], "row 1: it adds column `y`; without a spec all have"),
        ([{"x": 1.0, "y": 2.0}, {"x": 1.0}], "row 1: it lacks column `y`; without a spec all have"),
        ([7], r"row 0: expected column -> value, received 7 \(int\)"),
    ],
)
def test_rows_without_a_spec_have_the_same_columns(tiny_server, others, message):
    with Client(tiny_server.rest_url, "tiny") as client, pytest.raises(RowError, match=message):
        client.score(others)


@pytest.mark.parametrize(
    ("request_", "candidates", "message"),
    [
        ({}, [], "at least one candidate"),
        ({}, [{"x": 1}, {"y": 1}], "candidate 1: it adds column `y`"),
        ({"x": 1}, [{"x": 1}], "column `x` is in the request and in the candidates"),
    ],
)
def test_a_request_without_a_spec_is_still_a_request(tiny_server, request_, candidates, message):
    with Client(tiny_server.rest_url, "tiny") as client, pytest.raises(ValueError, match=message):
        client.rank(request_, candidates)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1, 2], [3]], "column `x`: lists must have one length"),
        ([1, None], r"column `x`: values must be all integers, all numbers or all text, received \[1, None\]"),
        ([True, False], "column `x`: values must be all integers, all numbers or all text"),
        ([1, "a"], "column `x`: values must be all integers, all numbers or all text"),
        ([2**63, 1], r"column `x`: integers must have 64 bits, received \[9223372036854775808, 1\]"),
        (["\ud800"], "column `x`: .*surrogates not allowed"),
    ],
)
def test_values_that_no_tensor_holds_are_refused_over_grpc(served, tiny_server, values, message):
    with Client(f"grpc://{tiny_server.grpc_target}", "tiny") as client, pytest.raises(ValueError, match=message):
        client.score([{"x": value} for value in values])
    assert served.seen == []


def test_values_that_json_has_no_form_for_are_refused_over_rest(tiny_server):
    with Client(tiny_server.rest_url, "tiny") as client, pytest.raises(ValueError, match="not JSON serializable"):
        client.score([{"x": b"bytes"}])


# Refusals, retries, broken answers.


# Of those that are one HTTP status, the first.
ERRORS = list(dict(zip(reversed(HTTP_STATUS.values()), reversed(HTTP_STATUS), strict=True)).values())


@pytest.mark.parametrize("status", [*(status for status in ERRORS if status not in ASKED_AGAIN), "INTERNAL"])
def test_errors_are_named_and_not_asked_again(call, served, naps, status):
    def refuse(inputs):
        raise Refused("because of x", status)

    served.answer = refuse
    with pytest.raises(ServingError, match=f"model `tiny`, label `stable` at .*{status}: because of x$") as caught:
        call("score", rows(1), label="stable")
    assert (caught.value.status, caught.value.message, caught.value.tries) == (status, "because of x", 1)
    assert len(served.seen) == 1 and naps == []


def failing(times, status="UNAVAILABLE"):
    """An error a number of times, then scores."""
    left = iter(range(times))

    def answer(inputs):
        if next(left, None) is not None:
            raise Refused("loading", status)
        return {"click": [[0.5]] * len(inputs["x"]), "buy": [[0.25]] * len(inputs["x"])}

    return answer


@pytest.mark.parametrize("status", ASKED_AGAIN)
def test_a_server_that_cannot_answer_now_is_asked_again(call, served, naps, status):
    served.answer = failing(3, status)
    assert call("score", rows(3), max_rows=1, retries=3) == [{"click": 0.5, "buy": 0.25}] * 3
    assert len(served.seen) == 3 + 3
    # A tenth of a second, twice that, and again, each less up to a half.
    assert len(naps) == 3
    assert all(0.05 * 2**number <= nap <= 0.1 * 2**number for number, nap in enumerate(naps))


def test_retries_end(call, served, naps):
    served.answer = failing(100)
    with pytest.raises(ServingError, match=r"UNAVAILABLE: loading \(asked 3 times\)") as caught:
        call("score", rows(1), retries=2)
    assert (caught.value.tries, len(served.seen), len(naps)) == (3, 3, 2)


def test_a_refused_connection_is_tried_again(call, naps):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    scheme = "http" if call.interface == "rest" else "grpc"
    with pytest.raises(ServingError, match=r"UNAVAILABLE: .*(?s:refused|failed).*\(asked 3 times\)") as caught:
        call("score", rows(1), target=f"{scheme}://127.0.0.1:{port}", retries=2)
    assert caught.value.status == "UNAVAILABLE" and len(naps) == 2


@pytest.mark.parametrize("call", WAYS[2:], indirect=True)
def test_a_connection_may_take_a_while(call, tiny_server):
    def pump(source, sink):
        # The client may be gone before the server's last word.
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def relay():
        # Until then nothing answers the greeting of the client, which is all that it waits for.
        time.sleep(0.2)
        near, _ = listening.accept()
        host, port = tiny_server.grpc_target.split(":")
        with near, socket.create_connection((host, int(port))) as far:
            back = threads.submit(pump, far, near)
            pump(near, far)
            back.result()

    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(2) as threads:
        relayed = threads.submit(relay)
        scores = call("score", rows(2), target=f"grpc://127.0.0.1:{listening.getsockname()[1]}", retries=0)
        relayed.result()
    assert clicks(scores) == pytest.approx([0.0, 0.1])


@pytest.fixture
def blunt():
    """Listens and answers each connection with the next of some bytes, then closes it."""
    listening = socket.create_server(("127.0.0.1", 0))
    accepted = []

    def serve(*answers, drip=None):
        def accept():
            for answer in answers:
                try:
                    connection, _ = listening.accept()
                    with connection:
                        accepted.append(connection.recv(65536))
                        connection.sendall(answer)
                        while drip and not drip.wait(0.02):
                            connection.sendall(b" ")
                except OSError:
                    # The test is over.
                    return

        threading.Thread(target=accept, daemon=True).start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    serve.accepted = accepted
    listening.settimeout(20)
    yield serve
    listening.close()


def http(body, length=None, status=b"200 OK"):
    length = len(body) if length is None else length
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, length, body)


GOOD = http(b'{"outputs": {"click": [0.5], "buy": [0.25]}}')


@pytest.mark.parametrize("call", WAYS[:2], indirect=True)
@pytest.mark.parametrize("broken", [b"", b"HTTP/1.1 200 OK\r\nContent-", http(b'{"outputs"', length=500), b"\0\1\2"])
def test_a_connection_that_is_lost_is_tried_again(call, blunt, naps, broken):
    assert call("score", rows(1), target=blunt(broken, GOOD)) == [{"buy": 0.25, "click": 0.5}]
    assert len(blunt.accepted) == 2 and len(naps) == 1


@pytest.mark.parametrize("call", WAYS[2:], indirect=True)
def test_a_server_that_speaks_no_grpc_is_unavailable(call, blunt):
    target = blunt(*[GOOD] * 5).replace("http", "grpc")
    with pytest.raises(ServingError) as caught:
        call("score", rows(1), target=target, retries=0)
    assert caught.value.status == "UNAVAILABLE"


@pytest.mark.parametrize("call", WAYS[:2], indirect=True)
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (http(b'{"outputs": [[0.5]'), 'INTERNAL: its answer cannot be read: {"outputs": '),
        (http(b""), "INTERNAL: its answer cannot be read: $"),
        (http(b"[" * 50_000), r"INTERNAL: its answer cannot be read: \[{200}$"),
        (http(b'{"predictions": [[0.5]]}'), "INTERNAL: its answer cannot be read: {'predictions'"),
        (http(b'{"outputs": {"click": [1%s], "buy": [0]}}' % (b"0" * 400)), "`click` of row 0 of a request with 1000"),
        (http(b"[1, 2]"), r"INTERNAL: its answer cannot be read: \[1, 2\]"),
        (http(b"\xff\xfe"), "INTERNAL: its answer cannot be read"),
        (http(b"login", status=b"302 Found"), "UNKNOWN: HTTP status 302: login"),
        (http(b"Not found", status=b"404 Not Found"), "NOT_FOUND: Not found"),
    ],
)
def test_an_answer_that_cannot_be_read_is_shown_and_not_asked_again(call, blunt, answer, message):
    with pytest.raises(ServingError, match=message):
        call("score", rows(1), target=blunt(answer, GOOD))
    assert len(blunt.accepted) == 1


@pytest.mark.parametrize("call", WAYS[:2], indirect=True)
def test_a_server_that_answers_byte_by_byte_exceeds_the_deadline(call, blunt):
    stop = threading.Event()
    try:
        with pytest.raises(ServingError) as caught:
            call("score", rows(1), target=blunt(http(b"", length=10**6), drip=stop), deadline=0.3)
        assert caught.value.status == "DEADLINE_EXCEEDED"
    finally:
        stop.set()


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"click": [[0.5], [float("nan")]], "buy": [[0.5], [0.5]]}, "`click` of row 1 of a request with nan"),
        ({"click": [[0.5], [0.5]], "buy": [[float("inf")], [0.5]]}, "`buy` of row 0 of a request with inf"),
        ({"click": [[0.5]], "buy": [[0.5], [0.5]]}, "`click` of 2 rows with 1 scores"),
        ({"click": 0.5, "buy": 0.5}, "of 2 rows with 0.5"),
        ({}, "it answered no scores"),
        ({"click": [[0.5, 0.5], [0.5, 0.5]], "buy": [[0.5], [0.5]]}, r"`click` of row 0 .* with \[0.5, 0.5\]"),
        ({"click": [[0.5], [0.5]], "buy": [[True], [False]]}, "`buy` of row 0 .* with True"),
    ],
)
def test_only_one_finite_number_per_row_and_task_is_a_score(call, served, outputs, message):
    served.answer = lambda inputs: outputs
    with pytest.raises(ServingError, match=message) as caught:
        call("score", rows(2))
    assert caught.value.status == "INTERNAL" and len(served.seen) == 1


def test_scores_without_a_name_are_not_guessed(served, toy_server, toy_spec):
    served.answer = lambda inputs: {"click": [[0.5]]}
    with (
        Client(toy_server.rest_url, "toy", spec=toy_spec) as client,
        pytest.raises(ServingError, match="without a name"),
    ):
        client.score([GOOD_ROW])


def test_a_slow_server_exceeds_the_deadline(call, served, naps):
    answered = threading.Event()

    def wait(inputs):
        answered.wait(20)
        return {"click": [[0.5]], "buy": [[0.5]]}

    served.answer = wait
    try:
        with pytest.raises(ServingError) as caught:
            call("score", rows(1), deadline=0.2)
        assert caught.value.status == "DEADLINE_EXCEEDED" and naps == []
        assert re.search("no answer within 0|not done within 0|Deadline Exceeded", str(caught.value))
    finally:
        answered.set()


def test_every_phase_of_a_request_has_what_is_left_of_its_time(monkeypatch, blunt):
    clock, asked = SimpleNamespace(now=100.0), []

    class Slow(transport_rest.TimeLeft):
        def get(self, phase, default=None):
            asked.append((phase, super().get(phase, default)))
            clock.now += 1
            return 20.0

    monkeypatch.setattr(transport_rest, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(transport_rest, "TimeLeft", Slow)
    transport = transport_rest.RestTransport(Address(blunt(GOOD), "toy"))
    transport.ask(Predict("score_rows", {"x": [1]}), 60.0)
    transport.close()
    assert [left for _, left in asked] == [60.0 - number for number in range(len(asked))]
    assert {phase for phase, _ in asked} == {"pool", "connect", "write", "read"}


# Many at once.


@pytest.fixture
def eight_together(served):
    """The server answers eight requests at once, and none before."""
    together = threading.Barrier(8)

    def meet(inputs):
        together.wait(20)
        return {"click": np.array([inputs["x"]]).T / 10, "buy": np.zeros([1, 1])}

    served.answer = meet


@pytest.mark.parametrize("interface", ["rest", "grpc"])
def test_an_async_client_has_many_calls_under_way_at_once(tiny_server, eight_together, interface):
    async def ask():
        async with AsyncClient(target_of(tiny_server, interface), "tiny", deadline=60) as client:
            return await asyncio.gather(*(client.score([{"x": float(number), "page": ""}]) for number in range(40)))

    answers = asyncio.run(ask())
    assert [click for scores in answers for click in clicks(scores)] == pytest.approx([n / 10 for n in range(40)])


@pytest.mark.parametrize("interface", ["rest", "grpc"])
def test_a_client_may_be_used_by_several_threads(tiny_server, eight_together, interface):
    with (
        Client(target_of(tiny_server, interface), "tiny", deadline=60) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        answers = list(pool.map(lambda number: client.score([{"x": float(number), "page": ""}]), range(40)))
    assert [click for scores in answers for click in clicks(scores)] == pytest.approx([n / 10 for n in range(40)])


# Settings.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"target": "localhost:8501"},
            "must be like http://localhost:8501 or grpc://localhost:8500, received",
        ),
        ({"target": "ftp://h:1"}, "`target` must be like"),
        ({"target": "grpc://h"}, "`target` must be like"),
        ({"target": "grpc://h:8500/v1"}, "`target` must be like"),
        ({"target": "http://"}, "`target` must be like"),
        ({"target": "http://h:port"}, "`target` must be like"),
        ({"model": ""}, "`model` must be the name of a model"),
        ({"version": 1, "label": "stable"}, "give `version` or `label`, not both: received 1 and 'stable'"),
        ({"deadline": 0}, "`deadline` must be a positive number of seconds, received 0"),
        ({"deadline": float("nan")}, "`deadline` must be"),
        ({"retries": -1}, "`retries` must be at least 0, received -1"),
        ({"max_rows": 0}, "`max_rows` must be at least 1, received 0"),
        ({"unknown": "ignore"}, '`unknown` must be "refuse" or "drop", received \'ignore\''),
        ({"unknown": "drop"}, '`unknown="drop"` needs `spec`'),
        ({"spec": "/nowhere"}, "there is no folder /nowhere"),
    ],
)
def test_settings_out_of_bounds_are_refused(settings, message):
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match=re.escape(message)):
            kind(**{"target": "http://h:1", "model": "toy"} | settings)


def test_the_spec_is_read_from_a_version_or_the_newest_of_a_folder(tmp_path, toy_spec):
    for number, name in ((9, "older"), (10, "newer")):
        extra = tmp_path / "toy" / str(number) / "assets.extra"
        extra.mkdir(parents=True)
        spec = toy_spec.model_copy(update={"name": name})
        (extra / "mixrank.json").write_text(json.dumps({"spec": spec.model_dump(mode="json")}))
    assert load_spec(tmp_path / "toy").name == "newer"
    with Client("http://h:1", "toy", spec=str(tmp_path / "toy" / "9")) as client:
        assert client.spec.name == "older"
    with pytest.raises(ValueError, match=r"holds no assets.extra/mixrank.json"):
        load_spec(tmp_path)


@pytest.mark.slow
def test_the_client_imports_none_of_the_large_packages():
    program = """
import sys
from mixrank.schemas.datasets import load
from mixrank.schemas.synthetic import toy_rows
from mixrank.serving.client import Client
from mixrank.serving.export.columns import to_columns

spec = load("movielens").spec
to_columns(spec, list(toy_rows(spec, 3)))
for target in ("http://localhost:1", "grpc://localhost:1"):
    Client(target, "movielens", spec=spec).close()
print(*({"tensorflow", "keras", "pandas", "apache_beam", "pyarrow", "tensorflow_serving"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
