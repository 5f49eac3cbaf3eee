"""The rows of a day by the graph of an earlier Transform are those that the Transform component would write."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mixrank.components import day_rows
from mixrank.components.day_rows import transform_day
from mixrank.components.transform import KEYS
from mixrank.schemas.files import leftovers


def columns(pattern, transform_output):
    """Column -> values, by time."""
    records = list(tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(pattern)), "GZIP").as_numpy_iterator())
    found = tf.io.parse_example(records, transform_output.transformed_feature_spec())
    order = np.argsort(found[KEYS["time"]].numpy())
    return {name: values.numpy()[order] for name, values in found.items()}


@pytest.mark.slow
def test_the_rows_of_every_split_are_those_of_the_transform_component(
    toy_spec, toy_data, toy_transform, tmp_path, monkeypatch
):
    # Several batches, the last of them smaller.
    monkeypatch.setattr(day_rows, "BATCH", 64)
    transform_day(toy_data.examples, toy_data.graph, tmp_path / "day", toy_spec)
    assert sorted(path.name for path in (tmp_path / "day").iterdir()) == sorted(
        f"Split-{each}" for each in toy_data.rows
    )
    for split, pattern in toy_data.patterns().items():
        ours = columns(
            str(tmp_path / "day" / f"Split-{split}" / "transformed_examples-00000-of-00001.gz"), toy_transform
        )
        theirs = columns(pattern, toy_transform)
        assert len(ours[KEYS["time"]]) == len(toy_data.rows[split])
        assert ours.keys() == theirs.keys()
        for name, values in ours.items():
            if values.dtype == np.float32:
                np.testing.assert_allclose(values, theirs[name], rtol=3e-7, atol=3e-7, err_msg=name)
            else:
                np.testing.assert_array_equal(values, theirs[name], err_msg=name)


@pytest.mark.slow
def test_a_file_stays_a_file_its_rows_keep_their_order_and_none_is_lost(toy_spec, toy_data, tmp_path):
    (source,) = (toy_data.examples / "Split-eval").glob("*.gz")
    rows = list(tf.data.TFRecordDataset(str(source), "GZIP").as_numpy_iterator())
    folder = tmp_path / "examples" / "Split-train"
    folder.mkdir(parents=True)
    for name, part in {"a": rows[:3], "b": [], "c": rows[3:10]}.items():
        with tf.io.TFRecordWriter(str(folder / f"{name}.gz"), "GZIP") as writer:
            for row in part:
                writer.write(row)
    transform_day(tmp_path / "examples", toy_data.graph, tmp_path / "day", toy_spec)
    files = sorted((tmp_path / "day" / "Split-train").iterdir())
    assert [path.name for path in files] == [f"transformed_examples-0000{n}-of-00003.gz" for n in range(3)]
    found = [list(tf.data.TFRecordDataset(str(path), "GZIP").as_numpy_iterator()) for path in files]
    assert [len(part) for part in found] == [3, 0, 7]
    times = tf.io.parse_example([*found[0], *found[2]], {KEYS["time"]: tf.io.FixedLenFeature([], tf.int64)})
    assert times[KEYS["time"]].numpy().tolist() == [row["at"] for row in toy_data.rows["eval"][:10]]


def test_what_cannot_be_transformed_is_refused_and_leaves_nothing(toy_spec, toy_data, tmp_path):
    examples, out = tmp_path / "examples", tmp_path / "day"
    (examples / "Split-train").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no examples match .*examples/Split-\*/\*\.gz"):
        transform_day(examples, toy_data.graph, out, toy_spec)
    damaged = examples / "Split-train" / "rows.gz"
    (source,) = (toy_data.examples / "Split-eval").glob("*.gz")
    damaged.write_bytes(source.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"Split-train/rows\.gz is damaged, or holds no examples"):
        transform_day(examples, toy_data.graph, out, toy_spec)
    with tf.io.TFRecordWriter(str(damaged), "GZIP") as writer:
        writer.write(b"no example")
    with pytest.raises(ValueError, match=r"rows\.gz is damaged, or holds no examples of these columns: "):
        transform_day(examples, toy_data.graph, out, toy_spec)
    assert not out.exists()
    assert not leftovers(tmp_path)
    out.mkdir()
    (out / "other").write_text("")
    with pytest.raises(ValueError, match="`out` must be empty"):
        transform_day(examples, toy_data.graph, out, toy_spec)
