"""Rows of a request and rows of its candidates."""

from __future__ import annotations

from keras import ops


def per_candidate(x, rows):
    """Repeats what a request holds once for each of its candidates.

    Args:
        x: Tensor (requests, ...).
        rows: int tensor (batch,), or None if every candidate has a request of its own.

    Returns:
        Tensor (batch, ...).
    """
    return x if rows is None else ops.take(x, rows, axis=0)
