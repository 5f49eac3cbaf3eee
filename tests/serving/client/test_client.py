"""A client sends rows as the signature takes them, in order and in time, and says readably why it has no scores."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import grpc
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from mixrank.schemas.encode import PADDING, columns
from mixrank.serving.base.model_versions import load_spec
from mixrank.serving.client import client as client_module
from mixrank.serving.client import tensorflow_serving_pb2 as messages
from mixrank.serving.client import transport_grpc, transport_rest
from mixrank.serving.client.client import AsyncClient, Client
from mixrank.serving.client.protocol import Address, Ask, Calls, Pause, Predict, ServingError, State
from mixrank.serving.client.request_rows import Inputs, RowError
from mixrank.serving.client.tensors import from_tensor, to_tensor

HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
WAYS = ["rest", "async rest", "grpc", "async grpc"]


class Refusal(Exception):
    """What the fake servers answer instead of scores."""

    def __init__(self, status, message):
        self.status, self.message = status, message


class Serving:
    """Stands in for TensorFlow Serving behind both interfaces.

    `answer` is given the inputs of each predict request and returns outputs; `seen` keeps the requests.
    """

    def __init__(self):
        self.seen, self.states, self.answer = [], {3: State("AVAILABLE")}, tenth

    def predict(self, model, which, signature, inputs):
        self.seen.append(SimpleNamespace(model=model, which=which, signature=signature, inputs=inputs))
        return self.answer(inputs)


def tenth(inputs):
    """Click is a tenth of x, buy a hundredth."""
    x = np.asarray(inputs["x"], float)
    return {"click": (x / 10).reshape(-1, 1).tolist(), "buy": (x / 100).reshape(-1, 1).tolist()}


def rest(serving):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                found = self.found(json.loads(body or b"{}"))
                status = 200
            except Refusal as refusal:
                status, found = HTTP_STATUS[refusal.status], {"error": refusal.message}
            text = found if isinstance(found, bytes) else json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_GET

        def found(self, body):
            path = re.fullmatch(r"/v1/models/(\w+)(?:/(versions|labels)/(\w+))?(:predict|/metadata)?", self.path)
            model, _, which, verb = path.groups()
            if verb == ":predict":
                assert self.command == "POST" and set(body) == {"signature_name", "inputs"}
                outputs = serving.predict(model, which, body["signature_name"], body["inputs"])
                if isinstance(outputs, bytes):
                    return outputs
                return {"outputs": next(iter(outputs.values())) if len(outputs) == 1 else outputs}
            if verb == "/metadata":
                serving.seen.append("metadata")
                signatures = {"score_rows": {"inputs": {}, "outputs": {"click": {}}}}
                spec = {"name": model, "signature_name": "", "version": "3"}
                return {"model_spec": spec, "metadata": {"signature_def": {"signature_def": signatures}}}
            return {
                "model_version_status": [
                    {
                        "version": str(version),
                        "state": state.name,
                        "status": {
                            "error_code": "NOT_FOUND" if state.message else "OK",
                            "error_message": state.message,
                        },
                    }
                    for version, state in serving.states.items()
                ]
            }

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    # A client that waits no longer closes its connection.
    server.handle_error = lambda *arguments: None
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def stop():
        server.shutdown()
        server.server_close()

    return f"http://127.0.0.1:{server.server_port}", stop


def over_grpc(serving):
    def predict(request, context):
        spec = request.model_spec
        which = {"version": str(spec.version.value), "version_label": spec.version_label, None: None}
        inputs = {name: from_tensor(tensor) for name, tensor in request.inputs.items()}
        try:
            outputs = serving.predict(
                spec.name, which[spec.WhichOneof("version_choice")], spec.signature_name, plain(inputs)
            )
        except Refusal as refusal:
            context.abort(getattr(grpc.StatusCode, refusal.status), refusal.message)
        answer = messages.PredictResponse()
        for name, values in outputs.items():
            answer.outputs[name].CopyFrom(to_tensor(np.asarray(values, np.float64)))
        return answer

    def status(request, context):
        answer = messages.GetModelStatusResponse()
        states = messages.ModelVersionStatus.State
        for version, state in serving.states.items():
            found = answer.model_version_status.add(version=version, state=states.Value(state.name))
            found.status.error_code, found.status.error_message = 5 if state.message else 0, state.message
        return answer

    server = grpc.server(ThreadPoolExecutor(10))
    for service, method, call, request in (
        ("PredictionService", "Predict", predict, messages.PredictRequest),
        ("ModelService", "GetModelStatus", status, messages.GetModelStatusRequest),
    ):
        handler = grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=request.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        handlers = grpc.method_handlers_generic_handler(f"tensorflow.serving.{service}", {method: handler})
        server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return f"grpc://127.0.0.1:{port}", lambda: server.stop(0).wait(5)


def plain(inputs):
    """Tensors as JSON would carry them."""
    return {
        name: np.vectorize(bytes.decode, otypes=[object])(values).tolist()
        if values.dtype == object
        else values.tolist()
        for name, values in inputs.items()
    }


@pytest.fixture(scope="module")
def listening():
    """Both interfaces on one `Serving`, and their addresses."""
    serving = Serving()
    addresses, stops = zip(rest(serving), over_grpc(serving), strict=True)
    yield SimpleNamespace(serving=serving, rest=addresses[0], grpc=addresses[1])
    for stop in stops:
        stop()


@pytest.fixture
def serving(listening):
    listening.serving.__init__()
    return listening.serving


@pytest.fixture
def naps(monkeypatch):
    """The pauses of clients, which then take no time."""
    taken = []

    async def nap(seconds):
        taken.append(seconds)

    monkeypatch.setattr(client_module, "time", SimpleNamespace(sleep=taken.append))
    monkeypatch.setattr(client_module, "asyncio", SimpleNamespace(sleep=nap))
    return taken


@pytest.fixture(params=WAYS)
def call(request, listening, naps):
    """`call("score", rows, **settings)` through one of the four ways to ask."""
    asynchronous, _, interface = request.param.rpartition("async ")[1], None, request.param.split()[-1]

    def call(method, *arguments, target=None, **settings):
        target = target or getattr(listening, interface)
        if not asynchronous:
            with Client(target, "toy", **settings) as client:
                return getattr(client, method)(*arguments)

        async def ask():
            async with AsyncClient(target, "toy", **settings) as client:
                return await getattr(client, method)(*arguments)

        return asyncio.run(ask())

    call.interface = interface
    return call


def rows(count):
    return [{"x": float(number), "page": f"p{number}"} for number in range(count)]


# Scores.


def test_scores_come_in_the_order_of_the_rows_and_chunks(call, serving):
    scores = call("score", rows(5), max_rows=2)
    assert [score["click"] for score in scores] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert [score["buy"] for score in scores] == pytest.approx([0.0, 0.01, 0.02, 0.03, 0.04])
    assert [request.inputs for request in serving.seen] == [
        {"x": [0.0, 1.0], "page": ["p0", "p1"]},
        {"x": [2.0, 3.0], "page": ["p2", "p3"]},
        {"x": [4.0], "page": ["p4"]},
    ]
    assert {(request.model, request.which, request.signature) for request in serving.seen} == {
        ("toy", None, "score_rows")
    }


def test_no_rows_have_no_scores_and_ask_nobody(call, serving):
    assert call("score", []) == [] and serving.seen == []


@pytest.mark.parametrize(("settings", "which"), [({"version": 12}, "12"), ({"label": "stable"}, "stable"), ({}, None)])
def test_a_version_or_label_reaches_the_server(call, serving, settings, which):
    call("score", rows(1), **settings)
    assert [request.which for request in serving.seen] == [which]


def test_rows_are_checked_and_padded_by_the_spec(call, serving, toy_spec):
    serving.answer = lambda inputs: {"buy": [[0.2], [0.4]], "click": [[0.1], [0.3]]}
    full = {"page": "cart", "person": 7, "clip": "café", "tag": ["a"], "price": 2.5, "global_clip": ["x", "y"]}
    full |= {"global_tag": ["a", "", "", "b", "c", ""], "global_action": [3, 0], "global_gap": [10, -1]}
    scores = call("score", [full, {"page": "home", "person": 8, "clip": "z", "at": 5, "click": 1}], spec=toy_spec)
    assert scores == [{"click": 0.1, "buy": 0.2}, {"click": 0.3, "buy": 0.4}]
    (request,) = serving.seen
    assert set(request.inputs) == {column.name for column in columns(toy_spec) if column.serving}
    assert request.inputs["clip"] == ["café", "z"] and request.inputs["person"] == [7, 8]
    assert request.inputs["tag"] == [["a", "", ""], ["", "", ""]]
    assert request.inputs["global_action"] == [[3, 0, *[PADDING["int"]] * 4], [PADDING["int"]] * 6]
    assert request.inputs["price"][0] == 2.5 and np.isnan(request.inputs["price"][1])


def test_candidates_are_columns_and_the_request_has_no_batch_axis(call, serving, toy_spec):
    serving.answer = lambda inputs: {"click": [[0.1], [0.3], [0.2]], "buy": [[0.5], [0.6], [0.7]]}
    request = {"page": "cart", "person": 7, "age": 30, "realtime_clip": ["x"], "realtime_action": [1]}
    request |= {"realtime_tag": ["a", "", ""], "realtime_gap": [4]}
    candidates = [{"clip": "a", "price": 1.5}, {"clip": "b", "tag": ["t"]}, {"clip": "c"}]
    scores = call("rank", request, candidates, spec=toy_spec, max_rows=2)
    assert scores == [{"click": 0.1, "buy": 0.5}, {"click": 0.3, "buy": 0.6}, {"click": 0.2, "buy": 0.7}]
    (seen,) = serving.seen
    assert seen.signature == "rank_candidates"
    assert (seen.inputs["page"], seen.inputs["person"], seen.inputs["age"]) == ("cart", 7, 30.0)
    assert seen.inputs["realtime_clip"] == ["x", "", "", ""]
    assert seen.inputs["clip"] == ["a", "b", "c"]
    assert seen.inputs["tag"] == [["", "", ""], ["t", "", ""], ["", "", ""]]


def test_without_a_spec_a_request_and_its_candidates_are_sent_as_they_are(call, serving):
    scores = call("rank", {"user": 5}, [{"x": 1.0}, {"x": 2.0}])
    assert [score["click"] for score in scores] == pytest.approx([0.1, 0.2])
    assert serving.seen[0].inputs == {"user": 5, "x": [1.0, 2.0]}


def test_a_single_output_is_found_though_rest_leaves_its_name_out(call, serving):
    serving.answer = lambda inputs: {"click": [[0.25], [0.5]]}
    assert call("score", rows(2)) == [{"click": 0.25}, {"click": 0.5}]
    assert serving.seen[1:] == (["metadata"] if call.interface == "rest" else [])


def test_more_outputs_than_the_spec_has_tasks_are_left_out(call, serving, toy_spec):
    serving.answer = lambda inputs: {"later": [[0.9]], "click": [[0.25]], "buy": [[0.5]]}
    row = {"page": "cart", "person": 7, "clip": "a"}
    assert call("score", [row], spec=toy_spec) == [{"click": 0.25, "buy": 0.5}]


def test_status_is_the_state_of_every_version(call, serving):
    serving.states = {7: State("END", "cannot parse the graph"), 3: State("AVAILABLE")}
    assert list(call("status", label="stable").items()) == [
        (3, State("AVAILABLE")),
        (7, State("END", "cannot parse the graph")),
    ]


# Rows that do not fit.

UNKNOWN = {"page": "cart", "person": 7, "clip": "a", "colour": "red"}


def test_unknown_fields_are_refused_with_position_and_name(call, serving, toy_spec):
    good = {"page": "cart", "person": 7, "clip": "a"}
    with pytest.raises(RowError, match="row 2: spec `toy` has no column `colour`") as caught:
        call("score", [good, good, UNKNOWN], spec=toy_spec)
    assert caught.value.position == 2 and serving.seen == []


def test_unknown_fields_are_dropped_if_asked(call, serving, toy_spec):
    serving.answer = lambda inputs: {"click": [[0.25]], "buy": [[0.5]]}
    assert call("score", [UNKNOWN], spec=toy_spec, unknown="drop") == [{"click": 0.25, "buy": 0.5}]
    request, candidate = {"page": "cart", "person": 7, "mood": 3}, {"clip": "a", "colour": "red"}
    assert call("rank", request, [candidate], spec=toy_spec, unknown="drop") == [{"click": 0.25, "buy": 0.5}]
    assert all("colour" not in seen.inputs and "mood" not in seen.inputs for seen in serving.seen)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"page": "cart", "person": "7", "clip": "a"}, "row 1: column `person` takes a 64-bit integer, received '7'"),
        ({"page": "cart", "person": 7}, "row 1: column `clip` is required but missing"),
        (["page"], r"row 1: expected column -> value, received \['page'\] \(list\)"),
    ],
)
def test_a_row_that_does_not_fit_is_named_before_anything_is_sent(listening, serving, toy_spec, row, message):
    with (
        Client(listening.rest, "toy", spec=toy_spec, max_rows=1) as client,
        pytest.raises(RowError, match=message),
    ):
        client.score([{"page": "cart", "person": 7, "clip": "a"}, row])
    assert serving.seen == []


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([{"x": 1.0}, {"x": 1.0, "y": 2.0}], "row 1: it adds column `y`; without a spec all have"),
        ([{"x": 1.0, "y": 2.0}, {"x": 1.0}], "row 1: it lacks column `y`; without a spec all have"),
        ([7], r"row 0: expected column -> value, received 7 \(int\)"),
    ],
)
def test_rows_without_a_spec_have_the_same_columns(listening, others, message):
    with Client(listening.rest, "toy") as client, pytest.raises(RowError, match=message):
        client.score(others)


@pytest.mark.parametrize(
    ("request_", "candidates", "message"),
    [
        ({}, [], "at least one candidate"),
        ({}, [{"x": 1}, {"y": 1}], "candidate 1: it adds column `y`"),
        ({"x": 1}, [{"x": 1}], "column `x` is in the request and in the candidates"),
    ],
)
def test_a_request_without_a_spec_is_still_a_request(listening, request_, candidates, message):
    with Client(listening.rest, "toy") as client, pytest.raises(ValueError, match=message):
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
def test_values_that_no_tensor_holds_are_refused_over_grpc(listening, serving, values, message):
    with Client(listening.grpc, "toy") as client, pytest.raises(ValueError, match=message):
        client.score([{"x": value} for value in values])
    assert serving.seen == []


def test_values_that_json_has_no_form_for_are_refused_over_rest(listening):
    with Client(listening.rest, "toy") as client, pytest.raises(ValueError, match="not JSON serializable"):
        client.score([{"x": b"bytes"}])


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([1, 2], "DT_INT64"), ([1, 2.5], "DT_FLOAT"), (["a", ""], "DT_STRING"), ([[1.0], [2.0]], "DT_FLOAT")],
)
def test_without_a_spec_values_tell_their_type(values, dtype):
    message = transport_grpc.encode(Address("grpc://h:1", "toy"), Predict("score_rows", {"x": values}))
    assert message.inputs["x"].dtype == messages.DataType.Value(dtype)
    assert from_tensor(message.inputs["x"]).shape == np.array(values).shape


# Refusals, retries, broken answers.


@pytest.mark.parametrize("status", [status for status in HTTP_STATUS if status != "UNAVAILABLE"])
def test_errors_are_named_and_not_asked_again(call, serving, naps, status):
    def refuse(inputs):
        raise Refusal(status, "because of x")

    serving.answer = refuse
    with pytest.raises(ServingError, match=f"model `toy`, label `stable` at .*{status}: because of x$") as caught:
        call("score", rows(1), label="stable")
    assert (caught.value.status, caught.value.message, caught.value.tries) == (status, "because of x", 1)
    assert len(serving.seen) == 1 and naps == []


def failing(times):
    """Unavailable so many times, then scores."""
    left = iter(range(times))

    def answer(inputs):
        if next(left, None) is not None:
            raise Refusal("UNAVAILABLE", "loading")
        return tenth(inputs)

    return answer


def test_a_server_that_is_unavailable_is_asked_again(call, serving, naps):
    serving.answer = failing(3)
    assert call("score", rows(3), max_rows=1, retries=3)[2]["click"] == pytest.approx(0.2)
    assert len(serving.seen) == 3 + 3
    # A tenth of a second, twice that, and again, each less up to a half.
    assert len(naps) == 3
    assert all(0.05 * 2**number <= nap <= 0.1 * 2**number for number, nap in enumerate(naps))


def test_retries_end(call, serving, naps):
    serving.answer = failing(100)
    with pytest.raises(ServingError, match=r"UNAVAILABLE: loading \(asked 3 times\)") as caught:
        call("score", rows(1), retries=2)
    assert (caught.value.tries, len(serving.seen), len(naps)) == (3, 3, 2)


def test_a_refused_connection_is_tried_again(call, naps):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    scheme = "http" if call.interface == "rest" else "grpc"
    with pytest.raises(ServingError, match=r"UNAVAILABLE: .*(?s:refused|failed).*\(asked 3 times\)") as caught:
        call("score", rows(1), target=f"{scheme}://127.0.0.1:{port}", retries=2)
    assert caught.value.status == "UNAVAILABLE" and len(naps) == 2


@pytest.fixture
def blunt():
    """Listens and answers each connection with the next of some bytes, then closes it."""
    listening = socket.create_server(("127.0.0.1", 0))
    served = []

    def serve(*answers):
        def accept():
            for answer in answers:
                try:
                    connection, _ = listening.accept()
                    with connection:
                        served.append(connection.recv(65536))
                        connection.sendall(answer)
                except OSError:
                    # The test is over.
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    serve.served = served
    listening.settimeout(20)
    yield serve
    listening.close()


def http(body, length=None):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body) if length is None else length, body)


GOOD = http(b'{"outputs": {"click": [0.5], "buy": [0.25]}}')


@pytest.mark.parametrize("call", WAYS[:2], indirect=True)
@pytest.mark.parametrize("broken", [b"", b"HTTP/1.1 200 OK\r\nContent-", http(b'{"outputs"', length=500), b"\0\1\2"])
def test_a_connection_that_is_lost_is_tried_again(call, blunt, naps, broken):
    assert call("score", rows(1), target=blunt(broken, GOOD)) == [{"buy": 0.25, "click": 0.5}]
    assert len(blunt.served) == 2 and len(naps) == 1


@pytest.mark.parametrize("call", WAYS[2:], indirect=True)
def test_a_server_that_speaks_no_grpc_is_unavailable(call, blunt, naps):
    target = blunt(*[GOOD] * 5).replace("http", "grpc")
    with pytest.raises(ServingError) as caught:
        call("score", rows(1), target=target, retries=0)
    assert caught.value.status == "UNAVAILABLE"


@pytest.mark.parametrize("call", WAYS[:2], indirect=True)
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"outputs": [[0.5]', 'its answer cannot be read: {"outputs": '),
        (b"", "its answer cannot be read: $"),
        (b'{"predictions": [[0.5]]}', "its answer cannot be read: {'predictions'"),
        (b"[1, 2]", r"its answer cannot be read: \[1, 2\]"),
        (b"\xff\xfe", "its answer cannot be read"),
    ],
)
def test_an_answer_that_cannot_be_read_is_shown_and_not_asked_again(call, serving, naps, body, message):
    serving.answer = lambda inputs: body
    with pytest.raises(ServingError, match=message) as caught:
        call("score", rows(1))
    assert caught.value.status == "INTERNAL" and len(serving.seen) == 1


@pytest.mark.parametrize("call", WAYS[:2], indirect=True)
def test_an_answer_of_somebody_else_is_shown(call, blunt):
    page = b"HTTP/1.1 302 Found\r\nContent-Length: 5\r\n\r\nlogin"
    with pytest.raises(ServingError, match="UNKNOWN: HTTP status 302: login"):
        call("score", rows(1), target=blunt(page))
    page = b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nNot found"
    with pytest.raises(ServingError, match="NOT_FOUND: Not found"):
        call("score", rows(1), target=blunt(page))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"click": [[0.5], [float("nan")]], "buy": [[0.5], [0.5]]}, "`click` of row 1 of a request with nan"),
        ({"click": [[0.5], [0.5]], "buy": [[float("inf")], [0.5]]}, "`buy` of row 0 of a request with inf"),
        ({"click": [[0.5]], "buy": [[0.5], [0.5]]}, "`click` of 2 rows with 1 scores"),
        ({"click": 0.5, "buy": 0.5}, "of 2 rows with 0.5"),
        ({}, "it answered no scores"),
        (
            {"click": [[0.5, 0.5], [0.5, 0.5]], "buy": [[0.5], [0.5]]},
            r"`click` of row 0 .* with \[0.5, 0.5\]",
        ),
    ],
)
def test_only_one_finite_number_per_row_and_task_is_a_score(call, serving, naps, outputs, message):
    serving.answer = lambda inputs: outputs
    with pytest.raises(ServingError, match=message) as caught:
        call("score", rows(2))
    assert caught.value.status == "INTERNAL" and len(serving.seen) == 1


def test_a_task_of_the_spec_without_a_score_is_an_error(call, serving, toy_spec):
    serving.answer = lambda inputs: {"click": [[0.5]], "other": [[0.5]]}
    with pytest.raises(ServingError, match=r"no score for `buy`, only \['click', 'other'\]"):
        call("score", [{"page": "cart", "person": 7, "clip": "a"}], spec=toy_spec)


def test_scores_without_a_name_are_not_guessed(listening, serving, toy_spec):
    serving.answer = lambda inputs: {"click": [[0.5]]}
    with Client(listening.rest, "toy", spec=toy_spec) as client, pytest.raises(ServingError, match="without a name"):
        client.score([{"page": "cart", "person": 7, "clip": "a"}])


def test_text_in_place_of_a_score_is_an_error(listening, serving):
    serving.answer = lambda inputs: {"click": [["high"]], "buy": [[True]]}
    with Client(listening.rest, "toy") as client, pytest.raises(ServingError, match="`buy` of row 0 .* with True"):
        client.score(rows(1))


def test_a_slow_server_exceeds_the_deadline(call, serving, naps):
    answered = threading.Event()

    def wait(inputs):
        answered.wait(20)
        return tenth(inputs)

    serving.answer = wait
    try:
        with pytest.raises(ServingError) as caught:
            call("score", rows(1), deadline=0.2)
        assert caught.value.status == "DEADLINE_EXCEEDED" and naps == []
        assert re.search("no answer within 0|not done within 0|Deadline Exceeded", str(caught.value))
    finally:
        answered.set()


@pytest.mark.parametrize("call", WAYS[:2], indirect=True)
def test_a_server_that_answers_byte_by_byte_exceeds_the_deadline(call, monkeypatch):
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(20)
    stop = threading.Event()

    def drip():
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            try:
                while not stop.wait(0.02):
                    connection.sendall(b" ")
            except OSError:
                return

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    try:
        with pytest.raises(ServingError) as caught:
            call("score", rows(1), target=f"http://127.0.0.1:{listening.getsockname()[1]}", deadline=0.3)
        assert caught.value.status == "DEADLINE_EXCEEDED"
    finally:
        stop.set()
        thread.join(20)
        listening.close()


def test_every_phase_of_a_request_has_what_is_left_of_its_time(monkeypatch, blunt, naps):
    clock, asked = Clock(), []

    class Slow(transport_rest.TimeLeft):
        def get(self, phase, default=None):
            asked.append((phase, super().get(phase, default)))
            clock.now += 1
            return 20.0

    monkeypatch.setattr(transport_rest, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(transport_rest, "TimeLeft", Slow)
    transport = transport_rest.RestTransport(Address(blunt(GOOD), "toy"))
    transport.ask(Predict("score_rows", {"x": [1]}), 60.0)
    transport.close()
    assert [left for _, left in asked] == [60.0 - number for number in range(len(asked))]
    assert {phase for phase, _ in asked} == {"pool", "connect", "write", "read"}


# Deadlines and pauses, with a clock that only the test moves.


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def calls(clock, draw=0.0, **settings):
    settings = {"deadline": 10.0, "retries": 3, "max_rows": 1} | settings
    return Calls(Address("http://h:1", "toy"), Inputs(None), clock=clock, draw=lambda: draw, **settings)


SCORE = {"click": [[0.5]]}


def test_the_deadline_is_for_all_chunks_together():
    clock = Clock()
    steps = calls(clock).score(rows(3))
    step = next(steps)
    assert isinstance(step, Ask) and isinstance(step.request, Predict) and step.seconds == 10.0
    clock.now += 4
    assert steps.send(SCORE).seconds == pytest.approx(6.0)
    clock.now += 6
    with pytest.raises(ServingError, match="DEADLINE_EXCEEDED: not done within 10 s"):
        steps.send(SCORE)


def test_the_deadline_is_for_all_retries_together():
    clock = Clock()
    steps = calls(clock).score(rows(1))
    next(steps)
    clock.now += 4
    assert steps.throw(ServingError("UNAVAILABLE", "loading")) == Pause(0.1)
    clock.now += 0.1
    assert next(steps).seconds == pytest.approx(5.9)
    clock.now += 5
    assert steps.throw(ServingError("UNAVAILABLE", "loading")) == Pause(0.2)


def test_no_pause_reaches_past_the_deadline():
    clock = Clock()
    steps = calls(clock).score(rows(1))
    next(steps)
    clock.now += 9.95
    with pytest.raises(ServingError, match="UNAVAILABLE: loading$"):
        steps.throw(ServingError("UNAVAILABLE", "loading"))


def test_a_pause_that_takes_too_long_ends_the_call():
    clock = Clock()
    steps = calls(clock).score(rows(1))
    next(steps), steps.throw(ServingError("UNAVAILABLE", "loading"))
    clock.now += 11
    with pytest.raises(ServingError, match="DEADLINE_EXCEEDED: not done within 10 s"):
        next(steps)


def test_pauses_double_up_to_two_seconds_and_each_chunk_has_its_own():
    clock = Clock()
    steps = calls(clock, retries=7, deadline=100.0).score(rows(2))
    next(steps)
    pauses = []
    for _ in range(7):
        pauses.append(steps.throw(ServingError("UNAVAILABLE", "loading")).seconds)
        next(steps)
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])
    steps.send(SCORE)
    assert steps.throw(ServingError("UNAVAILABLE", "loading")) == Pause(0.1)


def test_chance_halves_a_pause_at_most():
    steps = calls(Clock(), draw=1.0).score(rows(1))
    next(steps)
    assert steps.throw(ServingError("UNAVAILABLE", "loading")) == Pause(pytest.approx(0.05))


def test_a_call_that_ended_in_time_asks_no_more():
    steps = calls(Clock()).score(rows(2))
    next(steps), steps.send(SCORE)
    with pytest.raises(StopIteration) as done:
        steps.send(SCORE)
    assert done.value.value == [{"click": 0.5}, {"click": 0.5}]


# Many at once.


@pytest.mark.parametrize("interface", ["rest", "grpc"])
def test_an_async_client_has_many_calls_under_way_at_once(listening, serving, interface):
    together = threading.Barrier(8)

    def meet(inputs):
        together.wait(20)
        return tenth(inputs)

    serving.answer = meet

    async def ask():
        async with AsyncClient(getattr(listening, interface), "toy", deadline=60) as client:
            return await asyncio.gather(*(client.score([{"x": float(number)}]) for number in range(40)))

    answers = asyncio.run(ask())
    assert [score["click"] for (score,) in answers] == pytest.approx([number / 10 for number in range(40)])


@pytest.mark.parametrize("interface", ["rest", "grpc"])
def test_a_client_may_be_used_by_several_threads(listening, serving, interface):
    together = threading.Barrier(8)

    def meet(inputs):
        together.wait(20)
        return tenth(inputs)

    serving.answer = meet
    with Client(getattr(listening, interface), "toy", deadline=60) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: client.score([{"x": float(number)}]), range(40)))
    assert [score["click"] for (score,) in answers] == pytest.approx([number / 10 for number in range(40)])


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


# Any row.


@st.composite
def valid_rows(draw, spec):
    values = {
        "int": st.integers(-(2**63), 2**63 - 1),
        "float": st.floats(width=32, allow_nan=False, allow_infinity=False),
        "str": st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    }
    row, events = {}, {}
    for column in columns(spec):
        if not column.serving:
            continue
        value = values[column.kind]
        if column.required:
            value = value.filter(lambda found: found != "")
        if column.history is not None:
            length = column.length // column.width
            count = events.setdefault(column.history, draw(st.integers(0, length)))
            row[column.name] = draw(st.lists(value, min_size=count * column.width, max_size=count * column.width))
        elif column.length is not None:
            row[column.name] = draw(st.lists(value, max_size=column.length))
        elif column.required or draw(st.booleans()):
            row[column.name] = draw(value)
    return row


def received(interface, request):
    """The inputs of a request after they were bytes."""
    address = Address("http://h:1", "toy")
    if interface == "rest":
        return json.loads(transport_rest.encode(address, request)[2])["inputs"]
    message = messages.PredictRequest.FromString(transport_grpc.encode(address, request).SerializeToString())
    return plain({name: from_tensor(tensor) for name, tensor in message.inputs.items()})


@pytest.mark.parametrize("interface", ["rest", "grpc"])
@hypothesis.settings(max_examples=40)
@hypothesis.given(data=st.data())
def test_any_valid_rows_survive_the_wire(toy_spec, interface, data):
    sent = data.draw(st.lists(valid_rows(toy_spec), min_size=1, max_size=3))
    steps = Calls(Address("http://h:1", "toy"), Inputs(toy_spec), deadline=1, retries=0, max_rows=9).score(sent)
    inputs = received(interface, next(steps).request)
    assert set(inputs) == {column.name for column in columns(toy_spec) if column.serving}
    for column in columns(toy_spec):
        if not column.serving:
            continue
        for row, found in zip(sent, inputs[column.name], strict=True):
            value = row.get(column.name)
            values = ([] if value is None else [value]) if column.length is None else value
            filled = values + [PADDING[column.kind]] * ((column.length or 1) - len(values))
            np.testing.assert_equal(found if column.length is not None else [found], filled)


@pytest.mark.parametrize("interface", ["rest", "grpc"])
@hypothesis.settings(max_examples=40)
@hypothesis.given(data=st.data())
def test_any_valid_candidates_survive_the_wire(toy_spec, interface, data):
    drawn = data.draw(st.lists(valid_rows(toy_spec), min_size=1, max_size=3))
    items = {column.name for column in columns(toy_spec) if column.candidate}
    request = {name: value for name, value in drawn[0].items() if name not in items}
    candidates = [{name: value for name, value in row.items() if name in items} for row in drawn]
    whole = Calls(Address("http://h:1", "toy"), Inputs(toy_spec), deadline=1, retries=0, max_rows=9)
    inputs = received(interface, next(whole.rank(request, candidates)).request)
    assert inputs["clip"] == [candidate["clip"] for candidate in candidates]
    assert inputs["person"] == request["person"] and inputs["page"] == request["page"]
    assert [found[: len(each["tag"])] for found, each in zip(inputs["tag"], candidates, strict=True)] == [
        each["tag"] for each in candidates
    ]
    assert inputs["global_gap"][: len(request["global_gap"])] == request["global_gap"]
    assert len(inputs["global_gap"]) == 6


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
