"""The client's messages have the official names, numbers, types and bytes, and its stubs are those of its .proto file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mixrank
from mixrank.serving.client import tensorflow_serving_pb2 as messages
from mixrank.serving.client import transport_grpc
from mixrank.serving.client.tensors import from_tensor, to_tensor

PROTO = "mixrank/serving/client/tensorflow_serving.proto"


@pytest.fixture(scope="module")
def official():
    """The messages of the packages `tensorflow-serving-api` and `tensorflow`."""
    from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        get_model_status_pb2,
        logging_pb2,
        model_pb2,
        predict_pb2,
        prediction_log_pb2,
        status_pb2,
    )

    serving = (get_model_metadata_pb2, get_model_status_pb2, model_pb2, predict_pb2, status_pb2)
    serving += (logging_pb2, prediction_log_pb2)
    modules = (tensor_pb2, tensor_shape_pb2, *serving)
    return {name: getattr(module, name) for module in modules for name in dir(module) if hasattr(messages, name)}


def assert_part_of(ours, theirs):
    """Every field of `ours` stands in `theirs` with its number, type and choice; maps and inner messages too."""
    assert ours.name == theirs.name
    for field in ours.fields:
        other = theirs.fields_by_name[field.name]
        assert (field.number, field.type, field.label) == (other.number, other.type, other.label), field.full_name
        assert (field.containing_oneof is None) == (other.containing_oneof is None), field.full_name
        if field.message_type:
            assert_part_of(field.message_type, other.message_type)
        if field.enum_type:
            known = {value.name: value.number for value in other.enum_type.values}
            assert {value.name: value.number for value in field.enum_type.values}.items() <= known.items()


@pytest.mark.parametrize("name", messages.DESCRIPTOR.message_types_by_name)
def test_every_field_has_the_official_number_and_type(official, name):
    assert_part_of(getattr(messages, name).DESCRIPTOR, official[name].DESCRIPTOR)


def test_the_methods_have_the_official_paths():
    from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

    paths = []

    class Channel:
        def unary_unary(self, path, **kwargs):
            paths.append(path)

    prediction_service_pb2_grpc.PredictionServiceStub(Channel())
    model_service_pb2_grpc.ModelServiceStub(Channel())
    assert {transport_grpc.PREDICT, transport_grpc.GET_MODEL_METADATA, transport_grpc.GET_MODEL_STATUS} <= set(paths)


def test_the_stubs_are_what_protoc_writes(tmp_path):
    tools = pytest.importorskip("grpc_tools")
    from grpc_tools import protoc

    root = Path(mixrank.__file__).parents[1]
    known = Path(tools.__file__).with_name("_proto")
    assert protoc.main(["", f"-I{root}", f"-I{known}", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", PROTO]) == 0
    for name in ("tensorflow_serving_pb2.py", "tensorflow_serving_pb2.pyi"):
        written, kept = (folder / Path(PROTO).with_name(name) for folder in (tmp_path, root))
        assert kept.read_text() == written.read_text(), "write them again with `make stubs`"


def test_requests_and_answers_are_the_official_ones(official):
    request = messages.PredictRequest(output_filter=["click"])
    request.model_spec.name, request.model_spec.signature_name = "toy", "score_rows"
    request.model_spec.version.value = 7
    x = np.array([0.5, 2], np.float32)
    request.inputs["x"].CopyFrom(to_tensor(x))
    theirs = official["PredictRequest"].FromString(request.SerializeToString())
    assert (theirs.model_spec.name, theirs.model_spec.signature_name) == ("toy", "score_rows")
    assert theirs.model_spec.version.value == 7 and theirs.model_spec.WhichOneof("version_choice") == "version"
    assert set(theirs.inputs) == {"x"} and list(theirs.output_filter) == ["click"]
    assert messages.PredictRequest.FromString(theirs.SerializeToString()) == request

    answer = official["PredictResponse"]()
    answer.model_spec.version_label = "stable"
    answer.outputs["click"].ParseFromString(to_tensor(x).SerializeToString())
    ours = messages.PredictResponse.FromString(answer.SerializeToString())
    np.testing.assert_array_equal(from_tensor(ours.outputs["click"]), x)
    assert ours.model_spec.version_label == "stable"


def test_the_state_of_a_version_is_the_official_one(official):
    answer = official["GetModelStatusResponse"]()
    version = answer.model_version_status.add(version=3, state="LOADING")
    version.status.error_code, version.status.error_message = 14, "not yet"
    (ours,) = messages.GetModelStatusResponse.FromString(answer.SerializeToString()).model_version_status
    assert (ours.version, ours.state, ours.status.error_code) == (3, 20, 14)
    assert ours.status.error_message == "not yet"


def test_a_field_that_is_not_known_here_survives(official):
    theirs = official["TensorProto"](dtype="DT_UINT64", uint64_val=[5])
    ours = messages.TensorProto.FromString(theirs.SerializeToString())
    assert official["TensorProto"].FromString(ours.SerializeToString()) == theirs
