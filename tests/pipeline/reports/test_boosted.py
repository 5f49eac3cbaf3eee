import json

import numpy as np
import pandas as pd
import pytest

from mixrank.components.baselines.boosted_trees import BoostedTrees
from mixrank.components.baselines.example_arrays import read_examples
from mixrank.components.metrics.ranking_metrics import auc
from mixrank.pipeline.reports.boosted import write_boosted_trees
from mixrank.schemas.encode import encode
from mixrank.schemas.synthetic import toy_rows

DATASET = """
from mixrank.schemas.features import FeatureSpec
from mixrank.schemas.tables import CalendarDay, Dataset, LogSource, Table

SPEC = FeatureSpec.model_validate_json({spec!r})
DATASET = Dataset(spec=SPEC, source=LogSource(log=Table(files=("log.csv",)), window=CalendarDay(timezone="Asia/Tokyo")))
"""


HOUR = 3_600_000


@pytest.fixture(scope="module")
def rows(toy_spec):
    """Split -> file -> rows; five days, and one to evaluate on."""
    found = {"train": {"b": [], "a": []}, "valid": {"a": []}, "eval": {"b": [], "a": []}}
    for number, row in enumerate(toy_rows(toy_spec, 3000, seed=1)):
        row["at"] = 1_650_000_000_000 + number * HOUR // 25
        files = found["train" if number < 2000 else "valid" if number < 2500 else "eval"]
        files[list(files)[number % len(files)]].append(row)
    return found


def write_run(folder, spec, rows):
    """A run folder of which only what the trees read is there."""
    import tensorflow as tf

    for split, files in rows.items():
        (folder / f"Split-{split}").mkdir(parents=True)
        for name, part in files.items():
            with tf.io.TFRecordWriter(str(folder / f"Split-{split}" / f"data-{name}.gz"), "GZIP") as writer:
                for row in part:
                    writer.write(encode(spec, row))
    (folder / "toy.py").write_text(DATASET.format(spec=spec.to_json()))
    about = {
        "name": "toy", "tasks": list(spec.tasks), "scenario": {"column": "page", "labels": {}}, "model_run": "",
        "config": {"dataset": str(folder / "toy.py"), "train": {"splits": ["train", "valid"]}},
        "spec": spec.model_dump(mode="json"), "examples": str(folder),
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, toy_spec, rows):
    return write_run(tmp_path_factory.mktemp("boosted"), toy_spec, rows)


@pytest.fixture(scope="module")
def scored(run):
    target = run / "boosted.parquet"
    assert write_boosted_trees(run, target) == target
    assert not list(run.glob("*.partial"))
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


def test_training_rows_are_counted_by_the_days_of_the_dataset(scored, run, toy_spec, rows):
    patterns = [str(run / f"Split-{split}" / "*") for split in rows]
    arrays = read_examples(toy_spec, patterns)
    training, later = arrays.between(0, 2500), arrays.between(2500, 3000)
    # Days begin at midnight in Tokyo, nine hours ahead of UTC.
    days = (training.columns["at"] + 9 * HOUR) // (24 * HOUR)
    expected = BoostedTrees(toy_spec).fit(training, days).predict(later)
    for task, scores in expected.items():
        np.testing.assert_array_equal(scored[f"score_{task}"], scores)


def test_labels_of_evaluation_rows_are_not_read(scored, tmp_path, toy_spec, rows):
    changed = {file: [row | {"click": 0, "buy": 1} for row in part] for file, part in rows["eval"].items()}
    run = write_run(tmp_path / "run", toy_spec, {**rows, "eval": changed})
    pd.testing.assert_frame_equal(pd.read_parquet(write_boosted_trees(run, tmp_path / "other.parquet")), scored)


def test_a_folder_that_tells_too_little_is_named(tmp_path, run):
    about = json.loads((run / "run.json").read_text())
    del about["spec"]
    (tmp_path / "run.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"run\.json lacks \['spec'\]"):
        write_boosted_trees(tmp_path, tmp_path / "boosted.parquet")
    with pytest.raises(ValueError, match="holds no run.json"):
        write_boosted_trees(tmp_path / "none", tmp_path / "boosted.parquet")
    assert not (tmp_path / "boosted.parquet").exists()
