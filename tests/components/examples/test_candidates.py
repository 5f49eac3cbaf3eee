"""Requests whose candidates are lists, and logs without users, from the file to the rows of a shard."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixrank import schemas as s
from mixrank.components.examples.candidates import exploded, row_numbers, uneven
from mixrank.components.examples.raw_tables import find_tables
from mixrank.components.examples.stages import ReadPiece, ShardTables
from mixrank.schemas import Explode

RULE = Explode(("item", "price"), position="place", chosen={"click": "clicked"})


def columns(items, prices, clicked):
    return {
        "user": pa.array(range(len(items))),
        "item": pa.array(items, pa.list_(pa.int64())),
        "price": pa.array(prices, pa.list_(pa.float64())),
        "clicked": pa.array(clicked, pa.list_(pa.int64())),
    }


def test_every_candidate_becomes_a_row_with_its_place_and_label():
    rows = exploded(RULE, columns([[5, 6], [], [5]], [[1.0, None], [], None], [[6], [5], None]))
    assert {name: array.to_pylist() for name, array in rows.items()} == {
        "user": [0, 0, 2],
        "item": [5, 6, 5],
        "price": [1.0, None, None],
        "click": [0, 1, 0],
        "place": [1, 2, 1],
    }


def test_lists_of_different_lengths_are_bad_and_a_missing_list_is_not():
    bad = uneven(RULE, columns([[5, 6], [5], [5]], [[1.0], None, [2.0]], [[], [], []]))
    assert bad == {0: ("price", "has 1 entries, but another list of the same request has 2")}


def test_row_numbers_differ_between_files():
    import numpy as np

    assert row_numbers(0, np.array([1, 2])).to_pylist() == [1, 2]
    assert row_numbers(3, np.array([1])).to_pylist() == [3 * 2**40 + 1]


def spec(user, *features, labels=("click",)):
    return s.FeatureSpec(
        name="ads",
        user=user,
        item=s.Key("item"),
        time=s.EventTime("ts", unit="s"),
        scenario=s.Scenario("page", values=("home",)),
        labels=tuple(s.Label(name) for name in labels),
        features=(s.Categorical("item", group="item"), *features),
    )


def read(dataset, folder, num_shards=2):
    """Rows of all shards, as ExampleGen sorts them, and its dead letters."""
    import json

    tables = find_tables(dataset, str(folder))
    scratch = folder / "scratch"
    scratch.mkdir()
    step = ReadPiece(tables, num_shards, str(scratch))
    for name, table in tables.items():
        for number, piece in table.pieces():
            list(step.process((name, number, piece)))
    reads = [json.loads(path.read_text()) for path in sorted(scratch.glob("read-*.json"))]
    assert not [each["error"] for each in reads if "error" in each]
    batches = {name: [path for each in reads if each["table"] == name for path in each["batches"]] for name in tables}
    shards = ShardTables(tables, batches)
    rows = []
    for number in range(num_shards):
        log = shards.load(number)["log"]
        names = [name for name in log if not name.startswith("_")]
        rows += [dict(zip(names, row, strict=True)) for row in zip(*(log[n].tolist() for n in names), strict=True)]
    return rows, [letter for each in reads for letter in each["bad"]]


def test_a_log_without_users_gives_every_row_a_user_of_its_own(tmp_path):
    dataset = s.Dataset(
        spec=spec(s.Key("row", per_row=True)),
        source=s.LogSource(log=s.Table(files=("*.csv",)), split=s.SplitByHash(valid=0, eval=0.5)),
    )
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text(
            "item,ts,page,click\n7,1700000000,home,1\n7,1700000000,home,1\nx,1,home,0\n"
        )
    rows, letters = read(dataset, tmp_path)
    assert sorted(row["row"] for row in rows) == [1, 2, 2**40 + 1, 2**40 + 2]
    assert [(letter["row"], letter["column"]) for letter in letters] == [(3, "item"), (3, "item")]


REQUESTS = s.LogSource(
    log=s.Table(files=("requests.*",), missing=("-",)),
    explode=Explode(("item", "price"), position="place", chosen={"click": "clicked"}),
    split=s.SplitByHash(valid=0, eval=0.5),
)
FEATURES = (s.Numeric("price", group="item"), s.Categorical("place", group="context"))
EXPECTED = [(7, 0.5, 1, 0), (8, None, 2, 1), (9, 2.0, 1, 1)]


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_lists_of_candidates_are_read_from_parquet_and_from_text(tmp_path, form):
    if form == "csv":
        lines = ["1,1700000000,home,7|8,0.5|-,8", "1,1700000001,home,9,2,9", "2,1700000002,home,7|8,1,"]
        (tmp_path / "requests.csv").write_text("\n".join(["u,ts,page,item,price,clicked", *lines, ""]))
    else:
        table = {
            "u": [1, 1, 2],
            "ts": [1700000000, 1700000001, 1700000002],
            "page": ["home"] * 3,
            "item": [[7, 8], [9], [7, 8]],
            "price": [[0.5, None], [2.0], [1.0]],
            "clicked": [8, 9, None],
        }
        pq.write_table(pa.table(table), tmp_path / "requests.parquet")
    explode = REQUESTS.explode.model_copy(update={"separator": "|" if form == "csv" else None})
    source = REQUESTS.model_copy(update={"explode": explode})
    rows, letters = read(s.Dataset(spec=spec(s.Key("u"), *FEATURES), source=source), tmp_path)
    assert sorted((r["item"], r["price"], r["place"], r["click"]) for r in rows if r["u"] == 1) == EXPECTED
    assert [(letter["row"], letter["column"]) for letter in letters] == [(3, "price")]


def test_a_list_that_is_declared_but_read_by_nothing_is_named(tmp_path):
    (tmp_path / "requests.csv").write_text("u,ts,page,item,price,clicked\n1,1,home,7,1,7\n")
    dataset = s.Dataset(spec=spec(s.Key("u"), FEATURES[1]), source=REQUESTS)
    with pytest.raises(ValueError, match="lists `price` in `columns`, which no key, label or feature takes"):
        find_tables(dataset, str(tmp_path))


def test_events_are_read_by_user_unless_they_have_none(tmp_path):
    (tmp_path / "log.csv").write_text("u,item,ts,page,request\n1,7,1700000000,home,r1\n")
    (tmp_path / "clicks.csv").write_text("u,item,at,request\n1,7,2023-11-14T22:20:00Z,r1\n,7,2023-11-14T22:20:00Z,r2\n")
    clicks = s.Table(files=("clicks.csv",))
    at = s.EventTime("at", format="iso")
    for on, key in (((), "u"), (("request",), None)):
        source = s.LogSource(
            log=s.Table(files=("log.csv",)),
            labels={"click": s.LabelFrom(table=clicks, within="30m", on=on, time=at)},
            split=s.SplitByHash(valid=0, eval=0.5),
        )
        tables = find_tables(s.Dataset(spec=spec(s.Key("u")), source=source), str(tmp_path))
        assert tables["label_click"].key == key
        names = {"u", "item", "at"} if key else {"request", "at"}
        assert {column.name for column in tables["label_click"].columns} == names
        assert "click" not in {column.name for column in tables["log"].columns}
