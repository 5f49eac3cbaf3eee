"""What a request may cost, and who may send one."""

from __future__ import annotations

import gzip
import socket

import grpc
import httpx
import pytest
from tensorflow_serving.apis import (
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from mixrank.serving.dev_server import rest, running, server
from mixrank.serving.dev_server.errors import MESSAGE, VALUE, Refused, brief

BODY = '{"signature_name": "score_rows", "instances": [{"x": 1.0, "page": ""}]}'


@pytest.fixture(scope="module")
def client(tiny_server):
    with httpx.Client(base_url=tiny_server.rest_url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def channel(tiny_server):
    with grpc.insecure_channel(tiny_server.grpc_target) as channel:
        yield channel


def post(client, body, **headers):
    answer = client.post("/v1/models/tiny:predict", content=body, headers=headers)
    return answer.status_code, answer.json().get("error", "")


def test_a_small_body_that_unzips_to_a_huge_one_is_refused(client):
    bomb = gzip.compress(bytes(8 << 20))
    assert len(bomb) < 10_000
    status, error = post(client, bomb, **{"Content-Encoding": "gzip"})
    assert (status, error) == (400, f"The gzipped body of {len(bomb)} bytes has more than 4194304 bytes")


def test_a_long_body_is_refused_zipped_or_not(client, monkeypatch):
    monkeypatch.setattr(rest, "REQUEST_BYTES", 1000)
    padded = BODY + 1000 * " "
    assert post(client, padded) == (400, "The body has more than 1000 bytes")
    assert "has more than 1000 bytes" in post(client, gzip.compress(padded.encode()), **{"Content-Encoding": "gzip"})[1]
    assert post(client, BODY) == (200, "")


@pytest.mark.parametrize(("dtype", "size"), [(1, 4), (7, 8)])
def test_a_tensor_of_one_value_for_billions_is_refused(channel, dtype, size):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "tiny"
    request.inputs["x"].dtype = dtype
    request.inputs["x"].tensor_shape.dim.add(size=2**40)
    request.inputs["x"].float_val.append(1.0)
    request.inputs["x"].string_val.append(b"")
    with pytest.raises(grpc.RpcError) as caught:
        prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == f"input `x` has {size * 2**40} bytes, more than {16 << 20}"


def test_a_tensor_of_a_negative_size_is_refused(channel):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "tiny"
    request.inputs["x"].dtype = 7
    # NumPy's product of these, in 64 bits, is a large positive number.
    for size in (-1, 2**31, 2**31, 3):
        request.inputs["x"].tensor_shape.dim.add(size=size)
    request.inputs["x"].string_val.append(b"")
    with pytest.raises(grpc.RpcError) as caught:
        prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == f"input `x` has the shape {[-1, 2**31, 2**31, 3]}"


def test_a_quoted_value_is_not_made_beyond_what_is_shown():
    taken = []

    class Long(list):
        def __iter__(self):
            for number in range(10**6):
                taken.append(number)
                yield 7

    assert brief(Long([7])) == "[" + "7, " * 99 + "7, "[:2] + "..."
    assert len(taken) <= VALUE
    assert brief({"a": [1, None]}) == '{"a": [1, null]}'


def test_a_refusal_has_an_end_however_many_names_were_sent(client):
    names = ", ".join(f'"name{number}": 1' for number in range(10_000))
    status, error = post(client, f'{{"signature_name": "score_rows", "inputs": {{{names}}}}}')
    assert status == 400 and len(error) < 300
    status, error = post(client, f'{{"signature_name": "score_rows", "instances": [{{{names}}}]}}')
    assert status == 400 and len(error) == MESSAGE + len("...")
    assert len(str(Refused("x" * 10**6))) == MESSAGE + len("...")


@pytest.mark.parametrize("sent", [b"", b"GET /v1/models/tiny HTTP/1.1\r\nHost: local"])
def test_a_connection_without_a_whole_head_is_closed(save_tiny, tmp_path, monkeypatch, sent):
    monkeypatch.setattr(server, "IDLE", 0.2)
    save_tiny(tmp_path, 1)
    with running({"tiny": tmp_path}) as started:
        host, _, port = started.rest_url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(sent)
            assert connection.recv(1000) == b""
        # The same between two requests of one connection.
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(b"GET /v1/models/tiny HTTP/1.1\r\nHost: localhost\r\n\r\n" + sent)
            answer = b""
            while piece := connection.recv(1000):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 200 OK") and answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("method", ["POST", "HEAD"])
def test_a_body_that_is_no_http_gets_one_answer(tiny_server, caplog, method):
    host, _, port = tiny_server.rest_url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = f"{method} /v1/models/tiny:predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode() + b"{}\r\n")
        answer = b""
        while piece := connection.recv(1000):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1") == 1
    assert not [record for record in caplog.records if record.exc_info]


def test_a_body_that_does_not_arrive_ends_its_request(tiny_server, monkeypatch):
    monkeypatch.setattr(rest, "BODY_SECONDS", 0.1)
    host, _, port = tiny_server.rest_url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        assert b"504" in connection.recv(100)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:80"}, 200),
        ({"Host": "LOCALHOST"}, 200),
        ({"Host": "[::1]:8501"}, 200),
        ({"Host": "rebound.example.com"}, 403),
        ({"Host": "localhost.example.com:8501"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": "localhost:80", "Origin": "http://localhost:80"}, 200),
        ({"Host": "localhost:80", "Origin": "http://localhost:81"}, 403),
        ({"Origin": "https://example.com"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_a_web_page_of_another_site_gets_no_answer(client, headers, status):
    assert post(client, BODY, **headers)[0] == status
    assert client.get("/v1/models/tiny", headers=headers).status_code == status


def test_nobody_can_make_it_load_another_folder(channel):
    request = model_management_pb2.ReloadConfigRequest()
    request.config.model_config_list.config.add(name="tiny", base_path="/etc", model_platform="tensorflow")
    with pytest.raises(grpc.RpcError) as caught:
        model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(request, timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
