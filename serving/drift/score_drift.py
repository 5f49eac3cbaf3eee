"""Drift of scores and labels: distances between two distributions of scores, and their calibration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mixrank.serving.drift.alarms import AUC, CALIBRATION, KS, LABEL_RATE, PSI, SCORE_JS, Finding, Limits

BINS = 10
# With fewer positive labels, the standard error of a rate exceeds a tenth of the rate.
MIN_POSITIVES = 100


def score_findings(
    baseline: pd.DataFrame, new: pd.DataFrame, tasks: Sequence[str], limits: Limits, min_rows: int
) -> list[Finding]:
    """Distances of the scores of every task, over all rows and in every scenario that both sides have.

    Args:
        baseline, new: `score_<task>`, and `scenario` as text if known.
        tasks: the tasks; a task is skipped if one side has no scores of it.
        limits: the limits.
        min_rows: int >= 0. Fewer rows raise no alarm; a scenario with fewer rows on either side is skipped.
    """
    found = []
    for task in tasks:
        column = f"score_{task}"
        if column not in baseline or column not in new:
            continue
        for scenario, before, after in _slices(baseline, new, min_rows):
            found += _distances(task, scenario, before[column], after[column], limits, min_rows)
    return found


def label_findings(
    baseline: dict[str, float], new: pd.DataFrame, tasks: Sequence[str], limits: Limits, min_rows: int
) -> list[Finding]:
    """Relative change of the share of positive labels.

    Args:
        baseline: task -> share of positives; missing tasks are skipped.
        new: `label_<task>` where known.
        tasks, limits, min_rows: as in `score_findings`; at least `MIN_POSITIVES` positives are needed as well.
    """
    found = []
    for task in tasks:
        labels = new[f"label_{task}"].dropna() if f"label_{task}" in new else pd.Series(dtype=float)
        if len(labels) and baseline.get(task):
            rate, enough = float(labels.mean()), len(labels) >= min_rows and _sure(labels, baseline[task])
            said = [f"{100 * share:.2f} % positive" for share in (baseline[task], rate)]
            change = abs(rate / baseline[task] - 1)
            found.append(Finding(task, LABEL_RATE, change, limits.label, len(labels), enough, *said))
    return found


def quality_findings(
    baseline: pd.DataFrame, new: pd.DataFrame, tasks: Sequence[str], limits: Limits, min_rows: int
) -> list[Finding]:
    """Relative change of mean score over mean label, and fall of the AUC, of every task whose new rows have labels.

    If the baseline has no labels, its calibration is taken as 1 and the AUC is skipped.

    Args:
        baseline, new: `score_<task>` and `label_<task>` where known.
        tasks, limits, min_rows: as in `label_findings`; the AUC needs enough rows of both classes that its standard
            error is less than a third of its limit.
    """
    found = []
    for task in tasks:
        now, known = _labelled(new, task), _labelled(baseline, task)
        if now is None:
            continue
        value, before = _calibration(now), 1.0 if known is None else _calibration(known)
        enough = len(now) >= min_rows and _sure(now["label"], float(now["score"].mean()))
        said = [f"mean score / mean label {ratio:.3f}" for ratio in (before, value)]
        if known is None:
            said[0] = "no labels, taken as 1"
        change = abs(value / before - 1)
        found.append(Finding(task, CALIBRATION, change, limits.calibration, len(now), enough, *said))
        if known is None or known["label"].all() or now["label"].all():
            continue
        (value, error), (before, _) = _auc(now), _auc(known)
        enough = len(now) >= min_rows and 3 * error < limits.auc
        said = [f"AUC {before:.4f}", f"AUC {value:.4f}"]
        found.append(Finding(task, AUC, before - value, limits.auc, len(now), enough, *said))
    return found


def shares(baseline: np.ndarray, new: np.ndarray, bins: int = BINS) -> tuple[np.ndarray, np.ndarray]:
    """Shares of both sides in bins with equal numbers of baseline values, `(bins,)` each.

    Half a value is added to every bin, so that divergences stay finite for an empty bin. Repeated values share a
    bin, so there may be fewer bins.
    """
    edges = np.unique(np.quantile(baseline, np.arange(1, bins) / bins))
    places = [np.searchsorted(edges, side, side="right") for side in (baseline, new)]
    counts = [np.bincount(place, minlength=len(edges) + 1) for place in places]
    before, after = ((count + 0.5) / (count.sum() + 0.5 * len(count)) for count in counts)
    return before, after


def population_stability(baseline: np.ndarray, new: np.ndarray) -> float:
    """`sum_b (q_b - p_b) ln(q_b / p_b)` over shares p of the baseline and q of the new values."""
    return float(np.sum((new - baseline) * np.log(new / baseline)))


def _distances(
    task: str, scenario: str, before: pd.Series, after: pd.Series, limits: Limits, min_rows: int
) -> list[Finding]:
    from scipy.spatial.distance import jensenshannon
    from scipy.stats import ks_2samp

    sides = [side.to_numpy(np.float64) for side in (before, after)]
    sides = [side[np.isfinite(side)] for side in sides]
    rows = min(map(len, sides))
    if not rows:
        return []
    p, q = shares(*sides)
    measured = (
        (PSI, population_stability(p, q), limits.psi),
        (SCORE_JS, float(jensenshannon(p, q, base=2) ** 2), limits.js),
        (KS, float(ks_2samp(*sides, method="asymp").statistic), limits.ks),
    )
    quartiles = [" ".join(f"{x:.3f}" for x in np.quantile(side, (0.25, 0.5, 0.75))) for side in sides]
    said = [f"mean {side.mean():.4f}, quartiles {text}" for side, text in zip(sides, quartiles, strict=True)]
    return [
        Finding(task, measure, value, limit, rows, rows >= min_rows, said[0], said[1], scenario=scenario)
        for measure, value, limit in measured
    ]


def _slices(baseline: pd.DataFrame, new: pd.DataFrame, min_rows: int) -> list[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """("", all rows), then (scenario, its rows) of every scenario with enough rows on both sides."""
    slices = [("", baseline, new)]
    if "scenario" in baseline and "scenario" in new:
        counts = [side["scenario"].value_counts() for side in (baseline, new)]
        for value in counts[0].index:
            if min(count.get(value, 0) for count in counts) >= max(min_rows, 1):
                before, after = (side[side["scenario"] == value] for side in (baseline, new))
                slices.append((value, before, after))
    return slices


def _labelled(frame: pd.DataFrame, task: str) -> pd.DataFrame | None:
    """Score and label of the rows that have both; None without a positive label."""
    columns = {f"score_{task}": "score", f"label_{task}": "label"}
    if not set(columns) <= set(frame):
        return None
    found = frame[list(columns)].rename(columns=columns).dropna()
    return found if found["label"].any() else None


def _calibration(judged: pd.DataFrame) -> float:
    return float(judged["score"].mean() / judged["label"].mean())


def _auc(judged: pd.DataFrame) -> tuple[float, float]:
    """Area under the ROC curve with half a point for ties, and an upper bound of its standard error."""
    positive = judged["label"].to_numpy() > 0
    count = int(positive.sum())
    others = len(judged) - count
    ranks = judged["score"].rank().to_numpy()[positive]
    area = float((ranks.sum() - count * (count + 1) / 2) / (count * others))
    return area, float(np.sqrt(area * (1 - area) / min(count, others)))


def _sure(labels: pd.Series, expected: float) -> bool:
    """Whether there are enough positives, or would be at the expected rate: then their absence is a finding too."""
    return max(float(labels.sum()), expected * len(labels)) >= MIN_POSITIVES
