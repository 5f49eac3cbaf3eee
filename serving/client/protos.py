"""The messages of TensorFlow Serving that a client needs, without TensorFlow.

The official stubs import TensorFlow, which takes many seconds. These are built from descriptors with the official names
and field numbers, so their bytes are those of the official messages; they live in a descriptor pool of their own, so
that a process may hold both.

Source: `tensorflow_serving/apis/{model,predict,get_model_status}.proto`, `tensorflow/core/framework/tensor.proto`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, wrappers_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PREDICT = "/tensorflow.serving.PredictionService/Predict"
GET_MODEL_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"

_TYPES = {
    "double": 1,
    "float": 2,
    "int64": 3,
    "int32": 5,
    "bool": 8,
    "string": 9,
    "bytes": 12,
}
_MESSAGE, _ENUM, _OPTIONAL, _REPEATED = 11, 14, 1, 3

# Field -> number and type; "*" is repeated, "{}" a map from text, "|" one of a choice.
Fields = Mapping[str, tuple[int, str]]


def _tensors() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="tensor.proto", package="tensorflow", syntax="proto3")
    types = {
        "DT_INVALID": 0,
        "DT_FLOAT": 1,
        "DT_DOUBLE": 2,
        "DT_INT32": 3,
        "DT_STRING": 7,
        "DT_INT64": 9,
        "DT_BOOL": 10,
    }
    _enum(file.enum_type.add(name="DataType"), types)
    shape = file.message_type.add(name="TensorShapeProto")
    _fields(shape.nested_type.add(name="Dim"), {"size": (1, "int64"), "name": (2, "string")})
    _fields(shape, {"dim": (2, "*.tensorflow.TensorShapeProto.Dim"), "unknown_rank": (3, "bool")})
    tensor: Fields = {
        "dtype": (1, "enum .tensorflow.DataType"),
        "tensor_shape": (2, ".tensorflow.TensorShapeProto"),
        "version_number": (3, "int32"),
        "tensor_content": (4, "bytes"),
        "float_val": (5, "*float"),
        "double_val": (6, "*double"),
        "int_val": (7, "*int32"),
        "string_val": (8, "*bytes"),
        "int64_val": (10, "*int64"),
        "bool_val": (11, "*bool"),
    }
    _fields(file.message_type.add(name="TensorProto"), tensor)
    return file


def _serving() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="serving.proto",
        package="tensorflow.serving",
        syntax="proto3",
        dependency=["tensor.proto", wrappers_pb2.DESCRIPTOR.name],
    )
    messages: dict[str, Fields] = {
        "ModelSpec": {
            "name": (1, "string"),
            "version": (2, "|.google.protobuf.Int64Value"),
            "version_label": (4, "|string"),
            "signature_name": (3, "string"),
        },
        "PredictRequest": {
            "model_spec": (1, ".tensorflow.serving.ModelSpec"),
            "inputs": (2, "{}.tensorflow.TensorProto"),
            "output_filter": (3, "*string"),
        },
        "PredictResponse": {
            "outputs": (1, "{}.tensorflow.TensorProto"),
            "model_spec": (2, ".tensorflow.serving.ModelSpec"),
        },
        "GetModelStatusRequest": {"model_spec": (1, ".tensorflow.serving.ModelSpec")},
        # The code is an enumeration there, which travels as the same number.
        "StatusProto": {"error_code": (1, "int32"), "error_message": (2, "string")},
        "ModelVersionStatus": {
            "version": (1, "int64"),
            "state": (2, "enum .tensorflow.serving.ModelVersionStatus.State"),
            "status": (3, ".tensorflow.serving.StatusProto"),
        },
        "GetModelStatusResponse": {"model_version_status": (1, "*.tensorflow.serving.ModelVersionStatus")},
    }
    for name, fields in messages.items():
        _fields(file.message_type.add(name=name), fields, f".tensorflow.serving.{name}")
    states = {"UNKNOWN": 0, "START": 10, "LOADING": 20, "AVAILABLE": 30, "UNLOADING": 40, "END": 50}
    (version_status,) = (message for message in file.message_type if message.name == "ModelVersionStatus")
    _enum(version_status.enum_type.add(name="State"), states)
    return file


def _fields(message: Any, fields: Fields, full_name: str = "") -> None:
    for name, (number, kind) in fields.items():
        field = message.field.add(name=name, number=number, label=_OPTIONAL)
        if kind.startswith("{}"):
            entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
            entry.options.map_entry = True
            _fields(entry, {"key": (1, "string"), "value": (2, kind.removeprefix("{}"))})
            kind = f"*{full_name}.{entry.name}"
        if kind.startswith("*"):
            field.label = _REPEATED
        if kind.startswith("|"):
            if not message.oneof_decl:
                message.oneof_decl.add(name="version_choice")
            field.oneof_index = 0
        kind = kind.lstrip("*|")
        if kind.startswith("enum "):
            field.type, field.type_name = _ENUM, kind.removeprefix("enum ")
        elif kind.startswith("."):
            field.type, field.type_name = _MESSAGE, kind
        else:
            field.type = _TYPES[kind]


def _enum(enum: Any, values: Mapping[str, int]) -> None:
    for name, number in values.items():
        enum.value.add(name=name, number=number)


_pool = DescriptorPool()
_pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
for _file in (_tensors(), _serving()):
    _pool.AddSerializedFile(_file.SerializeToString())


def _message(name: str) -> Any:
    return GetMessageClass(_pool.FindMessageTypeByName(name))


TensorShapeProto = _message("tensorflow.TensorShapeProto")
TensorProto = _message("tensorflow.TensorProto")
ModelSpec = _message("tensorflow.serving.ModelSpec")
PredictRequest = _message("tensorflow.serving.PredictRequest")
PredictResponse = _message("tensorflow.serving.PredictResponse")
ModelVersionStatus = _message("tensorflow.serving.ModelVersionStatus")
GetModelStatusRequest = _message("tensorflow.serving.GetModelStatusRequest")
GetModelStatusResponse = _message("tensorflow.serving.GetModelStatusResponse")
DataType = _pool.FindEnumTypeByName("tensorflow.DataType")
