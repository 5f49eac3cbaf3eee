"""A raw log is joined for scoring as it is for training, for the days one asks for."""

from __future__ import annotations

import json

import pytest

from mixrank import schemas as s

HOUR = 3_600_000
# The first of May 2022 begins in Tokyo.
START = 1_651_330_800_000
SPEC = s.FeatureSpec(
    name="shop",
    user=s.Key("user"),
    item=s.Key("item"),
    time=s.EventTime("ms"),
    scenario=s.Scenario("page", values=("home", "cart")),
    labels=(s.Label("click"),),
    features=(
        s.Categorical("item", group="item"),
        s.Action("action", flags=("click",)),
        s.TimeGap("gap"),
        s.History("global", of=("item", "action", "gap"), length=5, window="before"),
    ),
)
DATASET = s.Dataset(
    spec=SPEC,
    source=s.LogSource(
        log=s.Table(files=("log.csv",)),
        window=s.CalendarDay(timezone="Asia/Tokyo"),
        split=s.SplitByUserTail(valid=0.1, eval=0.1),
    ),
)
# Three local days of one user, one event every six hours; item n is the n-th.
ROWS = [(7, number, START + 6 * HOUR * number, "home", number % 2) for number in range(12)]


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    lines = ["user,item,ms,page,click", *(",".join(map(str, row)) for row in ROWS)]
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    return folder


def read(folder):
    import tensorflow as tf

    from mixrank.schemas.encode import decode

    records = tf.data.TFRecordDataset(sorted(map(str, folder.iterdir())), "GZIP").as_numpy_iterator()
    return sorted((decode(SPEC, record) for record in records), key=lambda row: row["ms"])


def test_days_are_local_and_histories_reach_behind_them(data, tmp_path):
    from mixrank.components.examples import write_examples

    rows = read(write_examples(DATASET, data, tmp_path / "out", ("2022-05-02", "2022-05-02")))
    assert [row["item"] for row in rows] == [4, 5, 6, 7]
    assert [row["global_item"] for row in rows] == [[3, 2, 1, 0]] * 4
    assert rows[0]["global_gap"] == [6 * 3600 * step for step in (1, 2, 3, 4)]


def test_without_days_every_row_is_written(data, tmp_path):
    from mixrank.components.examples import write_examples

    assert [row["item"] for row in read(write_examples(DATASET, data, tmp_path / "out"))] == list(range(12))


def test_examples_are_written_once_and_never_mixed(data, tmp_path):
    from mixrank.components.examples import write_examples

    folder = write_examples(DATASET, data, tmp_path / "out", ("2022-05-01", "2022-05-01"))
    stamps = [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]
    assert write_examples(DATASET, data, tmp_path / "out", ("2022-05-01", "2022-05-01")) == folder
    assert stamps == [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]
    with pytest.raises(ValueError, match=r"out holds examples of another log or other days"):
        write_examples(DATASET, data, tmp_path / "out", ("2022-05-02", "2022-05-02"))


def test_days_without_rows_are_refused(data, tmp_path):
    from mixrank.components.examples import write_examples

    with pytest.raises(ValueError, match=r"has no rows from 2023-01-01 to 2023-01-02"):
        write_examples(DATASET, data, tmp_path / "out", ("2023-01-01", "2023-01-02"))


COUNTED = {
    "item_rate": s.Popularity(of="item", label="click", smoothing=2.0, half_life=1.5, timezone="Asia/Tokyo"),
    "user_page_rate": s.Popularity(of=("user", "page"), label="click", timezone="Asia/Tokyo"),
    "page_rows": s.Popularity(of="page", timezone="Asia/Tokyo"),
}


@pytest.fixture
def counted(data):
    features = [s.Numeric(name, group="item" if "item" in name else "user") for name in COUNTED]
    spec = s.FeatureSpec(**{**dict(SPEC), "features": (*SPEC.features, *features)})
    source = s.LogSource(**{**dict(DATASET.source), "popularity": COUNTED})
    rows = [
        (user, (number + user) % 4, START + 6 * HOUR * number + user, ("home", "cart")[number % 3 == 0], number % 2)
        for user in range(5)
        for number in range(12)
    ]
    lines = ["user,item,ms,page,click", *(",".join(map(str, row)) for row in rows)]
    (data / "log.csv").write_text("\n".join(lines) + "\n")
    return s.Dataset(spec=spec, source=source)


@pytest.mark.slow
def test_a_table_of_a_day_has_what_the_rows_of_that_day_have(counted, data, tmp_path, monkeypatch):
    import pandas as pd

    from mixrank.components.examples import log_scoring, write_examples, write_popularity
    from mixrank.schemas.encode import decode

    monkeypatch.setattr(log_scoring, "default_shards", lambda tables: 3)
    found = write_popularity(counted, data, tmp_path / "tables", "2022-05-03")
    assert found == json.loads((tmp_path / "tables" / "popularity.json").read_text())
    assert {each["day"] for each in found.values()} == {"2022-05-03"}
    tables = {name: pd.read_parquet(tmp_path / "tables" / f"{name}.parquet") for name in COUNTED}
    assert tables["user_page_rate"].columns.tolist() == ["user", "page", "user_page_rate", "positives", "rows"]
    assert len(tables["user_page_rate"]) == found["user_page_rate"]["values"] == 10
    # Half of the rows of the first two days are clicks, and one row of each outcome is added.
    assert found["user_page_rate"]["rate"] == 0.5
    assert tables["page_rows"].set_index("page")["page_rows"].sum() == 40

    import tensorflow as tf

    folder = write_examples(counted, data, tmp_path / "out", ("2022-05-03", "2022-05-03"))
    records = tf.data.TFRecordDataset(sorted(map(str, folder.iterdir())), "GZIP").as_numpy_iterator()
    rows = [decode(counted.spec, record) for record in records]
    assert len(rows) == 20
    for name, rule in COUNTED.items():
        table = tables[name].set_index(list(rule.parts))[name]
        for row in rows:
            key = tuple(row[part] for part in rule.parts)
            assert table[key if len(key) > 1 else key[0]] == pytest.approx(row[name], rel=1e-6)


@pytest.mark.slow
def test_the_day_after_the_newest_event_is_the_default(counted, data, tmp_path):
    from mixrank.components.examples import write_popularity

    found = write_popularity(counted, data, tmp_path / "tables")
    assert {each["day"] for each in found.values()} == {"2022-05-04"}
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == sorted(
        ["log.json", "popularity.json", *(f"{name}.parquet" for name in COUNTED)]
    )
    # The same again is left alone, another day is refused.
    assert write_popularity(counted, data, tmp_path / "tables") == found
    with pytest.raises(ValueError, match="tables holds popularity of another log or other days"):
        write_popularity(counted, data, tmp_path / "tables", "2022-05-03")


def test_a_dataset_without_popularity_has_no_tables(data, tmp_path):
    from mixrank.components.examples import write_popularity

    with pytest.raises(ValueError, match="dataset shop declares no Popularity"):
        write_popularity(DATASET, data, tmp_path / "tables")
