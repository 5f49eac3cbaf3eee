"""Raw rows -> the named columns of the `score_rows` signature, with NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from schemas.encode import PADDING
from schemas.features import Categorical, FeatureSpec, History, MultiCategorical, Numeric


def to_columns(spec: FeatureSpec, rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Stacks rows into dense columns; what a row lacks becomes padding.

    Args:
        spec: columns of a row.
        rows: column -> scalar, None or list, as `schemas.encode.decode` gives them. Lists that are too long keep
            their first values, which in a history are the newest.

    Returns:
        Column -> array: int64 or object (bytes) or float32, `(rows,)` or `(rows, length)`.
    """
    columns: dict[str, np.ndarray] = {}

    def scalar(name: str, dtype: str) -> None:
        values = [row.get(name) for row in rows]
        columns[name] = _array([PADDING[dtype] if value is None else value for value in values], dtype)

    def listed(name: str, dtype: str, length: int) -> None:
        filled = [(list(row.get(name) or ())[:length]) for row in rows]
        columns[name] = _array([values + [PADDING[dtype]] * (length - len(values)) for values in filled], dtype)

    scalar(spec.scenario.name, spec.scenario.dtype)
    for feature in spec.features:
        if isinstance(feature, Categorical):
            scalar(feature.name, feature.dtype)
        elif isinstance(feature, MultiCategorical):
            listed(feature.name, feature.dtype, feature.max_length)
        elif isinstance(feature, Numeric):
            values = [row.get(feature.name) for row in rows]
            columns[feature.name] = np.array([np.nan if v is None else v for v in values], np.float32)
        elif isinstance(feature, History):
            for name, field in spec.history_fields(feature):
                width = field.max_length if isinstance(field, MultiCategorical) else 1
                listed(name, getattr(field, "dtype", "int"), feature.length * width)
    return columns


def _array(values: Sequence[Any], dtype: str) -> np.ndarray:
    if dtype == "int":
        return np.array(values, np.int64)
    encode = np.vectorize(lambda v: v if isinstance(v, bytes) else str(v).encode(), otypes=[object])
    return encode(np.array(values, dtype=object))
