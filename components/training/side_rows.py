"""Rows of embedding tables that come from a side file of the log."""

from __future__ import annotations

import keras
import numpy as np
from numpy.typing import NDArray

from mixrank.layers.ranking import tables_of
from mixrank.schemas import FeatureSpec
from mixrank.schemas.raw import read_side_file


def write_side_rows(model: keras.Model, spec: FeatureSpec) -> None:
    """Puts the vectors of every `VectorTable` into its table; row 0, that of a missing key, is zeros.

    Args:
        model: freshly built ranker; changed in place.
        spec: its columns.

    Raises:
        ValueError: naming file and row, or if the file is not the one that the run began with.
    """
    tables = tables_of(model)
    for feature in spec.vector_tables:
        table = read_side_file(spec, feature)
        rows = normalized(table.values) if feature.normalize else table.values
        tables[feature.name].write(np.zeros((1, feature.dim), np.float32))
        tables[feature.name].write(rows, first=1)


def normalized(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """`x / |x|` of every row (rows, dim); zeros stay zeros."""
    # By the largest number first, whose square may not fit into 32 bits.
    for size in (np.abs(rows).max(axis=1, keepdims=True), None):
        length = np.linalg.norm(rows, axis=1, keepdims=True) if size is None else size
        rows = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    return rows
