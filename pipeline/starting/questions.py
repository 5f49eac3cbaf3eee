"""Questions about a log: asked where somebody can answer, else answered by the best guess."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

NONE = "none"


@dataclass(frozen=True)
class Question:
    """A question whose answer is a column.

    Args:
        about: "user", "item", "time", "label" or "scenario".
        text: the question.
        guess: the answer that is taken without one; `NONE` if there is no such column.
        choices: other answers that are likely.
    """

    about: str
    text: str
    guess: str
    choices: tuple[str, ...] = ()


Ask = Callable[[Question], str]


@dataclass
class Answers:
    """Columns that are told, those that are asked for, and the guesses for the rest.

    Args:
        told: about -> columns, from the command line.
        ask: asks; None takes every guess.
    """

    told: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ask: Ask | None = None

    def of(self, about: str) -> tuple[str, ...]:
        """Columns that were told for a role."""
        return tuple(self.told.get(about, ()))

    def choose(self, question: Question, sure: bool) -> tuple[str | None, bool]:
        """A column or None, and whether a person chose it."""
        if self.ask is None or sure:
            return (None if question.guess == NONE else question.guess), False
        answer = self.ask(question)
        return (None if answer == NONE else answer), True
