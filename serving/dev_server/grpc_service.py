"""The gRPC interface of TensorFlow Serving on its official stubs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from mixrank.serving.dev_server.errors import REQUEST_BYTES, Refused
from mixrank.serving.dev_server.loaded_model import DEFAULT_SIGNATURE
from mixrank.serving.dev_server.prediction_logs import PredictionLogs
from mixrank.serving.dev_server.repository import Repository

POINTER = 8
_UNKNOWN = grpc.StatusCode.UNKNOWN.value[0]


def _refusing(method: Callable[[Any, Any], Any]) -> Callable[[Any, Any, Any], Any]:
    """Turns a method's `Refused` into a gRPC status."""

    @wraps(method)
    def answer(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return method(self, request)
        except Refused as error:
            return context.abort(grpc.StatusCode[error.code], str(error))

    return answer


class GrpcService(prediction_service_pb2_grpc.PredictionServiceServicer, model_service_pb2_grpc.ModelServiceServicer):
    """Predictions, metadata and states.

    Args:
        repository: the models.
        logs: get what was answered, or None.
    """

    def __init__(self, repository: Repository, logs: PredictionLogs | None = None) -> None:
        self.repository, self.logs = repository, logs

    @_refusing
    def Predict(self, request: Any) -> Any:
        """Scores."""
        version, model = self.repository.find(*_which(request.model_spec))
        signature = model.signature(request.model_spec.signature_name)
        try:
            inputs = {name: _array(name, tensor) for name, tensor in request.inputs.items()}
        except (ValueError, TypeError, KeyError) as error:
            raise Refused(f"tensor parsing error: {error}") from None
        answer = model.run(signature, inputs, request.output_filter)
        if self.logs is not None:
            self.logs.write(request.model_spec.name, version, signature_name(request.model_spec), inputs, answer)
        outputs = {name: tf.make_tensor_proto(value) for name, value in answer.items()}
        response = predict_pb2.PredictResponse(model_spec=request.model_spec, outputs=outputs)
        response.model_spec.version.value = version
        response.model_spec.signature_name = signature_name(request.model_spec)
        return response

    @_refusing
    def GetModelMetadata(self, request: Any) -> Any:
        """The signatures of a version."""
        if list(request.metadata_field) != ["signature_def"]:
            raise Refused(f"`metadata_field` must be signature_def, received {list(request.metadata_field)}")
        return metadata(self.repository, *_which(request.model_spec))

    @_refusing
    def GetModelStatus(self, request: Any) -> Any:
        """States of all versions of a model, or of one; a label is ignored."""
        name, version, _ = _which(request.model_spec)
        return status(self.repository, name, version)


def status(repository: Repository, name: str, version: int | None) -> Any:
    """`GetModelStatusResponse`: the states of a model's versions, or of one.

    Raises:
        Refused: NOT_FOUND if there is none.
    """
    response = get_model_status_pb2.GetModelStatusResponse()
    for number, found in repository.states(name, version).items():
        entry = response.model_version_status.add(version=number, state=found.state)
        entry.status.error_message = found.message
        entry.status.error_code = _UNKNOWN if found.message else 0
    return response


def metadata(repository: Repository, name: str, version: int | None, label: str | None) -> Any:
    """`GetModelMetadataResponse`: the signatures of a version.

    Raises:
        Refused: as `Repository.find`.
    """
    number, model = repository.find(name, version, label)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name, response.model_spec.version.value = name, number
    response.metadata["signature_def"].Pack(get_model_metadata_pb2.SignatureDefMap(signature_def=model.signatures))
    return response


def signature_name(spec: Any) -> str:
    """The signature that a request means."""
    return str(spec.signature_name) or DEFAULT_SIGNATURE


def _which(spec: Any) -> tuple[str, int | None, str | None]:
    version = spec.version.value if spec.HasField("version") else None
    return spec.name, version, spec.version_label or None


def _array(name: str, tensor: Any) -> Any:
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if min(shape, default=0) < 0:
        raise Refused(f"input `{name}` has the shape {shape}")
    # One value in a tensor of any shape stands for all of them, so a few bytes may stand for gigabytes.
    # A text has no size of its own; what points to it has one.
    size = math.prod(shape) * (tf.as_dtype(tensor.dtype).size or POINTER)
    if size > REQUEST_BYTES:
        raise Refused(f"input `{name}` has {size} bytes, more than {REQUEST_BYTES}")
    return tf.make_ndarray(tensor)
