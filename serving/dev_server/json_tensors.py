"""The JSON of predict requests and answers, by the rules of TensorFlow Serving's REST interface.

Rows:     {"instances": [{"x": 1, "y": [1, 2]}, ...]}   -> {"predictions": [{"click": 0.5}, ...]}
Columns:  {"inputs": {"x": [1], "y": [[1, 2]]}}         -> {"outputs": {"click": [0.5]}}

A single input or output is written without its name; bytes are {"b64": "..."}.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from mixrank.serving.dev_server.errors import Refused, brief

# Kind of a NumPy type -> what JSON may hold for it. A dict is {"b64": ...}; a bool is not a number.
_TYPES: dict[str, set[type]] = {"O": {str, dict}, "b": {bool}, "i": {int}, "u": {int}, "f": {int, float}}
_WEB_SAFE = str.maketrans("-_", "+/")
# Also an unclosed text, so that no part of the body is read twice.
_TEXT_OR_INF = re.compile(r'"(?:\\.|[^"\\])*+"?|\bInf\b', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse(body: bytes) -> dict[str, Any]:
    """The object of a request.

    Raises:
        Refused: INVALID_ARGUMENT saying what is wrong with it.
    """
    if not body:
        raise Refused("JSON Parse error: The document is empty")
    try:
        # As TensorFlow Serving: a byte order mark is skipped, the first of two equal keys counts.
        text = body.decode("utf-8-sig")
        if "Inf" in text:
            text = _TEXT_OR_INF.sub(lambda found: "Infinity" if found[0] == "Inf" else found[0], text)
        found = json.loads(text, parse_float=_double, object_pairs_hook=lambda pairs: dict(reversed(pairs)))
        if _SURROGATE.search(text):
            # Half of a surrogate pair is no character; this fails if there is one.
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Refused(f"JSON Parse error: {error}") from None
    if not isinstance(found, dict):
        raise Refused(f"JSON Value: {brief(found)} Is not object")
    if not isinstance(found.get("signature_name", ""), str):
        raise Refused(f"JSON Value: {brief(found)} 'signature_name' key must be a string value.")
    if ("instances" in found) == ("inputs" in found):
        both = "expecting only one of 'inputs' or 'instances' keys to exist"
        raise Refused(both if "inputs" in found else "Missing 'inputs' or 'instances' key")
    return found


def _double(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"Number too big to be stored in double: {text[:40]}")
    return number


def to_arrays(request: Mapping[str, Any], signature: Any) -> dict[str, np.ndarray]:
    """The inputs of a request.

    Args:
        request: as `parse` returns it.
        signature: `SignatureDef` of what is asked.

    Raises:
        Refused: INVALID_ARGUMENT naming row, input and value.
    """
    columns = _by_column(request["instances"], signature) if "instances" in request else request["inputs"]
    if not _is_object(columns):
        columns = {_only_input(signature): columns}
    return {name: _array(name, values, signature) for name, values in columns.items()}


def render(outputs: Mapping[str, np.ndarray], by_row: bool) -> str:
    """The answer.

    Raises:
        Refused: INVALID_ARGUMENT if rows were asked for, but outputs have no such axis.
    """
    values = {name: _listed(name, value) for name, value in outputs.items()}
    single = next(iter(values.values())) if len(values) == 1 else None
    if not by_row:
        return json.dumps({"outputs": values if single is None else single})
    sizes = {value.shape[:1] for value in outputs.values()}
    if len(sizes) != 1 or () in sizes:
        raise Refused("the outputs have no common batch axis; ask with 'inputs' instead of 'instances'")
    rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    return json.dumps({"predictions": rows if single is None else single})


def _by_column(rows: Any, signature: Any) -> dict[str, list[Any]]:
    if not isinstance(rows, list) or not rows:
        problem = "No values in 'instances' array" if rows == [] else "Excepting 'instances' to be an list/array"
        raise Refused(f"JSON Value: {brief(rows)} {problem}")
    if not _is_object(rows[0]):
        name = _only_input(signature)
        if any(map(_is_object, rows)):
            raise Refused(f"JSON Value: {brief(rows)} 'instances' mixes objects and plain values")
        return {name: rows}
    wanted = set(signature.inputs)
    for number, row in enumerate(rows):
        names = row.keys() if _is_object(row) else set()
        if names != wanted:
            raise Refused(
                f"Failed to process element: {number} of 'instances' list. JSON object keys must be equal to: "
                f"{','.join(sorted(wanted))}; extra or missing: {','.join(sorted(names ^ wanted))}"
            )
    return {name: [row[name] for row in rows] for name in signature.inputs}


def _only_input(signature: Any) -> str:
    if len(signature.inputs) > 1:
        raise Refused("a plain value/list, but expecting objects as multiple input tensors required")
    return next(iter(signature.inputs))


def _array(name: str, values: Any, signature: Any) -> np.ndarray:
    if name not in signature.inputs:
        raise Refused(f"JSON object: does not have named input: {name}")
    dtype = np.dtype(tf.as_dtype(signature.inputs[name].dtype).as_numpy_dtype)
    # Ragged lists, and lists nested too deeply for an array, stay lists inside the array.
    array = np.array(values, object)
    if not set(map(type, array.ravel())) <= _TYPES[dtype.kind]:
        place, value = next(item for item in np.ndenumerate(array) if type(item[1]) not in _TYPES[dtype.kind])
        kind = "Encountered list at unexpected level or size" if isinstance(value, list) else "JSON Value"
        expected = "string" if dtype.kind == "O" else dtype.name
        raise Refused(
            f"Failed to process element: {place[0] if place else 0} key: {name}. {kind}: {brief(value)} is not of "
            f"expected type: {expected}"
        )
    try:
        if dtype.kind == "O":
            return np.array(np.frompyfunc(_bytes, 1, 1)(array), object)
        with np.errstate(over="ignore"):
            return array.astype(dtype)
    except (ValueError, OverflowError) as error:
        raise Refused(f"Failed to process elements of key: {name}: {error}") from None


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if _is_object(value):
        raise ValueError(f"JSON Value: {brief(value)} not formatted correctly for base64 data")
    text = value["b64"].translate(_WEB_SAFE).rstrip("=")
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def _is_object(value: Any) -> bool:
    """Whether a value is a JSON object other than base64 text."""
    return isinstance(value, dict) and not (len(value) == 1 and isinstance(value.get("b64"), str))


def _listed(name: str, value: np.ndarray) -> Any:
    if value.dtype.kind == "f":
        # A float32 is written as the shortest number that reads back to it, not with the digits of a float64.
        return value.astype(str).astype(np.float64).tolist()
    if value.dtype.kind != "O":
        return value.tolist()

    def text(item: bytes) -> Any:
        return {"b64": base64.b64encode(item).decode()} if name.endswith("_bytes") else item.decode(errors="replace")

    return np.frompyfunc(text, 1, 1)(value).tolist() if value.ndim else text(value.item())
