"""Requests with lists of candidates -> one row per candidate."""

from __future__ import annotations

import numpy as np

from mixrank.schemas import Explode
from mixrank.schemas.arrow import pa, pc

# Rows of a file that can be told apart by the numbers of `row_numbers`.
MAX_ROWS = 2**40


def uneven(rule: Explode, columns: dict[str, pa.Array]) -> dict[int, tuple[str, str]]:
    """Position -> (column, reason) of the requests whose lists differ in length; a missing list fits any length."""
    bad: dict[int, tuple[str, str]] = {}
    whole = _sizes(rule, columns)
    for name in rule.columns:
        own = _lengths(columns[name])
        present = columns[name].is_valid().to_numpy(zero_copy_only=False)
        for position in np.flatnonzero(present & (own != whole)):
            reason = f"has {own[position]} entries, but another list of the same request has {whole[position]}"
            bad.setdefault(int(position), (name, reason))
    return bad


def exploded(rule: Explode, columns: dict[str, pa.Array]) -> dict[str, pa.Array]:
    """One row per candidate, in the order of the lists; a request without candidates gives none.

    Args:
        rule: the declaration.
        columns: of requests that are not `uneven`: lists for `rule.columns` and the columns of `rule.chosen`.
    """
    sizes = _sizes(rule, columns)
    request = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(request)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    result: dict[str, pa.Array] = {}
    for name, array in columns.items():
        if name in rule.columns:
            own = _lengths(array)
            inside = own[request] > 0
            entries = np.where(inside, (np.cumsum(own) - own)[request] + place, 0)
            result[name] = array.flatten().take(pa.array(entries, mask=~inside))
        elif name not in rule.chosen.values():
            result[name] = array.take(pa.array(request))
    for label, name in rule.chosen.items():
        result[label] = _is_in(request, result[rule.columns[0]], columns[name])
    if rule.position is not None:
        result[rule.position] = pa.array(place + 1)
    return result


def row_numbers(file: int, rows: np.ndarray) -> pa.Array:
    """A key for every row of the files of a table."""
    return pa.array(file * MAX_ROWS + rows)


def _sizes(rule: Explode, columns: dict[str, pa.Array]) -> np.ndarray:
    return np.max([_lengths(columns[name]) for name in rule.columns], axis=0)


def _lengths(array: pa.Array) -> np.ndarray:
    return pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)


def _is_in(request: np.ndarray, item: pa.Array, chosen: pa.Array) -> pa.Array:
    """1 where the list `chosen[request]` holds the item."""
    owner = np.repeat(np.arange(len(chosen)), _lengths(chosen))
    both = pa.concat_arrays([item, chosen.flatten()]).dictionary_encode().indices
    pairs = np.concatenate([request, owner]) * (len(both) + 1) + both.to_numpy(zero_copy_only=False)
    return pa.array(np.isin(pairs[: len(item)], pairs[len(item) :]).astype(np.int64))
