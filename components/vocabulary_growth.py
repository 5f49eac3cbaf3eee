"""Vocabularies that grow day by day: a value that has become common gets a row, and every other value keeps its own.

    examples/Split-NAME/*.gz + graph + seen of the day before  ->  out/graph/, out/seen/FEATURE.parquet, out/grown.json

A Transform graph counts its vocabularies once. Here the values of one more day are counted beside it, and the graph of
the next training is the same but for longer vocabulary files: ids below the old number of values mean what they meant.
"""

from __future__ import annotations

import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_transform as tft

from mixrank.components.day_rows import parsed
from mixrank.components.transform import vocabulary_values
from mixrank.schemas import FeatureSpec, Vocab
from mixrank.schemas.arrow import lines_of, open_parquet, pa, pc, pq
from mixrank.schemas.files import write_folder_atomically
from mixrank.schemas.tfmd import parsing_spec

GRAPH, SEEN, GROWN = "graph", "seen", "grown.json"
# Values that are written at once.
LINES = 1 << 20

_SEEN = pa.schema([("value", pa.large_binary()), ("day", pa.int32()), ("count", pa.int64())])


class Growth(NamedTuple):
    """What became of a vocabulary on a day.

    Args:
        known: values that it has now.
        added: those that got a new row.
        reused: those that got the row of a value that was not seen any more.
        waiting: values that are common enough, for which `Vocab.max_size` leaves no row.
    """

    known: int
    added: int
    reused: int
    waiting: int


def grow_vocabularies(
    examples: Path,
    graph: Path,
    out: Path,
    spec: FeatureSpec,
    *,
    day: str,
    before: Path | None,
    count_days: int,
    reuse_days: int | None,
) -> dict[str, Growth]:
    """Counts the values of a day and writes a Transform graph that knows those which have become common.

    A value gets a row once it was seen `Vocab.min_count` times within `count_days` days: the row of a value that was
    not seen for `reuse_days` days, the one longest unseen first, or else a new one behind all others, as far as
    `Vocab.max_size` allows. The most frequent values come first. As in a run, only the values of rows count, not those
    of histories. Vocabularies of a `Lookup` stay, since its side file is part of the graph.

    Args:
        examples: folder of `Split-NAME/` with the day's raw tf.Examples.
        graph: folder of the Transform graph of the model that goes on.
        out: gets `graph/`, `seen/` and `grown.json`; whole or not at all. It must not exist, or be empty.
        spec: columns of an example.
        day: ISO date of the rows.
        before: what this wrote for the day before, or None on the first day. A known value that was not seen since the
            first day counts as last seen then.
        count_days, reuse_days: int >= 1. None never gives a row to another value.

    Returns:
        Feature -> what became of its vocabulary.

    Raises:
        ValueError: if there are no examples, or a file is damaged.
    """
    counted = count_values(examples, spec)
    today = date.fromisoformat(day).toordinal()
    since = today if before is None else int(json.loads((before / GROWN).read_text())["since"])
    grown: dict[str, Growth] = {}

    def write(temporary: Path) -> None:
        shutil.copytree(graph, temporary / GRAPH)
        (temporary / SEEN).mkdir()
        transformed = tft.TFTransformOutput(str(temporary / GRAPH))
        for name, vocab in growing(spec).items():
            file = Path(transformed.vocabulary_file_by_name(name))
            known = lines_of(file.read_bytes())
            last = before and before / SEEN / f"{name}.parquet"
            seen = seen_until(counted[name], known, last, today, count_days)
            pq.write_table(seen, temporary / SEEN / f"{name}.parquet")
            values, grown[name] = grow(known, vocab, seen, today, since, count_days, reuse_days)
            if grown[name].added or grown[name].reused:
                _write_lines(file, values)
        features = {name: each._asdict() for name, each in grown.items()}
        (temporary / GROWN).write_text(json.dumps({"since": since, "features": features}, indent=1))

    write_folder_atomically(out, write)
    return grown


def read_growth(folder: Path) -> dict[str, Growth]:
    """What `grow_vocabularies` returned for a folder that it wrote."""
    found = json.loads((folder / GROWN).read_text())["features"]
    return {name: Growth(**each) for name, each in found.items()}


def growing(spec: FeatureSpec) -> dict[str, Vocab]:
    """Feature -> its vocabulary, for those that can grow."""
    fixed = {lookup.name for lookup in spec.lookups}
    return {name: vocab for name, vocab in spec.vocabularies.items() if name not in fixed}


def count_values(examples: Path, spec: FeatureSpec) -> dict[str, pa.Table]:
    """Counts the values of examples as vocabularies count them.

    Args:
        examples: folder of `Split-NAME/` with gzip-compressed TFRecords of raw tf.Examples.
        spec: columns of an example.

    Returns:
        Feature -> table of distinct values, `value` (large_binary, as lines of a vocabulary file) and `count`.

    Raises:
        ValueError: if there are no examples, or a file is damaged.
    """
    files = sorted(examples.glob("Split-*/*.gz"))
    if not files:
        raise ValueError(f"no examples match {examples}/Split-*/*.gz")
    names = list(growing(spec))
    needed = {spec.scenario.name, *names, *(part for cross in spec.crosses for part in cross.of)}
    columns = {name: column for name, column in parsing_spec(spec, labels=False).items() if name in needed}
    found: dict[str, list[pa.Table]] = {name: [] for name in names}
    for file in files:
        of_file: dict[str, list[Any]] = {name: [] for name in names}
        for raw in parsed(file, columns):
            for name, values in vocabulary_values(spec, raw).items():
                if name in of_file:
                    of_file[name].append(values.numpy())
        for name, parts in of_file.items():
            found[name].append(_distinct(parts))
    return {name: _summed(pa.concat_tables(parts)) for name, parts in found.items()}


def _distinct(parts: list[np.ndarray]) -> pa.Table:
    values = np.concatenate(parts) if parts else np.zeros(0, object)
    if values.dtype.kind == "i":
        counts = pc.value_counts(pa.array(values))
        lines = counts.field("values").cast(pa.string()).cast(pa.large_binary())
    else:
        counts = pc.value_counts(pa.array(values, pa.large_binary()))
        lines = counts.field("values")
    table = pa.table({"value": lines, "count": counts.field("counts").cast(pa.int64())})
    # What a vocabulary file cannot hold, which Transform leaves out as well.
    held = pc.and_(pc.greater(pc.binary_length(lines), 0), pc.invert(pc.match_substring_regex(lines, rb"[\r\n]")))
    return table.filter(held)


def _summed(table: pa.Table) -> pa.Table:
    summed = table.group_by("value").aggregate([("count", "sum")])
    return pa.table({"value": summed["value"], "count": summed["count_sum"]})


def seen_until(counted: pa.Table, known: pa.Array, before: Path | None, today: int, count_days: int) -> pa.Table:
    """When values were seen: every day of the last `count_days`, and for known values the newest before those.

    Args:
        counted: values of today, as of `count_values`.
        known: values of the vocabulary.
        before: Parquet file of what this returned the day before; None has seen nothing.
        today: number of the day.
        count_days: as in `grow_vocabularies`.

    Returns:
        Columns `value`, `day` and `count`; 0 before the last `count_days`.
    """
    now = counted.append_column("day", pa.array(np.full(len(counted), today, np.int32))).select(_SEEN.names)
    tables = [now.cast(_SEEN)]
    if before is not None:
        tables.append(open_parquet(before).read().cast(_SEEN))
    table = pa.concat_tables(tables)
    recent = pc.greater(table["day"], today - count_days)
    counts = table.filter(recent)
    older = table.filter(pc.and_(pc.invert(recent), pc.is_in(table["value"], value_set=known)))
    older = older.filter(pc.invert(pc.is_in(older["value"], value_set=pc.unique(counts["value"]))))
    newest = older.group_by("value").aggregate([("day", "max")])
    unseen = {"value": newest["value"], "day": newest["day_max"], "count": np.zeros(len(newest), np.int64)}
    return pa.concat_tables([counts, pa.table(unseen).cast(_SEEN)])


def grow(
    known: pa.Array,
    vocab: Vocab,
    seen: pa.Table,
    today: int,
    since: int,
    count_days: int,
    reuse_days: int | None,
) -> tuple[pa.Array, Growth]:
    """The values of a vocabulary after a day, in the order of their ids, and what became of it.

    Args:
        known: the values before.
        vocab: when a value is common, and how many rows there may be.
        seen: as of `seen_until`.
        today, since: numbers of the day and of the first one that `seen` counts.
        count_days, reuse_days: as in `grow_vocabularies`.
    """
    common = _summed(seen.filter(pc.greater(seen["day"], today - count_days)).select(["value", "count"]))
    new = pc.and_(
        pc.greater_equal(common["count"], vocab.min_count), pc.invert(pc.is_in(common["value"], value_set=known))
    )
    waiting = common.filter(new).sort_by([("count", "descending"), ("value", "ascending")])["value"].combine_chunks()
    reused = 0
    if reuse_days is not None and len(waiting):
        free = _unseen(known, seen, today, since, reuse_days)[: len(waiting)]
        reused = len(free)
        mask = np.zeros(len(known), bool)
        mask[free] = True
        # Values are put in by ascending row; the most frequent takes the row that was unseen longest.
        by_row = waiting.take(pa.array(np.argsort(free, kind="stable")))
        known = pc.replace_with_mask(known, pa.array(mask), by_row)
        waiting = waiting[reused:]
    room = len(waiting) if vocab.max_size is None else max(0, vocab.max_size - len(known))
    added = waiting[:room]
    values = pa.concat_arrays([known, added])
    return values, Growth(known=len(values), added=len(added), reused=reused, waiting=len(waiting) - len(added))


def _unseen(known: pa.Array, seen: pa.Table, today: int, since: int, reuse_days: int) -> np.ndarray:
    """Numbers of the known values that were not seen for `reuse_days` days, the one longest unseen first."""
    newest = seen.group_by("value").aggregate([("day", "max")])
    place = pc.index_in(known, value_set=newest["value"].combine_chunks())
    last = newest["day_max"].combine_chunks().take(place).fill_null(since).to_numpy(zero_copy_only=False)
    last = np.maximum(last, since)
    old = np.flatnonzero(today - last >= reuse_days)
    return old[np.argsort(last[old], kind="stable")]


def _write_lines(file: Path, values: pa.Array) -> None:
    with file.open("wb") as writer:
        for first in range(0, len(values), LINES):
            writer.write(b"".join(b"%b\n" % value for value in values[first : first + LINES].to_pylist()))
