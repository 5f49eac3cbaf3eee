"""What the server was asked and answered, as TFRecords of PredictionLogs: the form of TensorFlow Serving's own logs."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from mixrank.schemas.files import owner


class PredictionLogs:
    """Appends answered predict requests to a file of this process.

    Args:
        folder: is made; gets `predictions-<process>.tfrecord`.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"predictions-{owner()}.tfrecord"
        self._writer, self._lock = tf.io.TFRecordWriter(str(self.path)), threading.Lock()

    def write(
        self,
        model: str,
        version: int,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Mapping[str, np.ndarray],
    ) -> None:
        """Logs a request and its answer, now."""
        log = prediction_log_pb2.PredictionLog()
        log.log_metadata.timestamp_secs = int(time.time())
        request, response = log.predict_log.request, log.predict_log.response
        for spec in (log.log_metadata.model_spec, request.model_spec, response.model_spec):
            spec.name, spec.version.value, spec.signature_name = model, version, signature
        for message, arrays in ((request.inputs, inputs), (response.outputs, outputs)):
            for name, array in arrays.items():
                message[name].CopyFrom(tf.make_tensor_proto(array))
        record = log.SerializeToString()
        with self._lock:
            self._writer.write(record)
            # What was answered is in the file, however the server ends.
            self._writer.flush()

    def close(self) -> None:
        self._writer.close()
