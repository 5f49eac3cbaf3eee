"""KuaiRand-Pure: short-video impressions of Kuaishou (CC BY-SA 4.0), from Parquet or the official CSV files."""

from __future__ import annotations

from mixrank.schemas import (
    Action,
    CalendarDay,
    Categorical,
    Dataset,
    EventTime,
    FeatureSpec,
    History,
    Join,
    Key,
    Label,
    LogSource,
    Match,
    MultiCategorical,
    Numeric,
    Popularity,
    Prior,
    Scenario,
    SplitByDay,
    Table,
    TimeGap,
    Vocab,
)

# In the logs a day is a day in China.
ZONE = "Asia/Shanghai"
OUTCOMES = ("is_click", "long_view")
RATES = {
    f"{item}_{label}": Popularity(of=f"{item}_id", label=label, timezone=ZONE)
    for item in ("video", "author")
    for label in OUTCOMES
}
FIELDS = ("video_id", "author_id", "tag", "action", "gap")

SPEC = FeatureSpec(
    name="kuairand",
    user=Key("user_id"),
    item=Key("video_id"),
    time=EventTime("time_ms", unit="ms"),
    scenario=Scenario("tab", values=tuple(range(15)), dim=8),
    labels=(Label("is_click"), Label("long_view")),
    features=(
        Categorical("user_id", group="user", vocab=Vocab(min_count=2, oov=64), dim=16),
        Categorical("user_active_degree", group="user", dtype="str", dim=4),
        Categorical("is_live_streamer", group="user", dim=4),
        Categorical("is_video_author", group="user", dim=4),
        Categorical("follow_user_num_range", group="user", dtype="str", dim=4),
        Categorical("fans_user_num_range", group="user", dtype="str", dim=4),
        Categorical("friend_user_num_range", group="user", dtype="str", dim=4),
        Categorical("register_days_range", group="user", dtype="str", dim=4),
        *(
            Categorical(f"onehot_feat{i}", group="user", vocab=Vocab(min_count=5), dim=4)
            for i in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17)
        ),
        Categorical("video_id", group="item", vocab=Vocab(min_count=3, oov=16), dim=16),
        Categorical("author_id", group="item", vocab=Vocab(min_count=3, oov=16), dim=16),
        Categorical("music_id", group="item", vocab=Vocab(min_count=5, oov=16), dim=8),
        Categorical("video_type", group="item", dtype="str", dim=4),
        Categorical("upload_type", group="item", dtype="str", dim=4),
        Categorical("music_type", group="item", dim=4),
        MultiCategorical("tag", group="item", separator=",", max_length=3, dim=8, vocab=Vocab(min_count=2)),
        Numeric("video_duration", group="item", transform="bucketize", buckets=32, dim=8),
        *(Numeric(name, group="item") for name in RATES),
        Numeric("video_rows", group="item", transform="log1p_standardize"),
        Categorical("hourmin", group="context", dim=8),
        Action("action", flags=("is_click", "long_view", "is_like", "is_follow", "is_comment", "is_forward")),
        TimeGap("gap"),
        History("global", of=FIELDS, length=50, window="before"),
        History("realtime", of=FIELDS, length=10, window="within"),
        *(Match(f"same_{name}", of=name, flags=OUTCOMES) for name in ("video_id", "author_id", "tag")),
    ),
)

DATASET = Dataset(
    spec=SPEC,
    source=LogSource(
        log=Table(files=("log_standard_0425_0506.parquet",), or_files=("log_standard_*_pure.csv",)),
        joins=(
            Join(on="user", table=Table(files=("user_features.parquet",), or_files=("user_features_pure.csv",))),
            Join(
                on="item",
                table=Table(files=("video_features_basic.parquet",), or_files=("video_features_basic_pure.csv",)),
            ),
        ),
        # The official CSV files begin earlier and need no prior.
        prior=Prior(
            table=Table(files=("history_until_0424.parquet",), optional=True),
            items="watch_seq",
            flags={"is_like": "like_seq", "long_view": "long_watch_seq"},
            always=("is_click",),
        ),
        popularity={**RATES, "video_rows": Popularity(of="video_id", timezone=ZONE)},
        window=CalendarDay(timezone=ZONE),
        split=SplitByDay(
            timezone=ZONE,
            splits={
                "train": ("2022-04-25", "2022-05-03"),
                "valid": ("2022-05-04", "2022-05-04"),
                "eval": ("2022-05-05", "2022-05-06"),
            },
        ),
    ),
)
