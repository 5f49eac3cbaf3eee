"""NumPy arrays <-> `TensorProto`, without TensorFlow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mixrank.schemas.safe_text import shown
from mixrank.serving.client.tensorflow_serving_pb2 import (
    DT_BOOL,
    DT_DOUBLE,
    DT_FLOAT,
    DT_INT32,
    DT_INT64,
    DT_STRING,
    DataType,
    TensorProto,
)

# Type -> its little-endian NumPy type, and the field that lists single values.
_TYPES: dict[Any, tuple[np.dtype, str]] = {
    DT_FLOAT: (np.dtype("<f4"), "float_val"),
    DT_DOUBLE: (np.dtype("<f8"), "double_val"),
    DT_INT32: (np.dtype("<i4"), "int_val"),
    DT_INT64: (np.dtype("<i8"), "int64_val"),
    DT_BOOL: (np.dtype("|b1"), "bool_val"),
}
_OF_ARRAY = {dtype: kind for kind, (dtype, _) in _TYPES.items()}


def to_tensor(array: np.ndarray) -> TensorProto:
    """An array as `TensorProto`: numbers as their bytes, text as UTF-8.

    Args:
        array: float32, float64, int32, int64 or bool; or an object array of `str` and `bytes`.

    Raises:
        ValueError: for an array of another type, or an object array that holds something else.
    """
    tensor = TensorProto()
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if array.dtype == object:
        tensor.dtype = DT_STRING
        tensor.string_val.extend(_bytes(value) for value in array.ravel())
        return tensor
    kind = _OF_ARRAY.get(array.dtype.newbyteorder("<"))
    if kind is None:
        raise ValueError(f"a tensor takes float, int, bool or text, received an array of {array.dtype}")
    tensor.dtype = kind
    tensor.tensor_content = array.astype(_TYPES[kind][0], copy=False).tobytes()
    return tensor


def from_tensor(tensor: TensorProto) -> np.ndarray:
    """A `TensorProto` as array; text as an object array of `bytes`.

    Values are either packed in `tensor_content` or listed one by one; a list that is too short repeats its last value.

    Raises:
        ValueError: if the type is none of the above, or the values do not fill the shape.
    """
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    size = math.prod(shape)
    if tensor.tensor_shape.unknown_rank or any(each < 0 for each in shape):
        raise ValueError(f"a tensor must have a known shape, received {shape}")
    kind = tensor.dtype
    name = DataType.Name(kind) if kind in DataType.values() else str(kind)
    if kind == DT_STRING:
        values = np.empty(len(tensor.string_val), object)
        values[:] = list(tensor.string_val)
    elif kind not in _TYPES:
        raise ValueError(f"a tensor of type {name} is not supported")
    elif tensor.tensor_content:
        dtype, _ = _TYPES[kind]
        if len(tensor.tensor_content) != size * dtype.itemsize:
            raise ValueError(f"{name} {shape} takes {size} values, received {len(tensor.tensor_content)} bytes")
        return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
    else:
        dtype, field = _TYPES[kind]
        values = np.array(getattr(tensor, field), dtype)
    if len(values) > size or (size and not len(values)):
        raise ValueError(f"{name} {shape} takes {size} values, received {len(values)}")
    # As in TensorFlow: the last value fills the rest.
    return values[np.minimum(np.arange(size), len(values) - 1)].reshape(shape)


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise ValueError(f"a tensor of text takes text, received {shown(value)} ({type(value).__name__})")
