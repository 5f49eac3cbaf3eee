"""One row per request, one row per candidate, and the conversion between them."""

from __future__ import annotations

from keras import ops

from mixrank.layers.base.layer import Tensor


def per_candidate(x: Tensor, request_of: Tensor | None) -> Tensor:
    """Repeats what a request holds once for each of its candidates.

    Args:
        x: Tensor (requests, ...).
        request_of: int tensor (batch,), the index of each candidate's request; None if every candidate has a request
            of its own.

    Returns:
        Tensor (batch, ...).
    """
    return x if request_of is None else ops.take(x, request_of, axis=0)


def shared_by_candidates(x: Tensor, request_of: Tensor | None) -> Tensor:
    """`per_candidate`, but what one request alone holds is left to broadcasting.

    Args:
        x: Tensor (requests, ...).
        request_of: as in `per_candidate`.

    Returns:
        Tensor (batch, ...), or (1, ...) if the shape of `x` says that there is one request.
    """
    return x if x.shape[0] == 1 else per_candidate(x, request_of)
