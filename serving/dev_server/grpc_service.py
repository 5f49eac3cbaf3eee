"""The gRPC interface of TensorFlow Serving on its official stubs."""

from __future__ import annotations

import time
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from mixrank.serving.dev_server.batching import Runner
from mixrank.serving.dev_server.errors import Refused, invalid
from mixrank.serving.dev_server.loaded_model import DEFAULT_SIGNATURE
from mixrank.serving.dev_server.message_types import to_arrays, to_proto
from mixrank.serving.dev_server.prometheus import Metrics
from mixrank.serving.dev_server.repository import Repository


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predictions and metadata.

    Args:
        repository: the models.
        runner: runs them.
        metrics: counts requests.
    """

    def __init__(self, repository: Repository, runner: Runner, metrics: Metrics) -> None:
        self.repository, self.runner, self.metrics = repository, runner, metrics

    async def Predict(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """Scores."""
        name, began, status = request.model_spec.name, time.monotonic(), "UNKNOWN"
        try:
            response = await self._predict(request)
            status = "OK"
            return response
        except Refused as error:
            status = error.code
            await _abort(context, error)
        finally:
            if name in self.repository.served:
                self.metrics.request(name, "Predict", "GRPC", status, time.monotonic() - began)

    async def GetModelMetadata(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """The signatures of a version."""
        try:
            return self._metadata(request)
        except Refused as error:
            await _abort(context, error)

    async def Classify(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """Refused: every signature is one of predict."""
        await self._refuse(request.model_spec, context, "classification", "classify")

    async def Regress(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """Refused: every signature is one of predict."""
        await self._refuse(request.model_spec, context, "regression", "regress")

    async def _predict(self, request: Any) -> Any:
        with self.repository.use(*_which(request.model_spec)) as (version, model):
            wanted = request.model_spec.signature_name or DEFAULT_SIGNATURE
            if wanted not in model.signatures:
                raise Refused("FAILED_PRECONDITION", f'Serving signature key "{wanted}" not found.')
            signature = model.signatures[wanted]
            inputs, outputs = to_arrays(signature, request.inputs), signature.select(request.output_filter)
            at_work = time.monotonic()
            answer = await self.runner.run(model, signature, inputs, outputs)
            self.metrics.runtime(request.model_spec.name, time.monotonic() - at_work)
        response = predict_pb2.PredictResponse(outputs={name: to_proto(value) for name, value in answer.items()})
        response.model_spec.name, response.model_spec.signature_name = request.model_spec.name, wanted
        response.model_spec.version.value = version
        return response

    def _metadata(self, request: Any) -> Any:
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {field} is not supported")
        with self.repository.use(*_which(request.model_spec)) as (version, model):
            found = get_model_metadata_pb2.SignatureDefMap(signature_def=model.definitions)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version
        response.metadata["signature_def"].Pack(found)
        return response

    async def _refuse(self, spec: Any, context: grpc.aio.ServicerContext, kind: str, verb: str) -> NoReturn:
        try:
            with self.repository.use(*_which(spec)):
                raise invalid(
                    f"Expected {kind} signature method_name to be tensorflow/serving/{verb}. "
                    f"Was: tensorflow/serving/predict"
                )
        except Refused as error:
            await _abort(context, error)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """States of versions, and another models.config.

    Args:
        repository: the models.
    """

    def __init__(self, repository: Repository) -> None:
        self.repository = repository

    async def GetModelStatus(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """States of all versions of a model, or of one; a label is ignored."""
        try:
            if not request.HasField("model_spec"):
                raise invalid("Missing ModelSpec")
            name, version, _ = _which(request.model_spec)
            response = get_model_status_pb2.GetModelStatusResponse()
            for number, state in self.repository.states(name, version).items():
                entry = response.model_version_status.add(version=number, state=state.name)
                entry.status.error_code = _CODES[state.code]
                entry.status.error_message = state.message
            return response
        except Refused as error:
            await _abort(context, error)

    async def HandleReloadConfigRequest(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """Takes another configuration; returns before what it adds is loaded, as TensorFlow Serving does."""
        try:
            if request.config.WhichOneof("config") != "model_config_list":
                raise invalid("Config type must be model_config_list")
            self.repository.reload(request.config)
            return model_management_pb2.ReloadConfigResponse()
        except Refused as error:
            await _abort(context, error)


class RefuseUnreadable(grpc.aio.ServerInterceptor):
    """Answers bytes that are no message with INVALID_ARGUMENT; gRPC's Python server would call it its own error."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Wraps the handler of a call."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None

        def read(message: bytes) -> Any:
            try:
                return handler.request_deserializer(message)
            except DecodeError:
                return None

        async def answer(request: Any, context: grpc.aio.ServicerContext) -> Any:
            if request is None:
                await _abort(context, invalid("the request is no message of its type"))
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(answer, read, handler.response_serializer)


_CODES = {code.name: code.value[0] for code in grpc.StatusCode}


def _which(spec: Any) -> tuple[str, int | None, str | None]:
    choice = spec.WhichOneof("version_choice")
    return (
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


async def _abort(context: grpc.aio.ServicerContext, error: Refused) -> NoReturn:
    await context.abort(grpc.StatusCode[error.code], str(error))
    raise AssertionError("abort raises")
