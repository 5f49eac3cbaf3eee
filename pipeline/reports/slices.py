"""Slices of the evaluation rows by a declared column: its values, ranges of its numbers, lengths of a history."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mixrank.components.judging import Slice, check_slices
from mixrank.pipeline.reports.run_folder import RunFolder

# Values that are slices of their own, the most frequent ones.
MOST_VALUES = 10
# Slices of a number: quarters of the rows that have one.
QUARTERS = (0.25, 0.5, 0.75)


class Part(NamedTuple):
    """A slice.

    Attributes:
        title: what its rows have in common.
        inside: bool `(rows,)`.
    """

    title: str
    inside: NDArray[np.bool_]


def slices_of(run: RunFolder, slices: Sequence[Slice]) -> dict[str, list[Part]]:
    """Column -> slices of the rows of a run's predictions.

    The raw values are those of the run's joined rows. A category has a slice for each of its most frequent values, one
    for all others and one for rows without; a row with several values is in the slice of each. A number has a slice for
    each quarter of the rows that have one, a history for rows without events and for each third of the others, by how
    many they have; where there are edges, both have one between each two edges.

    Args:
        run: the run.
        slices: by features of the row and histories.

    Raises:
        ValueError: for another name, or if rows of the predictions are not among the joined rows.
    """
    from mixrank.components.baselines import read_columns, read_lists
    from mixrank.components.judging import rows_beside

    spec = run.record.spec
    check_slices(slices, spec)
    names = [each.column for each in slices]
    pattern = run.record.rows.examples_of("eval")
    places = rows_beside(run.predictions, pd.DataFrame(read_columns(spec, pattern, spec.key_columns)), spec)
    if (places < 0).any():
        raise ValueError(f"{pattern} lacks {int((places < 0).sum())} of the {len(places)} rows of the predictions")
    # A history by its first field, of which each event has so many values.
    first_of = {history.name: next(spec.history_fields(history)) for history in spec.histories}
    kinds = {feature.name: feature.kind for feature in spec.inputs}
    read = read_lists(spec, pattern, [first_of[name][0] if name in first_of else name for name in names])
    found = {}
    for name, edges in ((each.column, each.edges) for each in slices):
        if name in first_of:
            column, field = first_of[name]
            parts = by_events(read[column][1] // field.raw_width, edges)
        else:
            parts = by_number(*read[name], edges) if kinds[name] == "float" else by_value(*read[name])
        found[name] = [Part(part.title, part.inside[places]) for part in parts if part.inside.any()]
    return found


def by_value(values: NDArray[Any], lengths: NDArray[np.int64]) -> list[Part]:
    """A slice for every frequent value, for all others, and for rows without.

    Args:
        values: one row after the other.
        lengths: how many each row has.
    """
    row = np.repeat(np.arange(len(lengths)), lengths)
    present = pd.Series(values).notna().to_numpy() & (values != "" if values.dtype == object else True)
    row, codes = row[present], pd.factorize(values[present])
    order = np.argsort(-np.bincount(codes[0], minlength=len(codes[1])), kind="stable")

    def rows_with(kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
        inside = np.zeros(len(lengths), bool)
        inside[row[kept]] = True
        return inside

    parts = [Part(str(codes[1][code]), rows_with(codes[0] == code)) for code in order[:MOST_VALUES]]
    rest = order[MOST_VALUES:]
    if len(rest):
        parts.append(Part(f"{len(rest):,} other values", rows_with(np.isin(codes[0], rest))))
    return [*parts, Part("missing", ~rows_with(np.ones(len(row), bool)))]


def by_number(values: NDArray[Any], lengths: NDArray[np.int64], edges: Sequence[float] = ()) -> list[Part]:
    """A slice between each two edges, or for each quarter of the rows that have a number, and for rows without."""
    number = np.full(len(lengths), np.nan)
    has = lengths > 0
    # Of several numbers in a row, the first is the one that Transform reads.
    number[has] = np.asarray(values, np.float64)[(np.cumsum(lengths) - lengths)[has]]
    number[~np.isfinite(number)] = np.nan
    return [*_ranges(number, QUARTERS, edges), Part("missing", np.isnan(number))]


def by_events(counts: NDArray[np.int64], edges: Sequence[float] = ()) -> list[Part]:
    """A slice for rows without events, and between each two edges, or for each third, of the others' number."""
    some = np.where(counts > 0, counts, np.nan).astype(np.float64)
    parts = [Part(f"{part.title} events", part.inside) for part in _ranges(some, (1 / 3, 2 / 3), edges)]
    return [Part("no events", counts == 0), *parts]


def _ranges(number: NDArray[np.float64], shares: Sequence[float], edges: Sequence[float]) -> list[Part]:
    """Slices between edges or, without any, quantiles of the numbers; NaN is in none."""
    known = number[~np.isnan(number)]
    if not len(known):
        return []
    # Quantiles that are numbers of the log; equal numbers share a slice.
    edges = edges or [e for e in np.unique(np.quantile(known, shares, method="higher")) if e > known.min()]
    bounds = [-np.inf, *edges, np.inf]
    if edges:
        inner = (f"{low:g} to below {high:g}" for low, high in itertools.pairwise(edges))
        titles = [f"below {edges[0]:g}", *inner, f"{edges[-1]:g} and more"]
    else:
        titles = [f"{known[0]:g}" if known.min() == known.max() else "any"]
    return [
        Part(title, (number >= low) & (number < high))
        for title, low, high in zip(titles, bounds[:-1], bounds[1:], strict=True)
    ]
