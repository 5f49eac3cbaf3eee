"""The raw side of a log refuses what cannot be read or split."""

from __future__ import annotations

import pytest

from mixrank.schemas import (
    Categorical,
    EventTime,
    FeatureSpec,
    History,
    Key,
    Label,
    MultiCategorical,
    Numeric,
    Scenario,
    datasets,
)
from mixrank.schemas.tables import (
    CalendarDay,
    Cut,
    Dataset,
    EventTable,
    Explode,
    Join,
    LabelFrom,
    LogSource,
    Prior,
    Sliding,
    SplitByDay,
    SplitByHash,
    SplitByUserTail,
    Table,
    Threshold,
)

LOG = Table(files=("log.parquet",))
DAYS = {"train": ("2022-04-25", "2022-05-03"), "eval": ("2022-05-05", "2022-05-06")}


def dataset(*features, **source):
    spec = FeatureSpec(
        name="clips",
        user=Key("person"),
        item=Key("clip"),
        time=EventTime("at"),
        scenario=Scenario("page", values=(0, 1)),
        labels=(Label("click"),),
        features=features or (Categorical("clip", group="item"),),
    )
    return Dataset(spec=spec, source=LogSource(log=LOG, **source))


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: Table(files=()), "at least 1 item"),
        (lambda: Table(files=("a",), format="avro"), "'parquet', 'csv', 'tsv', 'json' or 'tfrecord'"),
        (lambda: Table(files=("a",), seperator=";"), r"Table has no field `seperator`; did you mean `separator`\?"),
        (lambda: Table(files=("a",), thousands="."), r"one character besides `decimal` \(\.\), .* received '\.'"),
        (lambda: Table(files=("a",), thousands="00"), "`thousands` must be one character"),
        (lambda: Table(files=("a",), missing=(" -",)), "`missing` is compared without space around it, received ' -'"),
        (lambda: LabelFrom(table=LOG, within="30 min"), "a number of s, m, h or d, such as '30m', received '30 min'"),
        (lambda: Join(on="users", table=LOG), "'user' or 'item'"),
        (lambda: Prior(table=LOG, items="seq", order="newest"), "'oldest_first' or 'newest_first'"),
        (lambda: Cut("age", edges=(25, 35), names=("young", "old")), r"len\(edges\) \+ 1 = 3 entries, received 2"),
        (lambda: Cut("age", edges=(35, 25), names=("a", "b", "c")), r"`edges` must increase, received \(35.0, 25.0\)"),
        (lambda: Cut("age", edges=(25, 25), names=("a", "b", "c")), "`edges` must increase"),
        (lambda: CalendarDay(timezone="Asia/Shanhai"), "IANA name such as 'Asia/Shanghai', received 'Asia/Shanhai'"),
        (lambda: SplitByDay(splits=DAYS, timezone="Mars/Base"), "IANA name such as .* received 'Mars/Base'"),
        (lambda: CalendarDay(starts_at=24), "less than or equal to 23"),
        (lambda: Sliding(seconds=0), "greater than or equal to 1"),
        (
            lambda: SplitByDay(splits={**DAYS, "eval": ("2022-5-5", "2022-05-06")}),
            "days of split `eval` must be written as 2022-04-25, received '2022-5-5'",
        ),
        (lambda: SplitByDay(splits={**DAYS, "eval": ("2022-05-05", "2022-05-32")}), "received '2022-05-32'"),
        (
            lambda: LogSource(log=LOG, split=SplitByDay(splits={**DAYS, "vaild": ("2022-05-04", "2022-05-04")})),
            r"`splits` has no split `vaild`; did you mean `valid`\?",
        ),
        (
            lambda: LogSource(log=LOG, split=SplitByDay(splits={**DAYS, "eval": ("2022-05-06", "2022-05-05")})),
            "split `eval` begins after it ends: 2022-05-06 > 2022-05-05",
        ),
        (
            lambda: LogSource(log=LOG, split=SplitByDay(splits={**DAYS, "valid": ("2022-05-03", "2022-05-04")})),
            "splits `train` and `valid` overlap: 2022-04-25 - 2022-05-03 and 2022-05-03 - 2022-05-04",
        ),
        (
            lambda: LogSource(log=LOG, split=SplitByDay(splits={"train": DAYS["train"]})),
            r"`splits` must name \['eval'\], received \['train'\]",
        ),
        (lambda: LogSource(log=LOG, split=SplitByUserTail(valid=0.5, eval=0.5)), "`valid` . `eval` must be below 1"),
        (lambda: LogSource(log=LOG, split=SplitByHash(valid=0.9, eval=0.2)), "`valid` . `eval` must be below 1"),
        (lambda: SplitByUserTail(eval=0), "greater than 0"),
        (lambda: LogSource(log=LOG, max_bad_rows=2), "less than or equal to 1"),
        (
            lambda: dataset(prior=Prior(table=LOG, items="seq", flags={"clik": "click_seq"})),
            r"`prior` names flag 'clik'; did you mean `click`\?",
        ),
        (lambda: dataset(prior=Prior(table=LOG, items="seq", always=("share",))), "`prior` names flag 'share'"),
        (
            lambda: dataset(
                Categorical("clip", group="item"),
                History("orders", of=("clip",), length=2, window="before", events="order"),
                events={"orders": EventTable(table=LOG)},
            ),
            r"history `orders` is of the events 'order', which `events` of the source does not declare; did you mean",
        ),
        (
            lambda: LogSource(log=LOG, events={"a/b": EventTable(table=LOG)}),
            "names in `events` must be letters, .*'a/b'",
        ),
        (lambda: EventTable(table=Table(files=("a",), optional=True)), "must be there, but has optional=True"),
        (
            lambda: dataset(Numeric("rating", group="item"), derive={"click": Threshold("rating", at_least=4)}),
            "`rating` cannot be a feature: outcome `click` is derived from it",
        ),
    ],
)
def test_a_wrong_source_is_refused(declare, message):
    with pytest.raises(ValueError, match=message):
        declare()


EVENTS = LabelFrom(table=LOG, within="30m")
NO_USER = {"user": Key("row", per_row=True), "split": SplitByHash()}


def declared(user=None, **source):
    """A dataset with a user key of choice."""
    given = dataset(
        Categorical("clip", group="item"), Numeric("place", group="context"), MultiCategorical("tag", group="item")
    )
    spec = given.spec.model_copy(update={"user": user or given.spec.user})
    return Dataset(spec=FeatureSpec(**dict(spec)), source=LogSource(log=LOG, **source))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"labels": {"clik": EVENTS}}, r"`labels` makes 'clik', which is no label or flag; did you mean `click`\?"),
        ({"labels": {"click": EVENTS}, "derive": {"click": Threshold("x", at_least=1)}}, "`click` is made twice"),
        ({"user": NO_USER["user"]}, "SplitByUserTail needs a user, but key `row` is per_row"),
        ({**NO_USER, "joins": (Join(on="user", table=LOG),)}, "join 0, on the user, needs a user"),
        ({**NO_USER, "prior": Prior(table=LOG, items="seq")}, "a prior needs a user"),
        ({**NO_USER, "labels": {"click": EVENTS}}, "`labels` of 'click' needs `on`, because key `row` is per_row"),
        ({"explode": Explode(("click",))}, "must begin with the key of the items, `clip`, received `click`"),
        ({"explode": Explode(("clip", "at"))}, "lists `at` in `columns`, which is the time and not one per item"),
        ({"explode": Explode(("clip", "tag"))}, "lists `tag` in `columns`, which is a MultiCategorical"),
        ({"explode": Explode(("clip",), chosen={"clik": "x"})}, r"`explode` fills 'clik', .* did you mean `click`\?"),
        ({"explode": Explode(("clip", "click"), chosen={"click": "x"})}, "`click` is made twice: by `chosen`"),
        (
            {"explode": Explode(("clip",), position="plac")},
            r"must be a Numeric or an int Categorical; did you mean `place`",
        ),
    ],
)
def test_rows_in_another_shape_are_refused_where_they_make_no_sense(source, message):
    with pytest.raises(ValueError, match=message):
        declared(**source)


def test_a_window_of_events_is_counted_in_milliseconds():
    windows = {"5s": 5000, "30m": 1_800_000, "2h": 7_200_000, "1d": 86_400_000}
    assert {text: LabelFrom(table=LOG, within=text).within_ms for text in windows} == windows


def test_a_log_in_another_shape_survives_json():
    given = declared(
        **NO_USER,
        labels={"click": LabelFrom(table=LOG, within="30m", on=("request",), time=EventTime("at", format="iso"))},
        explode=Explode(("clip",), position="place", separator="|"),
    )
    assert Dataset.model_validate_json(given.model_dump_json()) == given


def test_an_outcome_cannot_be_a_feature_of_its_own_row(toy_spec, toy_events):
    features = [feature.model_dump() for feature in toy_spec.features]
    next(feature for feature in features if feature["name"] == "action")["flags"] = ("click", "wish")
    spec = FeatureSpec(**{**toy_spec.model_dump(), "features": [*features, Numeric("wish", group="user").model_dump()]})
    with pytest.raises(ValueError, match="`wish` is an outcome and cannot be a feature of the row it belongs to"):
        Dataset(spec=spec, source=LogSource(log=LOG, events=toy_events))


@pytest.mark.parametrize(
    ("split", "names"),
    [
        (SplitByUserTail(valid=0, eval=0.2), ("train", "eval")),
        (SplitByHash(), ("train", "valid", "eval")),
        (SplitByDay(splits={**dict(reversed(DAYS.items()))}), ("train", "eval")),
        (SplitByDay(splits={**DAYS, "valid": ("2022-05-04", "2022-05-04")}), ("train", "valid", "eval")),
    ],
)
def test_splits_are_listed_in_the_order_of_time(split, names):
    assert dataset(split=split).split_names == names


@pytest.mark.parametrize("name", datasets.names())
def test_a_dataset_survives_json(name):
    found = datasets.load(name)
    copy = Dataset.model_validate_json(found.model_dump_json())
    assert copy == found
    assert type(copy.source.split) is type(found.source.split)
    assert type(copy.source.window) is type(found.source.window)


def test_a_cut_without_edges_has_one_interval():
    assert Cut("ts", edges=(), names=("all",)).names == ("all",)
    with pytest.raises(ValueError, match=r"`names` needs len.edges. \+ 1 = 1 entries, received 2"):
        Cut("ts", edges=(), names=("some", "others"))
