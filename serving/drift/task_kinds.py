"""Drift of a task's labels, and of predictions against them, by its kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mixrank.schemas.task_kinds import NUMBERS
from mixrank.serving.drift.alarms import Finding
from mixrank.serving.drift.number_drift import error_findings, mean_findings
from mixrank.serving.drift.score_drift import label_findings, quality_findings


class TaskDrift(NamedTuple):
    """Measures of the tasks of a kind, each a function that returns findings.

    Attributes:
        labels: as `label_findings`.
        quality: as `quality_findings`.
    """

    labels: Callable[..., list[Finding]]
    quality: Callable[..., list[Finding]]


TASK_DRIFT = {
    "binary": TaskDrift(label_findings, quality_findings),
    **dict.fromkeys(NUMBERS, TaskDrift(mean_findings, error_findings)),
}
