"""The raw side of a log: which files hold it, how they join, how histories are cut and how rows are split.

A `Dataset` is a `FeatureSpec` (what a row is) and a `LogSource` (where it comes from). `schemas/datasets/` holds one
module per log; your own log is one more such module, or a file given by path.
"""

from __future__ import annotations

import datetime
import itertools
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, field_validator, model_validator

from mixrank.schemas.features import FeatureSpec
from mixrank.schemas.naming import Declaration, nearest
from mixrank.schemas.safe_text import shown

Format = Literal["parquet", "csv", "tsv", "json", "tfrecord"]


class Table(Declaration):
    """Files with the same columns, below the data folder.

    Names that begin with `_` or `.` and files without a byte are left out and counted. Each file has its own format.
    A folder such as `day=2026-01-05` on the way to a file is a column of text, `day`, of its rows.

    Args:
        files: glob patterns, relative to the data folder; each must match a file or a folder of files, and everything
            that they match is read. `**` stands for any number of folders.
        or_files: patterns of another layout of the same table, read where `files` match nothing.
        format: of all files: "parquet", "csv", "tsv", "json" (one object a line) or "tfrecord" (flat tf.Examples).
            None tells it from each ending: .parquet, .csv, .tsv, .jsonl, .tfrecord and the like, of all but Parquet
            also with .gz, .bz2, .xz, .zst or .lz4.
        separator: one character between the values of text; None is a tab for "tsv", else a comma.
        quotes: whether `"` encloses values of text, which may then hold separators and newlines; None: unless a tab
            separates.
        escape: "backslash" if a backslash in text takes the meaning from the character after it, as Spark writes
            quotes. None: a quote inside a value is written twice.
        columns: names of the columns of text files without a header line.
        rename: column in the file -> name used here. A file that lacks the column is read as it is.
        optional: bool. Whether the files may be missing altogether.
    """

    files: tuple[str, ...] = Field(min_length=1)
    or_files: tuple[str, ...] = ()
    format: Format | None = None
    separator: str | None = None
    quotes: bool | None = None
    escape: Literal["backslash"] | None = None
    columns: tuple[str, ...] | None = Field(default=None, min_length=1)
    rename: dict[str, str] = {}
    optional: bool = False

    @model_validator(mode="after")
    def _check(self) -> Table:
        if self.separator is not None and (len(self.separator) != 1 or not self.separator.isascii()):
            raise ValueError(f"`separator` must be one ASCII character, received {shown(self.separator)}")
        names = self.columns or ()
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"`columns` names `{twice[0]}` twice")
        return self


class Join(Declaration):
    """A table with at most one row per key, joined to the log: a left join.

    Args:
        table: the files.
        on: "user" or "item". The key of the spec to join on.
        min_matched: float in [0, 1]. Least share of the log's rows that must find their row in the table.
    """

    table: Table
    on: Literal["user", "item"]
    min_matched: float = Field(default=0.5, ge=0, le=1)


class Prior(Declaration):
    """Item id sequences per user from before the log begins, without a time per event.

    They enter the long-term history after all events of the log, with an unknown time gap.

    Args:
        table: the files, one row per user.
        items: list column with item ids.
        order: "oldest_first" or "newest_first". Order of the ids in `items`.
        flags: flag of the spec -> list column with the item ids that carry it.
        always: flags that every event in `items` carries.
    """

    table: Table
    items: str
    order: Literal["oldest_first", "newest_first"] = "oldest_first"
    flags: dict[str, str] = {}
    always: tuple[str, ...] = ()


class FromColumn(Declaration):
    """A derived column, which takes the name of the column it is computed from by position."""

    column: str = Field(kw_only=False)

    def __init__(self, column: str, **others: Any) -> None:
        super().__init__(column=column, **others)  # type: ignore[call-arg]

    # JSON is validated without it, or a missing name would be a TypeError.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


class Threshold(FromColumn):
    """Derived flag: `column >= at_least`."""

    type: Literal["threshold"] = "threshold"
    at_least: float


class Cut(FromColumn):
    """Derived text column: the name of the interval that holds `column`.

    Args:
        column: a numeric column.
        edges: increasing bounds; interval i is [edges[i-1], edges[i]).
        names: len(edges) + 1 interval names.
    """

    type: Literal["cut"] = "cut"
    edges: tuple[float, ...] = Field(min_length=1)
    names: tuple[str, ...]

    @model_validator(mode="after")
    def _check(self) -> Cut:
        if len(self.names) != len(self.edges) + 1:
            raise ValueError(
                f"`names` needs len(edges) + 1 = {len(self.edges) + 1} entries, received {len(self.names)}"
            )
        if list(self.edges) != sorted(set(self.edges)):
            raise ValueError(f"`edges` must increase, received {self.edges}")
        return self


Derived = Annotated[Threshold | Cut, Field(discriminator="type")]


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(f"`timezone` must be an IANA name such as 'Asia/Shanghai', received {shown(name)}") from error
    return name


Zone = Annotated[str, AfterValidator(_zone)]


class CalendarDay(Declaration):
    """Real time begins at the start of the impression's day.

    Args:
        timezone: IANA name of the zone whose calendar counts.
        starts_at: int in [0, 23]. Local hour at which a day begins.
    """

    type: Literal["calendar_day"] = "calendar_day"
    timezone: Zone = "UTC"
    starts_at: int = Field(default=0, ge=0, le=23)


class Popularity(Declaration):
    """Label rate, or number of rows, of each value of an item attribute on earlier days, over all users.

    With s positives among n rows of the value on all days before the impression's, and the rate r of all rows of those
    days: `logit((s + m r) / (n + m)) - logit(r)`, which is 0 for a value that was not seen. Without a label: n.

    Args:
        of: a categorical item feature.
        label: a label or flag, or None to count rows.
        smoothing: float > 0. Pseudo-count m, in rows.
        timezone: IANA name of the zone whose calendar counts.
        starts_at: int in [0, 23]. Local hour at which a day begins.
    """

    of: str
    label: str | None = None
    smoothing: float = Field(default=20.0, gt=0)
    timezone: Zone = "UTC"
    starts_at: int = Field(default=0, ge=0, le=23)


class Sliding(Declaration):
    """Real time begins `seconds` before the impression."""

    type: Literal["sliding"] = "sliding"
    seconds: int = Field(ge=1)


Window = Annotated[CalendarDay | Sliding, Field(discriminator="type")]


class SplitByDay(Declaration):
    """Rows go to the split whose days hold them; rows of no split still feed histories.

    Args:
        splits: split name -> (first day, last day), ISO dates, both included.
        timezone, starts_at: as in `CalendarDay`.
    """

    type: Literal["by_day"] = "by_day"
    splits: dict[str, tuple[str, str]]
    timezone: Zone = "UTC"
    starts_at: int = Field(default=0, ge=0, le=23)

    @field_validator("splits")
    @classmethod
    def _check_days(cls, splits: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
        for name, days in splits.items():
            for day in days:
                # Days are compared as text.
                if not _is_iso(day):
                    raise ValueError(f"days of split `{name}` must be written as 2022-04-25, received {shown(day)}")
        return splits


def _is_iso(day: str) -> bool:
    try:
        return datetime.date.fromisoformat(day).isoformat() == day
    except ValueError:
        return False


class SplitByUserTail(Declaration):
    """The last share of every user's rows is evaluated, the share before it validated, the rest trained on.

    Args:
        valid, eval: floats in [0, 1). Shares of each user's rows, the latest last. Rows of one time stay together,
            in the earlier split.
    """

    type: Literal["by_user_tail"] = "by_user_tail"
    valid: float = Field(default=0.1, ge=0, lt=1)
    eval: float = Field(default=0.1, gt=0, lt=1)


class SplitByHash(Declaration):
    """Users are dealt to splits by a stable hash of their key; no time order, for logs without one.

    Args:
        valid, eval: floats in [0, 1). Shares of users.
    """

    type: Literal["by_hash"] = "by_hash"
    valid: float = Field(default=0.1, ge=0, lt=1)
    eval: float = Field(default=0.1, gt=0, lt=1)


Split = Annotated[SplitByDay | SplitByUserTail | SplitByHash, Field(discriminator="type")]
SPLITS = ("train", "valid", "eval")


class LogSource(Declaration):
    """Source of the rows of a `FeatureSpec`.

    Args:
        log: impressions: keys, time, scenario, labels, flags and context features.
        joins: tables with user and item features.
        derive: new column -> how it is computed, after the joins.
        popularity: numeric item feature -> the rule that fills it from earlier days.
        prior: histories from before the log, or None.
        window: where the real-time history begins.
        split: how rows are dealt to `train`, `valid` and `eval`.
        max_bad_rows: float in [0, 1]. Share of a table's rows that may fail to parse before the run stops.
    """

    log: Table
    joins: tuple[Join, ...] = ()
    derive: dict[str, Derived] = {}
    popularity: dict[str, Popularity] = {}
    prior: Prior | None = None
    window: Window = CalendarDay()
    split: Split = SplitByUserTail()
    max_bad_rows: float = Field(default=0.001, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> LogSource:
        if isinstance(self.split, SplitByDay):
            for name, (first, last) in self.split.splits.items():
                if name not in SPLITS:
                    raise ValueError(f"`splits` has no split `{name}`{nearest(name, SPLITS)}")
                if first > last:
                    raise ValueError(f"split `{name}` begins after it ends: {first} > {last}")
            for one, other in itertools.combinations(self.split.splits, 2):
                (first, last), (begin, end) = self.split.splits[one], self.split.splits[other]
                if first <= end and begin <= last:
                    raise ValueError(f"splits `{one}` and `{other}` overlap: {first} - {last} and {begin} - {end}")
            if missing := {"train", "eval"} - set(self.split.splits):
                raise ValueError(f"`splits` must name {sorted(missing)}, received {sorted(self.split.splits)}")
        elif self.split.valid + self.split.eval >= 1:
            raise ValueError("`valid` + `eval` must be below 1")
        return self


class Dataset(Declaration):
    """A log, declared once: its columns and its source.

    Raises:
        ValueError: if the source names a flag or a column that the spec does not have.
    """

    spec: FeatureSpec
    source: LogSource

    @model_validator(mode="after")
    def _check(self) -> Dataset:
        prior = self.source.prior
        if prior is not None:
            for flag in (*prior.flags, *prior.always):
                if flag not in self.spec.flags:
                    raise ValueError(f"`prior` names flag {flag!r}{nearest(flag, self.spec.flags)}")
        self._check_popularity()
        sources = {rule.column: name for name, rule in self.source.derive.items() if name in self.spec.flags}
        for feature in self.spec.inputs:
            if feature.name in sources:
                raise ValueError(
                    f"`{feature.name}` cannot be a feature: outcome `{sources[feature.name]}` is derived from it"
                )
            if feature.name in self.spec.flags:
                raise ValueError(f"`{feature.name}` is an outcome and cannot be a feature of the row it belongs to")
        return self

    def _check_popularity(self) -> None:
        items = {f.name: f for f in self.spec.inputs if f.group == "item"}
        numbers = [name for name, feature in items.items() if feature.kind == "float"]
        attributes = [f.name for f in self.spec.categorical if f.group == "item" and f.max_values is None]
        for column, rule in self.source.popularity.items():
            if column not in numbers:
                raise ValueError(
                    f"`popularity` fills {column!r}, which must be a Numeric of group item{nearest(column, numbers)}"
                )
            if rule.of not in attributes:
                raise ValueError(
                    f"`popularity` of {column!r} is of {rule.of!r}, which must be a Categorical of group item"
                    f"{nearest(rule.of, attributes)}"
                )
            if rule.label is not None and rule.label not in self.spec.flags:
                raise ValueError(
                    f"`popularity` of {column!r} counts {rule.label!r}, which is not a label or flag"
                    f"{nearest(rule.label, self.spec.flags)}"
                )

    @property
    def split_names(self) -> tuple[str, ...]:
        """Splits that the source fills, in the order train, valid, eval."""
        split = self.source.split
        if isinstance(split, SplitByDay):
            return tuple(name for name in SPLITS if name in split.splits)
        return tuple(name for name in SPLITS if name != "valid" or split.valid > 0)
