"""Rows of a caller -> the named inputs of a signature, with or without a feature spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mixrank.schemas import FeatureSpec
from mixrank.schemas.encode import columns, to_instance, to_request
from mixrank.schemas.safe_text import shown
from mixrank.schemas.wire import Kind

Row = Mapping[str, Any]
Unknown = Literal["refuse", "drop"]


class RowError(ValueError):
    """A row that does not fit.

    Args:
        position: its position among the given rows, from 0.
        problem: what is wrong with it, naming the column.
    """

    def __init__(self, position: int, problem: str) -> None:
        super().__init__(f"row {position}: {problem}")
        self.position, self.problem = position, problem


class Inputs:
    """Checks and pads rows by a feature spec; without one, rows are used as they are.

    Args:
        spec: the columns, or None.
        unknown: "refuse" or "drop" fields that the spec does not know.

    Raises:
        ValueError: if `unknown` is something else, or is "drop" without a spec.
    """

    def __init__(self, spec: FeatureSpec | None, unknown: Unknown = "refuse") -> None:
        if unknown not in ("refuse", "drop"):
            raise ValueError(f'`unknown` must be "refuse" or "drop", received {shown(unknown)}')
        if unknown == "drop" and spec is None:
            raise ValueError('`unknown="drop"` needs `spec`, which says what is known')
        self.spec, self.unknown = spec, unknown
        known = columns(spec) if spec else ()
        self.kinds: dict[str, Kind] = {column.name: column.kind for column in known}

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """Each row as `to_instance` makes it.

        Raises:
            RowError: if a row does not fit the spec; without one, if its columns are not those of the first row.
        """
        found: list[Row] = []
        for position, row in enumerate(rows):
            try:
                if self.spec is not None:
                    found.append(to_instance(self.spec, self._known(row)))
                else:
                    _check_same(row, found[0] if found else row)
                    found.append(row)
            except ValueError as error:
                raise RowError(position, str(error)) from None
        return found

    def request(self, request: Row, candidates: Sequence[Row]) -> dict[str, Any]:
        """The inputs of `rank_candidates`, as `to_request` makes them.

        Raises:
            ValueError: as `to_request`; without a spec, if there are no candidates, or their columns differ.
        """
        if self.spec is not None:
            return to_request(self.spec, self._known(request), [self._known(candidate) for candidate in candidates])
        if not candidates:
            raise ValueError("a request needs at least one candidate, received none")
        for position, candidate in enumerate(candidates):
            try:
                _check_same(candidate, candidates[0])
            except ValueError as error:
                raise ValueError(f"candidate {position}: {error}") from None
        for name in candidates[0]:
            if name in request:
                raise ValueError(f"column `{name}` is in the request and in the candidates")
        return dict(request) | stack(candidates)

    def _known(self, row: Row) -> Row:
        _check_mapping(row)
        return row if self.unknown == "refuse" else {name: row[name] for name in row if name in self.kinds}


def stack(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Rows of the same columns as column -> one value per row."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def _check_mapping(row: Any) -> None:
    if not isinstance(row, Mapping):
        raise ValueError(f"expected column -> value, received {shown(row)} ({type(row).__name__})")


def _check_same(row: Row, first: Row) -> None:
    _check_mapping(row)
    different = [name for name in (*row, *first) if name not in first or name not in row]
    if different:
        missing = "lacks" if different[0] in first else "adds"
        raise ValueError(f"it {missing} column `{different[0]}`; without a spec all have the columns of the first")
