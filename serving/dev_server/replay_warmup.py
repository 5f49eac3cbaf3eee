"""The requests that a version brings along, to be answered before anybody else's."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from mixrank.serving.dev_server.loaded_model import DEFAULT_SIGNATURE, LoadedModel
from mixrank.serving.dev_server.message_types import to_arrays
from mixrank.serving.export import WARMUP_FILE

MAX_RECORDS = 1000


def warm_up(model: LoadedModel, folder: Path) -> int:
    """Answers a version's warm-up requests, so that the first real one does not pay for what TensorFlow does once.

    Args:
        model: the loaded version.
        folder: its SavedModel.

    Returns:
        How many there were.

    Raises:
        ValueError: for a record that is no predict request, or more of them than TensorFlow Serving takes.
        Refused: if the model refuses one.
    """
    file = folder / WARMUP_FILE
    if not file.is_file():
        return 0
    count = 0
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        count += 1
        if count > MAX_RECORDS:
            raise ValueError(f"{file} holds more than {MAX_RECORDS} requests")
        log = prediction_log_pb2.PredictionLog.FromString(record)
        if log.WhichOneof("log_type") != "predict_log":
            raise ValueError(
                f"{file}, record {count}: expected a predict request, received {log.WhichOneof('log_type')}"
            )
        request = log.predict_log.request
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        if name not in model.signatures:
            raise ValueError(f"{file}, record {count}: the model has no signature `{name}`")
        signature = model.signatures[name]
        inputs = to_arrays(signature, request.inputs)
        model.run(signature, inputs, signature.select(request.output_filter))
    return count
