"""An exported model of the toy log, and what it must answer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

# Small, but with several heads, tokens and low-rank parts.
PARAMS = {"dim": 8, "attention_heads": 2, "mixing_heads": 4, "rank": 3}


@pytest.fixture(scope="session")
def toy_export(toy_spec: Any, toy_transform: Any, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """HeMix with random weights, biases and norms included.

    `model` is the Keras model, `params` its parameters, `base` a folder of versions as a model server reads it,
    `folder` its only version, 1, `loaded` that version and `signatures` its signatures.
    """
    import tensorflow as tf

    from components.trainer import vocabulary_sizes
    from layers.ranker import build_ranker
    from serving.signatures import export

    sizes = vocabulary_sizes(toy_spec, toy_transform)
    model = build_ranker(toy_spec, sizes, preset="tiny", params=PARAMS, seed=3)
    rng = np.random.default_rng(0)
    model.set_weights([w + rng.normal(scale=0.2, size=w.shape).astype(w.dtype) for w in model.get_weights()])
    base = tmp_path_factory.mktemp("served") / "toy"
    base.mkdir()
    export(base / "1", spec=toy_spec, model=model, transform_output=toy_transform, metadata={"note": "untrained"})
    loaded = tf.saved_model.load(str(base / "1"))
    return SimpleNamespace(
        model=model, params=PARAMS, base=base, folder=base / "1", loaded=loaded, signatures=loaded.signatures
    )


@pytest.fixture(scope="session")
def toy_scores(toy_export: SimpleNamespace, toy_spec: Any, toy_data: Any, toy_transform: Any) -> dict[str, np.ndarray]:
    """Task -> `(rows, 1)` probabilities of the evaluation rows, by the Keras model on rows that Beam transformed."""
    import tensorflow as tf

    from components.transform import KEYS

    files = tf.io.gfile.glob(toy_data.patterns()["eval"])
    (records,) = tf.data.TFRecordDataset(files, "GZIP").batch(1000)
    columns = tf.io.parse_example(records, toy_transform.transformed_feature_spec())
    logits = toy_export.model({name: columns[name] for name in toy_export.model.input}, training=False)
    order = np.argsort(columns[KEYS["time"]].numpy())
    return {task: tf.sigmoid(logits[task]).numpy()[order].reshape(-1, 1) for task in toy_spec.tasks}


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
