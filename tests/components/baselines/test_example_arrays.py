import numpy as np
import pytest

from mixrank.components.baselines import read_columns, read_examples
from mixrank.schemas import Action, FeatureSpec, History, TimeGap
from mixrank.schemas.encode import UNKNOWN_GAP, columns, encode
from mixrank.schemas.raw import read_side_file
from mixrank.schemas.synthetic import toy_rows


def write(folder, spec, rows, split="train"):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(folder / f"{split}.gz"), "GZIP") as writer:
        for row in rows:
            writer.write(encode(spec, row))
    return str(folder / f"{split}*")


def side_values(spec, name):
    table = read_side_file(spec, next(feature for feature in spec.from_files if feature.name == name))
    found = zip(table.keys.tolist(), table.values, table.missing, strict=True)
    return {key: value for key, value, missing in found if not missing}


def test_every_value_of_every_row_is_read(toy_spec, tmp_path, monkeypatch):
    # Several batches per file.
    monkeypatch.setattr("mixrank.components.baselines.example_arrays.BATCH", 64)
    splits = {"valid": list(toy_rows(toy_spec, 130, seed=1)), "eval": list(toy_rows(toy_spec, 150, seed=2))}
    got = read_examples(toy_spec, [write(tmp_path, toy_spec, part, split) for split, part in splits.items()])
    rows = splits["valid"] + splits["eval"]
    assert (got.ends, len(got)) == ((130, 280), 280)
    owners = {name: field for h in toy_spec.histories for name, field in toy_spec.history_fields(h)}
    values: dict[str, dict[int, object]] = {}
    for column in columns(toy_spec):
        field, array = owners.get(column.name), got.columns[column.name]
        for number, row in enumerate(rows):
            own = row[column.name]
            listed = own if isinstance(own, list) else [own]
            found = array[number].reshape(-1)
            assert len(found) == (column.length or 1)
            if isinstance(field, Action):
                assert found.tolist() == listed + [-1] * (len(found) - len(listed))
            elif isinstance(field, TimeGap) or column.kind == "float":
                numbers = [np.nan if value is None else np.float32(value) for value in listed]
                np.testing.assert_array_equal(found, numbers + [np.nan] * (len(found) - len(numbers)))
            elif column.name in (toy_spec.time.name, *toy_spec.tasks, *toy_spec.mature):
                assert found.tolist() == listed
            elif column.name in toy_spec.row_weights:
                assert found.tolist() == [np.float32(value) for value in listed]
            else:
                assert not found[len(listed) :].any()
                # A code stands for one value in all columns of a feature.
                known = values.setdefault(column.name if field is None else field.name, {0: None})
                for code, value in zip(found, listed, strict=False):
                    assert known.setdefault(int(code), value) == value
    for known in values.values():
        assert len(set(known.values())) == len(known)
    for history in toy_spec.histories:
        column, field = next(toy_spec.history_fields(history))
        sizes = [len(row[column]) // field.raw_width for row in rows]
        assert got.events[history.name].tolist() == sizes
    words, pull = (side_values(toy_spec, name) for name in ("words", "pull"))
    for number, row in enumerate(rows):
        np.testing.assert_array_equal(got.columns["words"][number], words.get(row["clip"], np.full(5, np.nan)))
        np.testing.assert_array_equal(got.columns["pull"][number], pull.get(row["person"], np.nan))
    weights = side_values(toy_spec, "weight")
    for number, row in enumerate(rows):
        told = [weights.get(clip, np.nan) for clip in row["viewed_clip"]]
        expected = np.array(told + [np.nan] * (3 - len(told)), np.float32)
        np.testing.assert_array_equal(got.columns["viewed_weight"][number], expected)
    assert "global_maker" in got.columns and "global_words" not in got.columns
    makers = side_values(toy_spec, "maker")
    pairs = {(makers.get(row["clip"]), int(code)) for row, code in zip(rows, got.columns["maker"], strict=True)}
    assert (None, 0) in pairs and len(pairs) == len({code for _, code in pairs}) == 6
    part = got.between(130, 133)
    assert len(part) == 3 and part.columns["at"].tolist() == [row["at"] for row in rows[130:133]]
    assert part.events["global"].tolist() == got.events["global"][130:133].tolist()


def test_unknown_times_missing_attributes_and_long_histories(tmp_path, toy_spec):
    one = {"person": 1, "clip": "a", "at": 5, "page": "home", "click": 1, "buy": 0, "worth": 1.5, "buy_is_mature": 1}
    history = {"clip": ["b", "", "a"], "tag": ["x", "", "", "y", "x", ""] + [""] * 3, "action": [1, 0, 3]}
    rows = [one | {f"realtime_{name}": value for name, value in history.items()}]
    rows[0]["realtime_gap"] = [4, UNKNOWN_GAP, 9]
    short = toy_spec.model_copy(
        update={
            "features": tuple(
                f.model_copy(update={"length": 2}) if isinstance(f, History) else f for f in toy_spec.features
            )
        }
    )
    got = read_examples(FeatureSpec.model_validate(short.model_dump()), [write(tmp_path, toy_spec, rows)])
    assert got.events["realtime"].tolist() == [2] and got.events["global"].tolist() == [0]
    a = got.columns["clip"][0]
    clips = got.columns["realtime_clip"][0]
    assert clips[0] not in (0, a) and clips[1] == 0 and a > 0
    np.testing.assert_array_equal(got.columns["realtime_gap"][0], [4, np.nan])
    tags = got.columns["realtime_tag"][0]
    assert tags.shape == (2, 3)
    assert tags[0, 0] == tags[1, 1] > 0 and tags[1, 0] > 0 and tags[0, 1] == tags[0, 2] == tags[1, 2] == 0
    assert got.columns["country"].tolist() == [0] and np.isnan(got.columns["price"]).all()


def test_what_is_missing_is_named(tmp_path, toy_spec):
    with pytest.raises(ValueError, match="`patterns` must name at least one split"):
        read_examples(toy_spec, [])
    with pytest.raises(ValueError, match="none-\\* matches no file"):
        read_examples(toy_spec, [str(tmp_path / "none-*")])
    pattern = write(tmp_path, toy_spec, [{"person": 1, "clip": "a", "at": 5, "page": "home", "click": 1}])
    with pytest.raises(ValueError, match="must have one `buy`, one has 0"):
        read_examples(toy_spec, [pattern])


def test_single_columns_are_read_in_file_order_with_their_types(tmp_path, toy_spec):
    rows = list(toy_rows(toy_spec, 5, seed=3))
    for row, page in zip(rows, ("pä", "home", "search", "home", "pö"), strict=True):
        row["page"] = page
    write(tmp_path, toy_spec, rows[:2], "data-b"), write(tmp_path, toy_spec, rows[2:], "data-a")
    names = ["page", "person", "at", "click"]
    got = read_columns(toy_spec, str(tmp_path / "data-*"), names)
    assert list(got) == names
    for name in names:
        assert got[name].tolist() == [row[name] for row in rows[2:] + rows[:2]]
        assert got[name].dtype == (object if name == "page" else np.int64)
    with pytest.raises(ValueError, match=r"every row of .*data-\* must have one `tag`, one has"):
        read_columns(toy_spec, str(tmp_path / "data-*"), ["tag"])
    with pytest.raises(ValueError, match="none-\\* matches no file"):
        read_columns(toy_spec, str(tmp_path / "none-*"), ["at"])


def test_rows_of_another_type_than_the_spec_says_are_refused(tmp_path, toy_spec):
    pattern = write(tmp_path, toy_spec, toy_rows(toy_spec, 3, seed=3))
    fields = toy_spec.model_dump() | {"user": {"name": "person", "dtype": "str"}, "features": [
        feature | {"dtype": "str"} if feature["name"] == "person" else feature
        for feature in toy_spec.model_dump()["features"]
    ]}  # fmt: skip
    with pytest.raises(ValueError, match="holds other columns than the spec says"):
        read_columns(FeatureSpec.model_validate(fields), pattern, ["person"])
