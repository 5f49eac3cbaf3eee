"""Arrays survive `TensorProto`, and TensorFlow reads and writes the same bytes."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from mixrank.serving.client.tensorflow_serving_pb2 import TensorProto
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


def as_bytes(array):
    if array.dtype != object:
        return array
    return np.array([value.encode() for value in array.ravel()], object).reshape(array.shape)


def same(one, other):
    assert one.shape == other.shape and one.dtype == other.dtype
    np.testing.assert_array_equal(one, other)


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
    same(from_tensor(TensorProto.FromString(theirs.SerializeToString())), as_bytes(array))


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
def test_values_one_by_one_are_read_and_the_last_fills_up_the_rest(dtype, field, values, expected):
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2

    theirs = tensor_pb2.TensorProto(dtype=dtype, **{field: values})
    for size in (3, 1):
        theirs.tensor_shape.dim.add(size=size)
    ours = TensorProto.FromString(theirs.SerializeToString())
    same(from_tensor(ours), expected)
    np.testing.assert_array_equal(tf.make_ndarray(theirs), expected)
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)


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
    broken = TensorProto()
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
    same(from_tensor(TensorProto.FromString(to_tensor(array).SerializeToString())), array)
