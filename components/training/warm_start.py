"""Warm start: embedding rows of an earlier model, token by token."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any, NamedTuple, assert_never

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from mixrank.components.training.exports import find_export
from mixrank.layers.ranking import tables_of
from mixrank.layers.tokens import EmbeddingTables
from mixrank.schemas import FeatureSpec, Hash, LookedUp, Vocab
from mixrank.schemas.arrow import lines_of, pa, pc
from mixrank.serving.base import METADATA


def warm_start(
    model: keras.Model, spec: FeatureSpec, transform_output: tft.TFTransformOutput, reference: str
) -> dict[str, int]:
    """Copies the embedding row of every token that both vocabularies hold.

    Hashed features are copied whole if their numbers of buckets and of hash functions are equal. The padding row and
    rows of new tokens keep the values they have, and a table of another width or a frozen one is left alone.

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
    for feature in spec.looked_up:
        if feature.name not in described or feature.is_frozen:
            continue
        place, table = described[feature.name], tables[feature.name]
        copied[feature.name] = 0
        if place["shape"][1] != table.layer.dim:
            continue
        old = saved.table(place)
        rows_before = old_rows(feature, export, place, transform_output, table.size)
        for first, rows in table.blocks():
            from_row = rows_before[first : first + len(rows)]
            known = from_row > 0
            if known.any():
                table.write(np.where(known[:, None], old[from_row], rows), first)
            copied[feature.name] += int(known.sum())
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
        # `numpy` would copy them.
        return np.asarray(rows).astype(np.float32, copy=False)


def old_rows(
    feature: LookedUp,
    export: Path,
    place: dict[str, Any],
    transform_output: tft.TFTransformOutput,
    size: int,
) -> np.ndarray:
    """Row of the new table -> row of the old one that holds the same token, 0 where there is none; int64 (size,)."""
    found = np.zeros(size, np.int64)
    match feature.vocab:
        case Vocab():
            if place["vocabulary"] is not None:
                before = lines_of((export / place["vocabulary"]).read_bytes())
                now = vocabulary_of(feature, transform_output)
                found[1 : 1 + len(now)] = 1 + _places(now, before)
        case Hash(functions=functions):
            old = place["vocabulary"], place["shape"][0], place.get("functions", 1)
            if old == (None, size, functions):
                found[:] = np.arange(size)
        case _:
            assert_never(feature.vocab)
    return found


class MovedRows(NamedTuple):
    """Where the rows of a variable were in an earlier training.

    Args:
        size: number of rows that it had.
        source: int64 (rows,); the row from which each takes its numbers, -1 if it keeps its own.
    """

    size: int
    source: np.ndarray


def moved_rows(
    layer: EmbeddingTables,
    spec: FeatureSpec,
    transform_output: tft.TFTransformOutput,
    sizes: Mapping[str, int],
    vocabularies: Callable[[str], pa.Array],
    equal: Container[str],
) -> tuple[MovedRows, MovedRows]:
    """Where the rows of tables were in an earlier training, and where their optimizer slots were.

    A value that was not in a vocabulary takes the row of its out-of-vocabulary bucket, as which it was looked up until
    then, so that the model's answers stay as they are; where embeddings begin with vectors of a file, it keeps its own.
    It has no slots of before.

    Args:
        layer: the tables as they are now.
        spec: features of a row.
        transform_output: has the vocabularies of today.
        sizes: table -> number of its rows there, in their order.
        vocabularies: feature -> the values of its vocabulary there.
        equal: tables whose values became rows in the same way; all others keep what they have.
    """
    first = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    weights, slots = [], []
    looked_up = {feature.name: feature for feature in spec.looked_up}
    for name, rows in layer.sizes.items():
        feature = looked_up.get(name)
        if name not in sizes or name not in equal:
            source = slot = np.full(rows, -1)
        elif feature is None or not isinstance(feature.vocab, Vocab):
            source = slot = first[name] + np.arange(rows)
        else:
            before, now = vocabularies(name), vocabulary_of(feature, transform_output)
            at = _places(now, before)
            buckets = 1 + len(before) + np.arange(feature.vocab.oov)
            source = first[name] + np.concatenate([[0], 1 + at, buckets])
            new = np.concatenate([[False], at < 0, np.zeros(len(buckets), bool)])
            slot = np.where(new, -1, source)
            if new.any():
                values = now.filter(pa.array(at < 0)).to_numpy(zero_copy_only=False)
                own = tf.strings.to_hash_bucket_fast(tf.constant(values), len(buckets)).numpy()
                source[new] = -1 if name in spec.initial_tables else first[name] + buckets[own]
        weights.append(source)
        slots.append(slot)
    total = sum(sizes.values())
    return MovedRows(total, np.concatenate(weights)), MovedRows(total, np.concatenate(slots))


def vocabulary_of(feature: LookedUp, transform_output: tft.TFTransformOutput) -> pa.Array:
    """The values of a feature's vocabulary, large_binary, in the order of their ids."""
    with tf.io.gfile.GFile(transform_output.vocabulary_file_by_name(feature.name), "rb") as file:
        return lines_of(file.read())


def _places(now: pa.Array, before: pa.Array) -> np.ndarray:
    """Place of every value among those before, -1 where it is none of them."""
    return pc.index_in(now, value_set=before).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
