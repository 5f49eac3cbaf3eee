"""Slices by columns of the joined rows against the rows themselves."""

import numpy as np
import pandas as pd
import pytest

from mixrank.components.judging import Slice, check_slices
from mixrank.pipeline.reports import RunFolder, metrics_tables, write_report
from mixrank.pipeline.reports.slices import by_events, by_number, by_value, slices_of


def test_frequent_values_have_slices_of_their_own():
    values = np.array(["a"] * 5 + ["b"] * 3 + [f"c{n}" for n in range(20)], object)
    lengths = np.array([1] * 26 + [2, 0])
    parts = {part.title: np.flatnonzero(part.inside) for part in by_value(values, lengths)}
    assert list(parts["a"]) == list(range(5)) and list(parts["b"]) == [5, 6, 7]
    assert len(parts) == 10 + 2
    # The last row but one has two values, both of them rare.
    assert list(parts["12 other values"]) == list(range(16, 27))
    assert list(parts["missing"]) == [27]


def test_numbers_are_cut_into_quarters_of_the_rows():
    numbers = np.random.default_rng(0).lognormal(size=400)
    lengths = np.ones(500, int)
    lengths[::5] = 0
    *quarters, missing = by_number(numbers, lengths)
    assert [part.inside.sum() for part in quarters] == pytest.approx([100] * 4, abs=1)
    assert missing.title == "missing" and missing.inside.sum() == 100
    first = np.sort(numbers)[100]
    assert quarters[0].title == f"below {first:g}" and quarters[3].title.endswith(" and more")
    assert (sum(part.inside.astype(int) for part in [*quarters, missing]) == 1).all()


def test_equal_numbers_share_a_slice():
    flat, _ = by_number(np.full(9, 2.5), np.ones(9, int))
    assert flat.title == "2.5" and flat.inside.all()
    parts = by_number(np.array([1.0] * 90 + [7.0] * 10), np.ones(100, int))
    assert [(part.title, part.inside.sum()) for part in parts[:-1]] == [("any", 100)]
    parts = by_number(np.array([1.0] * 60 + [7.0] * 40), np.ones(100, int))
    assert [(part.title, part.inside.sum()) for part in parts[:-1]] == [("below 7", 60), ("7 and more", 40)]


def test_histories_are_cut_by_their_events():
    counts = np.array([0, 0, 1, 2, 3, 4, 5, 6])
    found = [(part.title, part.inside.sum()) for part in by_events(counts)]
    assert found == [("no events", 2), ("below 3 events", 2), ("3 to below 5 events", 2), ("5 and more events", 2)]


def test_declared_edges_cut_numbers_and_events():
    numbers = np.array([-1.0, 0.0, 2.0, 9.0, 2.5])
    parts = by_number(numbers, np.array([1, 1, 1, 1, 1, 0]), (0.0, 2.5))
    found = {part.title: np.flatnonzero(part.inside).tolist() for part in parts}
    assert found == {"below 0": [0], "0 to below 2.5": [1, 2], "2.5 and more": [3, 4], "missing": [5]}
    found = [(part.title, part.inside.sum()) for part in by_events(np.array([0, 1, 4, 5, 9]), (5.0,))]
    assert found == [("no events", 1), ("below 5 events", 2), ("5 and more events", 2)]


def test_a_name_that_is_no_column_is_refused(toy_spec):
    check_slices(map(Slice.of, ["age", "tag", "global"]), toy_spec)
    check_slices([Slice(column="age", edges=(1, 2)), Slice(column="global", edges=(3,))], toy_spec)
    with pytest.raises(ValueError, match="`slices` names `agee`, .* did you mean `age`"):
        check_slices([Slice.of("agee")], toy_spec)
    with pytest.raises(ValueError, match="`slices` names `click`, which is neither a feature nor a history"):
        check_slices([Slice.of("click")], toy_spec)
    with pytest.raises(ValueError, match="`edges` of `slices` are for a Numeric or a history, not for `tag`"):
        check_slices([Slice(column="tag", edges=(1,))], toy_spec)
    with pytest.raises(ValueError, match=r"`edges` of `slices` must ascend, received \(2.0, 1.0\)"):
        Slice(column="age", edges=(2, 1))


@pytest.fixture(scope="module")
def run(toy_spec, toy_data, record_of, tmp_path_factory):
    """A run whose predictions are in another order than its joined rows, and the rows in that order."""
    folder = tmp_path_factory.mktemp("run")
    order = np.random.default_rng(2).permutation(len(toy_data.rows["eval"]))
    rows = [toy_data.rows["eval"][place] for place in order]
    frame = pd.DataFrame([{name: row[name] for name in ("person", "clip", "at", "page")} for row in rows])
    for task in toy_spec.tasks:
        frame[f"label_{task}"] = [row[task] for row in rows]
        frame[f"score_{task}"] = np.random.default_rng(5).random(len(rows)).round(2)
    (folder / "model_run").mkdir()
    frame.to_parquet(folder / "model_run" / "predictions.parquet")
    config = {"slices": [{"column": "age", "edges": [2, 2.5]}, "global"]}
    record_of(toy_spec, folder, examples=toy_data.examples, config=config).write(folder)
    return folder, rows


@pytest.mark.slow
def test_slices_are_those_of_the_raw_rows(run):
    folder, rows = run
    found = slices_of(RunFolder.load(folder), [Slice.of(name) for name in ("country", "tag", "age", "global")])
    countries = {part.title: part.inside for part in found["country"]}
    np.testing.assert_array_equal(countries["missing"], [row["country"] is None for row in rows])
    top = max(set(countries) - {"missing"}, key=lambda title: countries[title].sum() * title.startswith("v"))
    np.testing.assert_array_equal(countries[top], [row["country"] == top for row in rows])
    for part in found["tag"][:10]:
        np.testing.assert_array_equal(part.inside, [part.title in row["tag"] for row in rows])
    ages = np.array([np.nan if row["age"] is None else row["age"] for row in rows], np.float64)
    quarter = found["age"][0]
    np.testing.assert_array_equal(quarter.inside, ages < float(quarter.title.removeprefix("below ")) - 1e-4)
    empty = found["global"][0]
    np.testing.assert_array_equal(empty.inside, [not row["global_clip"] for row in rows])


@pytest.mark.slow
def test_the_page_and_the_terminal_show_the_slices_of_config_and_command(run, tmp_path):
    from mixrank.pipeline.commands.terminal import SafeConsole

    folder, _ = run
    write_report([folder], tmp_path / "report.html", ["country"])
    page = (tmp_path / "report.html").read_text()
    for column in ("age", "global", "country"):
        assert f"<h3>click by {column}</h3>" in page and f"<h3>buy by {column}</h3>" in page
    assert page.count("only ") > 10, "150 rows make small slices"
    console = SafeConsole(width=200, record=True)
    console.print(*metrics_tables([folder], ["tag"]))
    # Tables wrap their captions.
    text = " ".join(console.export_text().split())
    assert "events: only" in text and "missing: only" in text and "2 to below 2.5" in text
