"""An export may hold its embedding tables in fewer bytes."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from mixrank.components.training import vocabulary_sizes
from mixrank.components.training.warm_start import warm_start
from mixrank.layers.ranking import tables_of, take_weights
from mixrank.layers.tokens import EmbeddingTables
from mixrank.serving.base import METADATA
from mixrank.serving.export import export, to_columns

TASKS = ("click", "buy")

# Each storage has an export of its own.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["bfloat16", "int8"])
def compressed(request, toy_export, build_small, toy_spec, toy_transform, tmp_path_factory):
    """The toy model with small tables: in memory, and exported."""
    model = build_small(vocabulary_sizes(toy_spec, toy_transform), table_storage=request.param)
    take_weights(model, toy_export.model)
    folder = tmp_path_factory.mktemp("compressed") / "model"
    export(folder, spec=toy_spec, model=model, transform_output=toy_transform)
    return request.param, model, folder


def probabilities(model, toy_data, transform):
    files = tf.io.gfile.glob(toy_data.patterns()["eval"])
    (records,) = tf.data.TFRecordDataset(files, "GZIP").batch(1000)
    columns = tf.io.parse_example(records, transform.transformed_feature_spec())
    logits = model({name: columns[name] for name in model.input}, training=False)
    return {task: tf.sigmoid(logits[task]).numpy().reshape(-1) for task in TASKS}


def test_only_the_tables_lose_digits(compressed, toy_export):
    _, model, _ = compressed
    for layer, source in zip(model.layers, toy_export.model.layers, strict=True):
        if isinstance(layer, EmbeddingTables):
            rows = np.array(layer.vectors(np.arange(layer.rows)))
            np.testing.assert_allclose(rows, np.array(source.embeddings), atol=0.01)
        else:
            for mine, theirs in zip(layer.get_weights(), source.get_weights(), strict=True):
                np.testing.assert_array_equal(mine, theirs)


def test_scores_stay_close_and_the_export_answers_like_the_model_in_memory(
    compressed, toy_export, toy_spec, toy_data, toy_transform
):
    _, model, folder = compressed
    small = probabilities(model, toy_data, toy_transform)
    whole = probabilities(toy_export.model, toy_data, toy_transform)
    loaded = tf.saved_model.load(str(folder))
    columns = to_columns(toy_spec, toy_data.rows["eval"])
    answer = loaded.signatures["score_rows"](**{name: tf.constant(value) for name, value in columns.items()})
    for task in TASKS:
        np.testing.assert_allclose(small[task], whole[task], atol=0.05)
        assert not np.array_equal(small[task], whole[task])
        # Transformed rows are not in the order of the raw ones.
        np.testing.assert_allclose(np.sort(answer[task].numpy().reshape(-1)), np.sort(small[task]), atol=1e-5)


def test_the_checkpoint_holds_small_tables_that_a_warm_start_reads(compressed, build_small, toy_spec, toy_transform):
    storage, model, folder = compressed
    tables = json.loads((folder / METADATA).read_text())["embeddings"]
    checkpoint = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    kind = checkpoint.get_variable_to_dtype_map()[tables["clip"]["variable"]]
    assert kind == getattr(tf, storage)
    assert ("scale" in tables["clip"]) == (storage == "int8")
    fresh = build_small(vocabulary_sizes(toy_spec, toy_transform), seed=9)
    taken = warm_start(fresh, toy_spec, toy_transform, str(folder))
    known = np.arange(1, 1 + taken["clip"])
    layer, first, _ = tables_of(model)["clip"]
    rows = tables_of(fresh)["clip"].read()[known]
    np.testing.assert_array_equal(rows, np.array(layer.vectors(first + known)))


def test_small_tables_are_not_trained(compressed):
    _, model, _ = compressed
    assert not any("/embeddings" in variable.path for variable in model.trainable_variables)
    assert keras.backend.floatx() == "float32"
