"""Significance tests of differences between models over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Slope(NamedTuple):
    """Change of a metric per tenfold size, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def t_test(one: Sequence[float], other: Sequence[float]) -> float:
    """Two-tailed p value of Welch's unpaired t-test; NaN unless both have two values and one of them varies.

    `t = (mean_1 - mean_2) / sqrt(s_1^2 / n_1 + s_2^2 / n_2)`, the degrees of freedom by Welch and Satterthwaite.
    """
    if min(len(one), len(other)) < 2 or np.ptp(one) == np.ptp(other) == 0:
        return math.nan
    return float(stats.ttest_ind(one, other, equal_var=False).pvalue)


def paired_t_test(one: Mapping[int, float], other: Mapping[int, float]) -> float:
    """Two-tailed p value of the paired t-test over the seeds that both have; NaN below two, or if no difference varies.

    A seed gives all models the same order of the rows, which moves them together; pairs leave that out.
    `t = mean(d) / (s_d / sqrt(n))`, d the differences, on n - 1 degrees of freedom.

    Args:
        one, other: seed -> value.
    """
    seeds = [seed for seed in one if seed in other]
    differences = np.array([one[seed] - other[seed] for seed in seeds])
    if len(seeds) < 2 or np.ptp(differences) == 0:
        return math.nan
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for their number by Holm's step-down method; NaN stays and does not count.

    The k-th smallest of m becomes `max over j <= k of min(1, (m - j + 1) p_(j))`.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, float)
    order = [index for index in np.argsort(p) if not math.isnan(p[index])]
    adjusted, highest = np.full(len(p), math.nan), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p[index]))
        adjusted[index] = highest
    return [float(value) for value in adjusted]


def slope(sizes: Sequence[float], values: Sequence[float]) -> Slope:
    """Least squares of a metric on log10 of the size, with the interval of Student's t on n - 2 degrees of freedom.

    Args:
        sizes: dense parameters, one entry per training.
        values: the metric, one entry per training.

    Raises:
        ValueError: with fewer than three trainings, or one size only.
    """
    if len(values) < 3 or len(set(sizes)) < 2:
        raise ValueError(f"a slope needs three trainings of two sizes or more, received sizes {sorted(sizes)}")
    line = stats.linregress(np.log10(sizes), values)
    reach = float(stats.t.ppf(0.975, len(values) - 2) * line.stderr)
    return Slope(float(line.slope), float(line.slope) - reach, float(line.slope) + reach)
