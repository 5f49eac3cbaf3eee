"""The client gets from the development server, and from the folder itself, what the Keras model says."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from mixrank.serving.client.client import AsyncClient, Client, ServingError
from mixrank.serving.client.protocol import State
from mixrank.serving.dev_server import running

WAYS = ["rest", "async rest", "grpc", "async grpc"]


@pytest.fixture(scope="module")
def server(toy_export):
    with running({"toy": toy_export.base}) as server:
        yield server


@pytest.fixture(params=WAYS)
def call(request, server, toy_spec):
    """`call("score", rows)` through one of the four ways to ask."""
    target = server.rest_url if request.param.endswith("rest") else f"grpc://{server.grpc_target}"

    def call(method, *arguments, **settings):
        settings = {"spec": toy_spec, "deadline": 120.0, "max_rows": 64} | settings
        if not request.param.startswith("async"):
            with Client(target, "toy", **settings) as client:
                return getattr(client, method)(*arguments)

        async def ask():
            async with AsyncClient(target, "toy", **settings) as client:
                return await getattr(client, method)(*arguments)

        return asyncio.run(ask())

    return call


def columns(scores):
    return {task: np.array([[score[task]] for score in scores]) for task in scores[0]}


def request_of(toy_spec, rows, count):
    """The first row's request with the items of the first rows, and the same as whole rows."""
    items = {"clip", "tag", "price"}
    request = {name: value for name, value in rows[0].items() if name not in items}
    candidates = [{name: row[name] for name in items} for row in rows[:count]]
    return request, candidates, [request | candidate for candidate in candidates]


def test_rows_get_the_scores_of_the_model(call, toy_data, toy_scores):
    scores = columns(call("score", toy_data.rows["eval"]))
    for task, expected in toy_scores.items():
        np.testing.assert_allclose(scores[task], expected, atol=1e-6)


def test_candidates_get_the_scores_of_their_rows(call, toy_spec, toy_data):
    request, candidates, rows = request_of(toy_spec, toy_data.rows["eval"], 20)
    ranked, scored = columns(call("rank", request, candidates)), columns(call("score", rows))
    for task in toy_spec.tasks:
        np.testing.assert_allclose(ranked[task], scored[task], atol=1e-6)
        assert np.ptp(ranked[task]) > 1e-3


def test_the_folder_without_a_server_says_the_same(toy_export, toy_spec, toy_data, toy_scores):
    from mixrank.serving.export.local_model import LocalModel

    model = LocalModel(toy_export.base)
    scores = columns(model.score(toy_data.rows["eval"]))
    for task, expected in toy_scores.items():
        np.testing.assert_allclose(scores[task], expected, atol=1e-6)
    request, candidates, rows = request_of(toy_spec, toy_data.rows["eval"], 20)
    ranked, scored = columns(model.rank(request, candidates)), columns(model.score(rows))
    for task in toy_spec.tasks:
        np.testing.assert_allclose(ranked[task], scored[task], atol=1e-6)
    assert model.score([]) == []


def test_the_spec_inside_the_folder_serves_as_well(call, toy_export, toy_data, toy_scores):
    scores = columns(call("score", toy_data.rows["eval"][:3], spec=toy_export.base, version=1))
    np.testing.assert_allclose(scores["click"], toy_scores["click"][:3], atol=1e-6)


def test_the_state_of_the_version_is_told(call):
    assert call("status") == {1: State("AVAILABLE")} == call("status", version=1)


@pytest.mark.parametrize(
    ("settings", "status"), [({"version": 9}, "NOT_FOUND"), ({"label": "nobody"}, "INVALID_ARGUMENT")]
)
def test_what_is_not_there_is_told(call, toy_data, settings, status):
    with pytest.raises(ServingError) as caught:
        call("score", toy_data.rows["eval"][:1], **settings)
    assert (caught.value.status, caught.value.tries) == (status, 1)


def test_a_row_that_the_graph_refuses_is_told(call):
    with pytest.raises(ServingError) as caught:
        call("score", [{"page": "home"}], spec=None)
    assert caught.value.status == "INVALID_ARGUMENT"
