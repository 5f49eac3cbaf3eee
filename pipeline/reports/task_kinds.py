"""How the pages judge and draw a task, by its kind. `mixrank.schemas.task_kinds` says what its labels are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup
from numpy.typing import NDArray

from mixrank.pipeline.reports import plots
from mixrank.pipeline.reports.run_folder import RunFolder
from mixrank.schemas.task_kinds import NUMBERS

# With fewer rows of a class an interval is wider than any difference between models.
MIN_OF_CLASS = 10


class Plot(NamedTuple):
    """A plot of a page.

    Attributes:
        title: its heading.
        draw: runs, names of tasks -> the plot; a run may lack some of the tasks.
        note: how to read it, or "".
        wide: whether it takes the width of the page.
    """

    title: str
    draw: Callable[[Sequence[RunFolder], Collection[str]], Markup]
    note: str = ""
    wide: bool = False


class TaskReport(NamedTuple):
    """Pages of the tasks of a kind.

    Attributes:
        unjudged: labels, `(rows,)` -> why they cannot be judged, or "".
        plots: of the quality of predictions.
    """

    unjudged: Callable[[NDArray[Any]], str]
    plots: tuple[Plot, ...]


def _too_few_of_a_class(labels: NDArray[Any]) -> str:
    rows, positives = len(labels), int(labels.sum())
    if positives in (0, rows):
        return f"every label is {int(positives > 0)}"
    rare = int(positives < rows - positives)
    count = min(positives, rows - positives)
    return f"only {count} rows with label {rare}" if count < MIN_OF_CLASS else ""


def _all_equal(labels: NDArray[Any]) -> str:
    return f"every label is {labels[0]:g}" if (labels == labels[0]).all() else ""


_OF_NUMBERS = TaskReport(
    unjudged=_all_equal,
    plots=(
        Plot(
            "Predicted and actual",
            plots.mean_by_prediction,
            "Bins of equal size; above the dashed line the predictions are too low, below it too high.",
        ),
    ),
)

TASK_REPORTS = {
    "binary": TaskReport(
        unjudged=_too_few_of_a_class,
        plots=(
            Plot(
                "Calibration",
                plots.calibration_curve,
                "Bins of equal size; above the dashed line the predictions are too low, below it too high.",
            ),
            Plot("ROC", plots.roc, "True positive rate against false positive rate, at every threshold."),
            Plot("Scores", plots.score_distribution, wide=True),
        ),
    ),
    **dict.fromkeys(NUMBERS, _OF_NUMBERS),
}
