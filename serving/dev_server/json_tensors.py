"""The JSON of predict requests and answers, by the rules of TensorFlow Serving's REST interface.

Rows:     {"instances": [{"x": 1, "y": [1, 2]}, ...]}   -> {"predictions": [{"click": 0.5}, ...]}
Columns:  {"inputs": {"x": [1], "y": [[1, 2]]}}         -> {"outputs": {"click": [0.5]}}

A single input or output is written without its name; bytes are {"b64": "..."}.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from mixrank.serving.dev_server.errors import Refused, invalid
from mixrank.serving.dev_server.json_values import Stack, is_object, short
from mixrank.serving.dev_server.loaded_model import Signature


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
        raise invalid(f"JSON Value: {short(found)} Is not object")
    if not isinstance(found.get("signature_name", ""), str):
        raise invalid(
            f"JSON Value: {short(found)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return found


def parse_tensors(request: Mapping[str, Any], signature: Signature) -> tuple[dict[str, np.ndarray], bool]:
    """The inputs of a request, and whether it came in rows.

    Raises:
        Refused: INVALID_ARGUMENT naming row, input and value.
    """
    if "instances" in request and "inputs" in request:
        raise invalid(
            f"JSON Value: {short(request)} Not formatted correctly expecting only one of 'inputs' or 'instances' keys "
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
        raise invalid(f"JSON Value: {short(request)} Excepting 'instances' to be an list/array")
    if not rows:
        raise invalid(f"JSON Value: {short(request)} No values in 'instances' array")
    named = is_object(rows[0])
    if not named and len(signature.inputs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    stacked = {name: Stack(info.dtype) for name, info in signature.inputs.items()}
    for number, row in enumerate(rows):
        if is_object(row) != named:
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
                f"Failed to process element: {number} of 'instances' list. JSON object: {short(row)} keys must be "
                f"equal to: {','.join(stacked)}"
            )
    return {name: stack.array((len(rows),)) for name, stack in stacked.items()}


def _columns(inputs: Any, signature: Signature) -> dict[str, np.ndarray]:
    if not is_object(inputs):
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
        stack = Stack(info.dtype)
        try:
            stack.add(inputs[name])
        except Refused as error:
            raise invalid(f"input `{name}`: {error}") from None
        arrays[name] = stack.array(())
    return arrays


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
