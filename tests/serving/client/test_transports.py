"""A transport sends any row unchanged."""

from __future__ import annotations

import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from mixrank.schemas.encode import PADDING, columns
from mixrank.serving.client import Inputs, transport_grpc, transport_rest
from mixrank.serving.client import tensorflow_serving_pb2 as messages
from mixrank.serving.client.protocol import Address, Calls, Predict
from mixrank.serving.client.tensors import from_tensor


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([1, 2], "DT_INT64"), ([1, 2.5], "DT_FLOAT"), (["a", ""], "DT_STRING"), ([[1.0], [2.0]], "DT_FLOAT")],
)
def test_without_a_spec_values_tell_their_type(values, dtype):
    message = transport_grpc.encode(Address("grpc://h:1", "toy"), Predict("score_rows", {"x": values}))
    assert message.inputs["x"].dtype == messages.DataType.Value(dtype)
    assert from_tensor(message.inputs["x"]).shape == np.array(values).shape


def plain(inputs):
    """Tensors as JSON would carry them."""
    return {
        name: np.vectorize(bytes.decode, otypes=[object])(values).tolist()
        if values.dtype == object
        else values.tolist()
        for name, values in inputs.items()
    }


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
            value = value.filter(lambda found: found not in ("", PADDING["int"]))
        if column.history is not None:
            length = column.length // column.width
            count = events.setdefault(column.history, draw(st.integers(0, length)))
            own = value if column.weighs is None else value.map(abs)
            row[column.name] = draw(st.lists(own, min_size=count * column.width, max_size=count * column.width))
        elif column.weighs is not None:
            size = draw(st.sampled_from([0, len(row[column.weighs])]))
            row[column.name] = [abs(weight) for weight in draw(st.lists(value, min_size=size, max_size=size))]
        elif column.length is not None:
            least = draw(st.sampled_from([0, column.length])) if column.exact else 0
            most = least if column.exact else column.length
            row[column.name] = draw(st.lists(value, min_size=least, max_size=most))
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
