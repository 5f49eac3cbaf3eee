"""Findings of a comparison of two sets of rows, each a value with its alarm limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mixrank.schemas.naming import nearest
from mixrank.schemas.safe_text import shown

MISSING_COLUMN, MISSING, UNSEEN = "missing column", "missing values", "unseen values"
SCHEMA, LENGTH, LABEL_RATE = "schema", "length", "label rate"
L_INFINITY, JENSEN_SHANNON = "L-infinity", "Jensen-Shannon"
PSI, SCORE_JS, KS = "PSI", "score Jensen-Shannon", "Kolmogorov-Smirnov"
CALIBRATION, AUC = "calibration", "AUC"
LABEL_MEAN, BIAS, ERROR = "label mean", "bias", "mean absolute error"
# What statistics of rows alone can tell.
OF_STATISTICS = (MISSING_COLUMN, SCHEMA, MISSING, L_INFINITY, JENSEN_SHANNON, LENGTH, LABEL_RATE, LABEL_MEAN)


@dataclass(frozen=True)
class Limits:
    """Alarm limit of each drift measure.

    Args:
        category: float > 0. L-infinity distance of a categorical column for which the spec sets no limit.
        number: float > 0. Jensen-Shannon divergence, in bits, of a number for which the spec sets no limit.
        missing: float > 0. Rise of the share of rows without a value.
        unseen: float > 0. Rise of the share of values outside the vocabulary.
        length: float > 0. Kolmogorov-Smirnov distance of the lengths of lists and histories.
        label: float > 0. Relative change of the share of positive labels, or of the mean of labels that are numbers.
        psi: float > 0. Population stability index of a task's scores.
        js: float > 0. Jensen-Shannon divergence of a task's scores, in bits.
        ks: float > 0. Kolmogorov-Smirnov distance of a task's scores.
        calibration: float > 0. Relative change of mean score over mean label.
        auc: float > 0. Fall of the area under the ROC curve.
        bias: float > 0. Change of the mean error of predicted numbers, in standard deviations of the labels.
        error: float > 0. Relative rise of the mean absolute error of predicted numbers.
    """

    category: float = 0.1
    number: float = 0.25
    missing: float = 0.1
    unseen: float = 0.1
    length: float = 0.25
    label: float = 0.25
    psi: float = 0.2
    js: float = 0.035
    ks: float = 0.18
    calibration: float = 0.25
    auc: float = 0.02
    bias: float = 0.1
    error: float = 0.25

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"limit `{field.name}` must be > 0, received {getattr(self, field.name)}")

    @classmethod
    def parse(cls, settings: list[str]) -> Limits:
        """Limits from texts such as "psi=0.3".

        Raises:
            ValueError: for an unknown name, with the nearest known one, or a value that is not a positive number.
        """
        values = {}
        for setting in settings:
            name, _, value = setting.partition("=")
            if name not in (names := [field.name for field in fields(cls)]):
                raise ValueError(f"there is no limit `{name}`{nearest(name, names)}")
            try:
                values[name] = float(value)
            except ValueError:
                raise ValueError(f"limit `{name}` takes a number, received {shown(value)}") from None
        return cls(**values)


@dataclass(frozen=True)
class Finding:
    """One measure of one feature or task.

    Args:
        feature: column, history or task.
        measure: what was measured.
        value: float. What came out.
        limit: float. More than this is an alarm.
        rows: int. Rows of the smaller side.
        enough: bool. Whether there are enough rows to trust the value.
        baseline, new: a readable summary of each side.
        note: further remarks.
        scenario: scenario in which a task was measured, or "" for all rows.
    """

    feature: str
    measure: str
    value: float
    limit: float
    rows: int
    enough: bool = True
    baseline: str = ""
    new: str = ""
    note: str = ""
    scenario: str = ""

    @property
    def name(self) -> str:
        return f"{self.feature}, {self.scenario}" if self.scenario else self.feature

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Finding:
        """One of a report's JSON, which has more beside it."""
        return cls(**{field.name: values[field.name] for field in fields(cls)})

    @property
    def said(self) -> str:
        """In one line.

        >>> Finding("tab", L_INFINITY, 0.25, 0.1, 900, baseline="1: 70 %", new="1: 45 %").said
        'tab: L-infinity 0.250, limit 0.1 (1: 70 % -> 1: 45 %)'
        """
        sides = f" ({self.baseline} -> {self.new})" if self.baseline or self.new else ""
        return f"{self.name}: {self.measure} {self.value:.3f}, limit {self.limit:g}{sides}"

    @property
    def over(self) -> bool:
        return self.value > self.limit

    @property
    def alarm(self) -> bool:
        """Whether the value exceeds the limit, on enough rows."""
        return self.over and self.enough

    @property
    def severity(self) -> float:
        """Value over limit."""
        return self.value / self.limit if self.limit else float("inf") * self.over


def worst_first(findings: list[Finding]) -> list[Finding]:
    """Alarms, then findings over their limit on too few rows, then the rest; in each group the worst first.

    Among those over a limit, causes come before consequences: missing columns, a broken schema, features, tasks, tasks
    inside a scenario.
    """
    return sorted(findings, key=lambda f: (not f.alarm, not f.over, _depth(f) if f.over else 0, -f.severity))


def _depth(finding: Finding) -> int:
    tasks = (PSI, SCORE_JS, KS, CALIBRATION, AUC, LABEL_RATE, LABEL_MEAN, BIAS, ERROR)
    return {MISSING_COLUMN: 0, SCHEMA: 1}.get(finding.measure, 2 + (finding.measure in tasks) + bool(finding.scenario))
