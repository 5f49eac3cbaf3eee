"""A metric in one place: its name, its direction, and how it is computed on rows and on resamples of their groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixrank.components.metrics.number_metrics import GroupXauc, xauc_by_group
from mixrank.components.metrics.ranked import Ranked, ranked
from mixrank.components.metrics.ranking_metrics import GroupAuc, auc_by_group
from mixrank.schemas.task_kinds import BINARY

if TYPE_CHECKING:
    import pandas as pd

    from mixrank.schemas import FeatureSpec, Label

# Elements of the largest work array, 32 MB.
BLOCK = 4_000_000


@dataclass(frozen=True)
class Rows:
    """Evaluation rows of one task; what several metrics need of them is computed once.

    Args:
        labels: `(rows,)`.
        scores: `(rows,)`. The model's predictions.
        groups: integer or text, `(rows,)`. Group of each row, usually the user. `Metric.of_resamples` needs integers:
            columns of `drawn`.
        requests: integer or text, `(rows,)`. Ranking request of each row; None if the log declares none.
        weights: >= 0, `(rows,)`, or None: each row counts once. A row of weight 2 counts as two equal ones.
        classes: values of a label that has classes, ascending; else empty.
        shares: predicted probability of each class, `(rows, classes)`, or None.
    """

    labels: NDArray[Any]
    scores: NDArray[Any]
    groups: NDArray[Any]
    requests: NDArray[Any] | None = None
    weights: NDArray[Any] | None = None
    classes: tuple[int, ...] = ()
    shares: NDArray[Any] | None = None

    @classmethod
    def of(cls, predictions: pd.DataFrame, task: str, spec: FeatureSpec) -> Rows:
        """The rows of a table of predictions that count for a task: those whose `label_<task>` is known."""
        known = predictions[predictions[f"label_{task}"].notna()]
        requests = None if spec.request is None else known[spec.request.name].to_numpy()
        labels, users = (known[name].to_numpy() for name in (f"label_{task}", spec.user.name))
        (label,) = (label for label in spec.labels if label.name == task)
        return cls.of_answers(
            labels, answers_in(known, label), users, label.classes, requests=requests, weights=weights_in(known, task)
        )

    @classmethod
    def of_answers(
        cls,
        labels: NDArray[Any],
        answers: NDArray[Any],
        groups: NDArray[Any],
        classes: tuple[int, ...] = (),
        *,
        requests: NDArray[Any] | None = None,
        weights: NDArray[Any] | None = None,
    ) -> Rows:
        """Rows from what a model answers for a task.

        Args:
            labels, groups, requests, weights: as in `Rows`.
            answers: predictions `(rows,)`; of a label with classes `(rows, 1 + classes)`, see `answers_in`.
            classes: those of the label.
        """
        scores, shares = (answers[:, 0], answers[:, 1:]) if classes else (answers, None)
        return cls(labels, scores, groups, requests, weights, classes, shares)

    def take(self, rows: NDArray[Any]) -> Rows:
        """Some of the rows, by their positions or a mask."""
        requests, weights, shares = (
            None if each is None else each[rows] for each in (self.requests, self.weights, self.shares)
        )
        return Rows(self.labels[rows], self.scores[rows], self.groups[rows], requests, weights, self.classes, shares)

    def over(self, unit: float) -> Rows:
        """The same rows with labels and scores in another unit."""
        return self if unit == 1 else replace(self, labels=self.labels / unit, scores=self.scores / unit)

    @property
    def weight(self) -> NDArray[np.float64]:
        """`weights`, or ones."""
        return np.ones(len(self.labels)) if self.weights is None else np.asarray(self.weights, np.float64)

    @cached_property
    def by_group(self) -> GroupAuc:
        """AUC, size and position of every group."""
        return auc_by_group(self.labels, self.scores, self.groups, self.weights)

    @cached_property
    def ranked(self) -> Ranked:
        """The rows of every group by falling score."""
        return ranked(self.scores, self.groups)

    @cached_property
    def ranked_requests(self) -> Ranked:
        """The rows of every request by falling score.

        Raises:
            ValueError: if the log declares no requests.
        """
        if self.requests is None:
            raise ValueError(
                'metrics per request need requests: declare `request=Request("...")` in the spec of the log'
            )
        return ranked(self.scores, self.requests)

    @cached_property
    def pairs_by_group(self) -> GroupXauc:
        """XAUC, size and position of every group."""
        return xauc_by_group(self.labels, self.scores, self.groups, self.weights)


def answers_in(predictions: pd.DataFrame, label: Label) -> NDArray[Any]:
    """`score_<output>` of every output of a label in a table of predictions.

    Returns:
        `(rows,)`; for a label with classes float64 `(rows, 1 + classes)`, the prediction first.

    Raises:
        ValueError: if the table has predictions of the label, and none of its classes.
    """
    columns = [f"score_{output}" for output in label.outputs]
    if not label.classes:
        return predictions[columns[0]].to_numpy()
    if missing := [name for name in columns if name not in predictions]:
        raise ValueError(f"predictions of label `{label.name}` lack the column `{missing[0]}`: other classes?")
    return predictions[columns].to_numpy(np.float64)


def weights_in(predictions: pd.DataFrame, task: str) -> NDArray[np.float64] | None:
    """`weight_<task>` of a table of predictions, or None where it has no such column."""
    name = f"weight_{task}"
    return predictions[name].to_numpy(np.float64) if name in predictions else None


class Bound(NamedTuple):
    """A bound that a metric may be held to.

    Attributes:
        metric: name of the metric.
        side: "min", "max", or "change" for a bound against the last pushed model.
    """

    metric: str
    side: str


@dataclass(frozen=True)
class Metric:
    """A metric of one task.

    Args:
        name: as in thresholds, `early_stopping.metric` and files of results, such as "auc".
        title: for people, inside a sentence, such as "log loss".
        of_rows: rows -> the value; NaN where it is not defined, such as the AUC of one class.
        of_resamples: rows, drawn -> the value of every resample, `(resamples,)`, where `drawn` `(resamples, groups)`
            says how often each group is drawn; see `ratio_of_sums`. None: the metric has no interval.
        higher_is_better: None for what has no direction, such as a count or calibration. Early stopping and bounds
            against the last pushed model need a direction.
        headline: whether tables in the terminal and comparisons of models show it; pages of a run and the evaluation
            show all that have a direction.
        relative: value, value of a baseline -> relative improvement, or None.
        unit: of the value, or "".
        kinds: kinds of tasks that it measures, as in `Label.kind`.
        of_each: rows -> value of each row, `(rows,)`, if the metric is their mean; else None.
        short: title where columns are narrow; the title by default.
        per_request: whether it compares the rows of a request, and exists only for logs that declare requests.

    >>> wrong = lambda rows: float(np.mean((rows.scores > 0.5) != rows.labels))
    >>> list(Metric("error_rate", "error rate", wrong, higher_is_better=False).bounds)
    ['max_error_rate', 'max_error_rate_rise']
    """

    name: str
    title: str
    of_rows: Callable[[Rows], float]
    of_resamples: Callable[[Rows, NDArray[np.float64]], NDArray[np.float64]] | None = None
    higher_is_better: bool | None = None
    headline: bool = False
    relative: Callable[[float, float], float] | None = None
    unit: str = ""
    short: str = ""
    kinds: tuple[str, ...] = (BINARY.name,)
    of_each: Callable[[Rows], NDArray[np.float64]] | None = None
    per_request: bool = False

    @property
    def heading(self) -> str:
        """The title at the start of a line."""
        return self.title[0].upper() + self.title[1:]

    @property
    def narrow_heading(self) -> str:
        """`heading`, or `short` where there is one."""
        return self.short or self.heading

    @property
    def bounds(self) -> dict[str, Bound]:
        """Name in a config's `thresholds` -> bound; a metric without a direction may be bounded on both sides."""
        low, high = {f"min_{self.name}": Bound(self.name, "min")}, {f"max_{self.name}": Bound(self.name, "max")}
        if self.higher_is_better is None:
            return low | high
        if self.higher_is_better:
            return low | {f"max_{self.name}_drop": Bound(self.name, "change")}
        return high | {f"max_{self.name}_rise": Bound(self.name, "change")}


def sums(rows: Rows, values: ArrayLike, drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted sum of a value per row over the rows of every resample, `(resamples,)`."""
    return drawn @ np.bincount(rows.groups, np.broadcast_to(values, len(rows.groups)) * rows.weight, drawn.shape[1])


def ratio_of_sums(rows: Rows, upper: ArrayLike, lower: ArrayLike, drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ratio of two sums over the rows of every resample, `(resamples,)`; NaN where the lower one is 0.

    Args:
        rows: the rows.
        upper, lower: value per row, `(rows,)` or one number. A mean has `lower` 1.
        drawn: how often each group is drawn, `(resamples, groups)`.
    """
    above, below = sums(rows, upper, drawn), sums(rows, lower, drawn)
    return np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)


def resampled_auc(rows: Rows, drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """AUC over the rows of every resample, `(resamples,)`; NaN where they have one class."""
    order = np.argsort(rows.scores, kind="stable")
    s, y, u = rows.scores[order], rows.labels[order].astype(np.float64), rows.groups[order]
    w = rows.weight[order]
    starts = np.flatnonzero(np.append(True, s[1:] != s[:-1]))
    found = np.full(len(drawn), np.nan)
    step = max(1, BLOCK // max(1, len(s)))
    for at in range(0, len(drawn), step):
        weight = drawn[at : at + step, u] * w
        # (resamples, distinct scores)
        positive = np.add.reduceat(weight * y, starts, axis=1)
        negative = np.add.reduceat(weight * (1 - y), starts, axis=1)
        beaten = np.cumsum(negative, axis=1) - negative / 2
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        wins = (positive * beaten).sum(axis=1)
        found[at : at + step] = np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return found
