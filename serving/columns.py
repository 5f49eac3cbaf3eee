"""Raw rows -> the named columns of the `score_rows` signature, with NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from schemas.encode import columns, to_instance
from schemas.features import FeatureSpec

DTYPES = {"int": np.int64, "float": np.float32, "str": object}


def to_columns(spec: FeatureSpec, rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Stacks rows into dense columns; what a row lacks becomes padding.

    Args:
        spec: columns of a row.
        rows: column -> value, as `schemas.encode.decode` gives them.

    Returns:
        Column -> int64, float32 or object (bytes) array, `(rows,)` or `(rows, length)`.

    Raises:
        ValueError: as `schemas.encode.check_row`.
    """
    instances = [to_instance(spec, row) for row in rows]
    stacked = {}
    for column in columns(spec):
        if column.serving:
            values = np.array([instance[column.name] for instance in instances], DTYPES[column.kind])
            stacked[column.name] = _as_bytes(values) if column.kind == "str" else values
    return stacked


_as_bytes = np.vectorize(lambda text: text.encode(), otypes=[object])
