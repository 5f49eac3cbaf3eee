"""GateSettings: what stops a run, and what a config allows."""

from __future__ import annotations

from pydantic import Field, field_validator

from mixrank.components.gates.findings import KINDS
from mixrank.schemas.naming import Declaration, nearest


class GateSettings(Declaration):
    """Gates of a run. A number is a gate's bound; null switches the gate off.

    Args:
        allow: findings that are meant, as `kind:subject`, such as "one_class_label:bought".
        first_year: earliest plausible year of an event; the latest is the next year.
        min_history: float in [0, 1] or None. Least share of the rows of a split with an event in a declared history.
        max_auc_alone: float in [0.5, 1] or None. Highest AUC of one feature alone, on rows it was not counted on.
        above_baseline: float or None. How far the log loss of a task may lie above the additive baseline's.
        above_pushed: float or None. How far it may surely lie above the last pushed model's: the lower end of the
            interval.
        calibration: float >= 1 or None. Largest ratio between mean prediction and mean label, either way.
        confidence: float above 0 and below 1. Of the intervals over users.

    Raises:
        ValueError: for a key in `allow` that names no kind of finding.
    """

    allow: tuple[str, ...] = ()
    first_year: int | None = 1990
    min_history: float | None = Field(default=0.001, ge=0, le=1)
    max_auc_alone: float | None = Field(default=0.95, ge=0.5, le=1)
    above_baseline: float | None = Field(default=0.0, allow_inf_nan=False)
    above_pushed: float | None = Field(default=0.0, allow_inf_nan=False)
    calibration: float | None = Field(default=1.25, ge=1, allow_inf_nan=False)
    confidence: float = Field(default=0.95, gt=0, lt=1)

    @field_validator("allow")
    @classmethod
    def _check_allowed(cls, allow: tuple[str, ...]) -> tuple[str, ...]:
        for key in allow:
            kind, _, subject = key.partition(":")
            if kind not in KINDS:
                raise ValueError(f"{key!r} names no kind of finding{nearest(kind, KINDS)}")
            if not subject:
                raise ValueError(f"{key!r} names no subject: write kind:subject, such as one_class_label:bought")
        return allow
