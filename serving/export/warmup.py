"""Warm-up requests: replayed by a server on a new version before it receives real traffic.

TensorFlow Serving replays `assets.extra/tf_serving_warmup_requests`, a TFRecord file of PredictionLogs, before a
version becomes AVAILABLE, so that no user waits for TensorFlow's set-up work at the first request of each kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from mixrank.schemas import FeatureSpec
from mixrank.schemas.encode import decode
from mixrank.schemas.files import write_atomically
from mixrank.serving.export.columns import request_and_item, to_columns, to_request_columns

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
# Rows, or candidates, of the requests per signature.
SIZES = (1, 8, 64)


def write_warmup(version: Path, spec: FeatureSpec, examples: Sequence[bytes], signatures: Sequence[str]) -> int:
    """Writes requests of several sizes for every signature of a version.

    Args:
        version: its SavedModel's folder.
        spec: columns of a row.
        examples: real rows, serialized; repeated if there are too few.
        signatures: names among `serving_default`, `score_rows` and `rank_candidates`.

    Returns:
        Number of requests.

    Raises:
        ValueError: if there are no rows, or for an unknown signature.
    """
    if not examples:
        raise ValueError("warm-up requests need at least one row, received none")
    requests = [_log(name, feed) for name in signatures for feed in _feeds(name, spec, list(examples))]

    def write(temporary: Path) -> None:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for request in requests:
                writer.write(request)

    write_atomically(version / WARMUP_FILE, write)
    return len(requests)


def _feeds(signature: str, spec: FeatureSpec, examples: list[bytes]) -> Iterator[Mapping[str, Any]]:
    for size in SIZES:
        chosen = [examples[position % len(examples)] for position in range(size)]
        if signature == "serving_default":
            yield {"examples": np.array(chosen, dtype=object)}
            continue
        rows = [decode(spec, example) for example in chosen]
        if signature == "score_rows":
            yield to_columns(spec, rows)
        elif signature == "rank_candidates":
            split = [request_and_item(spec, row) for row in rows]
            yield to_request_columns(spec, split[0][0], [item for _, item in split])
        else:
            raise ValueError(f"there is no way to make a request for the signature `{signature}`")


def _log(signature: str, feed: Mapping[str, Any]) -> bytes:
    request = predict_pb2.PredictRequest()
    # No model name or version: the server knows what it is warming up.
    request.model_spec.signature_name = signature
    for name, value in feed.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
    # Deterministic: the same rows give the same file.
    return log.SerializeToString(deterministic=True)
