"""Kinds of tasks: the values of their labels. `mixrank.layers.task_kinds` holds the loss and the link of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from mixrank.schemas.naming import nearest
from mixrank.schemas.safe_text import shown


class LabelKind(NamedTuple):
    """Values of a label.

    Attributes:
        name: as in `Label.kind`.
        expected: the values in words, for errors.
        low, high: the smallest and the largest value; infinite if there is none.
        whole: whether only whole numbers are values.
        toy: number in [0, 1) that was drawn, number in [0, 1] that the row makes likely -> label of a toy row.
        is_flag: whether a value says that something happened or not, so that histories may read it and rates count it.
        has_classes: whether a label declares its values, `Label.classes`, each of which gets a probability.
        logit_per_class: whether each of them has a logit of its own.
        by_duration: whether it is learned as a rank among rows of about equal duration, `Label.duration`.
        classes: those of a label, ascending; empty for the kind itself.
    """

    name: str
    expected: str
    low: float
    high: float
    whole: bool
    toy: Callable[[float, float], float]
    is_flag: bool = False
    has_classes: bool = False
    logit_per_class: bool = False
    by_duration: bool = False
    classes: tuple[int, ...] = ()

    @property
    def column(self) -> Literal["int", "float"]:
        """Type of the raw column."""
        return "int" if self.whole else "float"

    def wrong(self, values: Iterable[float]) -> list[float]:
        """Those of the values that are not labels of the kind, such as NaN.

        >>> BINARY.wrong([0, 1, 2, 0.5])
        [2, 0.5]
        """
        return [
            v
            for v in values
            if not (math.isfinite(v) and self.low <= v <= self.high and (not self.whole or v == int(v)))
            or (self.classes and v not in self.classes)
        ]

    def of(self, classes: tuple[int, ...]) -> LabelKind:
        """The values of a label with these classes.

        >>> label_kind("ordinal").of((1, 2, 3)).wrong([1, 3, 4])
        [4]
        """

        def toy(drawn: float, chance: float) -> int:
            return classes[min(len(classes) - 1, int(len(classes) * (0.7 * chance + 0.3 * drawn)))]

        *others, last = map(str, classes)
        expected = f"{', '.join(others)} or {last}"
        return self._replace(expected=expected, low=classes[0], high=classes[-1], toy=toy, classes=classes)

    def check(self, name: str, values: Iterable[float]) -> None:
        """Refuses values that are not labels of the kind.

        Args:
            name: what the error calls them, such as "label `click`".
            values: each distinct value once, if they are many.

        Raises:
            ValueError: with the first wrong value.
        """
        if wrong := self.wrong(values):
            raise ValueError(f"{name} must be {self.expected}, received {shown(wrong[0])}")


BINARY = LabelKind("binary", "0 or 1", 0, 1, True, lambda drawn, chance: int(drawn < chance), is_flag=True)
REGRESSION = LabelKind(
    "regression", "a finite number", -math.inf, math.inf, False, lambda drawn, chance: round(4 * chance + drawn - 2, 3)
)
LOG_REGRESSION = LabelKind(
    "log_regression",
    "a number >= 0",
    0,
    math.inf,
    False,
    lambda drawn, chance: round(math.expm1(3 * chance + drawn), 3),
)
COUNT = LabelKind("count", "a whole number >= 0", 0, math.inf, True, lambda drawn, chance: int(5 * chance + 2 * drawn))
WATCH_TIME = LabelKind(
    "watch_time",
    "a number >= 0",
    0,
    math.inf,
    False,
    lambda drawn, chance: round(5 * chance * drawn, 3) if drawn > 0.3 else 0.0,
)
WATCH_QUANTILE = WATCH_TIME._replace(name="watch_quantile", by_duration=True)
ORDINAL = LabelKind(
    "ordinal", "a whole number >= 0", 0, math.inf, True, lambda drawn, chance: int(5 * chance), has_classes=True
)
MULTICLASS = LabelKind(
    "multiclass",
    "a whole number >= 0",
    0,
    math.inf,
    True,
    lambda drawn, chance: int(4 * drawn),
    has_classes=True,
    logit_per_class=True,
)
LABEL_KINDS = {
    kind.name: kind
    for kind in (BINARY, REGRESSION, LOG_REGRESSION, COUNT, WATCH_TIME, WATCH_QUANTILE, ORDINAL, MULTICLASS)
}
# Kinds whose labels are numbers, told apart by how far a prediction is off.
NUMBERS = tuple(name for name, kind in LABEL_KINDS.items() if not kind.is_flag)
# Those among them whose predictions are probabilities of declared values, and the mean of these.
CLASSES = tuple(name for name, kind in LABEL_KINDS.items() if kind.has_classes)


def label_kind(name: str, classes: tuple[int, ...] = ()) -> LabelKind:
    """The kind of a name, with the values of a label that declares its classes.

    Raises:
        ValueError: naming the nearest kind.
    """
    if name not in LABEL_KINDS:
        raise ValueError(f"there is no kind of task `{name}`{nearest(name, LABEL_KINDS)}")
    return LABEL_KINDS[name].of(classes) if classes else LABEL_KINDS[name]
