"""Small models that are quick to write and to load."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def save_linear(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function `(base, version, factor=...)` that writes a small SavedModel as a version of a folder.

    `serving_default` answers `y = factor * x` and refuses negative numbers; `words` echoes text under two names;
    `ranked` has an input without a batch axis. `warm_up` names values of x to be asked for before the version serves.
    """
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    saved: dict[float, Path] = {}

    class Linear(tf.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = tf.Variable(factor)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def default(self, x):
            with tf.control_dependencies([tf.debugging.assert_non_negative(x, message="x must not be negative")]):
                return {"y": self.factor * x}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="word")])
        def words(self, word):
            return {"text": word, "raw_bytes": word}

        @tf.function(
            input_signature=[tf.TensorSpec([], tf.float32, name="user"), tf.TensorSpec([None], tf.int64, name="item")]
        )
        def ranked(self, user, item):
            return {"y": user * tf.cast(item, tf.float32)}

    def write(base: Path, version: int, *, factor: float = 2.0, warm_up: Sequence[float] = ()) -> Path:
        if factor not in saved:
            module = Linear(factor)
            folder = tmp_path_factory.mktemp("linear")
            signatures = {"serving_default": module.default, "words": module.words, "ranked": module.ranked}
            tf.saved_model.save(module, str(folder), signatures=signatures)
            saved[factor] = folder
        temporary = base / f".{version}.partial"
        shutil.copytree(saved[factor], temporary)
        if warm_up:
            file = temporary / "assets.extra" / "tf_serving_warmup_requests"
            file.parent.mkdir()
            with tf.io.TFRecordWriter(str(file)) as writer:
                for value in warm_up:
                    request = predict_pb2.PredictRequest(inputs={"x": tf.make_tensor_proto([value], tf.float32)})
                    log = prediction_log_pb2.PredictLog(request=request)
                    writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())
        return temporary.rename(base / str(version))

    return write
