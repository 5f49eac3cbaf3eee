"""Whatever is sent, the answer is a 4xx or a prediction, and good requests in between are answered as ever."""

from __future__ import annotations

import asyncio
import gzip
import json
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixrank.schemas.encode import columns, encode, to_instance

PREDICT = b"/v1/models/toy:predict"
# Each example sends eight requests; four kinds of them make ten thousand.
FAST, SLOW = 4, 313


@pytest.fixture(scope="module")
def server(toy_export, toy_spec, toy_data):
    """The toy model, and a good request in every form with its answer."""
    from mixrank.serving.dev_server import running

    serving = {column.name for column in columns(toy_spec) if column.serving}
    rows = toy_data.rows["eval"][:3]
    instances = [to_instance(toy_spec, {k: v for k, v in row.items() if k in serving}) for row in rows]
    body = json.dumps({"signature_name": "score_rows", "instances": instances}).encode()
    with running({"toy": toy_export.base}) as started:
        good = SimpleNamespace(
            app=started.app,
            target=started.grpc_target,
            instances=instances,
            body=body,
            examples=[encode(toy_spec, row) for row in rows],
        )
        status, good.answer = call(good.app, "POST", PREDICT, body)
        assert status == 200
        yield good


def call(app, method, path, body=b"", headers=()):
    """Status and body of a request to the ASGI application, without a client that would straighten it."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path.decode("latin-1"), "raw_path": path, "query_string": b"", "root_path": "",
        "headers": [*headers], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip
    sent = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def check(server, method, path, body=b"", headers=()):
    """A request is refused with a reason, or answered with scores that are numbers."""
    status, text = call(server.app, method, path, body, headers)
    assert status in (200, 400, 404), (status, text)
    if status != 200:
        assert json.loads(text)["error"]
    elif path == PREDICT:
        scores = [value for row in _rows(json.loads(text)) for value in row.values()]
        assert np.isfinite(np.array(scores, float)).all()
    return status


def check_good(server):
    """A good request is answered as it was before all others."""
    assert call(server.app, "POST", PREDICT, server.body) == (200, server.answer)


def _rows(answer):
    return answer["predictions"] if "predictions" in answer else [answer["outputs"]]


numbers = st.integers() | st.floats() | st.sampled_from([-(2**63), 2**63, 2**24, 1e39, 0, -1])
leaves = st.none() | st.booleans() | numbers | st.text(max_size=8) | st.just({"b64": "AAAA"}) | st.just({"b64": "!"})
documents = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["b64", "person", "x"]), inner),
    max_leaves=8,
)
pieces = st.sampled_from(
    ["v1", "models", "toy", "toy:predict", "toy:classify", "nobody", "versions", "1", "2", "9" * 30, "labels", "stable",
     "metadata", ":", "", "..", "%2e", "%", "%zz", "predict", "?x=1", "monitoring", "\u0661"]
)  # fmt: skip
paths = st.one_of(
    st.lists(pieces | st.text(max_size=6), max_size=8).map(lambda parts: "/" + "/".join(parts)),
    st.lists(pieces, max_size=4).map(lambda parts: "/v1/models/toy" + "/".join(["", *parts])),
)


@st.composite
def mutations(draw, whole):
    """A whole message with some of its bytes changed, left out or repeated."""
    changed = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(changed) - 1, 0)))
        length = draw(st.integers(0, 40))
        kind = draw(st.sampled_from(["change", "drop", "repeat", "insert"]))
        if kind == "change":
            changed[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == "drop":
            del changed[at : at + length]
        elif kind == "repeat":
            changed[at:at] = changed[at : at + length]
        else:
            changed[at:at] = draw(st.sampled_from([b"[", b"]", b'"', b"null", b"NaN", b"1e400", b"\xff", b"{", b","]))
    return bytes(changed)


def send_documents(server, data):
    """Requests that are JSON, but seldom what the model takes."""
    instance = {**server.instances[0]}
    for name in data.draw(st.lists(st.sampled_from(sorted(instance)), max_size=3)):
        instance[name] = data.draw(documents)
    rows = data.draw(st.lists(st.just(instance) | st.just(server.instances[1]) | documents, max_size=3) | documents)
    for key in ("instances", "inputs"):
        for signature in ("score_rows", "serving_default", "nothing", data.draw(documents)):
            check(server, "POST", PREDICT, json.dumps({key: rows, "signature_name": signature}).encode())
    check_good(server)


def send_urls(server, data):
    """A good body to any address by any method."""
    path = data.draw(paths)
    raw = path.encode() if data.draw(st.booleans()) else quote(path, safe="/:%?").encode()
    for method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "BREW"):
        check(server, method, raw.partition(b"?")[0], server.body)
    check_good(server)


def send_mutated(server, data):
    """A good body that is damaged, cut off, or compressed and damaged."""
    damaged = data.draw(mutations(server.body) | st.binary(max_size=50))
    packed = gzip.compress(server.body, mtime=0)
    gzipped = [(b"content-encoding", b"gzip")]
    check(server, "POST", PREDICT, damaged)
    check(server, "POST", PREDICT, damaged, gzipped)
    check(server, "POST", PREDICT, packed)
    check(server, "POST", PREDICT, gzip.compress(damaged), gzipped)
    check(server, "POST", PREDICT, data.draw(mutations(packed)), gzipped)
    check(server, "POST", PREDICT, packed[: data.draw(st.integers(0, len(packed)))], gzipped)
    check(server, "POST", PREDICT, server.body[: data.draw(st.integers(0, len(server.body)))])
    check(server, "POST", PREDICT, data.draw(mutations(server.body)))
    check_good(server)


def send_messages(server, data):
    """Damaged gRPC messages, and whole ones with damaged tf.Examples in them."""
    import grpc
    from tensorflow_serving.apis import predict_pb2

    def message(examples):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "toy"
        tensor = request.inputs["examples"]
        tensor.dtype = 7
        tensor.string_val.extend(examples)
        tensor.tensor_shape.dim.add(size=len(examples))
        return request.SerializeToString()

    whole = message(server.examples)
    sent = [data.draw(mutations(whole)) for _ in range(4)]
    sent += [message([data.draw(mutations(one)), *server.examples[1:]]) for one in server.examples]
    sent.append(whole[: data.draw(st.integers(0, len(whole)))])
    for each in sent:
        try:
            server.predict(each, timeout=60)
        except grpc.RpcError as error:
            assert error.code().name in ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"), error
    answer = predict_pb2.PredictResponse.FromString(server.predict(server.message, timeout=60))
    assert answer.outputs["click"] == server.outputs["click"]


@pytest.fixture(scope="module")
def grpc_server(server):
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest(inputs={"examples": tf.make_tensor_proto(server.examples)})
    request.model_spec.name = "toy"
    server.message = request.SerializeToString()
    with grpc.insecure_channel(server.target) as channel:
        server.predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        server.outputs = predict_pb2.PredictResponse.FromString(server.predict(server.message, timeout=60)).outputs
        yield server


def fuzz(send, server, examples):
    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), database=None)
    @given(st.data())
    def run(data):
        send(server, data)

    run()


@pytest.mark.parametrize("send", [send_documents, send_urls, send_mutated])
def test_a_malformed_request_is_refused_and_changes_nothing(server, send):
    fuzz(send, server, FAST)


def test_a_malformed_message_is_refused_and_changes_nothing(grpc_server):
    fuzz(send_messages, grpc_server, FAST)


@pytest.mark.slow
@pytest.mark.parametrize("send", [send_documents, send_urls, send_mutated])
def test_thousands_of_malformed_requests_are_refused_and_change_nothing(server, send):
    fuzz(send, server, SLOW)


@pytest.mark.slow
def test_thousands_of_malformed_messages_are_refused_and_change_nothing(grpc_server):
    fuzz(send_messages, grpc_server, SLOW)


@pytest.mark.parametrize("depth", [31, 32, 33, 900, 100_000])
def test_lists_nested_very_deep_are_refused(server, depth):
    lists = b"[" * depth + b"]" * depth
    whole = b'{"signature_name": "score_rows", "instances": ' + lists + b"}"
    assert check(server, "POST", PREDICT, whole) == 400
    row = json.dumps({"signature_name": "score_rows", "instances": [{**server.instances[0], "person": None}]}).encode()
    assert check(server, "POST", PREDICT, row.replace(b"null", lists)) == 400
    check_good(server)


def test_a_compressed_body_that_never_ends_is_refused(server, monkeypatch):
    from mixrank.serving.dev_server import rest

    monkeypatch.setattr(rest, "MAX_BODY", 1 << 16)
    bomb = gzip.compress(b" " * (1 << 20))
    assert check(server, "POST", PREDICT, bomb, [(b"content-encoding", b"gzip")]) == 400
    check_good(server)


def test_a_message_that_names_a_huge_shape_is_refused(grpc_server):
    import grpc
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest.FromString(grpc_server.message)
    request.inputs["examples"].tensor_shape.dim[0].size = 1 << 40
    with pytest.raises(grpc.RpcError) as caught:
        grpc_server.predict(request.SerializeToString(), timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
