"""Rows of a raw file, a batch at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mixrank.schemas.arrow import pa

# Characters of a bad value that its dead letter holds.
LONGEST_VALUE = 1000


def dead_letter(file: str, row: int, column: str | None, value: Any, reason: str) -> dict[str, Any]:
    """A bad row, ready for JSON.

    Args:
        file: its path.
        row: number of the row in the file.
        column: of the bad value, None for the whole row.
        value: what came, of Python or Arrow; text is cut to `LONGEST_VALUE` characters.
        reason: what was wrong.
    """
    if isinstance(value, pa.Scalar):
        value = as_python(value)
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    elif not isinstance(value, str | int | None) and not (isinstance(value, float) and math.isfinite(value)):
        # Decimals, dates and lists of those are not in JSON, and neither is infinity.
        value = str(value)
    if isinstance(value, str) and len(value) > LONGEST_VALUE:
        value = value[:LONGEST_VALUE] + " ..."
    return {"file": file, "row": row, "column": column, "value": value, "reason": reason}


def as_python(scalar: pa.Scalar) -> Any:
    """An Arrow value, with bytes for text that is not UTF-8 and numbers for times that Python's calendar lacks."""
    try:
        return scalar.as_py()
    except (OverflowError, ValueError):
        if pa.types.is_dictionary(scalar.type):
            return as_python(scalar.value)
        if pa.types.is_nested(scalar.type):
            return [as_python(each) for each in scalar.values]
        if pa.types.is_temporal(scalar.type):
            return scalar.cast(pa.int32() if pa.types.is_date32(scalar.type) else pa.int64()).as_py()
        return scalar.as_buffer().to_pybytes()


@dataclass(frozen=True)
class Batch:
    """Rows of a file.

    Args:
        table: the requested columns. Text files give bytes, so that text that is not UTF-8 is a bad value and not the
            end of the file; a column that no row of the batch has is null.
        rows: int array. Number of each row in its file, from 1: of a text file the header does not count, of JSON lines
            it is the line.
        bad: (row, text, reason) of rows that could not be parsed.
    """

    table: pa.Table
    rows: np.ndarray
    bad: list[tuple[int, str, str]] = field(default_factory=list)

    def pieces(self, size: int) -> Iterator[Batch]:
        """The same rows in batches of at most `size`; a bad row comes with the rows before it."""
        if len(self.rows) <= size:
            yield self
            return
        bad = list(self.bad)
        for start in range(0, len(self.rows), size):
            rows = self.rows[start : start + size]
            last = start + size >= len(self.rows)
            own = [row for row in bad if last or row[0] <= rows[-1]]
            bad = bad[len(own) :]
            yield Batch(self.table.slice(start, size), rows, own)
