"""Rows of embedding tables that come from a side file of the log."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
from numpy.typing import NDArray

from mixrank.layers.ranking import tables_of
from mixrank.schemas import FeatureSpec
from mixrank.schemas.arrow import lines_of, pa, pc
from mixrank.schemas.raw import read_side_file


def write_side_rows(model: keras.Model, spec: FeatureSpec, transform_output: tft.TFTransformOutput) -> None:
    """Puts what files say into the tables: all vectors of a `VectorTable`, and those in which embeddings begin.

    Row 0 of a `VectorTable`, that of a missing key, is zeros, and so is a row of a frozen table that has no vector.

    Args:
        model: freshly built ranker; changed in place.
        spec: its columns.
        transform_output: its vocabularies.

    Raises:
        ValueError: naming file and row, or if the file is not the one that the run began with.
    """
    tables = tables_of(model)
    for feature in spec.vector_tables:
        table = read_side_file(spec, feature)
        tables[feature.name].write(np.zeros((1, feature.dim), np.float32))
        for first, rows in table.blocks():
            tables[feature.name].write(normalized(rows) if feature.normalize else rows, first=1 + first)
    frozen = {feature.name for feature in spec.model_features if feature.is_frozen}
    for name, vectors in spec.initial_tables.items():
        given = read_side_file(spec, vectors)
        with tf.io.gfile.GFile(transform_output.vocabulary_file_by_name(name), "rb") as file:
            tokens = lines_of(file.read())
        # Vocabularies hold numbers as text.
        present = np.flatnonzero(~given.missing)
        known = pa.array([str(key).encode() for key in given.keys[present].tolist()], tokens.type)
        at = pc.index_in(tokens, value_set=known).fill_null(-1).to_numpy()
        for first, rows in tables[name].blocks():
            # Row r has token r - 1; out-of-vocabulary rows come after the last.
            token = np.arange(first, first + len(rows)) - 1
            known_token = (token >= 0) & (token < len(at))
            place = np.full(len(rows), -1)
            place[known_token] = at[token[known_token]]
            written = np.zeros_like(rows) if name in frozen else np.array(rows)
            written[place >= 0] = given.vectors(present[place[place >= 0]])
            tables[name].write(written, first)


def normalized(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """`x / |x|` of every row (rows, dim); zeros stay zeros."""
    # By the largest number first, whose square may not fit into 32 bits.
    for size in (np.abs(rows).max(axis=1, keepdims=True), None):
        length = np.linalg.norm(rows, axis=1, keepdims=True) if size is None else size
        rows = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    return rows
