"""Features as they were served against those that ExampleGen makes of the raw log: per column, how many rows agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from mixrank.components.feedback.served import ServedRows, as_text, first_of
from mixrank.components.feedback.shards import Shards, shard_of, shards_for
from mixrank.schemas import FeatureSpec
from mixrank.schemas.arrow import pa, pc
from mixrank.schemas.encode import Column, columns
from mixrank.schemas.naming import Declaration
from mixrank.serving.drift import as_lists

# Numbers are stored in 32 bits; a request over JSON brings them back to the bit.
RELATIVE = 1e-6
# Rows of a column that are shown.
SHOWN = 3
# Values of a list that are shown.
VALUES = 8


class Difference(Declaration):
    """A row in which a column differs.

    Args:
        row: user, item and time as served.
        served, recomputed: values, the first of a long list.
    """

    row: str
    served: str
    recomputed: str


class ColumnSkew(Declaration):
    """A column on both sides.

    Args:
        name: the column.
        rows: rows that were compared.
        equal: those with the same values; numbers to a relative 1e-6.
        first: some that differ.
    """

    name: str
    rows: int
    equal: int
    first: tuple[Difference, ...] = ()


class Skew(Declaration):
    """Served rows beside recomputed ones.

    Args:
        served: rows that were served.
        matched: those with a row of the same user and item in the recomputed ones, the nearest in time; rows that share
            user, item and time are left out.
        same_time: those of them with the very same time.
        columns: every column that a request may carry.
    """

    served: int
    matched: int
    same_time: int
    columns: tuple[ColumnSkew, ...]


def compare_rows(
    spec: FeatureSpec,
    served: Path,
    recomputed: Path,
    *,
    within_hours: float,
    say: Callable[[str], object] = lambda line: None,
) -> Skew:
    """Compares rows of the same impressions.

    Args:
        spec: the columns.
        served: folder that `join_feedback` wrote.
        recomputed: folder of `Split-*/` or of files with ExampleGen's examples of the same impressions.
        within_hours: float > 0. How far apart in time the two rows of an impression may be.
        say: gets lines of progress.

    Raises:
        ValueError: if there are no rows on one side, or no row is on both.
    """
    sides = [ServedRows(_folders(path), spec) for path in (served, recomputed)]
    count = shards_for(sum(side.size for side in sides))
    own = [column for column in columns(spec) if column.serving]
    totals = dict.fromkeys((column.name for column in own), (0, 0))
    first: dict[str, list[Difference]] = {column.name: [] for column in own}
    matched = same_time = rows_served = 0
    with TemporaryDirectory(prefix="mixrank-skew-") as scratch:
        shards = []
        for name, side in zip(("served", "recomputed"), sides, strict=True):
            shards.append(Shards(Path(scratch, name), side.schema, count))
            total = 0
            for rows in side:
                total += len(rows)
                say(f"reading {name} rows: {total:,}")
                keys = [as_text(first_of(rows, key.name)) for key in (spec.user, spec.item)]
                shards[-1].add(rows, shard_of(keys, count))
            if not total:
                raise ValueError(f"{(served, recomputed)[len(shards) - 1]} holds no rows")
            rows_served = rows_served or total
        for number in range(count):
            say(f"comparing shard {number + 1} of {count}")
            left, right = (each.read(number) for each in shards)
            pairs = _pairs(spec, left, right, round(within_hours * 3_600_000))
            if pairs.empty:
                continue
            matched += len(pairs)
            same_time += int((pairs["apart"] == 0).sum())
            left, right = left.take(pa.array(pairs["left"])), right.take(pa.array(pairs["right"]))
            for column in own:
                one, other = (as_lists(column, side[column.name].combine_chunks()) for side in (left, right))
                equal = equal_lists(column, one, other)
                rows_so_far, equal_so_far = totals[column.name]
                totals[column.name] = (rows_so_far + len(equal), equal_so_far + int(equal.sum()))
                for place in np.flatnonzero(~equal)[: SHOWN - len(first[column.name])].tolist():
                    first[column.name].append(_difference(spec, left, place, one, other))
    if not matched:
        raise ValueError(
            f"no row of {served} has one of the same user and item within {within_hours:g} h in {recomputed}"
        )
    found = (
        ColumnSkew(name=name, rows=rows, equal=equal, first=tuple(first[name]))
        for name, (rows, equal) in totals.items()
    )
    return Skew(served=rows_served, matched=matched, same_time=same_time, columns=tuple(found))


def equal_lists(column: Column, left: pa.LargeListArray, right: pa.LargeListArray) -> np.ndarray:
    """Whether two columns have the same values, a bool array (rows,)."""
    lengths, others = (pc.list_value_length(side).to_numpy(zero_copy_only=False) for side in (left, right))
    equal = lengths == others
    rows = np.flatnonzero(equal & (lengths > 0))
    if not len(rows):
        return equal
    one, other = (side.take(pa.array(rows)).flatten().to_numpy(zero_copy_only=False) for side in (left, right))
    if column.kind == "float":
        same = np.isclose(one, other, rtol=RELATIVE, atol=0, equal_nan=True)
    else:
        same = one == other
    starts = np.cumsum(lengths[rows]) - lengths[rows]
    equal[rows] = np.logical_and.reduceat(same, starts)
    return equal


def _folders(path: Path) -> Sequence[Path]:
    return sorted(path.glob("Split-*")) or [path]


def _pairs(spec: FeatureSpec, left: pa.Table, right: pa.Table, within_ms: int) -> pd.DataFrame:
    """Rows of one user and item, nearest in time: positions on both sides, and how far apart they are."""
    names = ["user", "item", *(["request"] if spec.request is not None else [])]
    keys = [spec.user.name, spec.item.name, *([spec.request.name] if spec.request is not None else [])]
    sides = []
    for side, table in (("left", left), ("right", right)):
        frame = pd.DataFrame(
            {name: as_text(first_of(table, key)).to_pandas() for name, key in zip(names, keys, strict=True)}
        )
        frame["time"] = first_of(table, spec.time.name).to_pandas().to_numpy(float)
        frame[side] = np.arange(len(table))
        frame = frame.dropna().astype({"time": np.int64})
        # Rows that share their keys and time cannot be told apart.
        frame = frame.drop_duplicates([*names, "time"], keep=False)
        sides.append(frame.sort_values("time", kind="stable"))
    sides[1] = sides[1].assign(other=sides[1]["time"])
    if sides[0].empty or sides[1].empty:
        return pd.DataFrame()
    found = pd.merge_asof(*sides, on="time", by=names, direction="nearest", tolerance=within_ms)
    found = found.dropna(subset=["right"]).astype({"right": np.int64})
    return found.assign(apart=found["time"] - found["other"])


def _difference(
    spec: FeatureSpec, rows: pa.Table, place: int, one: pa.LargeListArray, other: pa.LargeListArray
) -> Difference:
    keys = {key.name: _text(rows[key.name][place].as_py()) for key in (spec.user, spec.item, spec.time)}
    return Difference(
        row=", ".join(f"{name} {value}" for name, value in keys.items()),
        served=_text(one[place].as_py()),
        recomputed=_text(other[place].as_py()),
    )


def _text(values: list[Any]) -> str:
    plain = [
        each.decode(errors="replace")
        if isinstance(each, bytes)
        else f"{each:g}"
        if isinstance(each, float)
        else str(each)
        for each in values
    ]
    if not plain:
        return "-"
    return " ".join(plain[:VALUES]) + (f" ... ({len(plain)} values)" if len(plain) > VALUES else "")
