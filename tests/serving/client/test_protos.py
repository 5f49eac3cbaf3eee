"""The client's messages have the bytes of the official ones, and arrays survive them."""

from __future__ import annotations

import subprocess
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from mixrank.serving.client import protos
from mixrank.serving.client.tensors import from_tensor, to_tensor

ARRAYS = {
    "float scalar": np.float32(0.5).reshape(()),
    "float": np.array([[1.5, np.nan], [-np.inf, 0.0]], np.float32),
    "double": np.array([1e300, -0.0]),
    "int32": np.array([[[1], [-2]]], np.int32),
    "int64": np.array([[-(2**63), 2**63 - 1]]),
    "bool": np.array([True, False, True]),
    "text": np.array([["a", "Zürich"], ["", "\0"]], object),
    "text scalar": np.array("a", object),
    "no rows": np.zeros((0, 3), np.float32),
    "no text": np.zeros((0,), object),
}


@pytest.fixture(scope="module")
def official():
    """The messages of the packages `tensorflow-serving-api` and `tensorflow`."""
    from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2
    from tensorflow_serving.apis import get_model_status_pb2, model_pb2, predict_pb2

    modules = (tensor_pb2, tensor_shape_pb2, model_pb2, predict_pb2, get_model_status_pb2)
    return {name: getattr(module, name) for module in modules for name in dir(module) if hasattr(protos, name)}


def as_bytes(array):
    if array.dtype != object:
        return array
    return np.array([value.encode() for value in array.ravel()], object).reshape(array.shape)


def same(one, other):
    assert one.shape == other.shape and one.dtype == other.dtype
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "name",
    [
        *("TensorProto", "TensorShapeProto", "ModelSpec", "PredictRequest", "PredictResponse"),
        *("GetModelStatusRequest", "GetModelStatusResponse", "ModelVersionStatus"),
    ],
)
def test_every_field_has_the_official_number_and_type(official, name):
    ours, theirs = getattr(protos, name).DESCRIPTOR, official[name].DESCRIPTOR
    assert ours.full_name == theirs.full_name
    for field in ours.fields:
        other = theirs.fields_by_name[field.name]
        assert (field.number, field.type, field.label) == (other.number, other.type, other.label)
        assert (field.containing_oneof is None) == (other.containing_oneof is None)
        if field.enum_type:
            numbers = {value.name: value.number for value in other.enum_type.values}
            assert {value.name: value.number for value in field.enum_type.values}.items() <= numbers.items()


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_tensors_are_read_by_tensorflow(array):
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2

    tensor = tensor_pb2.TensorProto.FromString(to_tensor(array).SerializeToString())
    same(tf.make_ndarray(tensor), as_bytes(array))
    # The path of a server, in C++.
    parsed = tf.io.parse_tensor(tensor.SerializeToString(), tf.as_dtype(tensor.dtype)).numpy()
    same(np.asarray(parsed, array.dtype), as_bytes(array))


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_tensors_of_tensorflow_are_read(array):
    import tensorflow as tf

    theirs = tf.make_tensor_proto(
        as_bytes(array), shape=array.shape, dtype=tf.string if array.dtype == object else None
    )
    same(from_tensor(protos.TensorProto.FromString(theirs.SerializeToString())), as_bytes(array))


@pytest.mark.parametrize(
    ("dtype", "field", "values", "expected"),
    [
        ("DT_FLOAT", "float_val", [0.5, 0.25], np.array([[0.5], [0.25], [0.25]], np.float32)),
        ("DT_DOUBLE", "double_val", [1e300], np.full((3, 1), 1e300)),
        ("DT_INT32", "int_val", [1, 2, -3], np.array([[1], [2], [-3]], np.int32)),
        ("DT_INT64", "int64_val", [-(2**63), 7], np.array([[-(2**63)], [7], [7]])),
        ("DT_BOOL", "bool_val", [False, True], np.array([[False], [True], [True]])),
        ("DT_STRING", "string_val", [b"a", b"b"], np.array([[b"a"], [b"b"], [b"b"]], object)),
    ],
)
def test_values_one_by_one_are_read_and_the_last_fills_up_the_rest(official, dtype, field, values, expected):
    import tensorflow as tf

    theirs = official["TensorProto"](dtype=dtype, **{field: values})
    for size in (3, 1):
        theirs.tensor_shape.dim.add(size=size)
    ours = protos.TensorProto.FromString(theirs.SerializeToString())
    same(from_tensor(ours), expected)
    np.testing.assert_array_equal(tf.make_ndarray(theirs), expected)
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)


def test_requests_and_answers_are_the_official_ones(official):
    request = protos.PredictRequest(output_filter=["click"])
    request.model_spec.name, request.model_spec.signature_name = "toy", "score_rows"
    request.model_spec.version.value = 7
    for name in ("float", "int64", "text"):
        request.inputs[name].CopyFrom(to_tensor(ARRAYS[name]))
    theirs = official["PredictRequest"].FromString(request.SerializeToString())
    assert (theirs.model_spec.name, theirs.model_spec.signature_name) == ("toy", "score_rows")
    assert theirs.model_spec.version.value == 7 and theirs.model_spec.WhichOneof("version_choice") == "version"
    assert set(theirs.inputs) == {"float", "int64", "text"} and list(theirs.output_filter) == ["click"]
    assert protos.PredictRequest.FromString(theirs.SerializeToString()) == request

    answer = official["PredictResponse"]()
    answer.model_spec.version_label = "stable"
    answer.outputs["click"].ParseFromString(to_tensor(ARRAYS["float"]).SerializeToString())
    ours = protos.PredictResponse.FromString(answer.SerializeToString())
    same(from_tensor(ours.outputs["click"]), ARRAYS["float"])
    assert ours.model_spec.version_label == "stable"


def test_the_state_of_a_version_is_the_official_one(official):
    answer = official["GetModelStatusResponse"]()
    version = answer.model_version_status.add(version=3, state="LOADING")
    version.status.error_code, version.status.error_message = 14, "not yet"
    (ours,) = protos.GetModelStatusResponse.FromString(answer.SerializeToString()).model_version_status
    assert (ours.version, ours.state, ours.status.error_code) == (3, 20, 14)
    assert ours.status.error_message == "not yet"


def test_a_field_that_is_not_known_here_survives(official):
    theirs = official["TensorProto"](dtype="DT_UINT64", uint64_val=[5])
    ours = protos.TensorProto.FromString(theirs.SerializeToString())
    assert official["TensorProto"].FromString(ours.SerializeToString()) == theirs


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ({"dtype": 1, "tensor_content": b"12345"}, r"DT_FLOAT \(2,\) takes 2 values, received 5 bytes"),
        ({"dtype": 1, "float_val": [1, 2, 3]}, r"DT_FLOAT \(2,\) takes 2 values, received 3"),
        ({"dtype": 7}, r"DT_STRING \(2,\) takes 2 values, received 0"),
        ({"dtype": 23}, "a tensor of type 23 is not supported"),
        ({"dtype": 0}, "a tensor of type DT_INVALID is not supported"),
        ({"dtype": 1, "float_val": [1], "size": -1}, "known shape"),
    ],
)
def test_broken_tensors_are_refused(tensor, message):
    broken = protos.TensorProto()
    broken.tensor_shape.dim.add(size=tensor.pop("size", 2))
    for name, value in tensor.items():
        if isinstance(value, list):
            getattr(broken, name).extend(value)
        else:
            setattr(broken, name, value)
    with pytest.raises(ValueError, match=message):
        from_tensor(broken)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([1 + 2j]), "received an array of complex128"),
        (np.array(["a"]), "received an array of <U1"),
        (np.array(["a", None], object), r"takes text, received None \(NoneType\)"),
    ],
)
def test_arrays_that_no_column_has_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        to_tensor(array)


def test_the_byte_order_of_an_array_does_not_matter():
    array = np.array([1, 2, 300])
    assert to_tensor(array.astype(">i8")) == to_tensor(array)


@hypothesis.given(
    st.sampled_from([np.float32, np.int64, np.bool_]).flatmap(
        lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    )
)
def test_any_array_of_numbers_survives(array):
    same(from_tensor(protos.TensorProto.FromString(to_tensor(array).SerializeToString())), array)


def test_the_client_imports_none_of_the_large_packages():
    heavy = {"tensorflow", "keras", "pandas", "apache_beam", "pyarrow", "tensorflow_serving"}
    modules = (
        "mixrank.serving.client.client, mixrank.serving.client.transport_rest, mixrank.serving.client.transport_grpc"
    )
    program = f"import sys, {modules}; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
