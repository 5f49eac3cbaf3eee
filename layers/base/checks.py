"""Bounds of constructor arguments; a keyword is the name of the argument."""

from __future__ import annotations


def check_least(bound: int, **values: float | None) -> None:
    """Refuses a value below `bound`; None stands for a value that was not given.

    >>> check_least(1, dim=0)
    Traceback (most recent call last):
    ValueError: `dim` must be at least 1, received 0
    """
    for name, value in values.items():
        if value is not None and value < bound:
            raise ValueError(f"`{name}` must be at least {bound}, received {value}")


def check_units(**units: tuple[int, ...]) -> None:
    """Refuses a layer narrower than 1."""
    for name, widths in units.items():
        if any(width < 1 for width in widths):
            raise ValueError(f"`{name}` must all be at least 1, received {tuple(widths)}")


def check_dropout(dropout: float) -> None:
    """Refuses a share outside [0, 1)."""
    if not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must be in [0, 1), received {dropout}")
