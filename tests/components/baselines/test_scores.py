import numpy as np
import pandas as pd
import pytest

from mixrank.components.baselines import AdditiveLogOdds, BoostedTrees, fit_additive, fit_boosted_trees, read_examples
from mixrank.components.metrics import auc
from mixrank.schemas import CalendarDay, Dataset, Label, LogSource, Table
from mixrank.schemas.encode import encode
from mixrank.schemas.synthetic import toy_rows

HOUR = 3_600_000


@pytest.fixture(scope="module", autouse=True)
def few_trees():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BoostedTrees.__init__.__kwdefaults__, "trees", 20)
        yield


@pytest.fixture(scope="module")
def rows(toy_spec):
    """Split -> file -> rows; five days, and one to evaluate on."""
    found = {"train": {"b": [], "a": []}, "valid": {"a": []}, "eval": {"b": [], "a": []}}
    for number, row in enumerate(toy_rows(toy_spec, 3000, seed=1)):
        row["at"] = 1_650_000_000_000 + number * HOUR // 25
        files = found["train" if number < 2000 else "valid" if number < 2500 else "eval"]
        files[list(files)[number % len(files)]].append(row)
    return found


def write_rows(folder, spec, rows):
    """Examples of some splits."""
    import tensorflow as tf

    for split, files in rows.items():
        (folder / f"Split-{split}").mkdir(parents=True)
        for name, part in files.items():
            with tf.io.TFRecordWriter(str(folder / f"Split-{split}" / f"data-{name}.gz"), "GZIP") as writer:
                for row in part:
                    writer.write(encode(spec, row))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, toy_spec, toy_events, rows):
    """The dataset of these rows, and their files."""
    folder = write_rows(tmp_path_factory.mktemp("examples"), toy_spec, rows)
    return dataset_of(toy_spec, toy_events, CalendarDay(timezone="Asia/Tokyo")), patterns(folder)


def dataset_of(spec, events, window):
    """A dataset whose files are not read."""
    return Dataset(spec=spec, source=LogSource(log=Table(files=("log.csv",)), events=events, window=window))


def patterns(folder):
    return {split: f"{folder}/Split-{split}/*" for split in ("train", "valid", "eval")}


@pytest.fixture(scope="module")
def scored(run, tmp_path_factory):
    target = tmp_path_factory.mktemp("boosted") / "boosted.parquet"
    assert fit_boosted_trees(*run, ("train", "valid"), target) == target
    assert not list(target.parent.glob("*.partial"))
    return pd.read_parquet(target)


def test_every_evaluation_row_is_scored_in_file_order(scored, rows):
    later = rows["eval"]["a"] + rows["eval"]["b"]
    assert list(scored) == ["person", "clip", "at", "score_click", "score_buy"]
    for name in ("person", "clip", "at"):
        assert scored[name].tolist() == [row[name] for row in later]
    for task in ("click", "buy"):
        scores = scored[f"score_{task}"].to_numpy()
        assert ((scores > 0) & (scores < 1)).all()
        # Labels are drawn with a hidden probability of clip and page.
        assert auc(np.array([row[task] for row in later]), scores) > 0.6


@pytest.mark.slow
def test_training_rows_are_counted_by_the_days_of_the_dataset(scored, run, toy_spec, rows):
    arrays = read_examples(toy_spec, list(run[1].values()))
    training, later = arrays.between(0, 2500), arrays.between(2500, 3000)
    # Days begin at midnight in Tokyo, nine hours ahead of UTC.
    days = (training.columns["at"] + 9 * HOUR) // (24 * HOUR)
    expected = BoostedTrees(toy_spec).fit(training, days).predict(later)
    for task, scores in expected.items():
        np.testing.assert_array_equal(scored[f"score_{task}"], scores)


@pytest.mark.slow
def test_labels_of_evaluation_rows_are_not_read(scored, run, tmp_path, toy_spec, rows):
    changed = {file: [row | {"click": 0, "buy": 1} for row in part] for file, part in rows["eval"].items()}
    folder = write_rows(tmp_path / "examples", toy_spec, {**rows, "eval": changed})
    other = fit_boosted_trees(run[0], patterns(folder), ("train", "valid"), tmp_path / "other.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(other), scored)


def test_the_additive_baseline_is_fitted_on_the_splits_of_the_training(run, toy_spec, rows, tmp_path):
    found = pd.read_parquet(fit_additive(toy_spec, run[1], ("train", "valid"), tmp_path / "additive.parquet"))
    later = pd.DataFrame(rows["eval"]["a"] + rows["eval"]["b"])
    keys = ["page", "person", "clip"]
    training = pd.DataFrame([row for split in ("train", "valid") for part in rows[split].values() for row in part])
    # Of the rows with a click whose purchases are known, as the spec says.
    clicked = training[(training["click"] > 0) & (training["buy_is_mature"] > 0)]
    model = AdditiveLogOdds().fit({key: clicked[key] for key in keys}, clicked["buy"], clicked["worth"])
    # Weights are stored in 32 bits.
    np.testing.assert_allclose(found["score_buy"], model.predict({key: later[key] for key in keys}), rtol=1e-6)
    assert found["person"].tolist() == later["person"].tolist()


def test_baselines_of_sampled_negatives_predict_rates_of_the_whole_log(toy_spec, toy_events, rows, tmp_path):
    """Of 10,000 rows of one page, user and item, 2,000 with the label; every fourth negative is kept."""
    labels = (Label("click", keep_negatives=0.25), Label("buy"))
    spec = toy_spec.model_copy(update={"labels": labels})
    row = {name: value for name, value in rows["train"]["a"][0].items() if name not in ("worth", "buy_is_mature")}
    rng = np.random.default_rng(3)
    whole = [row | {"click": int(n < 2000), "buy": int(n % 10 == 0)} for n in range(10_000)]
    kept = [each for each in whole if each["click"] or rng.random() < 0.25]
    folder = write_rows(tmp_path / "examples", spec, {"train": {"a": kept}, "eval": {"a": whole[:5]}})
    dataset = dataset_of(spec, toy_events, CalendarDay())
    for fit, what in ((fit_additive, spec), (fit_boosted_trees, dataset)):
        found = pd.read_parquet(fit(what, patterns(folder), ("train",), tmp_path / f"{fit.__name__}.parquet"))
        np.testing.assert_allclose(found["score_click"], 0.2, atol=0.01)
        np.testing.assert_allclose(found["score_buy"], 0.1, atol=0.01)
