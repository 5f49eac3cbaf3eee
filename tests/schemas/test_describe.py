"""The printed table names every column, its encoding and where it is read again."""

from __future__ import annotations

from mixrank.schemas import Categorical, FeatureSpec, History, Vocab
from mixrank.schemas.describe import HEADER, describe


def table(spec):
    return [dict(zip(HEADER, row, strict=True)) for row in describe(spec)]


def one(spec, column, kind=None):
    (found,) = [row for row in table(spec) if row["column"] == column and kind in (None, row["type"])]
    return found


def test_every_column_of_the_spec_has_a_row(toy_spec):
    assert [(row["column"], row["type"]) for row in table(toy_spec)] == [
        ("person", "user key"),
        ("clip", "item key"),
        ("at", "event time"),
        ("page", "scenario"),
        ("click", "label"),
        ("buy", "label"),
        ("worth", "row weight"),
        ("rank", "position"),
        ("person", "categorical"),
        ("country", "categorical"),
        ("clip", "categorical"),
        ("last", "categorical"),
        ("tag", "up to 3 categories, weighted, attention"),
        ("price", "numeric"),
        ("age", "numeric"),
        ("hour", "numeric"),
        ("seconds", "numeric"),
        ("look", "vector"),
        ("taste", "vector"),
        ("action", "action"),
        ("gap", "time gap"),
        ("global", "history, long-term"),
        ("realtime", "history, real-time"),
        ("had", "match"),
        ("there", "cross"),
        ("rate", "expression"),
        ("habit", "cross"),
        ("maker", "lookup"),
        ("pull", "numeric lookup"),
        ("words", "vector table"),
        ("paid", "numeric"),
        ("query", "categorical"),
        ("temper", "vector"),
        ("orders", "history of orders, long-term"),
        ("searches", "history of searches, real-time"),
        ("bought", "match"),
        ("viewed", "history of the row, real-time"),
        ("viewed_it", "match"),
        ("weight", "numeric lookup"),
    ]


def test_encodings_are_told_apart(toy_spec):
    assert one(toy_spec, "country")["encoding"] == "str, hash 7, 2 functions"
    assert one(toy_spec, "person", "categorical")["encoding"] == "int, vocab count>=2, 3 OOV"
    assert one(toy_spec, "price")["encoding"] == "log1p_standardize"
    assert one(toy_spec, "age")["encoding"] == "4 quantiles"
    assert one(toy_spec, "hour")["encoding"] == "3 edges"
    assert one(toy_spec, "seconds")["encoding"] == "piecewise linear, 4 quantiles, clipped to 0.5..9"
    assert one(toy_spec, "look")["encoding"] == "divided by its length"
    assert one(toy_spec, "last")["encoding"] == "str, table of clip"
    assert one(toy_spec, "habit")["encoding"] == "country x page, hash 40"
    said = "price / (age + 1) - min(hour, 2), log1p_standardize"
    assert one(toy_spec, "rate")["encoding"] == said
    assert one(toy_spec, "maker")["encoding"] == "maker of clip in clips.parquet, vocab, 1 OOV"
    assert one(toy_spec, "pull")["encoding"] == "friends of person in people.csv, autodis, 4 meta-embeddings"
    assert one(toy_spec, "words")["encoding"] == "words of clip in clips.parquet, frozen"
    assert one(toy_spec, "action")["encoding"] == "click + buy"
    assert one(toy_spec, "page")["encoding"] == "3 values"
    assert one(toy_spec, "buy")["encoding"] == "weight 0.5, given click, known after 2d"
    assert one(toy_spec, "worth")["encoding"] == "of buy"
    assert one(toy_spec, "rank")["encoding"] == "4 places of each scenario, in training alone"
    assert one(toy_spec, "had")["encoding"] == "clip in global, realtime: count, recency, click"


def test_widths_are_those_of_the_model(toy_spec):
    widths = {name: one(toy_spec, name)["width"] for name in ("page", "tag", "price", "age", "gap", "global")}
    assert widths == {"page": "3", "tag": "3", "price": "1", "age": "2", "gap": "2", "global": ""}
    assert [one(toy_spec, name)["width"] for name in ("hour", "seconds", "look", "there")] == ["2", "5", "3", "3"]


def test_columns_that_share_a_table_stand_beside_it(toy_spec):
    assert one(toy_spec, "tag")["also read as"] == (
        "global_tag, realtime_tag, tag_weight, global_tag_weight, realtime_tag_weight"
    )
    assert one(toy_spec, "gap")["also read as"] == "global_gap, realtime_gap, orders_gap"
    assert one(toy_spec, "weight")["also read as"] == "global_weight, viewed_weight"
    assert one(toy_spec, "country")["also read as"] == ""


def test_limits_of_a_vocabulary_and_of_a_history_are_shown(toy_spec):
    few = Categorical("city", group="item", vocab=Vocab(max_size=1200, oov=2))
    bought = History("bought", of=("city",), length=5, window="before", only="buy")
    spec = FeatureSpec(**{**dict(toy_spec), "features": (few, bought)})
    assert one(spec, "city")["encoding"] == "int, vocab top 1,200, 2 OOV"
    assert one(spec, "bought")["encoding"] == "5 newest, only buy"
