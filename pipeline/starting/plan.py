"""What is written about a log: declarations, each with its reason, and the questions that are left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mixrank.schemas import (
    Dataset,
    FeatureSpec,
    LogSource,
)


@dataclass(frozen=True)
class Noted:
    """A declaration with its reason.

    Args:
        value: the declaration; None for a comment alone.
        why: reason, or empty.
        doubt: question, or empty.
    """

    value: Any
    why: str = ""
    doubt: str = ""


@dataclass
class Plan:
    """A log as it will be declared.

    Args:
        name: of the log and of the run.
        folder: data folder.
        user, item, time, scenario: of the spec.
        labels, features: of the spec; features may hold comments.
        log, joins: tables; joins may hold comments.
        labels_from, derive, popularity: of the source; `labels_from` is its `labels`.
        window: of the source; None without histories.
        split: of the source.
        fields: what histories are of.
        rows: rows of the log, about.
        validates: whether there is a split `valid`.
        zone: whose days count.
        request: of the spec; None if no column looks like it.
    """

    name: str
    folder: str
    user: Noted
    item: Noted
    time: Noted
    scenario: Noted
    labels: list[Noted]
    features: list[Noted]
    log: Noted
    joins: list[Noted]
    labels_from: dict[str, Noted]
    derive: dict[str, Noted]
    popularity: dict[str, Noted]
    window: Noted | None
    split: Noted
    fields: tuple[str, ...]
    rows: int
    validates: bool
    zone: Noted
    request: Noted | None = None

    @property
    def dataset(self) -> Dataset:
        """The declaration, checked.

        Raises:
            ValueError: if it contradicts itself.
        """
        return Dataset(spec=self.spec, source=self.source)

    @property
    def spec(self) -> FeatureSpec:
        return FeatureSpec(
            name=self.name,
            user=self.user.value,
            item=self.item.value,
            time=self.time.value,
            scenario=self.scenario.value,
            labels=tuple(noted.value for noted in self.labels),
            features=tuple(noted.value for noted in self.features if noted.value is not None),
            request=self.request.value if self.request is not None else None,
        )

    @property
    def source(self) -> LogSource:
        given: dict[str, Any] = {} if self.window is None else {"window": self.window.value}
        if self.labels_from:
            given["labels"] = {name: noted.value for name, noted in self.labels_from.items()}
        return LogSource(
            log=self.log.value,
            joins=tuple(noted.value for noted in self.joins if noted.value is not None),
            derive={name: noted.value for name, noted in self.derive.items()},
            popularity={name: noted.value for name, noted in self.popularity.items()},
            split=self.split.value,
            **given,
        )

    def noted(self) -> Iterator[Noted]:
        """Everything with a reason, in the order of the file."""
        yield from (self.user, self.item, self.time, self.scenario, *self.labels, *self.features, self.log, *self.joins)
        yield from (*self.labels_from.values(), *self.derive.values(), *self.popularity.values())
        yield from (noted for noted in (self.request, self.window, self.split, self.zone) if noted is not None)

    @property
    def doubts(self) -> list[str]:
        """The questions that are left."""
        return [noted.doubt for noted in self.noted() if noted.doubt]
