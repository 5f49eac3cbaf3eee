"""The JSON of predict requests and answers, by the rules of TensorFlow Serving's REST interface.

Rows:     {"instances": [{"x": 1, "y": [1, 2]}, ...]}   -> {"predictions": [{"click": 0.5}, ...]}
Columns:  {"inputs": {"x": [1], "y": [[1, 2]]}}         -> {"outputs": {"click": [0.5]}}

A single input or output is written without its name; bytes are {"b64": "..."}.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from serving.dev_server.errors import Refused, invalid
from serving.dev_server.model import Signature

# As deep as NumPy's arrays.
MAX_RANK = 32
_INTEGERS = {tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32, tf.uint64}
# Beyond these, floating point numbers leave whole numbers out.
_WHOLE = {tf.float32: 2**24 - 1, tf.float64: 2**53 - 1}


def parse_body(body: bytes) -> dict[str, Any]:
    """The object of a request.

    Raises:
        Refused: INVALID_ARGUMENT saying what is wrong with it.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        found = json.loads(body.decode())
    except UnicodeDecodeError as error:
        raise invalid(f"JSON Parse error: Invalid encoding in string. at offset: {error.start}") from None
    except json.JSONDecodeError as error:
        raise invalid(f"JSON Parse error: {error.msg} at offset: {error.pos}") from None
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error}") from None
    if not isinstance(found, dict):
        raise invalid(f"JSON Value: {_short(found)} Is not object")
    if not isinstance(found.get("signature_name", ""), str):
        raise invalid(
            f"JSON Value: {_short(found)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return found


def parse_tensors(request: Mapping[str, Any], signature: Signature) -> tuple[dict[str, np.ndarray], bool]:
    """The inputs of a request, and whether it came in rows.

    Raises:
        Refused: INVALID_ARGUMENT naming row, input and value.
    """
    if "instances" in request and "inputs" in request:
        raise invalid(
            f"JSON Value: {_short(request)} Not formatted correctly expecting only one of 'inputs' or 'instances' keys "
            f"to exist "
        )
    if "instances" in request:
        return _rows(request, signature), True
    if "inputs" in request:
        return _columns(request["inputs"], signature), False
    raise invalid("Missing 'inputs' or 'instances' key")


def render(outputs: Mapping[str, np.ndarray], by_row: bool) -> bytes:
    """The answer.

    Raises:
        Refused: INVALID_ARGUMENT if rows were asked for, but outputs have no such axis.
    """
    values = {name: _listed(name, value) for name, value in outputs.items()}
    if not by_row:
        answer: Any = next(iter(values.values())) if len(values) == 1 else values
        return json.dumps({"outputs": answer}).encode()
    sizes = {name: value.shape[0] if value.ndim else None for name, value in outputs.items()}
    if None in sizes.values() or len(set(sizes.values())) > 1:
        raise invalid(f"the outputs have no common batch axis: {sizes}; ask with 'inputs' instead of 'instances'")
    rows: list[Any]
    if len(values) == 1:
        (rows,) = values.values()
    else:
        rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    return json.dumps({"predictions": rows}).encode()


def _rows(request: Mapping[str, Any], signature: Signature) -> dict[str, np.ndarray]:
    rows = request["instances"]
    if not isinstance(rows, list):
        raise invalid(f"JSON Value: {_short(request)} Excepting 'instances' to be an list/array")
    if not rows:
        raise invalid(f"JSON Value: {_short(request)} No values in 'instances' array")
    named = _is_object(rows[0])
    if not named and len(signature.inputs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    stacked = {name: _Stack(info.dtype) for name, info in signature.inputs.items()}
    for number, row in enumerate(rows):
        if _is_object(row) != named:
            expected, got = ("object", "list") if named else ("value/list", "object")
            raise invalid(f"Expecting {expected} but got {got} at item {number} of input list")
        for name, value in row.items() if named else [(next(iter(signature.inputs)), row)]:
            try:
                if name not in stacked:
                    raise invalid(f"JSON object: does not have named input: {name}")
                stacked[name].add(value)
            except Refused as error:
                key = f" key: {name}" if named else ""
                raise invalid(
                    f"Failed to process element: {number}{key} of 'instances' list. Error: {error.code}: {error}"
                ) from None
        if named and len(row) != len(stacked):
            raise invalid(
                f"Failed to process element: {number} of 'instances' list. JSON object: {_short(row)} keys must be "
                f"equal to: {','.join(stacked)}"
            )
    return {name: stack.array((len(rows),)) for name, stack in stacked.items()}


def _columns(inputs: Any, signature: Signature) -> dict[str, np.ndarray]:
    if not _is_object(inputs):
        if len(signature.inputs) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        inputs = {next(iter(signature.inputs)): inputs}
    arrays = {}
    for name, info in signature.inputs.items():
        if name not in inputs:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        stack = _Stack(info.dtype)
        try:
            stack.add(inputs[name])
        except Refused as error:
            raise invalid(f"input `{name}`: {error}") from None
        arrays[name] = stack.array(())
    return arrays


class _Stack:
    """Values of one input and one shape, in the order in which they come."""

    def __init__(self, dtype: tf.DType) -> None:
        self.dtype, self._convert = dtype, _converter(dtype)
        self.shape: tuple[int, ...] | None = None
        self.values: list[Any] = []

    def add(self, value: Any) -> None:
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
        return np.array(self.values, self.dtype.as_numpy_dtype).reshape(rows + (self.shape or ()))

    def _fill(self, value: Any, shape: tuple[int, ...], level: int) -> None:
        if not isinstance(value, list):
            if level != len(shape):
                raise invalid(
                    f"JSON Value: {_short(value)} found at incorrect level: {level + 1} in the JSON DOM. Expected at "
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
        return invalid(f"JSON Value: {_short(value)} Type: {_kind(value)} is not of expected type: {dtype.name}")

    def text(value: Any) -> bytes:
        if isinstance(value, dict):
            return _decode(value)
        if not isinstance(value, str):
            raise wrong(value)
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise invalid(f"JSON Value: {_short(value)} is no valid Unicode") from None

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
        return invalid(f"Cannot convert JSON value: {_short(value)} to {kind} without loss of precision.")

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
        raise invalid(f"JSON Value: {_short(value)} not formatted correctly for base64 data")
    try:
        text = value["b64"].translate(_WEB_SAFE).rstrip("=")
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid("Unable to base64 decode") from None


_WEB_SAFE = str.maketrans("-_", "+/")


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _is_object(value: Any) -> bool:
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


def _short(value: Any) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:
        text = f"a deeply nested {_kind(value)}"
    return text if len(text) <= 300 else f"{text[:300]}..."


def _listed(name: str, value: np.ndarray) -> Any:
    if value.dtype.kind == "f":
        # A float32 as the shortest number that reads back as it, not with the digits of a float64.
        return value.astype(str).astype(np.float64).tolist()
    if value.dtype.kind != "O":
        return value.tolist()
    as_bytes = name.endswith("_bytes")

    def one(item: Any) -> Any:
        item = item if isinstance(item, bytes) else str(item).encode()
        return {"b64": base64.b64encode(item).decode()} if as_bytes else item.decode(errors="replace")

    return np.frompyfunc(one, 1, 1)(value).tolist() if value.ndim else one(value.item())
