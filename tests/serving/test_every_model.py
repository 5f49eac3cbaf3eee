"""Every model of the registry leaves the pipeline in a form that every loader accepts."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from components.trainer import vocabulary_sizes
from components.transform import KEYS
from layers import registry
from layers.ranker import build_ranker
from schemas.encode import encode
from serving.loaders import score_everywhere
from serving.signatures import export


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in registry.names() if name != "hemix"])
def test_a_model_answers_through_every_loader_as_in_memory(name, toy_spec, toy_data, toy_transform, tmp_path):
    sizes = vocabulary_sizes(toy_spec, toy_transform)
    model = build_ranker(toy_spec, sizes, model=name, preset="tiny", seed=3)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(variable + rng.normal(scale=0.1, size=variable.shape))
    # Before an export the Trainer freezes what need not be learned any more; the scores must not change.
    model.get_layer(name).freeze()
    export(tmp_path / "model", spec=toy_spec, model=model, transform_output=toy_transform)
    examples = [encode(toy_spec, row) for row in toy_data.rows["eval"]]
    scores = score_everywhere(tmp_path / "model", examples)

    (records,) = tf.data.TFRecordDataset(tf.io.gfile.glob(toy_data.patterns()["eval"]), "GZIP").batch(1000)
    row = tf.io.parse_example(records, toy_transform.transformed_feature_spec())
    logits = model({tensor.name: row[tensor.name] for tensor in model.inputs}, training=False)
    order = np.argsort(row[KEYS["time"]].numpy())
    for task in toy_spec.tasks:
        expected = tf.sigmoid(logits[task]).numpy()[order].reshape(-1, 1)
        assert np.std(expected) > 1e-4
        for loader in ("tf2", "session"):
            for signature in ("serving_default", "score_rows"):
                np.testing.assert_allclose(scores[f"{loader}/{signature}/{task}"], expected, atol=1e-5)
