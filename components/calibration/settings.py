"""What a config asks of the calibration."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mixrank.components.calibration.task_kinds import TASK_CALIBRATIONS
from mixrank.schemas import Label
from mixrank.schemas.naming import Declaration


class Calibration(Declaration):
    """How predictions are calibrated after training, on the split `valid`.

    Args:
        method: "platt", a line of the logit, or "isotonic", an increasing curve through at most 100 knots.
        per_scenario: bool. Whether each scenario gets a curve of its own. Scores of different scenarios then change
            their order; those of one scenario do not.
        min_rows: int >= 1. A scenario with fewer rows in `valid` takes the curve of all rows.
        tasks: those to calibrate; if empty, all whose predictions are means of one logit: those of labels with
            classes and of watch_quantile are not.
    """

    method: Literal["platt", "isotonic"]
    per_scenario: bool = False
    min_rows: int = Field(default=1000, ge=1)
    tasks: tuple[str, ...] = ()

    def covers(self, label: Label) -> bool:
        """Whether a task is calibrated."""
        return TASK_CALIBRATIONS[label.kind] is not None and (not self.tasks or label.name in self.tasks)


def parse_method(given: Any) -> Any:
    """A method alone as a mapping; anything else as it is."""
    return {"method": given} if isinstance(given, str) else given
