"""Declarations with a name and with values: what keys, labels and features have in common."""

from __future__ import annotations

import math
import re
from typing import Any, Literal

from pydantic import Field, field_validator

from mixrank.schemas.naming import Declaration
from mixrank.schemas.safe_text import shown

Group = Literal["user", "item", "context"]
# "event" is a feature that no row has, but events of histories.
Place = Literal["user", "item", "context", "event"]
Dtype = Literal["int", "str"]
Kind = Literal["int", "float", "str"]
GROUPS: tuple[Group, ...] = ("user", "item", "context")


class Named(Declaration):
    """A declaration that takes the name of its column by position."""

    name: str = Field(kw_only=False)

    def __init__(self, name: str, **others: Any) -> None:
        super().__init__(name=name, **others)  # type: ignore[call-arg]

    # JSON is validated without it, or a missing name would be a TypeError.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise ValueError(
                f"`name` must be letters, digits and underscores and begin with a letter, received {shown(name)}"
            )
        return name


class Valued(Named):
    """A feature with values of its own, in a row or in every event of a history."""

    @property
    def kind(self) -> Kind:
        """Type of the raw values."""
        raise NotImplementedError

    @property
    def max_values(self) -> int | None:
        """Most values per row or event; None for a single value."""
        return None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the transformed values of a row or event."""
        return () if self.max_values is None else (self.max_values,)

    @property
    def width(self) -> int:
        """Transformed values per row or event."""
        return math.prod(self.shape)

    @property
    def raw_width(self) -> int:
        """Raw values per event of a history."""
        return self.max_values or 1

    @property
    def exact(self) -> bool:
        """Whether a row with values has `max_values` of them, no fewer."""
        return False

    @property
    def owner(self) -> str:
        """Name of the feature whose vocabulary and embedding table it uses."""
        return self.name

    @property
    def functions(self) -> int:
        """Rows of its embedding table whose sum is the embedding of a value."""
        return 1

    @property
    def is_frozen(self) -> bool:
        """Whether training leaves its embedding table as it is."""
        return False

    @property
    def is_number(self) -> bool:
        """Whether its values enter the model as numbers, `width` of them, without an embedding."""
        return False

    @property
    def is_embedded_number(self) -> bool:
        """Whether the model makes an embedding of its numbers, of its `dim`."""
        return False

    @property
    def never_missing(self) -> bool:
        """Whether every event has it, so that its id in a history is 0 only after the last event."""
        return False
