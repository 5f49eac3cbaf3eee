"""The table of metrics: those of mixrank, and those that packages add under the entry point `mixrank.metrics`.

A metric enters thresholds, early stopping, validation, TFMA's evaluation, reports, intervals and comparisons by its row
here: all of them fold over the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import entry_points
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixrank.components.metrics.class_metrics import class_log_losses, hits
from mixrank.components.metrics.metric import Bound, Metric, Rows, ratio_of_sums, resampled_auc
from mixrank.components.metrics.ndcg import ndcg_at
from mixrank.components.metrics.number_metrics import poisson_losses, squared_log_errors, watch_losses, xauc
from mixrank.components.metrics.ranking_metrics import (
    auc,
    calibration,
    entropy,
    log_losses,
    mean,
    normalized_entropy,
    ratio,
    rela_impr_auc,
    rela_impr_log_loss,
    summarise,
)
from mixrank.components.metrics.request_metrics import OF_REQUESTS
from mixrank.schemas.naming import nearest
from mixrank.schemas.safe_text import shown
from mixrank.schemas.task_kinds import CLASSES, LABEL_KINDS, NUMBERS

GROUP = "mixrank.metrics"


def _auc_per_row(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """AUC of each row's group, 0 where it has none, and whether it has one."""
    group = rows.by_group.group
    return np.nan_to_num(rows.by_group.auc)[group], rows.by_group.mixed[group]


def _gauc_of_resamples(rows: Rows, drawn: np.ndarray) -> np.ndarray:
    return ratio_of_sums(rows, *_auc_per_row(rows), drawn)


def _uniform_gauc_of_resamples(rows: Rows, drawn: np.ndarray) -> np.ndarray:
    size = rows.by_group.rows[rows.by_group.group]
    # A group of weight 0 has no AUC either.
    once = np.divide(1, size, out=np.zeros(len(size)), where=size > 0)
    area, known = _auc_per_row(rows)
    return ratio_of_sums(rows, area * once, known * once, drawn)


def _normalized_entropy_of_resamples(rows: Rows, drawn: np.ndarray) -> np.ndarray:
    loss = ratio_of_sums(rows, log_losses(rows.labels, rows.scores), 1, drawn)
    return loss / entropy(ratio_of_sums(rows, rows.labels, 1, drawn))


def _mean_of(name: str, title: str, of_each: Callable[[Rows], NDArray[np.float64]], **options: Any) -> Metric:
    """A metric that is the mean of a value per row; less is better."""
    return Metric(
        name,
        title,
        lambda rows: mean(of_each(rows), rows.weights),
        lambda rows, drawn: ratio_of_sums(rows, of_each(rows), 1, drawn),
        higher_is_better=False,
        of_each=of_each,
        **options,
    )


OWN = (
    Metric(
        "auc",
        "AUC",
        lambda rows: auc(rows.labels, rows.scores, rows.weights),
        resampled_auc,
        higher_is_better=True,
        headline=True,
        relative=rela_impr_auc,
    ),
    Metric(
        "gauc",
        "GAUC",
        lambda rows: summarise(rows.by_group).impressions,
        _gauc_of_resamples,
        higher_is_better=True,
        headline=True,
    ),
    _mean_of(
        "log_loss",
        "log loss",
        lambda rows: log_losses(rows.labels, rows.scores),
        headline=True,
        relative=rela_impr_log_loss,
        unit="nats",
    ),
    Metric(
        "calibration",
        "calibration",
        lambda rows: calibration(rows.labels, rows.scores, rows.weights),
        lambda rows, drawn: ratio_of_sums(rows, rows.scores, rows.labels, drawn),
        headline=True,
        short="Calib.",
    ),
    Metric(
        "gauc_uniform",
        "GAUC, every group alike",
        lambda rows: summarise(rows.by_group).uniform,
        _uniform_gauc_of_resamples,
        higher_is_better=True,
        short="GAUC unif.",
    ),
    ndcg_at(10),
    Metric(
        "normalized_entropy",
        "normalized entropy",
        lambda rows: normalized_entropy(rows.labels, rows.scores, rows.weights),
        _normalized_entropy_of_resamples,
        higher_is_better=False,
    ),
    Metric("gauc_groups_used", "groups with both classes", lambda rows: summarise(rows.by_group).used),
    Metric("gauc_groups_skipped", "groups with one class", lambda rows: summarise(rows.by_group).skipped),
    Metric("example_count", "number of examples", lambda rows: len(rows.labels), kinds=tuple(LABEL_KINDS)),
)


def _gxauc(rows: Rows) -> float:
    found = rows.pairs_by_group
    known = ~np.isnan(found.xauc)
    return mean(found.xauc[known], found.rows[known])


def _gxauc_of_resamples(rows: Rows, drawn: np.ndarray) -> np.ndarray:
    each = rows.pairs_by_group.xauc[rows.pairs_by_group.group]
    return ratio_of_sums(rows, np.nan_to_num(each), ~np.isnan(each), drawn)


def _errors(rows: Rows) -> np.ndarray:
    return np.asarray(rows.scores, np.float64) - np.asarray(rows.labels, np.float64)


def _root_of_resamples(rows: Rows, drawn: np.ndarray) -> np.ndarray:
    return np.sqrt(ratio_of_sums(rows, np.square(_errors(rows)), 1, drawn))


OF_NUMBERS = (
    Metric(
        "xauc",
        "XAUC",
        lambda rows: xauc(rows.labels, rows.scores, rows.weights),
        higher_is_better=True,
        headline=True,
        relative=rela_impr_auc,
        kinds=NUMBERS,
    ),
    Metric("gxauc", "GXAUC", _gxauc, _gxauc_of_resamples, higher_is_better=True, headline=True, kinds=NUMBERS),
    _mean_of(
        "mae", "mean absolute error", lambda rows: np.abs(_errors(rows)), headline=True, short="MAE", kinds=NUMBERS
    ),
    Metric(
        "rmse",
        "root mean squared error",
        lambda rows: float(np.sqrt(mean(np.square(_errors(rows)), rows.weights))),
        _root_of_resamples,
        higher_is_better=False,
        short="RMSE",
        kinds=NUMBERS,
    ),
    Metric(
        "ratio",
        "mean prediction / mean label",
        lambda rows: ratio(rows.scores, rows.labels, rows.weights),
        lambda rows, drawn: ratio_of_sums(rows, rows.scores, rows.labels, drawn),
        headline=True,
        short="Ratio",
        kinds=tuple(kind for kind in NUMBERS if LABEL_KINDS[kind].low >= 0),
    ),
    Metric(
        "bias",
        "mean error",
        lambda rows: mean(_errors(rows), rows.weights),
        lambda rows, drawn: ratio_of_sums(rows, _errors(rows), 1, drawn),
        headline=True,
        short="Bias",
        kinds=("regression",),
    ),
    _mean_of("mse", "mean squared error", lambda rows: np.square(_errors(rows)), kinds=("regression",)),
    _mean_of(
        "msle",
        "mean squared log error",
        lambda rows: squared_log_errors(rows.labels, rows.scores),
        kinds=("log_regression",),
    ),
    _mean_of("poisson_loss", "Poisson loss", lambda rows: poisson_losses(rows.labels, rows.scores), kinds=("count",)),
    _mean_of(
        "watch_loss", "watch-time loss", lambda rows: watch_losses(rows.labels, rows.scores), kinds=("watch_time",)
    ),
)


def _shares(rows: Rows) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    if rows.shares is None:
        raise ValueError("metrics of classes need the probability of each class")
    return rows.labels, rows.shares, rows.classes


OF_CLASSES = (
    _mean_of(
        "class_log_loss",
        "log loss of the classes",
        lambda rows: class_log_losses(*_shares(rows)),
        headline=True,
        relative=rela_impr_log_loss,
        unit="nats",
        short="Log loss",
        kinds=CLASSES,
    ),
    Metric(
        "accuracy",
        "accuracy",
        lambda rows: mean(hits(*_shares(rows)), rows.weights),
        lambda rows, drawn: ratio_of_sums(rows, hits(*_shares(rows)), 1, drawn),
        higher_is_better=True,
        headline=True,
        kinds=CLASSES,
    ),
)


@cache
def metrics() -> dict[str, Metric]:
    """Name -> metric: mixrank's own, then those of installed packages.

    Raises:
        ValueError: if an entry point cannot be loaded, is not a `Metric`, or has a name that is taken.
    """
    found = {metric.name: metric for metric in (*OWN, *OF_NUMBERS, *OF_CLASSES, *OF_REQUESTS)}
    for point in sorted(entry_points(group=GROUP)):
        where = f"entry point `{point.name}` of `{GROUP}`, from `{point.dist.name if point.dist else point.value}`,"
        try:
            metric = point.load()
        except Exception as error:
            raise ValueError(f"{where} cannot be loaded from `{point.value}`: {error}") from error
        if not isinstance(metric, Metric):
            raise ValueError(f"{where} must be a `Metric`, received {shown(metric)}")
        if metric.name in found:
            raise ValueError(f"{where} is named `{metric.name}`, which is taken: give it another name")
        found[metric.name] = metric
    return found


def find_metric(name: str) -> Metric:
    """The metric of a name.

    Raises:
        ValueError: naming the nearest one.
    """
    if name not in metrics():
        raise ValueError(f"there is no metric `{name}`{nearest(name, metrics())}")
    return metrics()[name]


def of_kinds(*kinds: str, requests: bool) -> list[Metric]:
    """Metrics of tasks of any of the kinds; those per request only where the log declares `requests`."""
    known = (metric for metric in metrics().values() if requests or not metric.per_request)
    return [metric for metric in known if set(kinds) & set(metric.kinds)]


def directed(*kinds: str, requests: bool) -> list[Metric]:
    """Those with a direction, for early stopping and validation."""
    return [metric for metric in of_kinds(*kinds, requests=requests) if metric.higher_is_better is not None]


def reported(*kinds: str, requests: bool) -> list[Metric]:
    """Those of a run's page: the headlines, and all that have a direction."""
    known = of_kinds(*kinds, requests=requests)
    return [metric for metric in known if metric.headline or metric.higher_is_better is not None]


def headlines(*kinds: str, requests: bool) -> list[Metric]:
    """Headline metrics that have a direction: tables of models side by side show these."""
    return [metric for metric in directed(*kinds, requests=requests) if metric.headline]


def primary(kind: str) -> Metric:
    """The first headline metric of a kind, which significance tests, the RelaImp of a comparison and plots use."""
    return headlines(kind, requests=False)[0]


def bounds() -> dict[str, Bound]:
    """Every bound that a config's `thresholds` may hold."""
    return {name: bound for metric in metrics().values() for name, bound in metric.bounds.items()}


def measure(rows: Rows, wanted: Iterable[Metric]) -> dict[str, float]:
    """Name -> value on the rows."""
    return {metric.name: float(metric.of_rows(rows)) for metric in wanted}
