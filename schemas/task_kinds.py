"""Kinds of tasks: the values of their labels. `mixrank.layers.task_kinds` holds the loss and the link of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from mixrank.schemas.naming import nearest
from mixrank.schemas.safe_text import shown


class LabelKind(NamedTuple):
    """Values of a label.

    Attributes:
        name: as in `Label.kind`.
        expected: the values in words, for errors.
        low, high: the smallest and the largest value.
        whole: whether only whole numbers are values.
        toy: number in [0, 1) that was drawn, number in [0, 1] that the row makes likely -> label of a toy row.
    """

    name: str
    expected: str
    low: int
    high: int
    whole: bool
    toy: Callable[[float, float], float]

    @property
    def column(self) -> Literal["int", "float"]:
        """Type of the raw column."""
        return "int" if self.whole else "float"

    def wrong(self, values: Iterable[float]) -> list[float]:
        """Those of the values that are not labels of the kind, such as NaN.

        >>> BINARY.wrong([0, 1, 2, 0.5])
        [2, 0.5]
        """
        return [v for v in values if not (self.low <= v <= self.high and (not self.whole or v == int(v)))]

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


BINARY = LabelKind("binary", "0 or 1", 0, 1, whole=True, toy=lambda drawn, chance: int(drawn < chance))
LABEL_KINDS = {kind.name: kind for kind in (BINARY,)}


def label_kind(name: str) -> LabelKind:
    """The kind of a name.

    Raises:
        ValueError: naming the nearest kind.
    """
    if name not in LABEL_KINDS:
        raise ValueError(f"there is no kind of task `{name}`{nearest(name, LABEL_KINDS)}")
    return LABEL_KINDS[name]
