"""Rows of embedding tables from files: what a value begins with, and what stays as it is."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from mixrank import schemas as s
from mixrank.components.training.side_rows import normalized, write_side_rows
from mixrank.components.training.warm_start import warm_start
from mixrank.layers.ranking import build_ranker, tables_of
from mixrank.layers.tokens import EmbeddingTables
from mixrank.schemas.raw import read_side_file, with_side_files
from mixrank.serving.base import METADATA

# Vocabulary of the clips, by frequency.
CLIPS = [b"v3", b"v1", b"v7"]
VECTORS = {"v7": [1.0, 2, 3, 4, 5], "v9": [9.0] * 5, "v3": [-1.0] * 5, "v1": None}


@pytest.fixture(params=["begins", "frozen", "matrix"])
def made(request, toy_spec, small_model, tmp_path):
    """A ranker whose clips have vectors in a file, before and after it got them."""
    is_frozen = request.param != "begins"
    if request.param == "matrix":
        np.save(tmp_path / "clips.npy", np.array([vector or [np.nan] * 5 for vector in VECTORS.values()]))
        np.save(tmp_path / "ids.npy", np.array(list(VECTORS)))
        file = s.VectorFile("clips.npy", key_file="ids.npy")
    else:
        pd.DataFrame({"id": list(VECTORS), "vector": list(VECTORS.values())}).to_parquet(tmp_path / "clips.parquet")
        file = s.VectorFile("clips.parquet", key="id")
    features = tuple(
        feature.model_copy(update={"initial": file, "frozen": is_frozen}) if feature.name == "clip" else feature
        for feature in toy_spec.features
        if feature.name not in ("words", "maker", "pull", "weight")
    )
    spec = s.FeatureSpec(**{**dict(toy_spec), "features": features})
    spec = with_side_files(spec, str(tmp_path))
    (tmp_path / "clip").write_bytes(b"".join(clip + b"\n" for clip in CLIPS))
    sizes = {"person": 5, "country": 8, "clip": 1 + len(CLIPS) + 2, "tag": 4, "there": 6, "habit": 41, "query": 10}
    model = build_ranker(spec, sizes, small_model["name"], small_model["params"], small_model["preset"])
    fresh = tables_of(model)["clip"].read()
    transform = SimpleNamespace(vocabulary_file_by_name=lambda name: str(tmp_path / name))
    write_side_rows(model, spec, transform)
    return SimpleNamespace(spec=spec, model=model, fresh=fresh, frozen=is_frozen, transform=transform)


def test_embeddings_begin_as_the_file_says_and_the_rest_at_random_or_frozen_at_zero(made):
    rows, rest = tables_of(made.model)["clip"].read(), np.zeros_like(made.fresh) if made.frozen else made.fresh
    np.testing.assert_array_equal(rows[1], VECTORS["v3"])
    np.testing.assert_array_equal(rows[3], VECTORS["v7"])
    # Missing, a value without a vector, out-of-vocabulary rows.
    np.testing.assert_array_equal(rows[[0, 2, 4, 5]], rest[[0, 2, 4, 5]])
    assert made.fresh.any(axis=1).all()


def test_only_frozen_tables_are_left_out_of_training(made):
    tables = {layer.name: layer for layer in made.model.layers if isinstance(layer, EmbeddingTables)}
    assert tables_of(made.model)["clip"].layer.trainable is not made.frozen
    assert [name for name, layer in tables.items() if not layer.trainable] == ["tables_5_frozen"] * made.frozen
    # A feature that uses the table, and histories, read the same rows.
    assert {"clip", "last", "global_clip"} <= set(tables_of(made.model)["clip"].layer.columns)


def test_a_warm_start_comes_after_the_file_and_leaves_frozen_rows_alone(made, tmp_path):
    learned = np.arange(20, dtype=np.float32).reshape(4, 5)
    module = tf.Module()
    module.weights = [tf.Variable(learned)]
    tf.saved_model.save(module, str(tmp_path / "old"))
    place = {"variable": "weights/0/.ATTRIBUTES/VARIABLE_VALUE", "vocabulary": "assets/clip", "shape": [4, 5]}
    (tmp_path / "old" / METADATA).parent.mkdir(exist_ok=True)
    (tmp_path / "old" / METADATA).write_text(json.dumps({"embeddings": {"clip": place}}))
    (tmp_path / "old" / "assets").mkdir(exist_ok=True)
    (tmp_path / "old" / "assets" / "clip").write_bytes(b"v7\nv5\n")
    copied = warm_start(made.model, made.spec, made.transform, str(tmp_path / "old"))
    rows = tables_of(made.model)["clip"].read()
    assert copied == ({} if made.frozen else {"clip": 1})
    np.testing.assert_array_equal(rows[3], VECTORS["v7"] if made.frozen else learned[1])
    np.testing.assert_array_equal(rows[1], VECTORS["v3"])


def test_a_vector_table_holds_the_vectors_at_the_rows_that_transform_gives(toy_spec, small_model, tmp_path):
    words = toy_spec.get("words").model_copy(update={"normalize": True})
    spec = toy_spec.model_copy(update={"features": tuple(words if f.name == "words" else f for f in toy_spec.features)})
    sizes = {feature.name: 50 for feature in spec.looked_up}
    model = build_ranker(spec, sizes, small_model["name"], small_model["params"], small_model["preset"])
    write_side_rows(model, spec, None)
    rows, vectors = tables_of(model)["words"].read(), read_side_file(spec, words).values
    assert not rows[0].any() and len(rows) == 1 + len(vectors)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(rows[1:], np.where(lengths > 0, vectors / np.maximum(lengths, 1e-9), 0), rtol=1e-6)


def test_long_vectors_are_divided_by_their_length_without_overflow():
    found = normalized(np.array([[3e38, 0.0], [0, 0], [3, 4]], np.float32))
    np.testing.assert_allclose(found, [[1, 0], [0, 0], [0.6, 0.8]], rtol=1e-6)
