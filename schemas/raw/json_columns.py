"""JSON lines -> Arrow columns; whatever the values of a column are, their rows are kept apart."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, BinaryIO

import numpy as np

from mixrank.schemas.arrow import pa
from mixrank.schemas.raw.batch import Batch
from mixrank.schemas.raw.json_lines import as_row, numbered_lines, parse_json

# Characters of a bad line that a message shows.
SHOWN = 200


def read_json(source: BinaryIO, name: str, names: Sequence[str] | None, size: int) -> Iterator[Batch]:
    """Batches of some columns of a file of JSON lines.

    Args:
        source: the open file.
        name: of the file, for messages.
        names: columns, None for all that the rows of a batch have.
        size: lines per batch.
    """
    lines = numbered_lines(source, name)
    while block := list(islice(lines, size)):
        numbers: list[int] = []
        rows: list[dict[str, Any]] = []
        bad: list[tuple[int, str, str]] = []
        for number, line in block:
            try:
                rows.append(as_row(parse_json(line)))
                numbers.append(number)
            except ValueError as error:
                bad.append((number, line[:SHOWN].decode(errors="replace"), str(error)))
        found = names if names is not None else dict.fromkeys(key for row in rows for key in row)
        table = pa.table({each: to_arrow([row.get(each) for row in rows]) for each in found})
        yield Batch(table, np.array(numbers, dtype=np.int64), bad)


def to_arrow(values: Sequence[Any]) -> pa.Array:
    """JSON values as an Arrow array; values of several types become text, as they stand in JSON.

    >>> to_arrow([1, None, "2"]).to_pylist(), to_arrow([[1], 2]).to_pylist()
    (['1', None, '2'], [[1], [2]])
    """
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        pass
    if any(isinstance(value, list) for value in values):
        lists = [value if isinstance(value, list) or value is None else [value] for value in values]
        ends = np.cumsum([len(value or ()) for value in lists])
        flat = to_arrow([element for value in lists for element in value or ()])
        missing = [value is None for value in lists]
        # A null list begins with a null offset.
        offsets = pa.array(np.concatenate([[0], ends]), pa.int32(), mask=np.array([*missing, False]))
        return pa.ListArray.from_arrays(offsets, flat)
    return pa.array([value if value is None or isinstance(value, str) else json.dumps(value) for value in values])
