"""gRPC's tensors <-> NumPy arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from mixrank.serving.dev_server.errors import invalid
from mixrank.serving.dev_server.loaded_model import Signature

# A message may name a large shape and one value for all of it.
MAX_ELEMENTS = 1 << 24


def to_arrays(signature: Signature, tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inputs of a predict request.

    Args:
        signature: what they are for.
        tensors: input -> `TensorProto`.

    Raises:
        Refused: INVALID_ARGUMENT for other inputs than the signature's, another type, or a broken message.
    """
    signature.check_names(tensors)
    arrays = {name: _array(name, signature, proto) for name, proto in tensors.items()}
    signature.check_shapes(arrays)
    return arrays


def to_proto(value: np.ndarray) -> Any:
    """An output as TensorFlow Serving sends it."""
    return tf.make_tensor_proto(value)


def _array(name: str, signature: Signature, proto: Any) -> np.ndarray:
    info = signature.inputs[name]
    if proto.dtype != info.dtype.as_datatype_enum:
        received = tf.dtypes.as_dtype(proto.dtype).name if proto.dtype in _KNOWN else f"type {proto.dtype}"
        raise invalid(
            f"input `{name}` of signature `{signature.name}` expects {info.dtype.name}, but {received} is provided"
        )
    sizes = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or min(sizes, default=0) < 0 or math.prod(sizes) > MAX_ELEMENTS:
        raise invalid(f"tensor parsing error: {name}: shape {sizes} is no shape of a value")
    try:
        return np.asarray(tf.make_ndarray(proto))
    except (ValueError, TypeError, KeyError) as error:
        raise invalid(f"tensor parsing error: {name}: {error}") from None


_KNOWN = {kind.as_datatype_enum for kind in (tf.float32, tf.float64, tf.int32, tf.int64, tf.string, tf.bool, tf.half)}
