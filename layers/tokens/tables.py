"""The embedding tables of a ranker: all tables of one width are one variable, looked up at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import Layer, Shape, Tensor
from mixrank.layers.tokens.embedding import Storage, StoredRows, quantized
from mixrank.layers.tokens.rows import blocks, put


class Table(NamedTuple):
    """One declared table: some rows of a variable that several tables share.

    Args:
        layer: the layer of the variable.
        first: number of its first row in the variable.
        size: number of its rows.
    """

    layer: EmbeddingTables
    first: int
    size: int

    def read(self) -> np.ndarray:
        """The stored rows (size, dim), without the scales of int8."""
        found = [rows for _, rows in blocks(self.layer.embeddings, self.first, self.first + self.size)]
        return np.concatenate(found)

    def write(self, rows: np.ndarray) -> None:
        """Replaces all rows; float (size, dim)."""
        if rows.shape != (self.size, self.layer.dim):
            raise ValueError(f"a table of {self.size} rows of {self.layer.dim} received an array {rows.shape}")
        put(self.layer.embeddings, self.first, rows)


@keras.saving.register_keras_serializable("mixrank")
class EmbeddingTables(StoredRows):
    """`e_c = W[first_t + min(id_c, size_t - 1)]` for the table t of every column c, in one gather.

    The tables stand one behind the other in one variable W (sum of sizes, dim), so that forty columns cost one lookup
    and, with `mixrank.components.training.row_optimizer`, one update. Ids beyond a table take its last row, an
    out-of-vocabulary bucket; row 0 of a table is the vector of a missing value. Rows start as N(0, 0.05).

    Args:
        dim: int >= 1. Width of a vector.
        sizes: table -> number of ids, 0 included; the order is that of the rows of W.
        columns: column -> its table. Several columns may share one, such as a feature and its history.
        storage: as in `IdEmbedding`.

    Call arguments:
        ids: column -> int tensor (batch,) or (batch, values); any of `columns`.

    Returns:
        Tensor (batch, all values, dim): the given columns in the order of `columns`, a column (batch,) with one value.
        `SplitColumns` takes it apart.

    Raises:
        ValueError: if no table is given, a column names a table that `sizes` lacks, or `ids` holds an unknown column.

    >>> tables = EmbeddingTables(dim=4, sizes={"item": 9, "tag": 5}, columns={"item": "item", "tags": "tag"})
    >>> tables({"item": keras.ops.array([1, 8]), "tags": keras.ops.array([[1, 0], [4, 2]])}).shape
    TensorShape([2, 3, 4])
    """

    def __init__(
        self,
        *,
        dim: PositiveInt,
        sizes: dict[str, PositiveInt],
        columns: dict[str, str],
        storage: Storage = "float32",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not sizes:
            raise ValueError("`sizes` must name at least one table")
        if unknown := sorted({table for table in columns.values() if table not in sizes}):
            raise ValueError(f"`columns` names tables that `sizes` lacks: {', '.join(unknown)}")
        ends = np.cumsum(list(sizes.values())).tolist()
        self.first_rows = dict(zip(sizes, [0, *ends[:-1]], strict=True))
        self.rows = int(ends[-1])

    def table(self, name: str) -> Table:
        """The table of that name."""
        return Table(self, self.first_rows[name], self.sizes[name])

    def places(self, ids: Mapping[str, Tensor]) -> Tensor:
        """The row of W of every id: int tensor (batch, all values), in the order of the layer's output."""
        given = self._given(ids)
        together = [ids[c] if len(ids[c].shape) == 2 else ops.expand_dims(ids[c], axis=1) for c in given]
        values = [int(each.shape[1]) for each in together]
        found = ops.concatenate(together, axis=1) if len(together) > 1 else together[0]
        tables = [self.columns[c] for c in given]
        first = np.repeat([self.first_rows[table] for table in tables], values)
        last = np.repeat([self.sizes[table] - 1 for table in tables], values)
        kind = found.dtype
        return ops.clip(found, 0, ops.convert_to_tensor(last, kind)) + ops.convert_to_tensor(first, kind)

    def call(self, ids: Mapping[str, Tensor]) -> Tensor:
        return self.vectors(self.places(ids))

    def store(self, trained: EmbeddingTables) -> None:
        """Takes the rows of a trained layer over into this layer's storage, block by block.

        Args:
            trained: has the same tables, in float32.
        """
        for first, rows in blocks(trained.embeddings):
            if self.storage == "int8":
                rows, scale = quantized(rows)
                put(self.scale, first, scale)
            put(self.embeddings, first, rows)

    def compute_output_shape(self, input_shape: Mapping[str, Shape]) -> Shape:
        shapes = [input_shape[c] for c in self._given(input_shape)]
        return (shapes[0][0], sum(shape[1] if len(shape) == 2 else 1 for shape in shapes), self.dim)

    def _given(self, ids: Iterable[str]) -> list[str]:
        if unknown := sorted(set(ids) - set(self.columns)):
            raise ValueError(f"`ids` of {self.name} holds columns that it has no table for: {', '.join(unknown)}")
        return [c for c in self.columns if c in ids]


@keras.saving.register_keras_serializable("mixrank")
class SplitColumns(Layer):
    """Takes the output of `EmbeddingTables` apart.

    Args:
        shapes: column -> shape of its ids without the batch: [] for one id, [values], or [length, values] for a
            history of several values per event. In the order of the values.

    Call arguments:
        vectors: Tensor (batch, all values, dim).

    Returns:
        column -> Tensor (batch, *shape, dim).

    >>> split = SplitColumns(shapes={"item": [], "tags": [2]})
    >>> {name: tuple(x.shape) for name, x in split(keras.ops.ones((5, 3, 4))).items()}
    {'item': (5, 4), 'tags': (5, 2, 4)}
    """

    def __init__(self, *, shapes: dict[str, list[PositiveInt]], **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def call(self, vectors: Tensor) -> dict[str, Tensor]:
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes.values()]).tolist()
        # One split, whose gradient is one concatenation: a slice per column would add as many padded copies.
        found = ops.split(vectors, ends[:-1], axis=1) if len(ends) > 1 else [vectors]
        dim = vectors.shape[-1]
        return {
            name: each if len(shape) == 1 else ops.reshape(each, (-1, *shape, dim))
            for (name, shape), each in zip(self.shapes.items(), found, strict=True)
        }

    def compute_output_shape(self, input_shape: Shape) -> dict[str, Shape]:
        return {name: (input_shape[0], *shape, input_shape[-1]) for name, shape in self.shapes.items()}
