"""How far two predictions are apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def differences(got: ArrayLike, expected: ArrayLike) -> NDArray[np.float64]:
    """`|g - e| / max(1, |e|)`, element by element: absolute for probabilities, relative for larger numbers.

    >>> differences([0.5, 1000.0], [0.25, 1001.0]).round(6)
    array([0.25    , 0.000999])
    """
    g, e = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    return np.asarray(np.abs(g - e) / np.maximum(1.0, np.abs(e)))
