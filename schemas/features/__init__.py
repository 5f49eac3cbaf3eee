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

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
