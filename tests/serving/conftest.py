"""An exported model of the toy log, and what it must answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

# Small, but with several heads, tokens and low-rank parts.
PARAMS = {"dim": 8, "attention_heads": 2, "mixing_heads": 4, "rank": 3}


@pytest.fixture(scope="session")
def toy_export(toy_spec: Any, toy_transform: Any, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """HeMix with random weights, biases and norms included.

    `model` is the Keras model, `base` a folder of versions as a model server reads it, `folder` its only version, 1,
    and `signatures` those of the loaded version.
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
    return SimpleNamespace(model=model, base=base, folder=base / "1", loaded=loaded, signatures=loaded.signatures)


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
