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


def shared_by_candidates(x, rows):
    """`per_candidate`, but what one request alone holds is left to broadcasting.

    Args:
        x: Tensor (requests, ...).
        rows: as in `per_candidate`.

    Returns:
        Tensor (batch, ...), or (1, ...) if the shape of `x` says that there is one request.
    """
    return x if x.shape[0] == 1 else per_candidate(x, rows)
