"""Errors that suggest the nearest valid name, and the base class of all declarations, which uses them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator


def nearest(name: str, options: Iterable[str]) -> str:
    """The hint `; did you mean X?` for a misspelt name, or the list of options if nothing is close.

    Args:
        name: What was written.
        options: What could have been written.

    Returns:
        A clause that starts with `; `, or an empty string if there are no options at all.

    >>> nearest("num_layer", ["num_layers", "heads"])
    '; did you mean `num_layers`?'
    """
    options = sorted(set(options))
    close = difflib.get_close_matches(str(name), options, n=1, cutoff=0.6)
    if close:
        return f"; did you mean `{close[0]}`?"
    if options:
        return f"; expected one of {', '.join(f'`{option}`' for option in options)}"
    return ""


def readable(error: Exception) -> str:
    """An error as `train.epochs: Input should be ..., received 0`, one line per problem where it is pydantic's."""
    if not isinstance(error, ValidationError):
        return str(error)
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        # Our own rules say what they received.
        told = problem["type"] in ("value_error", "missing") or isinstance(problem["input"], dict)
        message += "" if told else f", received {problem['input']!r}"
        lines.append(f"{where}: {message}" if where else message)
    return "\n".join(lines)


class Declaration(BaseModel):
    """Frozen pydantic model that refuses unknown keys by naming the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, values: Any) -> Any:
        for key in values if isinstance(values, dict) else ():
            if key not in cls.model_fields:
                raise ValueError(f"{cls.__name__} has no field `{key}`{nearest(key, cls.model_fields)}")
        return values
