"""Warm start: copies embedding rows from an earlier model, token by token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from mixrank.components.training.exports import find_export
from mixrank.layers.ranking import tables_of
from mixrank.schemas import Categorical, FeatureSpec, MultiCategorical, Vocab
from mixrank.serving.base import METADATA


def warm_start(
    model: keras.Model, spec: FeatureSpec, transform_output: tft.TFTransformOutput, reference: str
) -> dict[str, int]:
    """Copies the embedding row of every token that both vocabularies hold.

    Hashed features are copied whole if their number of buckets is equal. The padding row and rows of new tokens keep
    their fresh values, and a table of another width is left alone.

    Args:
        model: freshly built ranker; changed in place.
        spec: its columns.
        transform_output: its vocabularies.
        reference: as in `find_export`.

    Returns:
        Feature -> number of rows copied.
    """
    export = find_export(reference)
    described = json.loads((export / METADATA).read_text())["embeddings"]
    saved = _Saved(export / "variables" / "variables")
    tables = tables_of(model)
    copied: dict[str, int] = {}
    for feature in spec.categorical:
        if feature.name not in described:
            continue
        old, new = saved.table(described[feature.name]), tables[feature.name].read()
        if old.shape[1] != new.shape[1]:
            copied[feature.name] = 0
            continue
        rows = _matching_rows(feature, export, described[feature.name], transform_output, old, new)
        new[rows[1]] = old[rows[0]]
        tables[feature.name].write(new)
        copied[feature.name] = len(rows[0])
    return copied


class _Saved:
    """The tables of an export."""

    def __init__(self, variables: Path) -> None:
        self.prefix = str(variables)
        reader = tf.train.load_checkpoint(self.prefix)
        self.shapes, self.types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()

    def table(self, place: dict[str, Any]) -> np.ndarray:
        """A table in float32, however it is stored; the tables beside it are not read."""
        rows = self._rows(place["variable"], place)
        return rows * self._rows(place["scale"], place) if place.get("scale") else rows

    def _rows(self, variable: str, place: dict[str, Any]) -> np.ndarray:
        shape = " ".join(map(str, self.shapes[variable]))
        # The start and the length of each axis; "-" is all of it.
        part = f"{shape} {place.get('first_row', 0)},{place['shape'][0]}:-"
        (rows,) = tf.raw_ops.RestoreV2(
            prefix=self.prefix, tensor_names=[variable], shape_and_slices=[part], dtypes=[self.types[variable]]
        )
        return rows.numpy().astype(np.float32)


def _matching_rows(
    feature: Categorical | MultiCategorical,
    export: Path,
    table: dict[str, Any],
    transform_output: tft.TFTransformOutput,
    old: np.ndarray,
    new: np.ndarray,
) -> tuple[list[int], list[int]]:
    if not isinstance(feature.vocab, Vocab) or table["vocabulary"] is None:
        same = table["vocabulary"] is None and not isinstance(feature.vocab, Vocab) and old.shape == new.shape
        return (list(range(1, len(old))),) * 2 if same else ([], [])
    before = (export / table["vocabulary"]).read_bytes().splitlines()
    row_of = {token: row for row, token in enumerate(before, start=1)}
    now = transform_output.vocabulary_by_name(feature.name)
    pairs = [(row_of[token], row) for row, token in enumerate(now, start=1) if token in row_of]
    return [a for a, _ in pairs], [b for _, b in pairs]
