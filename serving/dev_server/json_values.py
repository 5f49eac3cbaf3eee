"""JSON values -> arrays of one type, as strict as TensorFlow Serving's REST interface is."""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import Any

import numpy as np
import tensorflow as tf

from mixrank.serving.dev_server.errors import Refused, invalid

# As deep as NumPy goes, less the axis of rows.
MAX_RANK = 31
_INTEGERS = {tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32, tf.uint64}
# Beyond these, floating point numbers leave whole numbers out.
_WHOLE = {tf.float32: 2**24 - 1, tf.float64: 2**53 - 1}


class Stack:
    """Values of one input and one shape, in the order in which they come.

    Args:
        dtype: the input's type.
    """

    def __init__(self, dtype: tf.DType) -> None:
        self.dtype, self._convert = dtype, _converter(dtype)
        self.shape: tuple[int, ...] | None = None
        self.values: list[Any] = []

    def add(self, value: Any) -> None:
        """Takes a value, or lists of values.

        Raises:
            Refused: INVALID_ARGUMENT for another type, or another shape than the first one's.
        """
        shape = _shape(value)
        if len(shape) > MAX_RANK:
            raise invalid(f"lists are nested more than {MAX_RANK} deep")
        before = len(self.values)
        self._fill(value, shape, 0)
        if self.shape is None:
            self.shape = shape
        elif self.shape != shape:
            size, got = math.prod(self.shape), len(self.values) - before
            if size != got:
                raise invalid(f"Expecting tensor size: {size} but got: {got}")
            raise invalid(f"Expecting shape {_sizes(self.shape)} but got: {_sizes(shape)}")

    def array(self, rows: tuple[int, ...]) -> np.ndarray:
        """What was taken, under the axes that count how often that was."""
        return np.array(self.values, self.dtype.as_numpy_dtype).reshape(rows + (self.shape or ()))

    def _fill(self, value: Any, shape: tuple[int, ...], level: int) -> None:
        if not isinstance(value, list):
            if level != len(shape):
                raise invalid(
                    f"JSON Value: {short(value)} found at incorrect level: {level + 1} in the JSON DOM. Expected at "
                    f"level: {len(shape)}"
                )
            self.values.append(self._convert(value))
            return
        if level >= len(shape):
            raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
        if len(value) != shape[level]:
            raise invalid(
                f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
            )
        for each in value:
            self._fill(each, shape, level + 1)


def _converter(dtype: tf.DType) -> Any:
    # Looked up once: TensorFlow takes its time over them, and every value asks.
    low: Any
    high: Any
    low, high = (None, None) if dtype in (tf.string, tf.bool) else (dtype.min, dtype.max)
    most = _WHOLE.get(dtype, 0)

    def wrong(value: Any) -> Refused:
        return invalid(f"JSON Value: {short(value)} Type: {_kind(value)} is not of expected type: {dtype.name}")

    def text(value: Any) -> bytes:
        if isinstance(value, dict):
            return _decode(value)
        if not isinstance(value, str):
            raise wrong(value)
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise invalid(f"JSON Value: {short(value)} is no valid Unicode") from None

    def whole(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise wrong(value)
        return value

    def number(value: Any) -> float:
        if type(value) is int and -(2**63) <= value < 2**64:
            if abs(value) > most:
                raise lossy(value)
            return float(value)
        if type(value) not in (int, float):
            raise wrong(value)
        try:
            found = float(value)
        except OverflowError:
            raise lossy(value) from None
        if math.isfinite(found) and abs(found) > high:
            raise lossy(value)
        return found

    def lossy(value: Any) -> Refused:
        kind = "float" if dtype == tf.float32 else "double"
        return invalid(f"Cannot convert JSON value: {short(value)} to {kind} without loss of precision.")

    def truth(value: Any) -> bool:
        if type(value) is not bool:
            raise wrong(value)
        return value

    if dtype == tf.string:
        return text
    if dtype in _INTEGERS:
        return whole
    if dtype in _WHOLE:
        return number
    if dtype == tf.bool:
        return truth
    raise Refused("UNIMPLEMENTED", f"Conversion of JSON values to type: {dtype.name}")


def _decode(value: dict[str, Any]) -> bytes:
    if not _is_base64(value):
        raise invalid(f"JSON Value: {short(value)} not formatted correctly for base64 data")
    try:
        text = value["b64"].translate(_WEB_SAFE).rstrip("=")
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid("Unable to base64 decode") from None


_WEB_SAFE = str.maketrans("-_", "+/")


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def is_object(value: Any) -> bool:
    """Whether a value is a JSON object and no base64 text."""
    return isinstance(value, dict) and not _is_base64(value)


def _shape(value: Any) -> tuple[int, ...]:
    sizes = []
    while isinstance(value, list):
        sizes.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(sizes)


def _sizes(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _kind(value: Any) -> str:
    kinds = {type(None): "Null", bool: str(value), dict: "Object", list: "Array", str: "String"}
    return kinds.get(type(value), "Number")


def short(value: Any) -> str:
    """A value as JSON, for an error."""
    try:
        text = json.dumps(value)
    except RecursionError:
        text = f"a deeply nested {_kind(value)}"
    return text if len(text) <= 300 else f"{text[:300]}..."
