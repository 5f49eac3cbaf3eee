"""The table of metrics: those of mixrank, and those that packages add under the entry point `mixrank.metrics`.

A metric enters thresholds, early stopping, validation, TFMA's evaluation, reports, intervals and comparisons by its row
here: all of them fold over the table.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points

import numpy as np

from mixrank.components.metrics.metric import Bound, Metric, Rows, ratio_of_sums, resampled_auc
from mixrank.components.metrics.ndcg import ndcg_at
from mixrank.components.metrics.ranking_metrics import (
    auc,
    calibration,
    entropy,
    log_loss,
    log_losses,
    normalized_entropy,
    rela_impr_auc,
    rela_impr_log_loss,
    summarise,
)
from mixrank.schemas.naming import nearest
from mixrank.schemas.safe_text import shown

GROUP = "mixrank.metrics"


def _auc_per_row(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """AUC of each row's group, 0 where it has none, and whether it has one."""
    group = rows.by_group.group
    return np.nan_to_num(rows.by_group.auc)[group], rows.by_group.mixed[group]


def _gauc_of_resamples(rows: Rows, drawn: np.ndarray) -> np.ndarray:
    return ratio_of_sums(rows, *_auc_per_row(rows), drawn)


def _uniform_gauc_of_resamples(rows: Rows, drawn: np.ndarray) -> np.ndarray:
    once = 1 / rows.by_group.rows[rows.by_group.group]
    area, known = _auc_per_row(rows)
    return ratio_of_sums(rows, area * once, known * once, drawn)


def _normalized_entropy_of_resamples(rows: Rows, drawn: np.ndarray) -> np.ndarray:
    loss = ratio_of_sums(rows, log_losses(rows.labels, rows.scores), 1, drawn)
    return loss / entropy(ratio_of_sums(rows, rows.labels, 1, drawn))


OWN = (
    Metric(
        "auc",
        "AUC",
        lambda rows: auc(rows.labels, rows.scores),
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
    Metric(
        "log_loss",
        "log loss",
        lambda rows: log_loss(rows.labels, rows.scores),
        lambda rows, drawn: ratio_of_sums(rows, log_losses(rows.labels, rows.scores), 1, drawn),
        higher_is_better=False,
        headline=True,
        relative=rela_impr_log_loss,
        unit="nats",
    ),
    Metric(
        "calibration",
        "calibration",
        lambda rows: calibration(rows.labels, rows.scores),
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
        lambda rows: normalized_entropy(rows.labels, rows.scores),
        _normalized_entropy_of_resamples,
        higher_is_better=False,
    ),
    Metric("gauc_groups_used", "groups with both classes", lambda rows: summarise(rows.by_group).used),
    Metric("gauc_groups_skipped", "groups with one class", lambda rows: summarise(rows.by_group).skipped),
    Metric("example_count", "number of examples", lambda rows: len(rows.labels)),
)


@cache
def metrics() -> dict[str, Metric]:
    """Name -> metric: mixrank's own, then those of installed packages.

    Raises:
        ValueError: if an entry point cannot be loaded, is not a `Metric`, or has a name that is taken.
    """
    found = {metric.name: metric for metric in OWN}
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


def directed() -> list[Metric]:
    """Metrics with a direction, for early stopping and validation."""
    return [metric for metric in metrics().values() if metric.higher_is_better is not None]


def reported() -> list[Metric]:
    """Metrics of a run's page: the headlines, and all that have a direction."""
    return [metric for metric in metrics().values() if metric.headline or metric.higher_is_better is not None]


def headlines() -> list[Metric]:
    """Headline metrics that have a direction: tables of models side by side show these."""
    return [metric for metric in directed() if metric.headline]


def primary() -> Metric:
    """The first headline metric, which significance tests, the RelaImp of a comparison and plots use."""
    return headlines()[0]


def bounds() -> dict[str, Bound]:
    """Every bound that a config's `thresholds` may hold."""
    return {name: bound for metric in metrics().values() for name, bound in metric.bounds.items()}


def measure(rows: Rows, wanted: Iterable[Metric]) -> dict[str, float]:
    """Name -> value on the rows."""
    return {metric.name: float(metric.of_rows(rows)) for metric in wanted}
