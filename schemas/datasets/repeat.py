"""A log written by `mixrank simulate repeat`: its label says whether the user has had this very item before."""

from __future__ import annotations

from mixrank.schemas import (
    Action,
    Categorical,
    Dataset,
    EventTime,
    FeatureSpec,
    History,
    Key,
    Label,
    LogSource,
    Match,
    Scenario,
    SplitByDay,
    Table,
    TimeGap,
    Vocab,
)

FIELDS = ("item_id", "action", "gap")

SPEC = FeatureSpec(
    name="repeat",
    user=Key("user_id"),
    item=Key("item_id"),
    time=EventTime("time_ms", unit="ms"),
    scenario=Scenario("page", values=("home",)),
    labels=(Label("bought"),),
    features=(
        Categorical("item_id", group="item", vocab=Vocab(oov=4), dim=16),
        Action("action", flags=("bought",)),
        TimeGap("gap"),
        History("earlier", of=FIELDS, length=60, window="before"),
        History("today", of=FIELDS, length=15, window="within"),
        # Taken away by `mixrank compare --without had`: what a model then reaches it has learned from ids alone.
        Match("had", of="item_id", flags=("bought",)),
    ),
)

DATASET = Dataset(
    spec=SPEC,
    source=LogSource(
        log=Table(files=("log.parquet",)),
        # Every simulated log ends on 2024-06-30, whatever its length.
        split=SplitByDay(
            splits={
                "train": ("2024-01-01", "2024-06-28"),
                "valid": ("2024-06-29", "2024-06-29"),
                "eval": ("2024-06-30", "2024-06-30"),
            },
        ),
    ),
)
