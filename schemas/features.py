"""Feature declarations: what one row of a ranking log is.

A feature is one line of a `FeatureSpec`; TFMD schema, Transform, model inputs, embeddings, serving signatures and
documentation are folds over it, with one branch per feature *type* and nothing per feature *name*.

    spec = FeatureSpec(
        name="clips",
        user=Key("user_id"),
        item=Key("video_id"),
        time=EventTime("time_ms", unit="ms"),
        scenario=Scenario("tab", values=(0, 1, 2)),
        labels=(Label("is_click"),),
        features=(
            Categorical("video_id", group="item", vocab=Vocab(min_count=5, oov=16), dim=16),
            Numeric("duration_ms", group="item", transform="log1p"),
            Action("action", flags=("is_click",)),
            TimeGap("gap"),
            History("global", of=("video_id", "action", "gap"), length=50, window="before"),
        ),
    )

Ids after Transform: 0 is padding or a missing value. With `Vocab`, 1..V are the vocabulary by descending frequency and
V+1..V+oov are out-of-vocabulary buckets. With `Hash`, they are 1..size^functions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeGuard, assert_never
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, field_validator, model_validator

from mixrank.schemas.naming import Declaration, nearest
from mixrank.schemas.safe_text import shown
from mixrank.schemas.task_kinds import label_kind

Group = Literal["user", "item", "context"]
Dtype = Literal["int", "str"]
Kind = Literal["int", "float", "str"]
GROUPS: tuple[Group, ...] = ("user", "item", "context")
# Columns of a transformed row that identify it; the model does not read them.
KEYS = {"user": "key_user", "item": "key_item", "time": "key_time", "request": "key_request"}


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(f"`timezone` must be an IANA name such as 'Asia/Shanghai', received {shown(name)}") from error
    return name


Zone = Annotated[str, AfterValidator(_zone)]


class Vocab(Declaration):
    """Ids from a vocabulary counted on the training split.

    Args:
        min_count: int >= 1. Values seen less often go to the out-of-vocabulary buckets.
        oov: int >= 1. Number of hashed out-of-vocabulary buckets.
        max_size: int or None. Keep only the most frequent values.
    """

    # Every value has a row of its own.
    functions: ClassVar[int] = 1

    type: Literal["vocab"] = "vocab"
    min_count: int = Field(default=1, ge=1)
    oov: int = Field(default=1, ge=1)
    max_size: int | None = Field(default=None, ge=1)


class Hash(Declaration):
    """Ids from a stable hash of the value, without a vocabulary.

    With several functions, a value has a bucket in each, all in one table, and its embedding is the sum of their rows
    (D. T. Svenstrup, J. Hansen, O. Winther, "Hash Embeddings for Efficient Word Representations", NeurIPS 2017, without
    its importance weights; C. Zhang et al., "Model Size Reduction Using Frequency Based Double Hashing for Recommender
    Systems", RecSys 2020, for every value alike). Two values have the same embedding only where they share all buckets,
    in any order. Of n values, a share of about `1 - exp(-n / size)` does so with one function, and
    `1 - exp(-2 n / size^2)` with two.

    One number holds all buckets of a value: its id is `1 + fingerprint mod size^functions`, and the digits of `id - 1`
    to the base `size` are the buckets.

    Args:
        size: int >= 1. Number of buckets, and of the table's rows besides that of a missing value.
        functions: int >= 1. Number of hash functions; `size^functions` must be below 2^63.
    """

    type: Literal["hash"] = "hash"
    size: int = Field(ge=1)
    functions: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _check_ids(self) -> Hash:
        # No power of a huge number: it would never end.
        if self.size > 1 and self.functions * math.log2(self.size) >= 63:
            raise ValueError(
                f"`size` ** `functions` of Hash must be below 2 ** 63, received {self.size} ** {self.functions}"
            )
        return self

    @property
    def ids(self) -> int:
        """Number of ids besides 0."""
        return self.size**self.functions


Encoding = Annotated[Vocab | Hash, Field(discriminator="type")]


class Named(Declaration):
    """A declaration that takes the name of its column by position."""

    name: str = Field(kw_only=False)

    def __init__(self, name: str, **others: Any) -> None:
        super().__init__(name=name, **others)  # type: ignore[call-arg]

    # JSON is validated without it, or a missing name would be a TypeError.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise ValueError(
                f"`name` must be letters, digits and underscores and begin with a letter, received {shown(name)}"
            )
        return name


class Key(Named):
    """Column that identifies the user or the item of a row; passed through, not read by the model.

    A feature of the same name reads the same column.

    Args:
        dtype: "int" or "str". As "str", keys are compared by their text: `007` and `7` are two keys. As "int" they
            are one, and a key that is no whole number makes its row bad.
        per_row: bool. Whether no column has it and every row gets a key of its own: the user of a log without users.
    """

    dtype: Dtype = "int"
    per_row: bool = False

    @model_validator(mode="after")
    def _check_dtype(self) -> Key:
        if self.per_row and self.dtype != "int":
            raise ValueError(f"key `{self.name}` with per_row=True has dtype='int': rows are numbered")
        return self


class Request(Named):
    """Column that says which rows one ranking request had shown together; the model does not read it.

    With it, models are also judged by the order of the items inside each request. A row of the log without a value is
    bad. A served request and a file to be scored do not need the column.

    Args:
        dtype: "int" or "str", as in `Key`.
    """

    dtype: Dtype = "int"


class EventTime(Named):
    """Column with the time of the impression; milliseconds since 1970-01-01 UTC are used inside.

    Timestamps and dates of Parquet files are read in either format.

    Args:
        format: "epoch" (a number of units since 1970-01-01 UTC) or "iso" (text in ISO 8601, such as
            `2024-01-05T18:30:00.25+01:00`, `2024-01-05 18:30` or `2024-01-05`; a date may also be the number 20240105).
        unit: "s", "ms", "us" or "ns". Unit of an epoch.
        timezone: IANA name of the zone of texts, timestamps and dates that name none. A time in the hour that a clock
            change repeats is the first one, a time in the hour that it skips moves on by an hour.
    """

    format: Literal["epoch", "iso"] = "epoch"
    unit: Literal["s", "ms", "us", "ns"] = "ms"
    timezone: Zone = "UTC"

    @model_validator(mode="after")
    def _check_unit(self) -> EventTime:
        if self.format == "iso" and self.unit != "ms":
            raise ValueError(f"time `{self.name}`: `unit` belongs to format='epoch'; ISO 8601 text has none")
        return self


class Scenario(Named):
    """Column with the scenario (surface, tab, page) of an impression; also a context feature of the model.

    Ids are 1-based positions in `values`; a value outside it gets id `len(values) + 1`.

    Args:
        values: the known scenarios, all int or all str.
        labels: display names, one per value; the values themselves if empty.
        dim: int >= 1. Embedding width.
    """

    values: tuple[int, ...] | tuple[str, ...] = Field(min_length=1)
    labels: tuple[str, ...] = ()
    dim: int = Field(default=8, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Scenario:
        if len(set(self.values)) != len(self.values):
            raise ValueError(f"`values` of scenario {self.name!r} must be distinct, received {self.values}")
        if self.labels and len(self.labels) != len(self.values):
            raise ValueError(f"`labels` needs one entry per value ({len(self.values)}), received {len(self.labels)}")
        return self

    @property
    def dtype(self) -> Dtype:
        return "int" if isinstance(self.values[0], int) else "str"

    def label_of(self, value: int | str) -> str:
        """Display name of a raw scenario value."""
        if self.labels and value in self.values:
            return self.labels[self.values.index(value)]
        return str(value)


class Label(Named):
    """Label of a task.

    Args:
        weight: float > 0. Weight of the task in the loss.
        kind: what its values are, and so how it is learned and judged; a name in `LABEL_KINDS`, such as "binary".
        scale: float > 0. Unit in which a label that is a number is learned: the loss sees label / scale, predictions
            are in the label's own unit. Take about the size of a typical label, such as 1000 for milliseconds.
        given: another label of the spec. The task is one of the rows with that label alone, such as a purchase given a
            click: all others count neither in the loss nor in metrics, baselines and plots, and may lack this label.
    """

    weight: float = Field(default=1.0, gt=0)
    kind: str = "binary"
    scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    given: str | None = None

    @field_validator("kind")
    @classmethod
    def _check_kind(cls, kind: str) -> str:
        return label_kind(kind).name

    @model_validator(mode="after")
    def _check_scale(self) -> Label:
        if self.scale != 1 and self.is_flag:
            raise ValueError(f"label `{self.name}`: `scale` is for labels that are numbers, not for kind={self.kind!r}")
        return self

    def counted(self, columns: Mapping[str, Any]) -> Any:
        """Index of the rows that count for the task, for arrays beside those of `columns`: all, or a mask."""
        return slice(None) if self.given is None else columns[self.given] > 0

    @property
    def is_flag(self) -> bool:
        """Whether it says that something happened or not."""
        return label_kind(self.kind).is_flag


class Valued(Named):
    """A feature with values of its own, in a row or in every event of a history."""

    @property
    def kind(self) -> Kind:
        """Type of the raw values."""
        raise NotImplementedError

    @property
    def max_values(self) -> int | None:
        """Most values per row or event; None for a single value."""
        return None

    @property
    def width(self) -> int:
        """Transformed values per row or event."""
        return self.max_values or 1

    @property
    def functions(self) -> int:
        """Rows of its embedding table whose sum is the embedding of a value."""
        return 1

    @property
    def is_number(self) -> bool:
        """Whether its values enter the model as numbers, `width` of them, without an embedding."""
        return False

    @property
    def never_missing(self) -> bool:
        """Whether every event has it, so that its id in a history is 0 only after the last event."""
        return False


class Categorical(Valued):
    """One categorical value per row.

    Args:
        group: "user", "item" or "context".
        vocab: `Vocab` or `Hash`.
        dim: int >= 1. Embedding width.
        dtype: "int" or "str". Type of the raw column.
        required: bool. Whether a serving request must carry it.
        drift: float in (0, 1] or None. L-infinity distance between training and evaluation above which
            validation stops the run.
    """

    type: Literal["categorical"] = "categorical"
    group: Group
    vocab: Encoding = Vocab()
    dim: int = Field(default=16, ge=1)
    dtype: Dtype = "int"
    required: bool = False
    drift: float | None = Field(default=None, gt=0, le=1)

    @property
    def kind(self) -> Kind:
        return self.dtype

    @property
    def functions(self) -> int:
        return self.vocab.functions


class MultiCategorical(Valued):
    """Up to `max_length` categorical values per row (tags, genres), pooled by their mean.

    Args:
        separator: str or None. Splits a text column into values; None for a list column.
        max_length: int >= 1. Values after it are dropped.
        (others as in `Categorical`)
    """

    type: Literal["multi_categorical"] = "multi_categorical"
    group: Group
    vocab: Encoding = Vocab()
    dim: int = Field(default=16, ge=1)
    dtype: Dtype = "str"
    separator: str | None = None
    max_length: int = Field(default=4, ge=1)
    required: bool = False
    drift: float | None = Field(default=None, gt=0, le=1)

    @property
    def kind(self) -> Kind:
        return self.dtype

    @property
    def functions(self) -> int:
        return self.vocab.functions

    @property
    def max_values(self) -> int:
        return self.max_length


class Numeric(Valued):
    """One number per row.

    Args:
        transform: "none", "log1p" (sign(x) log(1 + |x|)), "standardize" (zero mean, unit variance over training),
            "log1p_standardize" (both, in this order) or "bucketize" (quantiles over training, then an embedding).
        buckets: int >= 2. Number of quantiles, only for "bucketize".
        dim: int >= 1. Embedding width, only for "bucketize"; the other transforms enter the model as one number.
        default: float. Value, before the transform, of a missing number.
        drift: float in (0, 1] or None. Jensen-Shannon divergence above which validation stops the run.
    """

    type: Literal["numeric"] = "numeric"
    group: Group
    transform: Literal["none", "log1p", "standardize", "log1p_standardize", "bucketize"] = "standardize"
    buckets: int = Field(default=16, ge=2)
    dim: int = Field(default=8, ge=1)
    default: float = Field(default=0.0, allow_inf_nan=False)
    required: bool = False
    drift: float | None = Field(default=None, gt=0, le=1)

    @property
    def kind(self) -> Kind:
        return "float"

    @property
    def is_number(self) -> bool:
        return self.transform != "bucketize"


class Action(Valued):
    """History-only field: what the user did with a past item, as the bit mask of `flags`.

    Bit i is set if column `flags[i]` of the past row is non-zero. These columns are outcomes: they enter the history
    of later impressions, never the current row.
    """

    type: Literal["action"] = "action"
    flags: tuple[str, ...] = Field(min_length=1, max_length=8)
    dim: int = Field(default=8, ge=1)

    @property
    def kind(self) -> Kind:
        return "int"

    @property
    def never_missing(self) -> bool:
        return True


class TimeGap(Valued):
    """History-only field: seconds from the past event to the impression, as id `2 + floor(log2(1 + seconds))`.

    Id 1 stands for an unknown time (a raw value of -1).
    """

    type: Literal["time_gap"] = "time_gap"
    buckets: int = Field(default=32, ge=2, le=64)
    dim: int = Field(default=8, ge=1)

    @property
    def kind(self) -> Kind:
        return "int"

    @property
    def never_missing(self) -> bool:
        return True


class History(Named):
    """The user's earlier events, newest first, strictly before the impression.

    Args:
        of: names of item features, `Action` or `TimeGap` fields. A field that names an item feature shares its
            vocabulary and embedding table.
        length: int >= 1. Number of events kept.
        window: "before" (the long-term history, which ends where the window named in the table spec begins) or
            "within" (the real-time history, from there to the impression).
        only: str or None. Keep only past events whose flag of this name is non-zero.
    """

    type: Literal["history"] = "history"
    of: tuple[str, ...] = Field(min_length=1)
    length: int = Field(ge=1)
    window: Literal["before", "within"]
    only: str | None = None

    def column(self, field: str) -> str:
        """Column of a field: `global_video_id`."""
        return f"{self.name}_{field}"


class Match(Valued):
    """How often the row's own value occurs in the user's histories, how recently, and with which outcomes.

    Computed by Transform from the row's value and its histories, in training and in the exported graph alike: neither a
    log nor a request has a column of it. Values are compared as they are, not by their ids, so that rare ones match as
    well; a row and an event with several values match if they share one. Of the n events that match, n_f have flag f,
    and the newest known time is s seconds ago:

        log(1 + n),   1 / (1 + log(1 + s / 3600)),   n_f / (n + 1) for each flag

    All are 0 without a match.

    Args:
        of: name of a categorical item feature that histories list.
        histories: names of the histories that are searched; all that list `of` if empty.
        recency: bool. Whether the time of the newest match is one of the numbers; its histories then list a `TimeGap`.
        flags: outcomes to count; each a flag of an `Action` in its histories.
    """

    type: Literal["match"] = "match"
    of: str
    histories: tuple[str, ...] = ()
    recency: bool = True
    flags: tuple[str, ...] = ()

    @property
    def group(self) -> Group:
        """That of what it depends on and differs between the candidates of a request."""
        return "item"

    @property
    def kind(self) -> Kind:
        return "float"

    @property
    def max_values(self) -> int:
        return 1 + self.recency + len(self.flags)

    @property
    def dim(self) -> int:
        """Width of its vector, the numbers themselves."""
        return self.width

    @property
    def is_number(self) -> bool:
        return True


# Looked up in a vocabulary or by a hash; a raw column of the row; what a model reads of a row besides histories; one
# value per event of a history; all there are. A fold takes one of these unions apart and ends with `assert_never`, so
# that a new type is an error wherever it is forgotten.
AnyCategorical = Categorical | MultiCategorical
RowFeature = AnyCategorical | Numeric
ModelFeature = RowFeature | Match
EventField = AnyCategorical | Action | TimeGap
Feature = ModelFeature | Action | TimeGap | History


def is_of_row(feature: Feature) -> TypeGuard[RowFeature]:
    """Whether a feature is a raw column of the row."""
    match feature:
        case Categorical() | MultiCategorical() | Numeric():
            return True
        case Match() | Action() | TimeGap() | History():
            return False
        case _:
            assert_never(feature)


def is_read(feature: Feature) -> TypeGuard[ModelFeature]:
    """Whether a model reads the feature as a vector of the row."""
    return is_of_row(feature) or isinstance(feature, Match)


def is_of_event(feature: Feature) -> TypeGuard[EventField]:
    """Whether a history may list the feature."""
    match feature:
        case Categorical() | MultiCategorical():
            return feature.group == "item"
        case Action() | TimeGap():
            return True
        case Numeric() | Match() | History():
            return False
        case _:
            assert_never(feature)


class FeatureSpec(Declaration):
    """All columns of a row: keys, time, scenario, labels and features.

    Args:
        name: name of the log.
        user, item: key columns; `user=Key("row", per_row=True)` for a log without users.
        time: event time column.
        scenario: scenario column.
        labels: one per task, in the order of the model's heads.
        features: everything the model reads besides the scenario.
        request: column of the ranking request, or None if the log has none.

    Raises:
        ValueError: names that collide, or a history of a field that does not exist; the nearest name is in the text.
    """

    name: str
    user: Key
    item: Key
    time: EventTime
    scenario: Scenario
    labels: tuple[Label, ...] = Field(min_length=1)
    features: tuple[Annotated[Feature, Field(discriminator="type")], ...] = Field(min_length=1)
    request: Request | None = None

    @model_validator(mode="after")
    def _check(self) -> FeatureSpec:
        if self.user.name == self.item.name:
            raise ValueError(f"`user` and `item` must be two columns, both are `{self.user.name}`")
        owners = dict.fromkeys(KEYS.values(), "the name of a key after Transform")
        outputs = [column for feature in self.features for column in _columns(feature)]
        for column, owner in (
            [(self.time.name, "time"), (self.scenario.name, "scenario")]
            + ([(self.request.name, "request")] if self.request else [])
            + [(label.name, "label") for label in self.labels]
            + outputs
        ):
            if column in owners:
                raise ValueError(f"column `{column}` is declared twice: as {owners[column]} and as {owner}")
            owners[column] = owner
        if self.request is not None and self.request.name in (self.user.name, self.item.name):
            raise ValueError(f"`request` must be a column of its own, `{self.request.name}` is the user or the item")
        named = {self.scenario.name}
        for feature in self.features:
            if feature.name in named:
                raise ValueError(f"two features are called `{feature.name}`; tables and histories need distinct names")
            named.add(feature.name)
        for key in (self.user, self.item):
            shared = self.get(key.name)
            if key.name in owners and not isinstance(shared, Categorical):
                raise ValueError(
                    f"key `{key.name}` may share its column with a Categorical only, not {owners[key.name]}"
                )
            if isinstance(shared, Categorical) and shared.dtype != key.dtype:
                raise ValueError(f"key and feature `{key.name}` differ in dtype: {key.dtype} and {shared.dtype}")
        if self.item.per_row:
            raise ValueError(f"item `{self.item.name}` cannot have per_row=True; only a user may have no column")
        if self.user.per_row and self.user.name in owners:
            raise ValueError(f"key `{self.user.name}` with per_row=True has no column for {owners[self.user.name]}")
        for label in self.labels:
            others = [other.name for other in self.labels if other.name != label.name and other.is_flag]
            if label.given is not None and label.given not in others:
                raise ValueError(
                    f"label `{label.name}` is given {label.given!r}, which must be another binary label"
                    f"{nearest(label.given, others)}"
                )
        self._check_histories()
        self._check_matches()
        return self

    def _check_histories(self) -> None:
        fields = [feature.name for feature in self.features if is_of_event(feature)]
        windows: dict[str, str] = {}
        for history in self.histories:
            if self.user.per_row:
                raise ValueError(f"history `{history.name}` needs a user, but key `{self.user.name}` is per_row")
            for field in history.of:
                if field not in fields:
                    raise ValueError(
                        f"history `{history.name}` has no field `{field}`: a field is a categorical item feature, "
                        f"an Action or a TimeGap{nearest(field, fields)}"
                    )
            if history.window in windows:
                raise ValueError(
                    f"histories `{windows[history.window]}` and `{history.name}` both have window={history.window!r}"
                )
            windows[history.window] = history.name
            if history.only is not None and history.only not in self.flags:
                raise ValueError(
                    f"history `{history.name}`: `only` names {history.only!r}, which is neither a flag of an Action "
                    f"nor a label{nearest(history.only, self.flags)}"
                )
        used = {field for history in self.histories for field in history.of}
        for feature in self.features:
            if is_of_event(feature) and not is_of_row(feature) and feature.name not in used:
                raise ValueError(f"`{feature.name}` is a history-only field but no history lists it in `of`")

    def _check_matches(self) -> None:
        for match in self.matches:
            what = f"match `{match.name}`"
            fields = [feature.name for feature in self.inputs if any(feature.name in h.of for h in self.histories)]
            if match.of not in fields:
                raise ValueError(
                    f"{what} is of `{match.of}`, which must be a categorical item feature that a history lists"
                    f"{nearest(match.of, fields)}"
                )
            listed = [history.name for history in self.histories if match.of in history.of]
            for name in match.histories:
                if name not in listed:
                    raise ValueError(
                        f"{what} names history `{name}`, which must be one that lists `{match.of}`"
                        f"{nearest(name, listed)}"
                    )
            for history in self.searched(match):
                if match.recency and self.gap_of(history) is None:
                    raise ValueError(
                        f"{what} tells how long ago an event was, and history `{history.name}` lists no TimeGap: list "
                        "one, or set recency=False"
                    )
                for flag in match.flags:
                    if flag not in (known := self.flags_of(history)):
                        raise ValueError(
                            f"{what} counts {flag!r}, which is no flag of an Action in history `{history.name}`"
                            f"{nearest(flag, known)}"
                        )

    def get(self, name: str) -> Feature | None:
        """The feature of this name, or None."""
        return next((feature for feature in self.features if feature.name == name), None)

    @property
    def row_keys(self) -> dict[str, Key | EventTime | Request]:
        """Role in `KEYS` -> the column that identifies a row by it."""
        found: dict[str, Key | EventTime | Request] = {"user": self.user, "item": self.item, "time": self.time}
        return found if self.request is None else {**found, "request": self.request}

    @property
    def key_columns(self) -> list[str]:
        """Names of the columns that together identify a row: user, item and time, then the request if there is one."""
        return [key.name for key in self.row_keys.values()]

    @property
    def histories(self) -> tuple[History, ...]:
        return tuple(feature for feature in self.features if isinstance(feature, History))

    @property
    def inputs(self) -> tuple[RowFeature, ...]:
        """The raw columns of a row, in declaration order."""
        return tuple(feature for feature in self.features if is_of_row(feature))

    @property
    def model_features(self) -> tuple[ModelFeature, ...]:
        """What a model reads as one vector each: `inputs` and what is computed from them, in declaration order."""
        return tuple(feature for feature in self.features if is_read(feature))

    @property
    def matches(self) -> tuple[Match, ...]:
        return tuple(feature for feature in self.features if isinstance(feature, Match))

    def gap_of(self, history: History) -> str | None:
        """Column of a history that says how long ago each event was, or None."""
        fields = self.history_fields(history)
        return next((column for column, field in fields if isinstance(field, TimeGap)), None)

    def flags_of(self, history: History) -> dict[str, tuple[str, int]]:
        """Flag -> column of the history whose bit masks hold it, and its bit."""
        return {
            flag: (column, bit)
            for column, field in self.history_fields(history)
            if isinstance(field, Action)
            for bit, flag in enumerate(field.flags)
        }

    def searched(self, match: Match) -> tuple[History, ...]:
        """The histories in which a match looks for the row's value."""
        return tuple(
            h for h in self.histories if match.of in h.of and (not match.histories or h.name in match.histories)
        )

    @property
    def categorical(self) -> tuple[AnyCategorical, ...]:
        """The features whose raw values are categories, in declaration order."""
        return tuple(feature for feature in self.inputs if not isinstance(feature, Numeric))

    @property
    def vocabularies(self) -> dict[str, Vocab]:
        """Feature -> how its vocabulary is counted, for those that have one."""
        return {feature.name: feature.vocab for feature in self.categorical if isinstance(feature.vocab, Vocab)}

    @property
    def flags(self) -> tuple[str, ...]:
        """Outcome columns a history may read: labels that are flags, then those of every Action, without repetition."""
        names = [label.name for label in self.labels if label.is_flag]
        names += [flag for feature in self.features if isinstance(feature, Action) for flag in feature.flags]
        return tuple(dict.fromkeys(names))

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(label.name for label in self.labels)

    @property
    def tasks_by_kind(self) -> dict[str, tuple[str, ...]]:
        """Kind -> the tasks of that kind."""
        kinds = dict.fromkeys(label.kind for label in self.labels)
        return {kind: tuple(label.name for label in self.labels if label.kind == kind) for kind in kinds}

    def history_fields(self, history: History) -> Iterator[tuple[str, EventField]]:
        """(column, feature) of each field of a history, for instance ("global_video_id", Categorical("video_id"))."""
        fields = {feature.name: feature for feature in self.features if is_of_event(feature)}
        for field in history.of:
            yield history.column(field), fields[field]

    def widened(self, factor: float) -> FeatureSpec:
        """The same columns with every embedding `factor` times as wide, rounded, at least 1."""

        def wider(declared: Scenario | RowFeature | EventField) -> Any:
            return declared.model_copy(update={"dim": max(1, round(factor * declared.dim))})

        features = tuple(f if isinstance(f, History | Match) else wider(f) for f in self.features)
        return self.model_copy(update={"scenario": wider(self.scenario), "features": features})

    def columns_of(self, feature: RowFeature | EventField) -> tuple[str, ...]:
        """Every column that holds values of a feature: its own, if it is of the row, then one per history with it."""
        own = (feature.name,) if is_of_row(feature) else ()
        return (*own, *(history.column(feature.name) for history in self.histories if feature.name in history.of))

    @classmethod
    def from_json(cls, text: str) -> FeatureSpec:
        return cls.model_validate_json(text)

    def to_json(self) -> str:
        return self.model_dump_json()


def _columns(feature: Feature) -> list[tuple[str, str]]:
    if isinstance(feature, History):
        return [(feature.column(field), f"history `{feature.name}`") for field in feature.of]
    return [(feature.name, f"feature `{feature.name}`")] if is_read(feature) else []
