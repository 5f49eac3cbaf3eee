"""A raw log is joined for scoring as it is for training, for the days one asks for."""

from __future__ import annotations

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
