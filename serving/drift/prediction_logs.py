"""Requests that a server logged (PredictionLogs) -> Arrow columns of their rows, many requests at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mixrank.schemas.arrow import pa, pc
from mixrank.schemas.encode import Column
from mixrank.serving.client import LoggedRequest, read_prediction_log

DEFAULT, ROWS, RANKING = "serving_default", "score_rows", "rank_candidates"


@dataclass
class Part:
    """Requests of one signature.

    Args:
        signature: its name.
        examples: serialized tf.Examples, of `serving_default`.
        values: column -> its values in each request, flat.
        lengths: column -> number of values of each row, in each request; absent for single values.
        logged_at: of each row, milliseconds or None.
        numbers: of each row, the number of its request in the file.
    """

    signature: str
    examples: list[bytes] = field(default_factory=list)
    values: dict[str, list[np.ndarray]] = field(default_factory=dict)
    lengths: dict[str, list[np.ndarray]] = field(default_factory=dict)
    logged_at: list[int | None] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)

    def arrays(self) -> dict[str, pa.Array]:
        """Column -> single values, or lists of them."""
        found: dict[str, pa.Array] = {}
        for name, parts in self.values.items():
            flat = pa.array(np.concatenate(parts))
            if name in self.lengths:
                ends = np.cumsum(np.concatenate(self.lengths[name]))
                flat = pa.LargeListArray.from_arrays(pa.array(np.append(0, ends), pa.int64()), flat)
            found[name] = flat
        return found


def parts_of(records: Iterator[bytes], file: str, columns: Mapping[str, Column], size: int) -> Iterator[Part]:
    """The rows of logged requests.

    Args:
        records: serialized PredictionLogs.
        file: their file, for messages.
        columns: name -> column, those that a request may carry.
        size: rows from which on a part is complete.

    Raises:
        ValueError: naming the file and the request that cannot be read, or does not have the columns of its signature.
    """
    part: Part | None = None
    for number, record in enumerate(records, start=1):
        try:
            request = read_prediction_log(record)
            if part is not None and (part.signature != request.signature or len(part.numbers) >= size):
                yield part
                part = None
            if part is None:
                part = Part(request.signature)
            rows = _add(part, request, columns)
            for name, output in request.outputs.items():
                if len(scores := output.reshape(-1)) == rows:
                    part.values.setdefault(f"score_{name}", []).append(scores.astype(np.float64))
            part.logged_at += [request.logged_at] * rows
            part.numbers += [number] * rows
            uneven = [name for name, each in part.values.items() if len(each) != len(next(iter(part.values.values())))]
            if uneven:
                raise ValueError(f"`{uneven[0]}` is not in all requests of `{request.signature}`")
        except ValueError as error:
            raise ValueError(f"{file}, request {number}: {error}") from None
    if part is not None:
        yield part


def _add(part: Part, request: LoggedRequest, columns: Mapping[str, Column]) -> int:
    """Adds the rows of a request; returns how many."""
    if request.signature == DEFAULT:
        examples = request.inputs.get("examples")
        if examples is None or examples.dtype != object:
            raise ValueError(f"the signature `{DEFAULT}` takes `examples`, received {sorted(request.inputs)}")
        part.examples += examples.reshape(-1).tolist()
        return examples.size
    if request.signature not in (ROWS, RANKING):
        raise ValueError(f"the signature `{request.signature}` has no rows: known are {DEFAULT}, {ROWS}, {RANKING}")
    ranks = request.signature == RANKING
    batched = [n for n in request.inputs if not ranks or (n in columns and columns[n].candidate)]
    sizes = {len(request.inputs[name]) if request.inputs[name].ndim else -1 for name in batched}
    if len(sizes) != 1 or sizes == {-1}:
        raise ValueError(f"its columns do not have one number of rows, but {sorted(sizes)}")
    (rows,) = sizes
    for name, array in request.inputs.items():
        if name in batched:
            values, width = array.reshape(-1), array.shape[1] if array.ndim > 1 else None
        else:
            values, width = np.tile(array.reshape(-1), rows), len(array) if array.ndim else None
        part.values.setdefault(name, []).append(values)
        if width is not None:
            part.lengths.setdefault(name, []).append(np.full(rows, width))
    return rows


def with_column(batch: pa.RecordBatch, name: str, values: Sequence[int | None]) -> pa.RecordBatch:
    """A batch with a column of whole numbers, where it does not have its own."""
    found = {each: batch.column(place) for place, each in enumerate(batch.schema.names)}
    given = pa.array(values, pa.int64())
    found[name] = pc.coalesce(found[name], given) if name in found else given
    return pa.RecordBatch.from_arrays(list(found.values()), list(found))
