"""Figures of a log: what ExampleGen counts while it writes, shard by shard; sums of shards are figures again."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from mixrank.schemas.naming import Declaration

# The file beside the examples that holds them.
REPORT = "report.json"
# Keys of each side of a join that are kept as examples, in the order of a hash of their plain form, so that keys
# that look alike are kept together.
EXAMPLE_KEYS = 32
# Distinct keys of a shard among which they are chosen.
LOOKED_AT = 100_000


class FileFigures(Declaration):
    """Files of a table that were read, and those passed over: hidden ones such as `_SUCCESS`, and empty parts."""

    read: int = 0
    hidden: int = 0
    empty: int = 0


class LabelFigures(Declaration):
    """Rows, and those with a label that is not 0."""

    rows: int = 0
    positives: int = 0


class HistoryFigures(Declaration):
    """Events of a history.

    Args:
        rows: rows of a split.
        empty: those without an event in the history.
        events: of all rows.
        cut_rows: rows with more events than `length`.
        cut_events: the older ones, which they do not have.
    """

    rows: int = 0
    empty: int = 0
    events: int = 0
    cut_rows: int = 0
    cut_events: int = 0


class JoinFigures(Declaration):
    """Rows of the log, and those that found their row in the joined table.

    Args:
        rows, matched: rows.
        log_keys: plain form -> a key of the log that found no row.
        table_keys: plain form -> a key of the table that no row of the log has.
    """

    rows: int = 0
    matched: int = 0
    log_keys: dict[str, str] = {}
    table_keys: dict[str, str] = {}


class FeatureFigures(Declaration):
    """Values of a feature.

    Args:
        present: split -> rows with a value.
        cut_rows: rows of all splits with more values than `max_length`.
        cut_values: values that were cut from them.
    """

    present: dict[str, int] = {}
    cut_rows: int = 0
    cut_values: int = 0


class Separation(Declaration):
    """How well one feature alone tells a label, on rows it was not counted on.

    Args:
        pairs: pairs of a positive and a negative row; of a label that is a number, of one above its median and another.
        ordered: those with the higher rate at the positive row; ties count half.
        rows: rows of all splits in which feature and label were compared.
        unequal: those in which the feature is not the label itself.
        present: those in which the feature has a value.
        present_positives: those of them with a label that is not 0, or above its median if it is a number.
    """

    pairs: int = 0
    ordered: float = 0.0
    rows: int = 0
    unequal: int = 0
    present: int = 0
    present_positives: int = 0

    @property
    def auc(self) -> float | None:
        """Area under the ROC curve within shards, None without pairs."""
        return self.ordered / self.pairs if self.pairs else None


class Figures(Declaration):
    """Counts of a log, or of a shard or a sample of it.

    Args:
        rows: split -> rows.
        rows_in_no_split: rows that no split takes.
        negatives_left_out: rows of the training split that `Label.keep_negatives` leaves out.
        rows_read: table -> rows in its files.
        bad_rows: table -> rows that did not parse.
        files: table -> its files.
        duplicates: rows of the log that were dropped, since an earlier one equals them.
        labels: label -> split -> scenario -> figures.
        histories: history -> split -> figures.
        joins: join -> figures.
        events: label of a `LabelFrom` -> the events, and those that belong to an impression.
        event_tables: event table -> its distinct rows, and those of a user with impressions.
        features: feature -> figures.
        alone: feature -> label -> how well it tells it alone.
        first_ms, last_ms: earliest and latest time, in milliseconds; None without rows.
        years: year, UTC -> rows.
        num_shards: user shards.
    """

    rows: dict[str, int] = {}
    rows_in_no_split: int = 0
    negatives_left_out: int = 0
    rows_read: dict[str, int] = {}
    bad_rows: dict[str, int] = {}
    files: dict[str, FileFigures] = {}
    duplicates: int = 0
    labels: dict[str, dict[str, dict[str, LabelFigures]]] = {}
    histories: dict[str, dict[str, HistoryFigures]] = {}
    joins: dict[str, JoinFigures] = {}
    events: dict[str, JoinFigures] = {}
    event_tables: dict[str, JoinFigures] = {}
    features: dict[str, FeatureFigures] = {}
    alone: dict[str, dict[str, Separation]] = {}
    first_ms: int | None = None
    last_ms: int | None = None
    years: dict[str, int] = {}
    num_shards: int = 0

    @classmethod
    def merged(cls, parts: Iterable[Figures]) -> Figures:
        """Figures of all rows of the parts."""
        whole: Any = None
        for part in parts:
            whole = part if whole is None else _sum(whole, part)
        return cls() if whole is None else whole

    def in_split(self, label: str, split: str) -> LabelFigures:
        """Rows and positives of a label in all scenarios of a split."""
        found = self.labels.get(label, {}).get(split, {}).values()
        return LabelFigures(rows=sum(f.rows for f in found), positives=sum(f.positives for f in found))


_EARLIEST, _EXAMPLES = "first_ms", ("log_keys", "table_keys")


def _sum(left: Any, right: Any, name: str = "") -> Any:
    if left is None or right is None:
        return right if left is None else left
    if isinstance(left, BaseModel):
        names = type(left).model_fields
        return left.model_copy(update={n: _sum(getattr(left, n), getattr(right, n), n) for n in names})
    if name in _EXAMPLES:
        return _chosen({**right, **left})
    if isinstance(left, dict):
        return {key: _sum(left.get(key), right.get(key)) for key in (*left, *(k for k in right if k not in left))}
    if name in (_EARLIEST, "last_ms"):
        return min(left, right) if name == _EARLIEST else max(left, right)
    return left + right


def plain(key: Any) -> str:
    """What keys have in common that look alike: without case, spaces, leading zeros and a decimal part of zero.

    >>> {plain(key) for key in ("00s3", " S3", "s3")}, {plain(key) for key in (7, "007", "7.0")}
    ({'s3'}, {'7'})
    """
    text = "".join(str(key).split()).casefold().strip("\"'")
    whole, dot, part = text.rpartition(".")
    if dot and whole and not part.strip("0"):
        text = whole
    return text.lstrip("0") or text[-1:]


def example_keys(keys: Iterable[Any]) -> dict[str, str]:
    """Plain form -> key, for as many keys as are kept."""
    found: dict[str, str] = {}
    for key in itertools.islice(keys, LOOKED_AT):
        found.setdefault(plain(key), str(key))
    return _chosen(found)


def _chosen(keys: dict[str, str]) -> dict[str, str]:
    return dict(sorted(keys.items(), key=lambda pair: zlib.crc32(pair[0].encode(errors="replace")))[:EXAMPLE_KEYS])
