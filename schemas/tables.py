"""The raw side of a log: which files hold it, how they join, how histories are cut and how rows are split.

A `Dataset` is a `FeatureSpec` (what a row is) and a `LogSource` (where it comes from). `schemas/datasets/` holds one
module per log; your own log is one more such module, or a file given by path.
"""

from __future__ import annotations

import datetime
import itertools
import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mixrank.schemas.features import EventTime, FeatureSpec, Zone
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
        decimal: "." or ",". Mark before the decimals of numbers written as text.
        thousands: character between groups of three digits of numbers written as text, such as "," or " ", or None.
        missing: texts that stand for a missing value, such as "N/A" or "-", besides empty text, `nan`, `NaN`, `null`,
            `NULL` and `\\N`, which always do.
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
    decimal: Literal[".", ","] = "."
    thousands: str | None = None
    missing: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_text(self) -> Table:
        mark = self.thousands
        if mark is not None and (len(mark) != 1 or mark.isalnum() or mark in "+-_" or mark == self.decimal):
            raise ValueError(
                f"`thousands` must be one character besides `decimal` ({self.decimal}), signs, letters and digits, "
                f"received {shown(mark)}"
            )
        if spaced := [text for text in self.missing if text != text.strip()]:
            raise ValueError(f"`missing` is compared without space around it, received {shown(spaced[0])}")
        return self

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


class LabelFrom(Declaration):
    """Label from a second table of events, such as clicks: 1 if an event follows the impression within some time.

    Every event belongs to the latest impression at or before it that has the same values in the columns `on`. A later
    impression sees in its histories only what had happened by then.

    Args:
        table: the events.
        within: longest time from an impression to its event: a number of s, m, h or d, such as "30m".
        on: columns that an impression and its event share, such as ("request_id", "item_id"); the keys of the spec if
            empty. With the user's key among them, each worker reads only the events of its users.
        time: time of the events; as that of the impressions if None.

    Raises:
        ValueError: if `within` is not such a time.
    """

    table: Table
    within: str
    on: tuple[str, ...] = ()
    time: EventTime | None = None

    @field_validator("within")
    @classmethod
    def _check_within(cls, within: str) -> str:
        if not re.fullmatch(r"[1-9][0-9]{0,8}[smhd]", within):
            raise ValueError(f"`within` must be a number of s, m, h or d, such as '30m', received {shown(within)}")
        return within

    @property
    def within_ms(self) -> int:
        return int(self.within[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[self.within[-1]] * 1000


class EventTable(Declaration):
    """What users did besides impressions, such as orders or searches: a table that histories are cut from.

        History("orders", events="orders", of=("item_id", "gap"), length=20, window="before")     # in the spec
        events={"orders": EventTable(table=Table(files=("orders/*.parquet",)))}                   # in the source

    A row has the key of the user, a time, and what the histories of the table list: a column of its own, or for an item
    feature that it lacks, the column of the first table of items that has it, joined by the key of the items. An
    impression knows the rows with an earlier time; all columns of a row are taken as known from its time on.

    Args:
        table: the events; rows that are equal in all columns count once.
        time: time of the events; as that of the impressions if None.
    """

    table: Table
    time: EventTime | None = None

    @field_validator("table")
    @classmethod
    def _check_table(cls, table: Table) -> Table:
        if table.optional:
            raise ValueError("the table of an `EventTable` must be there, but has optional=True")
        return table


class Explode(Declaration):
    """A log with one row per request, whose candidates are lists: every candidate becomes a row.

        Explode(("item_id", "price"), position="place", chosen={"click": "clicked_items"})

    Args:
        columns: list columns with one entry per candidate, the key of the items first.
        position: numeric or categorical feature that is filled with the place of the candidate, from 1, or None.
        chosen: label or flag -> column with the items that have it: one item, or a list.
        separator: splits text into a list; None for lists as Parquet, JSON and TFRecord have them.
    """

    columns: tuple[str, ...] = Field(min_length=1, kw_only=False)
    position: str | None = None
    chosen: dict[str, str] = {}
    separator: str | None = Field(default=None, min_length=1)

    def __init__(self, columns: tuple[str, ...], **others: Any) -> None:
        super().__init__(columns=columns, **others)  # type: ignore[call-arg]

    # JSON is validated without it, or a missing name would be a TypeError.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


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
        edges: increasing bounds; interval i is [edges[i-1], edges[i]). None at all make one interval of everything.
        names: len(edges) + 1 interval names.
    """

    type: Literal["cut"] = "cut"
    edges: tuple[float, ...]
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
    """Label rate, or number of rows, of the value of a column, or of a combination, on earlier days, over all users.

    With s positives among n rows of the value on all days before the impression's, and the rate r of all rows of those
    days: `logit((s + m r) / (n + m)) - logit(r)`, which is 0 for a value that was not seen. Without a label: n.

    Args:
        of: what is counted: a categorical feature, the scenario or a key, or several of them whose combinations are. Of
            a `MultiCategorical` each value is counted, and a row's own values are added up; one of them at most.
        label: a label or flag, or None to count rows.
        smoothing: float > 0. Pseudo-count m, in rows.
        half_life: float > 0 or None. Days in which a count loses half of its weight: rows of the day before weigh 1,
            those of k days before it `2^(-k / half_life)`, in s, n and r alike.
        timezone: IANA name of the zone whose calendar counts.
        starts_at: int in [0, 23]. Local hour at which a day begins.
    """

    of: str | tuple[str, ...]
    label: str | None = None
    smoothing: float = Field(default=20.0, gt=0)
    half_life: float | None = Field(default=None, gt=0)
    timezone: Zone = "UTC"
    starts_at: int = Field(default=0, ge=0, le=23)

    @field_validator("of")
    @classmethod
    def _check_of(cls, of: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not of or (len(set(of)) != len(of) and not isinstance(of, str)):
            raise ValueError(f"`of` must be a column, or several distinct ones, received {shown(of)}")
        return of

    @property
    def parts(self) -> tuple[str, ...]:
        """The columns whose values are counted together."""
        return (self.of,) if isinstance(self.of, str) else self.of


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

    In a log without users, rows are dealt.

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
        explode: how the candidates of a request become rows, or None if the log has a row per candidate.
        labels: label or flag -> the events that make it, in a table of their own.
        joins: tables with user and item features.
        derive: new column -> how it is computed, after the joins.
        popularity: numeric item feature -> the rule that fills it from earlier days.
        prior: histories from before the log, or None.
        events: name -> events besides impressions, for histories that name them in `events`.
        window: where the real-time history begins.
        split: how rows are dealt to `train`, `valid` and `eval`.
        max_bad_rows: float in [0, 1]. Share of a table's rows that may fail to parse before the run stops.
    """

    log: Table
    explode: Explode | None = None
    labels: dict[str, LabelFrom] = {}
    joins: tuple[Join, ...] = ()
    derive: dict[str, Derived] = {}
    popularity: dict[str, Popularity] = {}
    prior: Prior | None = None
    events: dict[str, EventTable] = {}
    window: Window = CalendarDay()
    split: Split = SplitByUserTail()
    max_bad_rows: float = Field(default=0.001, ge=0, le=1)

    @field_validator("events")
    @classmethod
    def _check_events(cls, events: dict[str, EventTable]) -> dict[str, EventTable]:
        for name in events:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
                raise ValueError(
                    f"names in `events` must be letters, digits and underscores and begin with a letter, received "
                    f"{shown(name)}"
                )
        return events

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
        for history in self.spec.histories:
            if history.events is not None and history.events not in self.source.events:
                raise ValueError(
                    f"history `{history.name}` is of the events {history.events!r}, which `events` of the source does "
                    f"not declare{nearest(history.events, self.source.events)}"
                )
        self._check_popularity()
        self._check_rows()
        sources = {rule.column: name for name, rule in self.source.derive.items() if name in self.spec.flags}
        for name in (*(feature.name for feature in self.spec.inputs), *self.spec.weights):
            if name in sources:
                raise ValueError(f"`{name}` cannot be a feature: outcome `{sources[name]}` is derived from it")
            if name in self.spec.flags:
                raise ValueError(f"`{name}` is an outcome and cannot be a feature of the row it belongs to")
        return self

    def _check_popularity(self) -> None:
        spec = self.spec
        numbers = {f.name: f for f in spec.inputs if f.kind == "float" and f.max_values is None}
        counted = {feature.name: feature for feature in spec.categorical}
        keys = [key.name for key in (spec.user, spec.item) if not key.per_row]
        of_item = {spec.item.name, *(name for name, feature in counted.items() if feature.group == "item")}
        for column, rule in self.source.popularity.items():
            if column not in numbers:
                raise ValueError(f"`popularity` fills {column!r}, which must be a Numeric{nearest(column, numbers)}")
            for name in rule.parts:
                if name not in (known := [*counted, spec.scenario.name, *keys]):
                    raise ValueError(
                        f"`popularity` of {column!r} is of {name!r}, which must be a categorical feature, the scenario "
                        f"or a key{nearest(name, known)}"
                    )
            several = [name for name in rule.parts if name in counted and counted[name].max_values is not None]
            if len(several) > 1:
                raise ValueError(
                    f"`popularity` of {column!r} is of `{several[0]}` and `{several[1]}`: only one may have several "
                    "values in a row"
                )
            if (numbers[column].group == "item") is not bool(of_item.intersection(rule.parts)):
                group = "item" if of_item.intersection(rule.parts) else "user or context"
                raise ValueError(
                    f"`popularity` of {column!r} is of {shown(rule.of)}: its Numeric must be of group {group}, not "
                    f"{numbers[column].group}"
                )
            if rule.label is not None and rule.label not in self.spec.flags:
                raise ValueError(
                    f"`popularity` of {column!r} counts {rule.label!r}, which is not a label or flag"
                    f"{nearest(rule.label, self.spec.flags)}"
                )

    def _check_rows(self) -> None:
        spec, source, explode = self.spec, self.source, self.source.explode
        if spec.user.per_row:
            needs = ["a prior"] if source.prior is not None else []
            needs += [f"join {n}, on the user," for n, join in enumerate(source.joins) if join.on == "user"]
            needs += ["SplitByUserTail"] if isinstance(source.split, SplitByUserTail) else []
            if needs:
                raise ValueError(f"{needs[0]} needs a user, but key `{spec.user.name}` is per_row")
        for label, rule in source.labels.items():
            if label not in spec.flags:
                raise ValueError(f"`labels` makes {label!r}, which is no label or flag{nearest(label, spec.flags)}")
            if label in source.derive:
                raise ValueError(f"`{label}` is made twice: in `labels` and in `derive`")
            if spec.user.per_row and (not rule.on or spec.user.name in rule.on):
                raise ValueError(f"`labels` of {label!r} needs `on`, because key `{spec.user.name}` is per_row")
        if explode is None:
            return
        if explode.columns[0] != spec.item.name:
            raise ValueError(
                f"`columns` of `explode` must begin with the key of the items, `{spec.item.name}`, received "
                f"`{explode.columns[0]}`"
            )
        fixed = {spec.user.name: "the key of the users", spec.time.name: "the time"}
        fixed |= {f.name: f"a {type(f).__name__}" for f in spec.inputs if f.max_values is not None}
        fixed |= {column: f"the weights of `{feature.name}`" for column, feature in spec.weights.items()}
        in_rows = [history for history in spec.histories if history.in_row is not None]
        fixed |= {history.column(field): f"history `{history.name}`" for history in in_rows for field in history.of}
        fixed |= {spec.request.name: "the request"} if spec.request is not None else {}
        for name in explode.columns:
            if name in fixed:
                raise ValueError(f"`explode` lists `{name}` in `columns`, which is {fixed[name]} and not one per item")
        for label in explode.chosen:
            if label not in spec.flags:
                raise ValueError(f"`explode` fills {label!r}, which is no label or flag{nearest(label, spec.flags)}")
            if label in {*source.derive, *source.labels, *explode.columns}:
                raise ValueError(f"`{label}` is made twice: by `chosen` of `explode` and elsewhere")
        places = [f.name for f in spec.inputs if f.kind != "str" and f.max_values is None]
        if explode.position is not None and explode.position not in places:
            raise ValueError(
                f"`position` of `explode` fills {explode.position!r}, which must be a Numeric or an int Categorical"
                f"{nearest(explode.position, places)}"
            )

    @property
    def split_names(self) -> tuple[str, ...]:
        """Splits that the source fills, in the order train, valid, eval."""
        split = self.source.split
        if isinstance(split, SplitByDay):
            return tuple(name for name in SPLITS if name in split.splits)
        return tuple(name for name in SPLITS if name != "valid" or split.valid > 0)
