"""A declaration is checked when it is written, and the message says what to write instead."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mixrank import schemas as s

CLIP = s.Categorical("clip", group="item")
PAST = s.History("past", of=("clip",), length=3, window="before")


def spec(*features, **changes):
    given = {
        "name": "clips",
        "user": s.Key("person"),
        "item": s.Key("clip"),
        "time": s.EventTime("at"),
        "scenario": s.Scenario("page", values=("home", "search")),
        "labels": (s.Label("click"), s.Label("buy")),
        "features": features or (CLIP,),
    }
    return s.FeatureSpec(**{**given, **changes})


def of_events(feature, name="paid"):
    """A spec whose history of orders lists a feature."""
    return spec(
        CLIP, feature, s.History("orders", of=("clip", name), length=2, window="before", events="orders", only="any")
    )


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: s.Vocab(mincount=2), r"Vocab has no field `mincount`; did you mean `min_count`\?"),
        (lambda: s.Categorical("clip", grop="item"), r"Categorical has no field `grop`; did you mean `group`\?"),
        (lambda: s.Key("per son"), "`name` must be letters, digits and underscores and begin with a letter"),
        (lambda: s.Label("2nd"), "begin with a letter, received '2nd'"),
        (lambda: s.Categorical("clip", group="itm"), "'user', 'item', 'context' or 'event'"),
        (lambda: s.Categorical("clip"), r"group\s+Field required"),
        (lambda: s.Vocab(min_count=0), "greater than or equal to 1"),
        (lambda: s.Vocab(oov=0), "greater than or equal to 1"),
        (lambda: s.Hash(size=0), "greater than or equal to 1"),
        (lambda: s.Hash(size=2**21, functions=3), r"must be below 2 \*\* 63, received 2097152 \*\* 3"),
        (lambda: s.Hash(size=10**9, functions=10**9), r"must be below 2 \*\* 63"),
        (lambda: s.Categorical("clip", group="item", dim=0), "greater than or equal to 1"),
        (lambda: s.Categorical("clip", group="item", drift=1.5), "less than or equal to 1"),
        (lambda: s.MultiCategorical("tag", group="item", max_length=0), "greater than or equal to 1"),
        (lambda: s.Numeric("age", group="user", transform="log"), "'none', 'log1p', 'standardize'"),
        (lambda: s.Numeric("age", group="user", default=float("nan")), "finite number"),
        (lambda: s.Numeric("age", group="user", buckets=1), "greater than or equal to 2"),
        (lambda: s.Numeric("age", group="user", edges=(1, 2)), "`edges` are for transform='bucketize' or 'piecewise_"),
        (
            lambda: s.Numeric("age", group="user", transform="bucketize", edges=(1, 1)),
            r"must ascend, received \(1.0, 1",
        ),
        (
            lambda: s.Numeric("age", group="user", transform="piecewise_linear", edges=(1,)),
            r"numeric `age`: transform='piecewise_linear' takes at least 2 `edges`, received \(1.0,\)",
        ),
        (
            lambda: s.Numeric("age", group="user", transform="bucketize", edges=(1, 2), buckets=3),
            "give `edges` or the number of quantiles in `buckets`, not both",
        ),
        (
            lambda: s.Numeric("age", group="user", clip=(3, 3)),
            r"`clip` takes \(lowest, highest\), received \(3.0, 3.0\)",
        ),
        (lambda: s.Numeric("age", group="user", clip=(0, float("inf"))), "finite number"),
        (
            lambda: s.MultiCategorical("tag", group="item", pooling="max", weights="w"),
            "pooling='max' takes no `weights`",
        ),
        (
            lambda: s.MultiCategorical("tag", group="item", separator="|", weight_separator=":"),
            "`weight_separator` needs a name for the column of the weights in `weights`",
        ),
        (
            lambda: s.MultiCategorical("tag", group="item", separator=":", weight_separator=":", weights="w"),
            "needs another `separator` between the values, received ':'",
        ),
        (lambda: s.Vector("look", group="item"), r"dim\s+Field required"),
        (lambda: s.Vector("look", group="item", dim=0), "greater than or equal to 1"),
        (
            lambda: s.MultiCategorical("tag", group="item", pooling="avg"),
            "'mean', 'sum', 'max', 'sqrtn' or 'attention'",
        ),
        (lambda: s.Label("click", weight=0), "greater than 0"),
        (lambda: s.EventTime("at", unit="min"), "'s', 'ms', 'us' or 'ns'"),
        (lambda: s.EventTime("at", format="iso", unit="s"), "`unit` belongs to format='epoch'"),
        (lambda: s.EventTime("at", timezone="Berlin"), "IANA name such as 'Asia/Shanghai', received 'Berlin'"),
        (lambda: s.Key("row", dtype="str", per_row=True), "key `row` with per_row=True has dtype='int'"),
        (lambda: s.Scenario("page", values=()), "at least 1 item"),
        (lambda: s.Scenario("page", values=(1, 2, 1)), r"must be distinct, received \(1, 2, 1\)"),
        (lambda: s.Scenario("page", values=(1, 2), labels=("one",)), r"one entry per value \(2\), received 1"),
        (lambda: s.Action("action", flags=()), "at least 1 item"),
        (lambda: s.Action("action", flags=tuple("abcdefghi")), "at most 8 items"),
        (lambda: s.TimeGap("gap", buckets=65), "less than or equal to 64"),
        (lambda: s.History("past", of=(), length=3, window="before"), "at least 1 item"),
        (lambda: s.History("past", of=("clip",), length=0, window="before"), "greater than or equal to 1"),
        (lambda: s.History("past", of=("clip",), length=3, window="befor"), "'before' or 'within'"),
    ],
)
def test_a_wrong_declaration_is_refused(declare, message):
    with pytest.raises(ValueError, match=message):
        declare()


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: spec(labels=()), "at least 1 item"),
        (lambda: spec(time=s.EventTime("page")), "column `page` is declared twice: as time and as scenario"),
        (lambda: spec(labels=(s.Label("click"), s.Label("click"))), "`click` is declared twice: as label and as label"),
        (
            lambda: spec(CLIP, s.MultiCategorical("tag", group="item", weights="clip")),
            "column `clip` is declared twice: as feature `clip` and as weights of `tag`",
        ),
        (lambda: spec(CLIP, s.Numeric("click", group="user")), "twice: as label and as feature `click`"),
        (
            lambda: spec(CLIP, PAST, s.Numeric("past_clip", group="user")),
            "`past_clip` is declared twice: as history `past` and as feature `past_clip`",
        ),
        (lambda: spec(s.Categorical("key_user", group="user")), "the name of a key after Transform and as feature"),
        (
            lambda: spec(CLIP, s.TimeGap("page"), s.History("h", of=("page",), length=2, window="before")),
            "called `page`",
        ),
        (lambda: spec(CLIP, s.Action("clip", flags=("click",)), PAST), "two features are called `clip`"),
        (lambda: spec(item=s.Key("person")), "`user` and `item` must be two columns, both are `person`"),
        (lambda: spec(item=s.Key("row", per_row=True)), "item `row` cannot have per_row=True"),
        (
            lambda: spec(CLIP, PAST, user=s.Key("row", per_row=True)),
            "history `past` needs a user, but key `row` is per_row",
        ),
        (
            lambda: spec(s.Categorical("row", group="user"), user=s.Key("row", per_row=True)),
            "key `row` with per_row=True has no column for feature `row`",
        ),
        (lambda: spec(user=s.Key("page")), "key `page` may share its column with a Categorical only, not scenario"),
        (
            lambda: spec(s.Numeric("person", group="user")),
            "key `person` may share its column with a Categorical only, not feature `person`",
        ),
        (lambda: spec(CLIP, item=s.Key("clip", dtype="str")), "key and feature `clip` differ in dtype: str and int"),
        (
            lambda: spec(CLIP, s.History("past", of=("clp",), length=3, window="before")),
            r"history `past` has no field `clp`: .*; did you mean `clip`\?",
        ),
        (
            lambda: spec(
                CLIP,
                s.Categorical("person", group="user"),
                s.History("past", of=("person",), length=3, window="before"),
            ),
            "history `past` has no field `person`",
        ),
        (
            lambda: spec(s.Numeric("price", group="item"), s.History("h", of=("price",), length=2, window="before")),
            "history `h` lists numbers alone, which do not say where its events end: list a TimeGap as well",
        ),
        (
            lambda: s.History("h", of=("clip",), length=2, window="before", separator="|"),
            "history `h`: `separator` splits the columns of a history with `in_row`",
        ),
        (
            lambda: s.History("h", of=("clip",), length=2, window="before", in_row="newest_first", only="click"),
            "history `h` brings its events in the row: `only` is for those that are cut by time",
        ),
        (
            lambda: s.History("h", of=("clip",), length=2, window="before", in_row="newest_first", events="orders"),
            "history `h` brings its events in the row: `events` is for those that are cut by time",
        ),
        (
            lambda: spec(
                CLIP,
                s.TimeGap("gap"),
                s.History("h", of=("clip", "gap"), length=2, window="before", in_row="newest_first"),
            ),
            "history `h` with `in_row` lists `gap`, a TimeGap: it takes Categorical and Numeric features",
        ),
        (
            lambda: spec(
                s.Numeric("price", group="item"),
                s.History("h", of=("price",), length=2, window="before", in_row="newest_first"),
            ),
            "history `h` lists numbers alone, which do not say where its events end: list a Categorical as well",
        ),
        (
            lambda: spec(
                CLIP,
                s.History("h", of=("clip",), length=2, window="before", in_row="newest_first"),
                s.Match("had", of="clip", recency=False),
            ),
            "match `had`: no history of impressions lists `clip`; name those to search in `histories`: h",
        ),
        (
            lambda: spec(
                CLIP,
                s.History("h", of=("clip",), length=2, window="before", in_row="newest_first"),
                s.NumericLookup("price", of="clip", file="p.csv", group="item", transform="autodis", histories=("h",)),
            ),
            'numeric_lookup `price` names histories, and its transform "autodis" is for rows alone',
        ),
        (
            lambda: spec(
                s.MultiCategorical("tag", group="item", weights="w"),
                s.Numeric("past_w", group="item"),
                s.History("past", of=("tag",), length=3, window="before"),
            ),
            "column `past_w` is declared twice: as feature `past_w` and as weights of `tag` in a history",
        ),
        (
            lambda: spec(CLIP, s.Numeric("paid", group="event")),
            "`paid` is a history-only field but no history lists it",
        ),
        (lambda: of_events(s.Numeric("paid", group="event", required=True)), "`paid` of group event is in no row"),
        (lambda: of_events(s.Vector("paid", group="event", dim=2, drift=0.1)), "`required` and `drift` are not for it"),
        (
            lambda: of_events(s.Categorical("paid", group="event")),
            "`paid` of group event has a `Vocab`, which counts values of rows: give it a `Hash`, or a `table`",
        ),
        (
            lambda: of_events(s.Categorical("person", group="event", vocab=s.Hash(size=9)), "person"),
            "feature `person` has the name of a key, which rows have: its group is not event",
        ),
        (
            lambda: spec(
                CLIP,
                s.History("orders", of=("clip",), length=2, window="before", events="orders"),
                s.Match("bought", of="clip", recency=False),
            ),
            "match `bought`: no history of impressions lists `clip`; name those to search in `histories`: orders",
        ),
        (
            lambda: spec(CLIP, s.History("past", of=("clip",), length=3, window="before", only="clik")),
            r"history `past`: `only` names 'clik', .*; did you mean `click`\?",
        ),
        (lambda: spec(CLIP, s.TimeGap("gap")), "`gap` is a history-only field but no history lists it"),
        (
            lambda: s.Label("click", matures_after="1 day"),
            "`matures_after` must be such as '1d', '12h', '30m' or '90s', received '1 day'",
        ),
        (
            lambda: s.Label("seen", kind="count", keep_negatives=0.5),
            "label `seen`: `keep_negatives` is for a binary label that is given no other, received kind='count'",
        ),
        (
            lambda: s.Label("stars", kind="ordinal"),
            r"label `stars` of kind='ordinal' needs `classes`: all of its values, such as \(1, 2, 3\)",
        ),
        (
            lambda: s.Label("stars", kind="multiclass", classes=(3, 1)),
            r"they must be 2 to 100 ascending whole numbers >= 0, received \(3, 1\)",
        ),
        (lambda: s.Label("stars", kind="ordinal", classes=(-1, 1)), r"whole numbers >= 0, received \(-1, 1\)"),
        (
            lambda: s.Label("stars", kind="ordinal", classes=(1, 2), scale=2),
            "label `stars`: `scale` is for labels without `classes`",
        ),
        (
            lambda: s.Label("seen", kind="count", classes=(1, 2)),
            "`classes` are for kind='ordinal' or 'multiclass', not for 'count'",
        ),
        (
            lambda: spec(labels=(s.Label("a", kind="ordinal", classes=(1, 2)), s.Label("a_1"))),
            "labels `a` and `a_1` both have an output `a_1`: rename one",
        ),
        (
            lambda: s.Label("seen", kind="watch_quantile"),
            "label `seen` of kind='watch_quantile' needs `duration`: a Numeric of the spec",
        ),
        (
            lambda: s.Label("seen", kind="watch_time", duration="length"),
            "label `seen`: `duration` is for kind='watch_quantile', not for 'watch_time'",
        ),
        (
            lambda: spec(
                s.Numeric("length", group="item"), labels=(s.Label("seen", kind="watch_quantile", duration="lenght"),)
            ),
            "has the duration `lenght`, which must be a Numeric of the spec; did you mean `length`",
        ),
        (
            lambda: spec(labels=(s.Label("click", keep_negatives=0.5), s.Label("buy", keep_negatives=0.5))),
            "`keep_negatives` is for one label at most, received click and buy",
        ),
        (
            lambda: spec(labels=(s.Label("click", row_weight="clip"),)),
            "column `clip` is declared twice: as row weight and as feature `clip`",
        ),
        (
            lambda: spec(labels=(s.Label("click"), s.Label("buy", given="clik"))),
            "label `buy` is given 'clik', which must be another binary label; did you mean `click`",
        ),
        (
            lambda: spec(labels=(s.Label("click", given="click"),)),
            "`click` is given 'click', which must be another binary",
        ),
        (
            lambda: spec(CLIP, PAST, s.Match("had", of="clp")),
            r"match `had` is of `clp`, which must be .* that a history lists; did you mean `clip`\?",
        ),
        (
            lambda: spec(CLIP, PAST, s.Match("had", of="clip", histories=("passt",))),
            r"match `had` names history `passt`, which must be one that lists `clip`; did you mean `past`\?",
        ),
        (lambda: spec(CLIP, PAST, s.Match("had", of="clip")), "match `had` .* history `past` lists no TimeGap"),
        (
            lambda: spec(CLIP, PAST, s.Match("had", of="clip", recency=False, flags=("click",))),
            "match `had` counts 'click', which is no flag of an Action in history `past`",
        ),
        (lambda: spec({"type": "categoricl", "name": "clip"}), "'categoricl' .* 'categorical', 'multi_categorical'"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(declare, message):
    with pytest.raises(ValueError, match=message):
        declare()


def test_a_spec_survives_json(toy_spec):
    copy = s.FeatureSpec.from_json(toy_spec.to_json())
    assert copy == toy_spec
    assert [type(feature) for feature in copy.features] == [type(feature) for feature in toy_spec.features]
    assert copy.get("country").vocab == s.Hash(size=7, functions=2)
    assert copy.scenario.values == ("home", "search", "cart")


def test_a_spec_cannot_be_changed(toy_spec):
    with pytest.raises(ValueError, match="frozen"):
        toy_spec.scenario.dim = 9


def test_flags_are_labels_then_actions_without_repetition():
    action = s.Action("action", flags=("share", "click"))
    history = s.History("past", of=("action",), length=2, window="before", only="share")
    assert spec(CLIP, action, history).flags == ("click", "buy", "share")


@pytest.mark.parametrize(
    ("cross", "message"),
    [
        (
            s.Cross("x", of=("clip", "pag"), group="item"),
            r"cross `x` is of `pag`, .* or the scenario; did you mean `page`",
        ),
        (s.Cross("x", of=("clip", "tag"), group="item"), "is of `tag`, which must be a Categorical or the scenario"),
        (s.Cross("x", of=("clip", "clip"), group="item"), r"must be of distinct features, received \('clip', 'clip'\)"),
        (s.Cross("x", of=("clip", "page"), group="user"), "it must be of group item, not user"),
        (s.Cross("x", of=("town", "page"), group="item"), "it must be of group user or context, not item"),
        (s.Cross("clip", of=("town", "page"), group="user"), "declared twice"),
    ],
)
def test_a_cross_is_of_categories_of_the_row(cross, message):
    others = (CLIP, s.MultiCategorical("tag", group="item"), s.Categorical("town", group="user"))
    with pytest.raises(ValueError, match=message):
        spec(*others, cross)


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (s.Categorical("last", group="user", table="clp"), r"uses the table of `clp`, .* its own; did you mean `clip`"),
        (s.Categorical("last", group="user", table="last"), "uses the table of `last`, which must be a categorical"),
        (s.Categorical("last", group="user", dim=3, table="clip"), "whose `dim` is 16, and its own is 3"),
        (
            s.Categorical("last", group="user", dtype="str", table="clip"),
            "whose `dtype` is 'int', and its own is 'str'",
        ),
        (s.Categorical("last", group="user", vocab=s.Hash(size=5), table="clip"), "whose `vocab` is Vocab"),
    ],
)
def test_features_of_one_table_agree_on_it(feature, message):
    with pytest.raises(ValueError, match=message):
        spec(CLIP, feature)


def test_a_table_has_one_owner():
    first = s.Categorical("last", group="user", table="clip")
    with pytest.raises(ValueError, match="feature `next` uses the table of `last`, which must be"):
        spec(CLIP, first, s.Categorical("next", group="user", table="last"))
    declared = spec(CLIP, first)
    assert [feature.name for feature in declared.looked_up] == ["clip"] and list(declared.vocabularies) == ["clip"]


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("age +", r"`formula` is no arithmetic, received 'age \+'"),
        ("1 + 2", "must name a column"),
        ("age ** 2", r"'age \*\* 2' is something else"),
        ("age > 2", "'age > 2' is something else"),
        ("age + '1'", "\"'1'\" is something else"),
        ("age + True", "'True' is something else"),
        ("age + 1e999", "'1e999' is something else"),
        ("age.real", "'age.real' is something else"),
        ("[age]", r"'\[age\]' is something else"),
        ("__import__('os')", "calls '__import__', which is no function of it; expected one of `abs`"),
        ("age.pop()", r"calls 'age.pop\(\)', which is no function"),
        ("lgo1p(age)", r"calls 'lgo1p', .* did you mean `log1p`"),
        ("max(age)", r"`max` of `formula` takes 2 numbers, received 'max\(age\)'"),
        ("age" + "+1" * 300, "may have 500 characters, received 603"),
        ("(" * 250 + "age" + ")" * 240, "is no arithmetic"),
        ("aeg + 1", r"expression `x` is of `aeg`, which must be a Numeric; did you mean `age`"),
        ("clip + 1", "is of `clip`, which must be a Numeric"),
        ("price / age", "it must be of group item, not user"),
    ],
)
def test_an_expression_is_arithmetic_over_numbers_of_the_row(formula, message):
    numbers = (s.Numeric("age", group="user"), s.Numeric("price", group="item"))
    with pytest.raises(ValueError, match=message):
        spec(CLIP, *numbers, s.Expression("x", formula=formula, group="user"))


def test_an_expression_names_its_columns_once():
    assert s.Expression("x", formula=" -(b + a) * log1p(b) ", group="user").of == ("b", "a")


def test_a_cross_needs_two_features():
    with pytest.raises(ValueError, match="at least 2 items"):
        s.Cross("x", of=("clip",), group="item")


def test_shared_columns_are_found_in_every_history(toy_spec):
    assert toy_spec.columns_of(toy_spec.get("tag")) == ("tag", "global_tag", "realtime_tag")
    assert toy_spec.columns_of(toy_spec.get("person")) == ("person",)
    assert [name for name, _ in toy_spec.history_fields(toy_spec.histories[1])] == [
        "realtime_clip",
        "realtime_tag",
        "realtime_action",
        "realtime_gap",
    ]


def test_embeddings_are_widened_by_one_factor_and_nothing_else(toy_spec):
    wide, narrow = toy_spec.widened(1.5), toy_spec.widened(0.01)
    assert [wide.get(name).dim for name in ("person", "clip", "action")] == [6, 8, 3]
    assert wide.scenario.dim == 4
    assert (
        {
            f.dim
            for f in narrow.features
            if hasattr(f, "dim") and f.name not in ("had", "bought", "look", "taste", "temper", "words")
        }
        == {narrow.scenario.dim}
        == {1}
    )
    assert wide.widened(2 / 3).get("person") == toy_spec.get("person")
    assert wide.histories == toy_spec.histories
    assert toy_spec.widened(1.0) == toy_spec


def test_scenarios_have_names_for_people():
    scenario = s.Scenario("page", values=(3, 7), labels=("home", "search"))
    assert (scenario.dtype, scenario.label_of(7), scenario.label_of(8)) == ("int", "search", "8")
    assert s.Scenario("page", values=("a", "b")).label_of("a") == "a"


def test_declarations_import_without_tensorflow_and_numpy():
    code = "import sys; from mixrank.schemas import Dataset; assert not {'tensorflow', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_label_says_its_logits_and_outputs():
    ordinal, multiclass = (s.Label("x", kind=kind, classes=(0, 2, 5)) for kind in ("ordinal", "multiclass"))
    watched = s.Label("seen", kind="watch_quantile", duration="length")
    assert s.Label("click").logits == s.Label("click").outputs == ("click",)
    assert ordinal.logits == ("x",) and multiclass.logits == ("x_0", "x_2", "x_5")
    assert ordinal.outputs == multiclass.outputs == ("x", "x_0", "x_2", "x_5")
    assert watched.outputs == ("seen", "seen_rank") and watched.learned == "seen_rank"


@pytest.mark.parametrize("wrong", [1, 3, -1, 2.5, float("nan")])
def test_a_value_that_is_no_class_is_refused(wrong):
    values = s.Label("x", kind="ordinal", classes=(0, 2, 5)).values
    values.check("label `x`", [0, 2, 5, 2.0])
    with pytest.raises(ValueError, match=f"label `x` must be 0, 2 or 5, received {wrong}"):
        values.check("label `x`", [0, wrong])
    assert {values.toy(drawn / 10, chance / 10) for drawn in range(10) for chance in range(11)} == {0, 2, 5}
