"""Histories of a row, and the fields that only their events have."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mixrank.schemas.features.named import Kind, Named, Valued


class Action(Valued):
    """History-only field: what the user did with a past item, as the bit mask of `flags`.

    Bit i is set if column `flags[i]` of the past row is non-zero. These columns are outcomes: they enter the history
    of later impressions, never the current row. In a history of an event table they are columns of that table.
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

    A spec has any number of histories, several with one window among them. They are cut from events that have times,
    or the row brings its own: with `in_row`, the log has a list column for each field, under the name that a request
    gives it (`column`), and rows know nothing of each other.

    Args:
        of: names of features of group "item" or "event", `Action` or `TimeGap` fields, not all of them numbers. A field
            that names an item feature shares its vocabulary and embedding table, or the edges and moments of a number.
        length: int >= 1. Number of events kept.
        events: name of an event table of the source, such as "orders", or None for the impressions of the log.
        window: "before" (the long-term history, which ends where the window named in the table spec begins) or
            "within" (the real-time history, from there to the impression).
        only: str or None. Keep only past events whose flag of this name is non-zero: a label or a flag of an `Action`,
            or any column with flags of the event table.
        in_row: "newest_first" or "oldest_first", the order of the lists of the log, whose rows bring their events
            themselves; None if events are cut by their times. `window` then only says as what models read it. Its
            fields are `Categorical` and `Numeric`.
        separator: str or None. Splits text columns of `in_row` into values; None for list columns.

    Raises:
        ValueError: `events` or `only` beside `in_row`, or `separator` without it.
    """

    type: Literal["history"] = "history"
    of: tuple[str, ...] = Field(min_length=1)
    length: int = Field(ge=1)
    window: Literal["before", "within"]
    events: str | None = None
    only: str | None = None
    in_row: Literal["newest_first", "oldest_first"] | None = None
    separator: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _check(self) -> History:
        what = f"history `{self.name}`"
        if self.in_row is None and self.separator is not None:
            raise ValueError(f"{what}: `separator` splits the columns of a history with `in_row`")
        for option in ("events", "only"):
            if self.in_row is not None and getattr(self, option) is not None:
                raise ValueError(f"{what} brings its events in the row: `{option}` is for those that are cut by time")
        return self

    @property
    def of_impressions(self) -> bool:
        """Whether its events are the rows of the log."""
        return self.events is None and self.in_row is None

    def column(self, field: str) -> str:
        """Column of a field: `global_video_id`."""
        return f"{self.name}_{field}"
