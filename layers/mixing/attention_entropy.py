"""How evenly queries spread their attention."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from mixrank.layers.base import Tensor

# Told the weights (batch, heads, queries, keys) of an attention, and a mask that broadcasts to them.
Watcher = Callable[[Tensor, Tensor], None]


def relative_entropy(weights: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """`-sum_t a_t log a_t / log n` of every row of weights over n valid keys: 1 if all count alike, 0 if one has all.

    Args:
        weights: (..., keys), 0 where a key is not valid.
        valid: bool, of a shape that broadcasts to `weights`.

    Returns:
        (...,); NaN with fewer than two valid keys, which leave nothing to choose.

    >>> relative_entropy(np.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]), np.array([True, True, False])).tolist()
    [1.0, 0.0]
    """
    weights = np.asarray(weights, "float64")
    number = np.broadcast_to(valid, weights.shape).sum(axis=-1)
    entropy = -(weights * np.log(np.where(weights > 0, weights, 1))).sum(axis=-1)
    return np.where(number > 1, entropy / np.log(np.maximum(number, 2)), np.nan) + 0.0


def attention_report(
    ranker: Any, batches: Iterable[Mapping[str, Any]], watched: Mapping[str, tuple[Any, Sequence[str]]]
) -> dict[str, Any]:
    """Mean of the relative entropy over rows and heads, of every query of some attention layers.

    Args:
        ranker: the model that they belong to.
        batches: rows, each batch a dictionary of the ranker's inputs.
        watched: column of the report -> a layer with an attribute `on_attention`, a `Watcher` or None, and the names of
            its queries.

    Returns:
        Empty without rows of two events; otherwise `attention`, for JSON: `examined`, the number of rows, `columns`,
        and `rows` with a name and a weight for each column, None where it has no such query.
    """
    sums = {column: np.zeros((2, len(queries))) for column, (_, queries) in watched.items()}
    examined = 0

    def recorder(column: str) -> Watcher:
        def record(weights: Tensor, valid: Tensor) -> None:
            found = relative_entropy(*(np.array(ops.convert_to_numpy(x)) for x in (weights, valid)))
            # (batch, heads, queries) -> (queries,)
            sums[column] += np.nansum(found, axis=(0, 1)), np.isfinite(found).sum(axis=(0, 1))

        return record

    try:
        for column, (layer, _) in watched.items():
            layer.on_attention = recorder(column)
        for batch in batches if watched else ():
            found = ranker({name: batch[name] for name in ranker.input}, training=False)
            examined += int(next(iter(found.values())).shape[0])
    finally:
        for layer, _ in watched.values():
            layer.on_attention = None
    if not any(numbers.any() for _, numbers in sums.values()):
        return {}
    means: dict[str, dict[str, float]] = {}
    for column, (_, queries) in watched.items():
        for name, total, number in zip(queries, *sums[column], strict=True):
            if number:
                means.setdefault(name, {})[column] = round(float(total / number), 4)
    rows = [{"name": name, "weights": [of.get(column) for column in watched]} for name, of in means.items()]
    return {"attention": {"examined": examined, "columns": list(watched), "rows": rows}}
