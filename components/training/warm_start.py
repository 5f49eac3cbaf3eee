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
    tables = json.loads((export / METADATA).read_text())["embeddings"]
    checkpoint = tf.train.load_checkpoint(str(export / "variables" / "variables"))
    copied: dict[str, int] = {}
    for feature in spec.categorical:
        if feature.name not in tables:
            continue
        (variable,) = [v for v in model.variables if f"embedding_{feature.name}/" in f"{v.path}/"]
        old = _read(checkpoint, tables[feature.name])
        new = np.array(variable)
        if old.shape[1] != new.shape[1]:
            copied[feature.name] = 0
            continue
        rows = _matching_rows(feature, export, tables[feature.name], transform_output, old, new)
        new[rows[1]] = old[rows[0]]
        variable.assign(new)
        copied[feature.name] = len(rows[0])
    return copied


def _read(checkpoint: Any, table: dict[str, Any]) -> np.ndarray:
    """A table in float32, however the export stored it."""
    rows = checkpoint.get_tensor(table["variable"]).astype(np.float32)
    return rows * checkpoint.get_tensor(table["scale"]) if table.get("scale") else rows


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
