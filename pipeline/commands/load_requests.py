"""The requests of a load test: rows of a file or examples of a model, checked and encoded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from pipeline.commands.request_files import Line, example_lines, read_lines
from serving.calls import Address, Predict
from serving.client import AsyncClient
from serving.columns import request_and_item
from serving.inputs import Inputs, RowError, load_spec, stack
from serving.prepared import Prepared, Sender
from serving.versions import is_version

# Rows or requests that are read from a file, and rows of an example; more make no other load.
READ, EXAMPLES = 5000, 64


class LoadRequests:
    """Requests for a load test. Rows are taken in turn, after the last from the first again.

    Args:
        target: whom to ask, as `serving.client.Client`.
        model: the model's name; that of the folder `spec` if None.
        spec: folder of the model, or None.
        rows: file of rows, or of requests with their candidates if `rank`; None takes examples of `spec`.
        rank: candidates per request, >= 1, or None for rows.
        rows_per_request: rows per request, >= 1.
        version: version to ask, or None.
        label: label to ask, or None.

    Raises:
        ValueError: if there are neither rows nor a model to take examples from, a number is out of bounds, or a file or
            row does not fit, naming the line.
    """

    def __init__(
        self,
        target: str,
        model: str | None,
        *,
        spec: Path | None,
        rows: str | None,
        rank: int | None,
        rows_per_request: int,
        version: int | None,
        label: str | None,
    ) -> None:
        if rows is None and spec is None:
            raise ValueError("name the rows: --rows FILE, or --spec DIR, whose examples are then sent")
        if model is None:
            if spec is None:
                raise ValueError("name the model: --model NAME, or --spec DIR, whose name it then has")
            folder = spec.absolute()
            model = folder.parent.name if is_version(folder) else folder.name
        if rows_per_request < 1 or (rank is not None and rank < 1):
            raise ValueError(
                f"--rows-per-request and --rank must be at least 1, received {rows_per_request} and {rank}"
            )
        if rank is not None and rows_per_request > 1:
            raise ValueError("--rank ranks the candidates of one request: leave --rows-per-request out")
        self.address = Address(target, model, version, label)
        self.signature = "score_rows" if rank is None else "rank_candidates"
        self.rows_per_request = rows_per_request if rank is None else rank
        self._rank = rank
        self._inputs = Inputs(None if spec is None else load_spec(spec))
        lines = _example(spec, rank) if rows is None and spec is not None else read_lines(str(rows), rank is not None)
        first, *rest = islice(lines, READ)
        self._lines = [first, *rest]

    def try_one(self, deadline: float) -> None:
        """Sends one request through the client, which finds what a load test does not look for.

        Args:
            deadline: seconds.

        Raises:
            ValueError: if a row does not fit, or the server does not answer with scores.
        """

        async def ask() -> None:
            async with AsyncClient(
                self.address.target,
                self.address.model,
                spec=self._inputs.spec,
                version=self.address.version,
                label=self.address.label,
                deadline=deadline,
                max_rows=self.rows_per_request,
            ) as client:
                if self._rank is None:
                    await client.score([line.value for line in self._batch(self._lines)])
                else:
                    await client.rank(*self._request(self._lines[0]))

        asyncio.run(ask())

    def prepare(self, sender: Sender) -> list[Prepared]:
        """The distinct requests, checked and encoded.

        Raises:
            ValueError: if a row does not fit, naming its line.
        """
        return [
            sender.prepare(Predict(self.signature, inputs, self._inputs.kinds), self.rows_per_request)
            for inputs in (self._score_inputs() if self._rank is None else self._rank_inputs())
        ]

    def _score_inputs(self) -> Iterable[dict[str, Any]]:
        try:
            checked = self._inputs.rows([line.value for line in self._lines])
        except RowError as error:
            raise ValueError(f"{self._lines[error.position].where}: {error.problem}") from None
        size = self.rows_per_request
        for start in range(0, len(checked), size):
            yield stack(self._batch(checked[start : start + size] + checked[:size]))

    def _rank_inputs(self) -> Iterable[dict[str, Any]]:
        for line in self._lines:
            request, candidates = self._request(line)
            try:
                yield self._inputs.request(request, candidates)
            except ValueError as error:
                raise ValueError(f"{line.where}: {error}") from None

    def _batch(self, rows: Sequence[Any]) -> list[Any]:
        return list(islice(cycle(rows), self.rows_per_request))

    def _request(self, line: Line) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        candidates = line.value["candidates"]
        if not candidates:
            raise ValueError(f"{line.where}: a request needs at least one candidate, received none")
        return line.value["request"], self._batch(candidates)


def _example(folder: Path, rank: int | None) -> Iterable[Line]:
    """Example rows; to be ranked, each with the items of all, its own first."""
    rows = example_lines(folder, False, EXAMPLES)
    if rank is None:
        return [Line(f"example {number}", row) for number, row in enumerate(rows, 1)]
    spec = load_spec(folder)
    parts = [request_and_item(spec, row) for row in rows]
    items = [item for _, item in parts]
    return [
        Line(f"example {number + 1}", {"request": request, "candidates": items[number:] + items[:number]})
        for number, (request, _) in enumerate(parts)
    ]
