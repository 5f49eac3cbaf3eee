"""Places spread over the files of a table, for a sample of its rows: the first, the last and those between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from mixrank.schemas.raw.raw_file import Piece, RawFile

# Places of a table that is too large to be read.
PLACES = 8
# Of a TFRecord, whose length is known only when it is read.
RECORD_BYTES = 1000


@dataclass(frozen=True)
class Place:
    """A part of a file that is read for a sample.

    Args:
        file: position of the file in the table.
        piece: of the file.
        rows: rows of the piece to read, None for all.
    """

    file: int
    piece: Piece
    rows: int | None = None


def places_of(files: Sequence[RawFile], most_bytes: int | None) -> list[Place]:
    """What to read of the files of a table: everything if it is small, else places evenly spread over the bytes.

    Text within a codec and TFRecords can be read from their beginning only.

    Args:
        files: of one table.
        most_bytes: to read, without compression; None for everything.
    """
    units = [unit for number, file in enumerate(files) for unit in _units(number, file)]
    ends = list(accumulate(size for _, size in units))
    if not units or most_bytes is None or ends[-1] <= most_bytes:
        return [place for place, _ in units]
    part = most_bytes // PLACES
    found: dict[Place, None] = {}
    for turn in range(PLACES):
        at = turn * (ends[-1] - 1) // (PLACES - 1)
        unit = next(unit for unit, end in enumerate(ends) if at < end)
        place, size = units[unit]
        found[_within(place, files[place.file], size, at - ends[unit] + size, part)] = None
    return list(found)


def _units(number: int, file: RawFile) -> list[tuple[Place, int]]:
    size, pieces = file.uncompressed_size(), list(file.pieces())
    rows = sum(piece.rows or 0 for piece in pieces)
    return [(Place(number, piece), round(size * ((piece.rows or 0) / rows if rows else 1))) for piece in pieces]


def _within(place: Place, file: RawFile, size: int, start: int, part: int) -> Place:
    """At most `part` bytes of a place of `size` bytes, from byte `start` on where the format allows it."""
    if size <= part:
        return place
    if place.piece.rows is not None:
        return replace(place, rows=max(1, place.piece.rows * part // size))
    if not file.is_text:
        return replace(place, rows=max(1, part // RECORD_BYTES))
    # What is compressed has no middle to begin at.
    return replace(place, piece=Piece(start=0 if file.codec else min(start, size - part), bytes=part))
