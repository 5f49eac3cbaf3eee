"""A log of `mixrank simulate clicks`: its click probabilities are known, and so is the best that a model can do."""

from __future__ import annotations

from mixrank.schemas import (
    Action,
    Categorical,
    Dataset,
    EventTime,
    FeatureSpec,
    History,
    Join,
    Key,
    Label,
    LogSource,
    Numeric,
    Popularity,
    Scenario,
    SplitByDay,
    Table,
    TimeGap,
    Vocab,
)
from mixrank.schemas.simulation import SCENARIOS

FIELDS = ("item_id", "topic", "action", "gap")

SPEC = FeatureSpec(
    name="simulated",
    user=Key("user_id"),
    item=Key("item_id"),
    time=EventTime("time_ms", unit="ms"),
    scenario=Scenario("tab", values=SCENARIOS, dim=8),
    labels=(Label("click"),),
    # Without the user's id: taste must be read from the history, so that taking that away has a known cost.
    features=(
        Categorical("age_band", group="user", dtype="str", dim=4),
        Categorical("item_id", group="item", vocab=Vocab(min_count=2, oov=4), dim=16),
        Categorical("topic", group="item", dim=16),
        Numeric("item_clicks", group="item"),
        Action("action", flags=("click",)),
        TimeGap("gap"),
        History("global", of=FIELDS, length=30, window="before"),
        History("realtime", of=FIELDS, length=15, window="within"),
    ),
)

DATASET = Dataset(
    spec=SPEC,
    source=LogSource(
        log=Table(files=("log/*.parquet",)),
        joins=(
            Join(on="user", table=Table(files=("users.parquet",))),
            Join(on="item", table=Table(files=("items.parquet",))),
        ),
        popularity={"item_clicks": Popularity(of="item_id", label="click")},
        # Every simulated log ends on 2024-06-30, whatever its length.
        split=SplitByDay(
            splits={
                "train": ("2024-01-01", "2024-06-27"),
                "valid": ("2024-06-28", "2024-06-28"),
                "eval": ("2024-06-29", "2024-06-30"),
            },
        ),
    ),
)
