"""Figures of a user shard: what its rows hold, per split, and how well each feature alone tells each label."""

from __future__ import annotations

import collections
import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mixrank.components.examples.dictionary_column import Coded
from mixrank.components.examples.histories import Slices
from mixrank.components.gates import (
    FeatureFigures,
    Figures,
    HistoryFigures,
    JoinFigures,
    LabelFigures,
    Separation,
    example_keys,
)
from mixrank.schemas import SPLITS, Dataset, FeatureSpec, RowFeature

# With more unmatched rows it is worth the time to look for keys that look alike.
FEW_UNMATCHED = 0.05
# A number with more distinct values is cut into this many quantiles.
BINS = 64
OTHER = "other"


def join_figures(key: Coded, table_key: Coded, match: NDArray[np.int64]) -> JoinFigures:
    """Matches of a join, and keys of both sides that found none.

    Args:
        key: of the log, `(rows,)`.
        table_key: of the table.
        match: row of the table for each row of the log, or -1.
    """
    rows, unmatched = len(match), match < 0
    figures = JoinFigures(rows=rows, matched=rows - int(unmatched.sum()))
    if figures.matched >= (1 - FEW_UNMATCHED) * rows:
        return figures
    used = np.zeros(len(table_key), bool)
    used[match[~unmatched]] = True
    sides = (key.take(np.flatnonzero(unmatched)), table_key.take(np.flatnonzero(~used)))
    log_keys, table_keys = (example_keys(side.values[code] for code in _used(side) if code) for side in sides)
    return figures.model_copy(update={"log_keys": log_keys, "table_keys": table_keys})


def shard_figures(
    dataset: Dataset,
    log: dict[str, Coded],
    split: NDArray[np.int64],
    time: NDArray[np.int64],
    histories: dict[str, Slices],
    left_out: int = 0,
) -> Figures:
    """Figures of the rows of a shard.

    Args:
        dataset: the declaration.
        log: the columns.
        split: position in `SPLITS`, `(rows,)`, -1 for none.
        time: milliseconds, `(rows,)`.
        histories: history -> its slices.
        left_out: negatives of the training split that are not kept, whose split is -1.
    """
    spec = dataset.spec
    places = {name: SPLITS.index(name) for name in dataset.split_names}
    rows = np.bincount(split[split >= 0], minlength=len(SPLITS))
    labels = {label.name: log[label.name].numbers(np.float64) for label in spec.labels}
    counted = labels | {name: log[name].numbers() for name in spec.mature}
    # A number is told by whether it is above its median.
    high = {
        label.name: labels[label.name] > (0 if label.is_flag else np.median(labels[label.name]) if len(time) else 0)
        for label in spec.labels
    }
    inputs = {spec.scenario.name: False} | {feature.name: feature.kind == "float" for feature in spec.inputs}
    years, counts = np.unique(time.astype("datetime64[ms]").astype("datetime64[Y]"), return_counts=True)
    return Figures(
        rows={name: int(rows[place]) for name, place in places.items()},
        rows_in_no_split=int((split < 0).sum()) - left_out,
        negatives_left_out=left_out,
        labels={
            label.name: _label(
                spec,
                log,
                labels[label.name],
                # Rows that do not count are in no split.
                split if not label.counts_where else np.where(label.counted(counted), split, -1),
                places,
            )
            for label in spec.labels
        },
        histories={
            name: {each: _history(cut, split == place) for each, place in places.items()}
            for name, cut in histories.items()
        },
        features={feature.name: _feature(feature, log[feature.name], split, places) for feature in spec.inputs},
        alone={name: _alone(is_number, log[name], labels, high, split) for name, is_number in inputs.items()},
        first_ms=int(time.min()) if len(time) else None,
        last_ms=int(time.max()) if len(time) else None,
        years={str(year): int(count) for year, count in zip(years, counts, strict=True)},
        num_shards=1,
    )


def _label(
    spec: FeatureSpec,
    log: dict[str, Coded],
    truth: NDArray[np.float64],
    split: NDArray[np.int64],
    places: dict[str, int],
) -> dict[str, dict[str, LabelFigures]]:
    """Split -> scenario -> figures; scenarios that the spec does not list are pooled."""
    scenario, known = log[spec.scenario.name], set(spec.scenario.values)
    names = [str(value) if value in known else OTHER for value in scenario.values]
    found: dict[str, dict[str, LabelFigures]] = {}
    for name, place in places.items():
        own = split == place
        rows = np.bincount(scenario.codes[own], minlength=len(names))
        positives = np.bincount(scenario.codes[own], truth[own] != 0, minlength=len(names))
        sums: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
        for code in np.flatnonzero(rows):
            sums[names[code]][0] += int(rows[code])
            sums[names[code]][1] += int(positives[code])
        found[name] = {value: LabelFigures(rows=r, positives=p) for value, (r, p) in sorted(sums.items())}
    return found


def _history(cut: Slices, own: NDArray[np.bool_]) -> HistoryFigures:
    events, dropped = cut.counts[own], cut.dropped[own]
    return HistoryFigures(
        rows=len(events),
        empty=int((events == 0).sum()),
        events=int(events.sum()),
        cut_rows=int((dropped > 0).sum()),
        cut_events=int(dropped.sum()),
    )


def _feature(feature: RowFeature, column: Coded, split: NDArray[np.int64], places: dict[str, int]) -> FeatureFigures:
    present = split[~column.missing()]
    figures = FeatureFigures(present={name: int((present == place).sum()) for name, place in places.items()})
    if feature.max_values is None:
        return figures
    surplus = np.array([max(0, len(v) - feature.max_values) if v else 0 for v in column.values])[column.codes]
    surplus = surplus[split >= 0]
    return figures.model_copy(update={"cut_rows": int((surplus > 0).sum()), "cut_values": int(surplus.sum())})


def _alone(
    is_number: bool,
    column: Coded,
    labels: dict[str, NDArray[np.float64]],
    high: dict[str, NDArray[np.bool_]],
    split: NDArray[np.int64],
) -> dict[str, Separation]:
    """Label -> how well the column alone tells the evaluation rows, counted on the training rows."""
    training, evaluated = split == SPLITS.index("train"), split == SPLITS.index("eval")
    used = _used(column)
    place = np.zeros(len(column.values), np.int64)
    place[used] = np.arange(len(used))
    codes, values = place[column.codes], [column.values[code] for code in used]
    numbers = np.array([_number(value) for value in values])
    owner, token = _bins(numbers, codes[training]) if is_number else _tokens(values)
    seen, judged = codes[training], codes[evaluated]
    compared = split >= 0
    present = compared & ~column.missing()
    found = {}
    for name, truth in labels.items():
        rows = np.bincount(seen, minlength=len(values)).astype(np.float64)
        positives = np.bincount(seen, high[name][training], minlength=len(values))
        prior = positives.sum() / max(1, rows.sum())
        # Of the tokens, then the mean over those of each value.
        rate = (np.bincount(token, positives[owner]) + prior) / (np.bincount(token, rows[owner]) + 1)
        score = np.bincount(owner, rate[token], len(values)) / np.bincount(owner, minlength=len(values))
        ahead = np.bincount(judged, high[name][evaluated], minlength=len(values))
        behind = np.bincount(judged, minlength=len(values)) - ahead
        pairs, ordered = ordered_pairs(score, ahead, behind)
        unequal = numbers[codes] != truth
        found[name] = Separation(
            pairs=pairs,
            ordered=ordered,
            rows=int(compared.sum()),
            unequal=int(unequal[compared].sum()),
            present=int(present.sum()),
            present_positives=int(high[name][present].sum()),
        )
    return found


def ordered_pairs(score: NDArray[np.float64], positives: NDArray[Any], negatives: NDArray[Any]) -> tuple[int, float]:
    """Pairs of a positive and a negative row, and those in which the positive has the higher score; ties count half.

    Args:
        score: of each value, `(values,)`.
        positives, negatives: rows of each value, `(values,)`.

    >>> import numpy as np
    >>> ordered_pairs(np.array([0.1, 0.9, 0.9]), np.array([1, 2, 0]), np.array([3, 0, 1]))
    (12, 8.5)
    """
    _, rank = np.unique(score, return_inverse=True)
    ahead, behind = np.bincount(rank, positives), np.bincount(rank, negatives)
    below = np.cumsum(behind) - behind / 2
    return round(ahead.sum() * behind.sum()), float((ahead * below).sum())


def _used(column: Coded) -> NDArray[np.int64]:
    """Codes that a row has; a joined column keeps the values of the whole table."""
    return np.flatnonzero(np.bincount(column.codes, minlength=len(column.values)))


def _number(value: Any) -> float:
    if isinstance(value, tuple):
        value = value[0] if len(value) == 1 else None
    try:
        return float("nan" if value is None else value)
    except ValueError:
        return float("nan")


def _tokens(values: list[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(position of a value, number of one of its categories), one pair per category; a missing value is one too."""
    lists = [value if isinstance(value, tuple) else (value,) for value in values]
    owner = np.repeat(np.arange(len(lists)), [len(each) for each in lists])
    flat = np.empty(len(owner), dtype=object)
    flat[:] = [value for each in lists for value in each]
    return owner, pd.factorize(flat, use_na_sentinel=False)[0]


def _bins(numbers: NDArray[np.float64], training: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The same for numbers: quantiles of the training rows, and each quantile's own value apart."""
    known = numbers[training]
    known = known[np.isfinite(known)]
    if not len(known):
        return np.arange(len(numbers)), np.isnan(numbers).astype(np.int64)
    bins = min(BINS, 1 + math.isqrt(len(known)))
    edges = np.unique(np.quantile(known, np.linspace(0, 1, bins + 1)))
    # A number beyond those of the training rows counts as the nearest of them.
    near = np.clip(numbers, edges[0], edges[-1])
    place = 1 + np.searchsorted(edges, near, "left") + np.searchsorted(edges, near, "right")
    return np.arange(len(numbers)), np.where(np.isnan(numbers), 0, place)
