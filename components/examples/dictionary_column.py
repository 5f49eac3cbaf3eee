"""Dictionary-encoded columns: work is done once per distinct value, and rows only move integer codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mixrank.schemas.arrow import pa


@dataclass(frozen=True)
class Coded:
    """Row r holds `values[codes[r]]`; `values[0]` is None, a missing value.

    Args:
        codes: int array (rows,).
        values: list of Python scalars or tuples. A value may occur in it more than once.
    """

    codes: np.ndarray
    values: list[Any]

    @classmethod
    def from_arrow(cls, array: pa.ChunkedArray | pa.Array) -> Coded:
        """From an Arrow column of scalars or lists."""
        if isinstance(array, pa.ChunkedArray):
            # Arrow 10 cannot concatenate zero chunks.
            array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
        if pa.types.is_list(array.type):
            lists = np.empty(len(array), dtype=object)
            lists[:] = [tuple(row) if row else None for row in array.to_pylist()]
            codes, distinct = pd.factorize(lists)
            return cls(codes + 1, [None, *distinct])
        encoded = array.dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return cls(codes + 1, [None, *encoded.dictionary.to_pylist()])

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: np.ndarray) -> Coded:
        """The given rows; a negative row is a missing value."""
        if not len(self.codes):
            return Coded(np.zeros(len(rows), dtype=np.int64), self.values)
        return Coded(np.where(rows < 0, 0, self.codes[rows]), self.values)

    def map(self, function: Callable[[Any], Any]) -> Coded:
        """`function` of every value; missing values stay missing."""
        return Coded(self.codes, [None, *(function(value) for value in self.values[1:])])

    def concat(self, other: Coded) -> Coded:
        """The rows of `self`, then those of `other`."""
        if other.values is self.values:
            return Coded(np.concatenate([self.codes, other.codes]), self.values)
        codes = np.where(other.codes == 0, 0, other.codes + len(self.values) - 1)
        return Coded(np.concatenate([self.codes, codes]), self.values + other.values[1:])

    def find_in(self, other: Coded) -> np.ndarray:
        """The row of `other` with the same value, for each row, or -1. The values of `other` must be unique."""
        if not len(other):
            return np.full(len(self), -1)
        where = {value: row for row, value in enumerate(other.tolist()) if value is not None}
        return np.array([where.get(value, -1) for value in self.values], dtype=np.int64)[self.codes]

    def missing(self) -> np.ndarray:
        """Bool array: where the value is None."""
        return np.array([value is None for value in self.values])[self.codes]

    def numbers(self, dtype: Any = np.int64) -> np.ndarray:
        """The values as numbers; none may be missing."""
        return np.array([0 if value is None else value for value in self.values], dtype=dtype)[self.codes]

    def tolist(self) -> list[Any]:
        return list(map(self.values.__getitem__, self.codes.tolist()))
