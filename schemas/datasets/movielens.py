"""MovieLens-100K: film ratings, as found in the `recbole` package or in any folder with the same three files."""

from __future__ import annotations

from mixrank.schemas import (
    Action,
    Categorical,
    Cut,
    Dataset,
    EventTime,
    FeatureSpec,
    History,
    Join,
    Key,
    Label,
    LogSource,
    MultiCategorical,
    Numeric,
    Scenario,
    Sliding,
    SplitByUserTail,
    Table,
    Threshold,
    TimeGap,
    Vocab,
)

FIELDS = ("item_id", "genre", "action", "gap")

SPEC = FeatureSpec(
    name="movielens",
    user=Key("user_id"),
    item=Key("item_id"),
    time=EventTime("timestamp", unit="s"),
    scenario=Scenario(
        "age_band",
        values=("under_25", "25_34", "35_and_over"),
        labels=("under 25", "25-34", "35 and over"),
        dim=4,
    ),
    labels=(Label("click"), Label("like")),
    features=(
        Categorical("user_id", group="user", vocab=Vocab(min_count=2, oov=8), dim=16),
        Numeric("age", group="user", transform="bucketize", buckets=10, dim=4),
        Categorical("gender", group="user", dtype="str", dim=4),
        Categorical("occupation", group="user", dtype="str", dim=8),
        Categorical("item_id", group="item", vocab=Vocab(min_count=3, oov=8), dim=16),
        MultiCategorical("genre", group="item", separator=" ", max_length=4, dim=8),
        # Not a number: one title says "unkonwn", another "V".
        Categorical("release_year", group="item", dtype="str", vocab=Vocab(min_count=20), dim=8),
        Action("action", flags=("click", "like")),
        TimeGap("gap"),
        History("global", of=FIELDS, length=50, window="before"),
        History("realtime", of=FIELDS, length=20, window="within"),
    ),
)


def _plain(*columns: str) -> dict[str, str]:
    # The headers of these files carry a type: `user_id:token`.
    return {column: column.partition(":")[0] for column in columns}


DATASET = Dataset(
    spec=SPEC,
    source=LogSource(
        log=Table(
            files=("ml-100k.inter",),
            rename=_plain("user_id:token", "item_id:token", "rating:float", "timestamp:float"),
        ),
        joins=(
            Join(
                on="user",
                table=Table(
                    files=("ml-100k.user",),
                    rename=_plain("user_id:token", "age:token", "gender:token", "occupation:token"),
                ),
            ),
            Join(
                on="item",
                table=Table(
                    files=("ml-100k.item",),
                    rename={**_plain("item_id:token", "release_year:token"), "class:token_seq": "genre"},
                ),
            ),
        ),
        derive={
            "click": Threshold("rating", at_least=4),
            "like": Threshold("rating", at_least=5),
            "age_band": Cut("age", edges=(25, 35), names=("under_25", "25_34", "35_and_over")),
        },
        # People rate many films in one sitting; ten minutes is such a sitting.
        window=Sliding(seconds=600),
        split=SplitByUserTail(valid=0.1, eval=0.1),
    ),
)
