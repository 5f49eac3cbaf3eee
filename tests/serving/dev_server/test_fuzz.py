"""Whatever is sent, the answer is a 4xx or a prediction, and good requests in between are answered as ever."""

from __future__ import annotations

import gzip
import json

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PREDICT = "/v1/models/tiny:predict"
ROWS = [{"x": 1.0, "page": "a"}, {"x": 2.0, "page": "b"}]
BODY = json.dumps({"signature_name": "score_rows", "instances": ROWS}).encode()

numbers = st.integers() | st.floats() | st.sampled_from([-(2**63), 2**63, 1e39, 10**400])
leaves = st.none() | st.booleans() | numbers | st.text(max_size=8) | st.just({"b64": "AAAA"}) | st.just({"b64": "!"})
documents = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["b64", "page", "x"]), inner),
    max_leaves=8,
)
requests = st.fixed_dictionaries(
    {"signature_name": st.sampled_from(["score_rows", "words", "", "nothing"]) | leaves},
    optional={"instances": st.lists(documents | st.sampled_from(ROWS), max_size=3) | documents, "inputs": documents},
)


@st.composite
def damaged(draw):
    """The good body with some bytes changed, left out, repeated or inserted."""
    body = bytearray(BODY)
    for _ in range(draw(st.integers(1, 4))):
        at, length = draw(st.integers(0, max(len(body) - 1, 0))), draw(st.integers(0, 40))
        body[at : at + length] = draw(
            st.sampled_from([b"", b"[", b"]", b'"', b"null", b"NaN", b"1e400", b"\xff", b"{"])
        )
    return bytes(body)


@pytest.fixture(scope="module")
def rest(tiny_server):
    with httpx.Client(base_url=tiny_server.rest_url, timeout=60) as client:
        yield client


def check(rest, body, headers=None):
    answer = rest.post(PREDICT, content=body, headers=headers)
    assert answer.status_code in (200, 400, 404), (answer.status_code, answer.text)
    assert answer.json().keys() in ({"error"}, {"predictions"}, {"outputs"})
    return answer.status_code


def check_good(rest):
    answer = rest.post(PREDICT, content=BODY).json()
    assert answer == {"predictions": [{"click": [0.1], "buy": [0.9]}, {"click": [0.2], "buy": [0.8]}]}


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=list(HealthCheck), database=None)
@given(requests.map(lambda request: json.dumps(request).encode()) | damaged() | st.binary(max_size=50))
def test_a_malformed_request_is_refused_and_changes_nothing(rest, body):
    check(rest, body)
    check(rest, body, {"Content-Encoding": "gzip"})
    check(rest, gzip.compress(body)[: len(body)], {"Content-Encoding": "gzip"})
    check_good(rest)


@pytest.mark.parametrize("depth", [31, 32, 33, 900, 100_000])
def test_lists_nested_very_deep_are_refused(rest, depth):
    lists = b"[" * depth + b"]" * depth
    assert check(rest, b'{"signature_name": "score_rows", "instances": ' + lists + b"}") == 400
    assert check(rest, b'{"signature_name": "score_rows", "inputs": {"page": [""], "x": ' + lists + b"}}") == 400
    check_good(rest)


@pytest.mark.parametrize(
    "asked", ['"signature_name": "%s", "instances": [1]', '"inputs": {"%s": [1]}', '"inputs": ["%s"]']
)
def test_half_of_a_surrogate_pair_is_malformed_json(rest, asked):
    for half in ("\\ud800", "\\uDFFF"):
        assert check(rest, f"{{{asked % half}}}".encode()) == 400
    assert check(rest, b'{"signature_name": "words", "inputs": ["\\ud83d\\ude00"]}') == 200
