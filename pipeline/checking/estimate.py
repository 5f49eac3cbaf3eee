"""What a run will take, from measured ones."""

from __future__ import annotations

from mixrank.schemas import FeatureSpec
from mixrank.schemas.encode import columns
from mixrank.schemas.naming import Declaration

# Two CPU cores, HeMix `tiny` (docs/results/time-and-memory.md): a whole run of MovieLens takes 97 s on a fast machine,
# 214 s on a slow one, and 2.0 GiB; of KuaiRand 224 s, 804 s and 3.9 GiB. Loading the packages and tracing graphs takes
# the first part, and the rest grows with the cells: rows times columns. The fast machine comes first.
BASE_SECONDS, BASE_GIB = (30, 110), 1.5
SECONDS_PER_CELL = (1.8e-5, 7e-5)
BYTES_PER_CELL = 250


class Estimate(Declaration):
    """What a run will take on two CPU cores with a `tiny` model and one pass over the rows.

    Args:
        rows: of the log.
        cells: rows times columns of an example.
        seconds: on a fast machine, on a slow one.
        gib: memory of the largest process.
    """

    rows: int
    cells: int
    seconds: tuple[float, float]
    gib: float


def estimate(spec: FeatureSpec, rows: int) -> Estimate:
    """The estimate for a log.

    Args:
        spec: its columns.
        rows: of the log.
    """
    cells = rows * len(list(columns(spec)))
    low, high = (base + each * cells for base, each in zip(BASE_SECONDS, SECONDS_PER_CELL, strict=True))
    return Estimate(rows=rows, cells=cells, seconds=(low, high), gib=BASE_GIB + BYTES_PER_CELL * cells / 2**30)
