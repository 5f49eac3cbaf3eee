"""Keys of histories, and the one order in which everybody takes them."""

from __future__ import annotations

from collections.abc import Iterable

WINDOWS = ("before", "within")


def window_of(history: str) -> str:
    """Window of a history, by its key in `Histories`.

    >>> window_of("within"), window_of("before_orders")
    ('within', 'before')
    """
    return history.partition("_")[0]


def in_order(histories: Iterable[str], windows: tuple[str, ...] = WINDOWS) -> tuple[str, ...]:
    """Keys of histories: those of the first of `windows` first, each with the window itself, then by name.

    Keys of other windows are left out.

    >>> in_order(["within", "before_orders", "before"], ("within", "before"))
    ('within', 'before', 'before_orders')
    """
    return tuple(key for window in windows for key in sorted(histories) if window_of(key) == window)
