"""Raw rows -> the named columns of `score_rows` and `rank_candidates`, using only NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixrank.schemas import FeatureSpec
from mixrank.schemas.encode import columns, to_instance, to_request

DTYPES = {"int": np.int64, "float": np.float32, "str": object}


def to_columns(spec: FeatureSpec, rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Stacks rows into dense columns; missing values become padding.

    Args:
        spec: columns of a row.
        rows: column -> value, as `decode` gives them.

    Returns:
        Column -> int64, float32 or object (bytes) array, `(rows,)` or `(rows, length)`.

    Raises:
        ValueError: as `check_row`.
    """
    instances = [to_instance(spec, row) for row in rows]
    names = [column.name for column in columns(spec) if column.serving]
    return _arrays(spec, {name: [instance[name] for instance in instances] for name in names})


def to_request_columns(
    spec: FeatureSpec, request: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]]
) -> dict[str, np.ndarray]:
    """One user and several items as the inputs of `rank_candidates`.

    Args:
        spec, request, candidates: as in `to_request`.

    Returns:
        Column -> int64, float32 or object (bytes) array: `()` or `(length,)` for a column of the request,
        `(candidates,)` or `(candidates, max_length)` for one of the items.

    Raises:
        ValueError: as `to_request`.
    """
    return _arrays(spec, to_request(spec, request, candidates))


def request_and_item(spec: FeatureSpec, row: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The columns of a row that describe the request, and those that describe its item; all others are dropped.

    Args:
        spec: columns of a row.
        row: column -> value.
    """
    served = [column for column in columns(spec) if column.serving and column.name in row]
    request, item = ({c.name: row[c.name] for c in served if c.candidate is own} for own in (False, True))
    return request, item


def _arrays(spec: FeatureSpec, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    arrays = {c.name: np.array(values[c.name], DTYPES[c.kind]) for c in columns(spec) if c.serving}
    return {name: _as_bytes(array) if array.dtype == object else array for name, array in arrays.items()}


_as_bytes = np.vectorize(lambda text: text.encode(), otypes=[object])
