"""A log of repeats is what its settings say, and what a reader of histories can know is found row by row."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from mixrank.schemas.simulation import Repeats, repeats_seen, write_repeats

SETTINGS = Repeats(users=60, items=40, days=5, impressions=6.0, again=0.6, recency=4.0, wrong=0.1, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repeats") / "log"
    write_repeats(folder, SETTINGS)
    return folder


@pytest.fixture(scope="module")
def log(folder):
    return pq.read_table(folder / "log.parquet").to_pandas().assign(had=pq.read_table(folder / "truth.parquet")["had"])


def test_the_truth_says_whether_the_user_had_the_item_before(log):
    past: dict[int, set[int]] = {}
    for row in log.itertuples():
        own = past.setdefault(row.user_id, set())
        assert row.had == (row.item_id in own)
        own.add(row.item_id)


def test_times_grow_within_a_user_and_fill_the_days_that_end_on_the_last(log):
    assert log.groupby("user_id")["time_ms"].apply(lambda times: (np.diff(times) > 0).all()).all()
    days = sorted(set(np.array(log["time_ms"], "datetime64[ms]").astype("datetime64[D]").astype(str)))
    assert days == ["2024-06-26", "2024-06-27", "2024-06-28", "2024-06-29", "2024-06-30"]


def test_shares_are_those_of_the_settings(log):
    assert abs(len(log) / (60 * 5 * 6.0) - 1) < 0.1
    # Drawn again, and never otherwise: of 40 items, most that are drawn by popularity were there as well.
    assert log["had"].mean() > SETTINGS.again
    assert abs((log["had"] != log["bought"]).mean() - SETTINGS.wrong) < 0.02


def test_a_user_who_always_comes_back_has_one_item_for_ever(tmp_path):
    write_repeats(tmp_path / "log", SETTINGS.model_copy(update={"again": 1.0, "items": 100_000}))
    user, item = (pq.read_table(tmp_path / "log/log.parquet")[name].to_numpy() for name in ("user_id", "item_id"))
    same = user[1:] == user[:-1]
    assert np.all(item[1:][same] == item[:-1][same])


@pytest.mark.parametrize(("earlier", "today"), [(3, 2), (1000, 1000), (0, 0)])
def test_what_a_reader_sees_is_what_its_histories_hold(folder, log, earlier, today):
    labels, seen, had = repeats_seen(folder, earlier, today)
    day = np.array(log["time_ms"], "datetime64[ms]").astype("datetime64[D]")
    last = day == day.max()
    expected = []
    for row in log[last].itertuples():
        own = log[(log["user_id"] == row.user_id) & (log["time_ms"] < row.time_ms)]
        of_today = np.asarray(day[own.index] == day.max())
        before, within = own["item_id"][~of_today].tolist(), own["item_id"][of_today].tolist()
        read = [
            *before[len(before) - earlier if earlier < len(before) else 0 :],
            *within[max(0, len(within) - today) :],
        ]
        expected.append(row.item_id in read)
    np.testing.assert_array_equal(seen, expected)
    np.testing.assert_array_equal(labels, log["bought"][last])
    np.testing.assert_array_equal(had, log["had"][last])
    assert np.all(had[seen]) and (earlier < 1000 or np.array_equal(seen, had))


def test_equal_settings_write_equal_files_and_a_folder_in_use_is_left_alone(folder, tmp_path):
    write_repeats(tmp_path / "again", SETTINGS)
    for name in ("log.parquet", "truth.parquet", "simulation.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    with pytest.raises(ValueError, match="exists; a simulated log is written to a folder of its own"):
        write_repeats(folder, SETTINGS)
