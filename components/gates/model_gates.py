"""Gates of a model: what its scores of the evaluation rows must be, so that it may be pushed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixrank.components.gates.findings import Finding
from mixrank.components.gates.gate_settings import GateSettings
from mixrank.components.metrics import Metric, Rows, mean
from mixrank.schemas.naming import Declaration

# With fewer users an interval is too narrow to be believed.
LEAST_USERS = 20
# In memory and exported, one model's log loss differs by less: without it, it would be surely worse than itself.
SAME = 1e-5


class GateResult(Declaration):
    """One gate's verdict on one task.

    Args:
        kind, subject: as in `Finding`.
        passed: whether the model may be pushed as far as this gate is concerned.
        by_chance: whether other users could have turned the verdict.
        said: the figure in words.
    """

    kind: str
    subject: str
    passed: bool
    by_chance: bool
    said: str

    @property
    def finding(self) -> Finding:
        return Finding(self.kind, self.subject, self.said)


class Interval(NamedTuple):
    """A number with its interval over users; infinitely wide where the users are too few."""

    value: float
    low: float
    high: float


def judge_model(
    labels: Mapping[str, NDArray[Any]],
    scores: Mapping[str, NDArray[np.float64]],
    users: ArrayLike,
    gates: GateSettings,
    *,
    losses: Mapping[str, Metric],
    baseline: Mapping[str, NDArray[np.float64]],
    pushed: Mapping[str, NDArray[np.float64]],
    weights: Mapping[str, NDArray[np.float64]] | None = None,
    classes: Mapping[str, tuple[int, ...]] | None = None,
) -> list[GateResult]:
    """Verdicts on the scores of the evaluation rows, task by task.

    A model must beat the additive baseline: its loss less the baseline's is below `gates.above_baseline`. It must not
    surely be worse than the last pushed model: the lower end of the interval of the same difference is at most
    `gates.above_pushed`. Its calibration must not surely be off: the interval of sum p / sum y reaches into
    [1 / `gates.calibration`, `gates.calibration`]; with labels below 0 there is no such ratio. A task whose labels are
    all equal is judged by none of them.

    Args:
        labels: task -> `(rows,)`, NaN in rows that do not count for the task.
        scores: task -> predictions, `(rows,)`; of a label with classes `(rows, 1 + classes)`, as `answers_in` gives
            them. The same holds for `baseline` and `pushed`.
        users: of each row, `(rows,)`.
        gates: bounds; `gates.allow` is left to the caller.
        losses: task -> the metric that is the mean of its loss.
        baseline: task -> scores of the additive baseline.
        pushed: task -> scores of the last pushed model; without the tasks that it does not have.
        weights: task -> weights of the rows, `(rows,)`; without the tasks in which every row counts once.
        classes: task -> the classes of its label, if it has any.
    """
    _, user = np.unique(np.asarray(users), return_inverse=True)
    results = []
    for task, score in scores.items():
        y, known = labels[task], ~np.isnan(labels[task])
        finite = np.isfinite(score if score.ndim == 1 else score.sum(axis=1))
        where = f"task `{task}`: "
        if not finite.all():
            said = f"{where}{int((~finite).sum())} of {len(score)} predictions are not finite numbers"
            results.append(GateResult(kind="not_finite", subject=task, passed=False, by_chance=False, said=said))
        elif len(np.unique(y[known])) > 1:
            others = (each[task][known] if task in each else None for each in (baseline, pushed, weights or {}))
            _, own = np.unique(user[known], return_inverse=True)
            of = (classes or {}).get(task, ())
            results += _judge_task(task, losses[task], y[known], score[known], own, gates, of, *others)
    return results


def _judge_task(
    task: str,
    metric: Metric,
    labels: NDArray[Any],
    scores: NDArray[np.float64],
    user: NDArray[np.int64],
    gates: GateSettings,
    classes: tuple[int, ...],
    baseline: NDArray[np.float64] | None,
    pushed: NDArray[np.float64] | None,
    weights: NDArray[np.float64] | None,
) -> list[GateResult]:
    def loss(of: NDArray[np.float64]) -> NDArray[np.float64]:
        assert metric.of_each is not None, f"{metric.name} is no mean over rows"
        return metric.of_each(Rows.of_answers(labels, of, user, classes))

    own, one = loss(scores), np.ones(len(labels)) if weights is None else weights
    level = mean(own, weights)
    results = []

    def add(kind: str, passed: bool, by_chance: bool, found: Interval, said: str) -> None:
        users = int(user.max()) + 1
        span = f"{100 * gates.confidence:g} % interval {found.low:.4f} to {found.high:.4f}"
        if users < LEAST_USERS:
            span = "too few for an interval"
        said = f"task `{task}`: {said} ({len(labels)} rows of {users} users: {span})"
        if by_chance:
            said += "; other users could have turned this verdict: judge on more rows"
        results.append(GateResult(kind=kind, subject=task, passed=passed, by_chance=by_chance, said=said))

    if baseline is not None and (bound := gates.above_baseline) is not None:
        found = ratio_interval(one * (own - loss(baseline)), one, user, gates.confidence)
        said = f"{metric.title} {level:.4f} is {_difference(found.value)} the additive baseline's{_allowed(bound)}"
        add("below_baseline", found.value < bound, found.low < bound <= found.high, found, said)
    if pushed is not None and (bound := gates.above_pushed) is not None:
        found = ratio_interval(one * (own - loss(pushed)), one, user, gates.confidence)
        said = f"{metric.title} {level:.4f} is {_difference(found.value)} the last pushed model's{_allowed(bound)}"
        most = bound + SAME
        add("worse_than_pushed", found.low <= most, found.low <= most < found.high, found, said)
    if (widest := gates.calibration) is not None and labels.min() >= 0:
        level_of = scores if scores.ndim == 1 else scores[:, 0]
        found = ratio_interval(one * level_of, one * labels, user, gates.confidence)
        least = 1 / widest
        inside = found.low <= widest and found.high >= least
        said = f"calibration is {found.value:.3f}, {least:.3g} to {widest:.3g} is allowed"
        sure = (found.low >= least and found.high <= widest) or not inside
        add("miscalibrated", inside, not sure, found, said)
    return results


def ratio_interval(upper: ArrayLike, lower: ArrayLike, user: NDArray[np.int64], confidence: float) -> Interval:
    """A ratio of two sums with its interval over users, by the delta method: rows of one user are not independent.

    `R = sum u / sum l`, and its variance is `U / (U - 1) sum_i (u_i - R l_i)^2 / (sum l)^2` over the U users i
    ([Deng et al. 2018](https://doi.org/10.1145/3219819.3219919)).

    Args:
        upper, lower: per row, `(rows,)`.
        user: number of each row's user, `(rows,)`.
        confidence: float above 0 and below 1.

    >>> import numpy as np
    >>> found = ratio_interval(np.arange(40.0), np.ones(40), np.arange(40), 0.95)
    >>> round(found.value, 1), round(found.low, 2), round(found.high, 2)
    (19.5, 15.88, 23.12)
    """
    above, below = np.bincount(user, np.asarray(upper, np.float64)), np.bincount(user, np.asarray(lower, np.float64))
    value, users = float(above.sum() / below.sum()), len(above)
    if users < LEAST_USERS:
        return Interval(value, -math.inf, math.inf)
    error = math.sqrt(users / (users - 1) * float(((above - value * below) ** 2).sum())) / float(below.sum())
    reach = statistics.NormalDist().inv_cdf((1 + confidence) / 2) * error
    return Interval(value, value - reach, value + reach)


def _difference(value: float) -> str:
    return f"{abs(value):.4f} {'above' if value > 0 else 'below'}"


def _allowed(bound: float) -> str:
    return "" if not bound else f", {abs(bound):g} {'above' if bound > 0 else 'below'} is the bound"
