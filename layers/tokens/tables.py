"""The embedding tables of a ranker: all tables of one width are one variable, looked up at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from pydantic import PositiveInt

from mixrank.layers.base import Layer, Shape, Tensor
from mixrank.layers.tokens.embedding import Storage, StoredRows, quantized
from mixrank.layers.tokens.rows import blocks, put


def hash_rows(ids: Tensor, power: Any, base: Any) -> Tensor:
    """`1 + floor((id - 1) / n^j) mod n`, and 0 for id 0: the row that hash function j gives an id.

    Args:
        ids: int tensor, each in [0, n^k] for k functions.
        power, base: ints n^j and n, or arrays of them that broadcast with `ids`.

    >>> [hash_rows(keras.ops.array([0, 1, 6, 25]), power, 5).numpy().tolist() for power in (1, 5)]
    [[0, 1, 1, 5], [0, 1, 2, 5]]
    """
    power, base = (ops.convert_to_tensor(numbers, ids.dtype) for numbers in (power, base))
    return ops.where(ids > 0, 1 + ops.mod(ops.floor_divide(ids - 1, power), base), ids)


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

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """The stored rows without the scales of int8, in order: number of a block's first row in the table, rows."""
        for first, rows in blocks(self.layer.embeddings, self.first, self.first + self.size):
            yield first - self.first, rows

    def read(self) -> np.ndarray:
        """All stored rows (size, dim), without the scales of int8."""
        return np.concatenate([rows for _, rows in self.blocks()])

    def write(self, rows: np.ndarray, first: int = 0) -> None:
        """Replaces the rows from `first` on; float (rows, dim)."""
        if rows.ndim != 2 or rows.shape[1] != self.layer.dim or not 0 <= first <= self.size - len(rows):
            raise ValueError(
                f"a table of {self.size} rows of {self.layer.dim} received an array {rows.shape} for row {first}"
            )
        put(self.layer.embeddings, self.first + first, rows)


@keras.saving.register_keras_serializable("mixrank")
class EmbeddingTables(StoredRows):
    """`e_cj = W[first_t + p_j(id_c)]` for the table t of every column c and its hash functions j, in one gather.

    The tables stand one behind the other in one variable W (sum of sizes, dim), so that forty columns cost one lookup
    and, with `mixrank.components.training.optimizing`, one update. Row 0 of a table is the vector of a missing
    value. Rows start as N(0, 0.05).

    With n = size_t - 1 and k functions, `p_j(0) = 0` and `p_j(id) = 1 + floor((min(id, n^k) - 1) / n^j) mod n` for
    j = 0..k-1: the digits of `id - 1` to the base n, which are independent where ids are a hash with n^k values
    (`mixrank.schemas.Hash`). With k = 1, p_0(id) = min(id, n): an id beyond the table takes the last row, an
    out-of-vocabulary bucket. `SplitColumns` sums the k vectors of a value (Svenstrup et al., "Hash Embeddings for
    Efficient Word Representations", NeurIPS 2017). JAX needs its 64-bit mode for ids from 2^31 on.

    Args:
        dim: int >= 1. Width of a vector.
        sizes: table -> number of ids, 0 included; the order is that of the rows of W.
        columns: column -> its table. Several columns may share one, such as a feature and its history.
        storage: as in `IdEmbedding`.
        functions: table -> number k of its hash functions; None, like a table it does not name, is 1.

    Call arguments:
        ids: column -> int tensor (batch,) or (batch, values); any of `columns`.

    Returns:
        Tensor (batch, all values, dim): the given columns in the order of `columns`, a column (batch,) with one value;
        every value has k vectors. `SplitColumns` takes it apart.

    Raises:
        ValueError: if no table is given, a column or `functions` names a table that `sizes` lacks, or `ids` holds an
            unknown column.

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
        functions: dict[str, PositiveInt] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not sizes:
            raise ValueError("`sizes` must name at least one table")
        for argument, named in (("columns", columns.values()), ("functions", functions or ())):
            if unknown := sorted({table for table in named if table not in sizes}):
                raise ValueError(f"`{argument}` names tables that `sizes` lacks: {', '.join(unknown)}")
        ends = np.cumsum(list(sizes.values())).tolist()
        self.first_rows = dict(zip(sizes, [0, *ends[:-1]], strict=True))
        self.rows = int(ends[-1])

    def table(self, name: str) -> Table:
        """The table of that name."""
        return Table(self, self.first_rows[name], self.sizes[name])

    def functions_of(self, name: str) -> int:
        """Number of hash functions of the table of that name."""
        return (self.functions or {}).get(name, 1)

    def places(self, ids: Mapping[str, Tensor]) -> Tensor:
        """The row of W of every id: int tensor (batch, all values), in the order of the layer's output."""
        given = self._given(ids)
        together = [ids[c] if len(ids[c].shape) == 2 else ops.expand_dims(ids[c], axis=1) for c in given]
        values = [int(each.shape[1]) for each in together]
        found = ops.concatenate(together, axis=1) if len(together) > 1 else together[0]
        tables = [self.columns[c] for c in given]
        functions = [self.functions_of(table) for table in tables]
        buckets = [self.sizes[table] - 1 for table in tables]

        def per_value(numbers: list[int]) -> Tensor:
            return ops.convert_to_tensor(np.repeat(numbers, values), found.dtype)

        found = ops.clip(found, 0, per_value([n**k for n, k in zip(buckets, functions, strict=True)]))
        if any(k > 1 for k in functions):
            found = self._rows(found, values, functions, buckets)
            values = [v * k for v, k in zip(values, functions, strict=True)]
        return found + per_value([self.first_rows[table] for table in tables])

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
        shapes = {c: input_shape[c] for c in self._given(input_shape)}
        values = [
            self.functions_of(self.columns[c]) * (shape[1] if len(shape) == 2 else 1) for c, shape in shapes.items()
        ]
        return (next(iter(shapes.values()))[0], sum(values), self.dim)

    @staticmethod
    def _rows(ids: Tensor, values: list[int], functions: list[int], buckets: list[int]) -> Tensor:
        """Ids (batch, all values), in range -> rows of their tables (batch, all values with their functions)."""
        # Number of the id, power of the base and base of every row, in the order of columns, values and functions.
        plan, start = [], 0
        for count, k, n in zip(values, functions, buckets, strict=True):
            plan += [(start + value, n**j, max(1, n)) for value in range(count) for j in range(k)]
            start += count
        place, power, base = (np.array(numbers) for numbers in zip(*plan, strict=True))
        return hash_rows(ops.take(ids, place, axis=1), power, base)

    def _given(self, ids: Iterable[str]) -> list[str]:
        if unknown := sorted(set(ids) - set(self.columns)):
            raise ValueError(f"`ids` of {self.name} holds columns that it has no table for: {', '.join(unknown)}")
        return [c for c in self.columns if c in ids]


@keras.saving.register_keras_serializable("mixrank")
class SplitColumns(Layer):
    """Takes the output of `EmbeddingTables` apart; the vector of a value is the sum of those of its hash functions.

    Args:
        shapes: column -> shape of its ids without the batch: [] for one id, [values], or [length, values] for a
            history of several values per event. In the order of the values.
        functions: column -> number of hash functions of its table; None, like a column it does not name, is 1.

    Call arguments:
        vectors: Tensor (batch, all values with their functions, dim).

    Returns:
        column -> Tensor (batch, *shape, dim).

    >>> split = SplitColumns(shapes={"item": [], "tags": [2]})
    >>> {name: tuple(x.shape) for name, x in split(keras.ops.ones((5, 3, 4))).items()}
    {'item': (5, 4), 'tags': (5, 2, 4)}
    """

    def __init__(
        self,
        *,
        shapes: dict[str, list[PositiveInt]],
        functions: dict[str, PositiveInt] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    def call(self, vectors: Tensor) -> dict[str, Tensor]:
        functions = {name: (self.functions or {}).get(name, 1) for name in self.shapes}
        ends = np.cumsum([functions[name] * int(np.prod(shape)) for name, shape in self.shapes.items()]).tolist()
        # One split, whose gradient is one concatenation: a slice per column would add as many padded copies.
        found = ops.split(vectors, ends[:-1], axis=1) if len(ends) > 1 else [vectors]
        dim = vectors.shape[-1]
        columns: dict[str, Tensor] = {}
        for (name, shape), each in zip(self.shapes.items(), found, strict=True):
            if functions[name] > 1:
                columns[name] = ops.sum(ops.reshape(each, (-1, *shape, functions[name], dim)), axis=-2)
            else:
                columns[name] = each if len(shape) == 1 else ops.reshape(each, (-1, *shape, dim))
        return columns

    def compute_output_shape(self, input_shape: Shape) -> dict[str, Shape]:
        return {name: (input_shape[0], *shape, input_shape[-1]) for name, shape in self.shapes.items()}
