"""Logged requests of a server: PredictionLog messages, read without TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError

from mixrank.serving.client.tensorflow_serving_pb2 import PredictionLog
from mixrank.serving.client.tensors import from_tensor


@dataclass(frozen=True)
class LoggedRequest:
    """A request that a server logged.

    Args:
        signature: its name.
        inputs: name -> array; text as an object array of `bytes`.
        outputs: name -> array; empty if the answer was not logged.
        logged_at: when, in milliseconds since 1970; None if the log does not say.
    """

    signature: str
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    logged_at: int | None


def is_prediction_log(record: bytes) -> bool:
    """Whether a record is the PredictionLog of a predict request; a tf.Example has none of its fields."""
    try:
        return bool(PredictionLog.FromString(record).HasField("predict_log"))
    except DecodeError:
        return False


def read_prediction_log(record: bytes) -> LoggedRequest:
    """The request of a record.

    Raises:
        ValueError: if it is none, is of another kind of request, or a tensor of it cannot be read.
    """
    try:
        log = PredictionLog.FromString(record)
    except DecodeError as error:
        raise ValueError(f"it is no PredictionLog: {error}") from None
    if not log.HasField("predict_log"):
        raise ValueError("it is no PredictionLog of a predict request (`predict_log`)")
    request, response = log.predict_log.request, log.predict_log.response
    arrays: list[dict[str, np.ndarray]] = []
    for tensors in (request.inputs, response.outputs):
        arrays.append({})
        for name, tensor in tensors.items():
            try:
                arrays[-1][name] = from_tensor(tensor)
            except ValueError as error:
                raise ValueError(f"`{name}`: {error}") from None
    seconds = log.log_metadata.timestamp_secs
    signature = request.model_spec.signature_name or "serving_default"
    return LoggedRequest(signature, arrays[0], arrays[1], 1000 * seconds if seconds else None)
