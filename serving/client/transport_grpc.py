"""A client's requests over the gRPC interface of TensorFlow Serving, with grpcio."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import numpy as np

from mixrank.schemas.wire import Kind
from mixrank.serving.client.protocol import INTERNAL, Address, Metadata, Predict, Request, ServingError, State, Status
from mixrank.serving.client.tensorflow_serving_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelVersionStatus,
    PredictRequest,
    PredictResponse,
    StatusProto,
)
from mixrank.serving.client.tensors import from_tensor, to_tensor

PREDICT = "/tensorflow.serving.PredictionService/Predict"
GET_MODEL_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
GET_MODEL_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
OPTIONS = (
    # Accept answers of any size.
    ("grpc.max_receive_message_length", -1),
    # The client's own retries come sooner than gRPC would reconnect. `grpc.min_reconnect_backoff_ms` would also limit
    # the time of one attempt to connect, which a distant or busy server may need.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
MESSAGES: dict[type, Any] = {
    Predict: PredictRequest,
    Metadata: GetModelMetadataRequest,
    Status: GetModelStatusRequest,
}
DTYPES: dict[Kind, type] = {"int": np.int64, "float": np.float32, "str": object}


class GrpcTransport:
    """Asks and waits.

    Args:
        address: the model to ask.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._channel = grpc.insecure_channel(_host(address), OPTIONS)
        self._methods = _methods(self._channel)

    def ask(self, request: Request, seconds: float) -> Any:
        """One request.

        Args:
            request: what to ask.
            seconds: how long it may take.

        Raises:
            ServingError: if there is no usable answer.
        """
        message = encode(self.address, request)
        try:
            answer = self._methods[type(request)](message, timeout=seconds)
        except grpc.RpcError as error:
            raise _failure(error) from error
        return decode(request, answer)

    def close(self) -> None:
        self._channel.close()


class AsyncGrpcTransport:
    """Asks on an event loop: the loop of its first request.

    Args:
        address: the model to ask.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[type, Callable[..., Any]] = {}

    async def ask(self, request: Request, seconds: float) -> Any:
        """As `GrpcTransport.ask`."""
        if self._channel is None:
            # A channel belongs to the loop that is running when it is created.
            self._channel = grpc.aio.insecure_channel(_host(self.address), OPTIONS)
            self._methods = _methods(self._channel)
        message = encode(self.address, request)
        try:
            answer = await self._methods[type(request)](message, timeout=seconds)
        except grpc.RpcError as error:
            raise _failure(error) from error
        return decode(request, answer)

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()


def encode(address: Address, request: Request) -> Any:
    """The message of a request.

    Raises:
        ValueError: naming the column whose values are ragged, missing, or of a type that tensors do not have.
    """
    message = MESSAGES[type(request)]()
    message.model_spec.name = address.model
    if address.version is not None:
        message.model_spec.version.value = address.version
    elif address.label is not None and not isinstance(request, Status):
        message.model_spec.version_label = address.label
    if isinstance(request, Predict):
        message.model_spec.signature_name = request.signature
        for name, values in request.inputs.items():
            try:
                tensor = to_tensor(_array(values, request.kinds.get(name)))
            except ValueError as error:
                raise ValueError(f"column `{name}`: {error}") from None
            message.inputs[name].CopyFrom(tensor)
    if isinstance(request, Metadata):
        # The server refuses a request without a field.
        message.metadata_field.append("signature_def")
    return message


def decode(request: Request, answer: Any) -> Any:
    """The answer to a request.

    Args:
        request: what was asked.
        answer: the server's message.

    Returns:
        Output -> nested lists for `Predict`; version -> `State` for `Status`; for `Metadata` a mapping with the
        `version` that answered.

    Raises:
        ServingError: if it holds no tensors.
    """
    if isinstance(request, Predict):
        try:
            return {name: from_tensor(tensor).tolist() for name, tensor in answer.outputs.items()}
        except ValueError as error:
            raise ServingError(INTERNAL, f"its answer cannot be read: {error}") from None
    if isinstance(request, Metadata):
        return {"version": answer.model_spec.version.value}
    states = {}
    for found in answer.model_version_status:
        code = found.status.error_code
        message = found.status.error_message or _name(StatusProto.Code, code) if code else ""
        states[found.version] = State(_name(ModelVersionStatus.State, found.state), message)
    return dict(sorted(states.items()))


def _name(enum: Any, number: int) -> str:
    """The name of an enum value, or its number where a newer server sends one that is unknown here."""
    return enum.Name(number) if number in enum.values() else str(number)


def _array(values: Any, kind: Kind | None) -> np.ndarray:
    """Values as an array of the column's type; inferred from the values if the kind is unknown."""
    if kind is None:
        kind = _kind(values)
    try:
        return np.array(values, DTYPES[kind])
    except OverflowError:
        raise ValueError(f"integers must have 64 bits, received {str(values)[:100]}") from None
    except ValueError:
        raise ValueError(f"lists must have one length, received {str(values)[:100]}") from None


def _kind(values: Any) -> Kind:
    """The kind of some values; integers beside floats count as floats."""
    types = {type(value) for value in _leaves(values)}
    fitting: dict[Kind, set[type]] = {"str": {str}, "int": {int}, "float": {int, float}}
    for kind, wanted in fitting.items():
        if types <= wanted:
            return kind
    raise ValueError(f"values must be all integers, all numbers or all text, received {str(values)[:100]}")


def _leaves(values: Any) -> Iterator[Any]:
    if isinstance(values, list | tuple):
        for value in values:
            yield from _leaves(value)
    else:
        yield values


def _methods(channel: Any) -> dict[type, Callable[..., Any]]:
    def method(path: str, answer: Any) -> Callable[..., Any]:
        return channel.unary_unary(path, lambda message: message.SerializeToString(), answer.FromString)

    return {
        Predict: method(PREDICT, PredictResponse),
        Metadata: method(GET_MODEL_METADATA, GetModelMetadataResponse),
        Status: method(GET_MODEL_STATUS, GetModelStatusResponse),
    }


def _host(address: Address) -> str:
    return address.target.removeprefix("grpc://").rstrip("/")


def _failure(error: Any) -> ServingError:
    return ServingError(error.code().name, error.details() or "no answer")
