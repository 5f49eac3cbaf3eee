"""The baseline that a deep model must beat: gradient-boosted trees on target statistics of earlier days."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, assert_never

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from mixrank.components.baselines.example_arrays import ExampleArrays
from mixrank.components.baselines.target_statistics import TargetStatistics
from mixrank.components.baselines.task_kinds import TASK_BASELINES
from mixrank.schemas import (
    Action,
    Categorical,
    Expression,
    FeatureSpec,
    History,
    LookedUp,
    Lookup,
    MultiCategorical,
    Numeric,
    NumericLookup,
    TimeGap,
    Vector,
    VectorTable,
)

# A feature with at most this many values is a category to the trees. scikit-learn allows 255, but learns little from
# rare ones.
CATEGORIES = 64


class BoostedTrees:
    """Boosted trees per task, by scikit-learn, on features made from a spec's columns.

    * User, item, every `MultiCategorical`, `Cross` and `Categorical` of more than `CATEGORIES` values, scenario x user,
      scenario x item, and user x each other attribute of the item: `TargetStatistics` of all tasks.
    * Scenario and the other `Categorical`s: the value, as a category. An unseen one counts as missing.
    * `Numeric`, `Vector`, `Expression`, `NumericLookup` and `VectorTable`: the numbers. `Lookup`: as a `Categorical`.
    * `History`: number of events, share of each flag and the flags of the newest event, seconds since the newest and
      the oldest one; of each number of its events the newest and the mean; and of the events that share a value with
      the row, per field: number, share of each task among them, seconds since the newest. A `Lookup` and a
      `NumericLookup` of its events are fields like others.

    Args:
        spec: the columns.
        smoothing: float > 0. Of the target statistics.
        trees: int >= 1. Trees per task; there is no early stopping.
        learning_rate: float > 0.
        leaves: int >= 2. Maximum number of leaves of a tree.
        min_rows: int >= 1. Minimum number of training rows in a leaf.
        l2: float >= 0. L2 regularisation of the leaves' values.

    Raises:
        ValueError: if an argument is out of bounds.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        *,
        smoothing: float = 10.0,
        trees: int = 200,
        learning_rate: float = 0.05,
        leaves: int = 31,
        min_rows: int = 100,
        l2: float = 10.0,
    ) -> None:
        bounds: dict[str, tuple[float, float]] = {
            "trees": (trees, 1), "leaves": (leaves, 2), "min_rows": (min_rows, 1), "l2": (l2, 0),
        }  # fmt: skip
        for name, (value, least) in bounds.items():
            if not value >= least:
                raise ValueError(f"`{name}` must be >= {least}, received {value}")
        for name, value in (("smoothing", smoothing), ("learning_rate", learning_rate)):
            if not value > 0:
                raise ValueError(f"`{name}` must be > 0, received {value}")
        self.spec = spec
        self.smoothing = smoothing
        self.settings: dict[str, Any] = {
            "max_iter": trees,
            "learning_rate": learning_rate,
            "max_leaf_nodes": leaves,
            "min_samples_leaf": min_rows,
            "l2_regularization": l2,
            "early_stopping": False,
            "random_state": 0,
        }
        self.statistics: dict[str, TargetStatistics] = {}
        self.categories: dict[str, NDArray[np.int32]] = {}
        self.models: dict[str, Any] = {}
        # Predictions of tasks with labels of one class.
        self.constants: dict[str, Any] = {}

    def fit(self, rows: ExampleArrays, days: ArrayLike) -> BoostedTrees:
        """Counts the training rows and grows the trees; a row's features know the days before its own.

        Args:
            rows: training rows.
            days: integers, `(rows,)`, ascending with time.

        Raises:
            ValueError: without rows, or if `days` does not fit.
        """
        labels = np.stack([rows.columns[task] for task in self.spec.tasks], axis=1)
        self.categories = {}
        keys = (self.spec.user.name, self.spec.item.name)
        single = [feature.name for feature in self._categories() if feature.max_values is None]
        for name in (self.spec.scenario.name, *single):
            if name in keys:
                continue
            known = np.unique(rows.columns[name])
            if len(known := known[known > 0]) <= CATEGORIES:
                self.categories[name] = known
        self.statistics = {
            name: TargetStatistics(smoothing=self.smoothing).fit(values, days, labels)
            for name, values in self._counted(rows)
        }
        table = self.features(rows, days)
        settings = {**self.settings, "categorical_features": list(self.categories)}
        self.models, self.constants = {}, {}
        for label in self.spec.labels:
            kind = TASK_BASELINES[label.kind]
            counted = label.counted(rows.columns)
            column = rows.columns[label.name][counted]
            if (constant := kind.constant(column, label.classes)) is not None:
                self.constants[label.name] = constant
            else:
                weights = self.spec.weights_of(label, rows.columns)
                weights = None if weights is None else weights[counted]
                self.models[label.name] = kind.trees(**settings).fit(table[counted], column, sample_weight=weights)
        return self

    def predict(self, rows: ExampleArrays) -> dict[str, NDArray[np.float64]]:
        """Task -> prediction of every row, `(rows,)`, of a label with classes `(rows, 1 + classes)`; every training day
        counts as earlier.

        Raises:
            ValueError: before `fit`.
        """
        table = self.features(rows)
        return {
            label.name: np.repeat(np.asarray(self.constants[label.name])[None], len(rows), axis=0)
            if label.name in self.constants
            else TASK_BASELINES[label.kind].predict(self.models[label.name], table, label.classes)
            for label in self.spec.labels
        }

    def features(self, rows: ExampleArrays, days: ArrayLike | None = None) -> pd.DataFrame:
        """Features of the trees: float32, one named column each.

        Args:
            rows: any rows.
            days: as in `fit`; None for rows after all training days.

        Raises:
            ValueError: before `fit`, or if `days` does not fit.
        """
        if not self.statistics:
            raise ValueError("`fit` must be called first")
        found: dict[str, Any] = {}
        for name, values in self._counted(rows):
            rates, counts = self.statistics[name].transform(values, days)
            found |= {f"{name}.{task}": rate for task, rate in zip(self.spec.tasks, rates.T, strict=True)}
            found[f"{name}.rows"] = counts
        for name, known in self.categories.items():
            place = np.searchsorted(known, rows.columns[name])
            seen = np.isin(rows.columns[name], known)
            found[name] = np.where(seen, place, np.nan)
        for feature in self.spec.inputs:
            if feature.kind == "float":
                found |= _numbers(feature.name, rows.columns[feature.name])
        for lookup in self.spec.from_files:
            if lookup.value_kind == "float":
                found |= _numbers(lookup.name, rows.columns[lookup.name])
        for expression in self.spec.expressions:
            found[expression.name] = _expressed(self.spec, expression, rows)
        for history in self.spec.histories:
            found |= {f"{history.name}.{name}": column for name, column in _history(self.spec, history, rows)}
        return pd.DataFrame({name: np.asarray(column, np.float32) for name, column in found.items()})

    def _categories(self) -> Iterator[LookedUp]:
        """Categories of the row: its own, then those that are looked up in files."""
        yield from (*self.spec.categorical, *self.spec.lookups)

    def _counted(self, rows: ExampleArrays) -> Iterator[tuple[str, NDArray[Any]]]:
        """Name and codes of everything that has target statistics."""
        columns = rows.columns
        user, item, scenario = self.spec.user.name, self.spec.item.name, self.spec.scenario.name
        yield user, columns[user]
        yield item, columns[item]
        for key in (user, item):
            yield f"{scenario}*{key}", _crossed(columns[scenario], columns[key])
        for feature in self._categories():
            if feature.name in (user, item):
                continue
            if feature.name not in self.categories:
                yield feature.name, columns[feature.name]
            if feature.group == "item":
                yield f"{user}*{feature.name}", _crossed(columns[user], columns[feature.name])
        for cross in self.spec.crosses:
            yield cross.name, _combined([columns[name] for name in cross.of])


def _numbers(name: str, column: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Name -> numbers `(rows,)`, of a number or of each coordinate of a vector."""
    if column.ndim == 1:
        return {name: column}
    return {f"{name}.{place}": numbers for place, numbers in enumerate(column.T)}


def _expressed(spec: FeatureSpec, expression: Expression, rows: ExampleArrays) -> NDArray[np.float32]:
    """The value of an `Expression`, NaN where it is missing."""
    functions: dict[str, Any] = {
        "abs": np.abs,
        "exp": np.exp,
        "log1p": np.log1p,
        "max": np.maximum,
        "min": np.minimum,
        "sqrt": np.sqrt,
        "where": np.where,
        "is_finite": np.isfinite,
    }
    with np.errstate(all="ignore"):
        return spec.evaluate(expression, rows.columns, functions, np.float32)


def _crossed(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.int64]:
    """One number per pair of codes, 0 where one is missing; `right` may have several per row."""
    left = left.reshape(-1, *[1] * (right.ndim - 1)).astype(np.int64)
    return np.where((left > 0) & (right > 0), (left << 31) + right, 0)


def _combined(columns: list[NDArray[Any]]) -> NDArray[np.int64]:
    """One number per combination of codes, 0 where one is missing; mixed, since three do not fit side by side."""
    mixed = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        mixed = (mixed + column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    missing = np.any([column == 0 for column in columns], axis=0)
    return np.where(missing, 0, mixed.view(np.int64))


def _history(spec: FeatureSpec, history: History, rows: ExampleArrays) -> Iterator[tuple[str, Any]]:
    """Name and column of each feature of a history."""
    events = rows.events[history.name]
    flags: dict[str, NDArray[np.bool_]] = {}
    gaps: NDArray[Any] | None = None
    attributes: dict[str, NDArray[Any]] = {}
    numbers: dict[str, NDArray[Any]] = {}
    for name, field in spec.history_fields(history):
        column = rows.columns[name]
        match field:
            case Action():
                flags |= {flag: (column >= 0) & (column >> bit & 1 > 0) for bit, flag in enumerate(field.flags)}
            case TimeGap():
                gaps = column if gaps is None else gaps
            case Categorical() | MultiCategorical():
                if field.name in rows.columns:
                    attributes[field.name] = column
            case Numeric() | Vector():
                places = enumerate(np.moveaxis(column, 2, 0)) if column.ndim == 3 else [("", column)]
                numbers |= {f"{field.name}{'' if place == '' else f'.{place}'}": each for place, each in places}
            case _:
                assert_never(field)
    for name, each in spec.added_to(history):
        match each:
            case Lookup():
                attributes[each.name] = rows.columns[name]
            case NumericLookup():
                numbers[each.name] = rows.columns[name]
            case VectorTable():
                pass  # The trees read those of the row alone.
            case _:
                assert_never(each)
    yield "events", events
    for flag, set_ in flags.items():
        yield flag, _share(set_.sum(axis=1), events)
        yield f"newest.{flag}", np.where(events > 0, set_[:, 0], np.nan)
    if gaps is not None:
        yield "newest.seconds", _least(gaps)
        yield "oldest.seconds", -_least(-gaps)
    for name, column in numbers.items():
        yield f"newest.{name}", column[:, 0]
        known = ~np.isnan(column)
        yield f"mean.{name}", _share(np.where(known, column, 0).sum(axis=1, dtype=np.float64), known.sum(axis=1))
    for name, column in attributes.items():
        same = _shares_a_value(column, rows.columns[name])
        count = same.sum(axis=1)
        yield f"same_{name}", count
        for task in spec.tasks:
            if task in flags:
                yield f"same_{name}.{task}", _share((same & flags[task]).sum(axis=1), count)
        if gaps is not None:
            yield f"same_{name}.seconds", _least(np.where(same, gaps, np.nan))


def _shares_a_value(events: NDArray[Any], own: NDArray[Any]) -> NDArray[np.bool_]:
    """Which events `(rows, events[, values])` have a value of the row `(rows[, values])`."""
    found = np.zeros(events.shape[:2], bool)
    for theirs in np.moveaxis(events.reshape(*events.shape[:2], -1), -1, 0):
        for value in own.reshape(len(own), -1).T:
            found |= (theirs == value[:, None]) & (theirs > 0)
    return found


def _share(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[Any]:
    return np.divide(part, whole, np.full(len(part), np.nan), where=whole > 0)


def _least(numbers: NDArray[Any]) -> NDArray[Any]:
    """The smallest number of each line, NaN if it has none."""
    least = np.where(np.isnan(numbers), np.inf, numbers).min(axis=1, initial=np.inf)
    return np.where(np.isinf(least), np.nan, least)
