"""Columns of a row besides its features: keys, time, scenario and labels."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, field_validator, model_validator

from mixrank.schemas.features.named import Dtype, Named
from mixrank.schemas.safe_text import shown
from mixrank.schemas.task_kinds import CLASSES, LabelKind, label_kind

# Each class is an output of the model and a column of its scores.
MOST_CLASSES = 100
# Of a watch_quantile label: groups of about equal duration, and intervals between the quantiles that each knows.
GROUPS_OF_DURATION, QUANTILES = 30, 50
# Columns of a transformed row that identify it; the model does not read them.
KEYS = {"user": "key_user", "item": "key_item", "time": "key_time", "request": "key_request"}


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(f"`timezone` must be an IANA name such as 'Asia/Shanghai', received {shown(name)}") from error
    return name


Zone = Annotated[str, AfterValidator(_zone)]


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


class Position(Named):
    """Column with the place of an impression in its list, known in a log and never in a request.

    An item high up is clicked for its place as well. Training adds a learned bias of the place to the logits of every
    binary task that is given no other; no export has it, and no model reads the place. Ids are 1 for place 0 and below,
    2 for place 1, ..., `size` for place `size - 1` and all further ones, and 0 where the place is not known.

    Args:
        size: int >= 2. Places that are told apart.
        per_scenario: bool. Whether a place has a bias of its own in each scenario, whose lists look different.
    """

    size: int = Field(default=100, ge=2)
    per_scenario: bool = False

    @property
    def ids(self) -> int:
        """Number of ids, that of an unknown place included."""
        return self.size + 1


class Label(Named):
    """Label of a task.

    Args:
        weight: float > 0. Weight of the task in the loss.
        kind: what its values are, and so how it is learned and judged; a name in `LABEL_KINDS`, such as "binary".
        classes: of an ordinal or a multiclass label all of its values, ascending whole numbers >= 0, such as the stars
            (1, 2, 3, 4, 5). The model answers a probability for each, and as the prediction of the task their mean.
            What a class is worth in a ranking is therefore its value.
        duration: of a watch_quantile label the `Numeric` of the spec with the length of what is watched. The model
            learns the rank of a watch time among rows of about equal duration, 0 to 1, and answers it beside the time
            that has this rank there (D2Q: Zhan et al., "Deconfounding Duration Bias in Watch-time Prediction for Video
            Recommendation", KDD 2022).
        scale: float > 0. Unit in which a label that is a number is learned: the loss sees label / scale, predictions
            are in the label's own unit. Take about the size of a typical label, such as 1000 for milliseconds.
        given: another label of the spec. The task is one of the rows with that label alone, such as a purchase given a
            click: all others count neither in the loss nor in metrics, baselines and plots, and may lack this label.
        row_weight: column of the log with a weight >= 0 of each row for this task, in place of the spec's
            `row_weight`; None takes that one.
        matures_after: how long after an impression the label is known for sure, such as "1d", "12h", "30m" or "90s".
            A younger row, by the newest time of the log, is no negative yet: it counts for the task nowhere, whatever
            its label is so far.
        keep_negatives: float above 0, at most 1. Share of the training rows without this label that is kept, drawn by
            a hash of the row's keys; histories and counts know all rows. Predictions stay those of the whole log: the
            loss of this task sees the logit less log(keep_negatives), which is the logit among the rows that were kept
            (He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook", ADKDD 2014, section 6.3), and in
            tasks that are not given this label a negative that was kept weighs 1 / keep_negatives. For one label at
            most.
    """

    weight: float = Field(default=1.0, gt=0)
    kind: str = "binary"
    classes: tuple[int, ...] = ()
    duration: str | None = None
    scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    given: str | None = None
    row_weight: str | None = None
    matures_after: str | None = None
    keep_negatives: float = Field(default=1.0, gt=0, le=1)

    @field_validator("kind")
    @classmethod
    def _check_kind(cls, kind: str) -> str:
        return label_kind(kind).name

    @model_validator(mode="after")
    def _check_scale(self) -> Label:
        if self.scale != 1 and self.is_flag:
            raise ValueError(f"label `{self.name}`: `scale` is for labels that are numbers, not for kind={self.kind!r}")
        if self.keep_negatives < 1 and (not self.is_flag or self.given is not None):
            raise ValueError(
                f"label `{self.name}`: `keep_negatives` is for a binary label that is given no other, received "
                f"kind={self.kind!r} and given={self.given!r}"
            )
        return self

    @model_validator(mode="after")
    def _check_classes(self) -> Label:
        if self.classes and not self.values.has_classes:
            raise ValueError(
                f"label `{self.name}`: `classes` are for kind={' or '.join(map(repr, CLASSES))}, not for {self.kind!r}"
            )
        if self.values.has_classes:
            wanted = f"label `{self.name}` of kind={self.kind!r} needs `classes`: all of its values, such as (1, 2, 3)"
            if not self.classes:
                raise ValueError(wanted)
            rising = all(low < high for low, high in itertools.pairwise(self.classes))
            if not (MOST_CLASSES >= len(self.classes) >= 2 and self.classes[0] >= 0 and rising):
                raise ValueError(
                    f"{wanted}; they must be 2 to {MOST_CLASSES} ascending whole numbers >= 0, received {self.classes}"
                )
            if self.scale != 1:
                raise ValueError(f"label `{self.name}`: `scale` is for labels without `classes`")
        return self

    @model_validator(mode="after")
    def _check_duration(self) -> Label:
        if self.values.by_duration and self.duration is None:
            raise ValueError(f"label `{self.name}` of kind={self.kind!r} needs `duration`: a Numeric of the spec")
        if self.duration is not None and not self.values.by_duration:
            raise ValueError(f"label `{self.name}`: `duration` is for kind='watch_quantile', not for {self.kind!r}")
        return self

    @field_validator("matures_after")
    @classmethod
    def _check_age(cls, age: str | None) -> str | None:
        if age is not None and not re.fullmatch(r"[1-9]\d*[smhd]", age):
            raise ValueError(f"`matures_after` must be such as '1d', '12h', '30m' or '90s', received {shown(age)}")
        return age

    @property
    def matures_after_ms(self) -> int:
        """`matures_after` in milliseconds, 0 if the label is known at once."""
        units = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
        return 0 if self.matures_after is None else int(self.matures_after[:-1]) * units[self.matures_after[-1]]

    @property
    def counts_where(self) -> tuple[str, ...]:
        """Columns that are above 0 in the rows that count for the task; none if all count."""
        return (*([self.given] if self.given else ()), *([self.mature] if self.mature else ()))

    @property
    def mature(self) -> str | None:
        """Column of the written rows that says whether the label is known for sure, or None if it always is."""
        return None if self.matures_after is None else f"{self.name}_is_mature"

    def stands_for(self, positives: Any) -> Any:
        """How many rows of the log a kept training row stands for: 1, or without the label 1 / `keep_negatives`.

        Args:
            positives: whether rows have the label, an array or tensor of the numbers 0 and 1.
        """
        return positives + (1 - positives) / self.keep_negatives

    def counted(self, columns: Mapping[str, Any]) -> Any:
        """Index of the rows that count for the task, for arrays beside those of `columns`: all, or a mask."""
        found: Any = slice(None)
        for number, name in enumerate(self.counts_where):
            found = found & (columns[name] > 0) if number else columns[name] > 0
        return found

    @property
    def is_flag(self) -> bool:
        """Whether it says that something happened or not."""
        return label_kind(self.kind).is_flag

    @property
    def values(self) -> LabelKind:
        """What its values are."""
        return label_kind(self.kind, self.classes)

    @property
    def logits(self) -> tuple[str, ...]:
        """Names of the logits that heads give the task: its own, or one for each class."""
        return self._of_classes if self.values.logit_per_class else (self.name,)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what a model answers for the task: its prediction, then the probability of each class, or a rank."""
        return (self.name, *self._of_classes, *([] if self.duration is None else [self.learned]))

    @property
    def learned(self) -> str:
        """Column of a transformed row that the loss sees."""
        return self.name if self.duration is None else f"{self.name}_rank"

    @property
    def made(self) -> tuple[str, ...]:
        """Columns of a transformed row that are made of the label and have no column of the log."""
        return () if self.quantiles is None else (self.learned, self.quantiles)

    @property
    def quantiles(self) -> str | None:
        """Column of a transformed row that its predictions are read from, `(QUANTILES + 1,)`; None if there is none."""
        return None if self.duration is None else f"{self.name}_quantiles"

    @property
    def _of_classes(self) -> tuple[str, ...]:
        return tuple(f"{self.name}_{value}" for value in self.classes)
