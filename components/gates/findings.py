"""Findings: what a gate found wrong, and how a config says that it is meant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

# Kind -> what it says about its subject.
KINDS = {
    "one_class_label": "all labels of a split are equal",
    "empty_history": "no row has an event in the history",
    "empty_feature": "no row of a split has a value",
    "unmatched_join": "too few rows of the log find their row in the joined table",
    "implausible_time": "times lie outside the plausible years",
    "leakage": "the feature alone tells the label",
    "below_baseline": "the model is worse than the additive baseline",
    "worse_than_pushed": "the model is worse than the last pushed one",
    "miscalibrated": "the mean prediction is far from the mean label",
    "not_finite": "a prediction is not a finite number",
}


class Finding(NamedTuple):
    """Something wrong with a log or a model.

    Attributes:
        kind: one of `KINDS`.
        subject: label, history, feature, join, column or task.
        problem: one sentence with the figure, the split and its rows, and what to do.

    >>> print(Finding("one_class_label", "bought", "label `bought` is 0 in all 480 rows of `train`").message)
    label `bought` is 0 in all 480 rows of `train`; if it is meant: gates: {allow: ["one_class_label:bought"]}
    """

    kind: str
    subject: str
    problem: str

    @property
    def key(self) -> str:
        """How `gates.allow` names it: `kind:subject`."""
        return f"{self.kind}:{self.subject}"

    @property
    def message(self) -> str:
        """The problem, and the line of the config that allows it."""
        return f'{self.problem}; if it is meant: gates: {{allow: ["{self.key}"]}}'


def stopping(findings: Iterable[Finding], allowed: Iterable[str]) -> list[Finding]:
    """Findings that no key in `allowed` names."""
    known = set(allowed)
    return [finding for finding in findings if finding.key not in known]
