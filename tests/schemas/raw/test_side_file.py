"""What a spec looks up in files beside the log: keys, values, and what is wrong with them by file and row."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mixrank import schemas as s
from mixrank.schemas import stores
from mixrank.schemas.raw import read_side_file, with_side_files


def spec(*features, dtype="int"):
    return s.FeatureSpec(
        name="clips",
        user=s.Key("person"),
        item=s.Key("clip", dtype=dtype),
        time=s.EventTime("at"),
        scenario=s.Scenario("page", values=("home",)),
        labels=(s.Label("click"),),
        features=(s.Categorical("clip", group="item", dtype=dtype), *features),
    )


def lookup(**options):
    return s.Lookup("maker", of="clip", file="clips.csv", group="item", **options)


def price(**options):
    return s.NumericLookup("price", of="clip", file="clips.csv", group="item", **options)


def words(**options):
    return s.VectorTable("words", of="clip", group="item", dim=2, **{"file": "clips.parquet", **options})


def read(feature, folder, dtype="int"):
    found = with_side_files(spec(feature, dtype=dtype), str(folder))
    return read_side_file(found, found.from_files[0])


def test_keys_have_the_type_of_the_feature_and_values_that_of_the_lookup(tmp_path):
    (tmp_path / "clips.csv").write_text("clip,maker,price\n7,anna,2.5\n007,,\n-1,bob,4\n")
    table = read(lookup(), tmp_path, dtype="str")
    assert (table.keys.tolist(), table.values.tolist()) == (["7", "007", "-1"], ["anna", "", "bob"])
    assert table.missing.tolist() == [False, True, False]
    table = read(price(), tmp_path, dtype="str")
    assert table.values.dtype == np.float32 and table.values[[0, 2]].tolist() == [2.5, 4.0]


@pytest.mark.parametrize("separator", [None, " "])
def test_vectors_are_lists_or_text_that_is_split_and_may_be_missing(tmp_path, separator):
    vectors = [[1.0, 2.0], None, [0.5, -4.0]]
    texts = vectors if separator is None else [each and separator.join(map(str, each)) for each in vectors]
    pd.DataFrame({"clip": [3, 9, 5], "words": texts}).to_parquet(tmp_path / "clips.parquet")
    table = read(words(separator=separator), tmp_path)
    assert table.keys.tolist() == [3, 9, 5] and table.missing.tolist() == [False, True, False]
    np.testing.assert_array_equal(table.values, np.float32([[1, 2], [0, 0], [0.5, -4]]))


@pytest.mark.parametrize(
    ("text", "feature", "message"),
    [
        ("clip,maker\n1,a\n2,b\n1,c\n", lookup(), "clips.csv of `maker`: rows 1 and 3 have the same `clip`, 1; a key"),
        ("clip,maker\n1,a\n,b\n", lookup(), "clips.csv, row 2: `clip` is missing"),
        ("clip,maker\n1,a\nx,b\n", lookup(), "clips.csv, row 2: `clip` .*, received 'x'"),
        ("clip,maker\n1,a\n", lookup(key="clipp"), "clips.csv has no column `clipp`; did you mean `clip`"),
        ("clip,maker\n1,a\n", lookup(value="makr"), "clips.csv has no column `makr`; did you mean `maker`"),
        ("clip,maker\n1,a\n2\n", lookup(), "clips.csv, row 2: "),
        ("clip,maker\n", lookup(), "clips.csv of `maker` has no rows"),
        ("clip,price\n1,2\n3,cheap\n", price(), "clips.csv, row 2: `price` .*, received 'cheap'"),
        ("clip,words\n1,2 3\n4,5\n", words(file="clips.csv", separator=" "), "clips.csv, row 2: `words` "),
    ],
)
def test_what_is_wrong_is_named_by_file_and_row(tmp_path, text, feature, message):
    (tmp_path / "clips.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(feature, tmp_path)


def write_matrix(folder, matrix, keys):
    np.save(folder / "words.npy", matrix)
    if isinstance(keys, str):
        (folder / "keys.csv").write_text(keys)
    elif keys is not None:
        np.save(folder / "keys.npy", keys)


def matrix_words(keys="keys.npy", **options):
    return words(file="words.npy", key_file=keys, **options)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_matrix_stays_in_its_file_and_comes_in_blocks(tmp_path, dtype, order, monkeypatch):
    monkeypatch.setattr("mixrank.schemas.raw.matrix.BLOCK_BYTES", 16)
    rows = np.array([[1, 2], [0, 0], [3, -4], [5, 0], [7, 1]], dtype)
    if dtype != "int8":
        rows[1] = np.nan
    write_matrix(tmp_path, np.asarray(rows, order=order), np.array([3, 9, 5, 4, 1]))
    table = read(matrix_words(), tmp_path)
    assert isinstance(table.values, np.memmap) and table.values.dtype == dtype
    assert table.keys.tolist() == [3, 9, 5, 4, 1] and table.missing.tolist() == [False, dtype != "int8", *[False] * 3]
    blocks = list(table.blocks())
    assert [first for first, _ in blocks] == [0, 2, 4] and {block.dtype for _, block in blocks} == {np.dtype("float32")}
    expected = np.float32([[1, 2], [0, 0], [3, -4], [5, 0], [7, 1]])
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), expected)
    np.testing.assert_array_equal(table.vectors(np.array([4, 1])), expected[[4, 1]])


@pytest.mark.parametrize("keys", [np.array(["a", "b"]), np.array([b"a", b"b"]), "clip,other\na,1\nb,2\n"])
def test_keys_of_a_matrix_are_an_array_or_a_column_and_text_as_well(tmp_path, keys):
    write_matrix(tmp_path, np.float32([[1, 2], [3, 4]]), keys)
    feature = matrix_words("keys.csv" if isinstance(keys, str) else "keys.npy")
    table = read(feature, tmp_path, dtype="str")
    assert table.keys.tolist() == ["a", "b"] and not table.missing.any()


@pytest.mark.parametrize(
    ("matrix", "keys", "message"),
    [
        (np.zeros((2, 3)), np.arange(2), "words.npy of `words` has vectors of 3 numbers, not 2"),
        (np.zeros((2, 2)), np.arange(3), r"keys.npy has 3 keys for the 2 rows of .*words.npy of `words`"),
        (np.zeros((2, 2)), "clip\n1\n", "keys.csv has 1 keys for the 2 rows"),
        (np.zeros((2, 2)), "id\n1\n2\n", "keys.csv has no column `clip`"),
        (np.zeros((2, 2)), np.array([4, 4]), "keys.npy of `words`: rows 1 and 2 have the same `clip`, 4"),
        (np.zeros((2, 2)), np.array(["4", "x"]), "keys.npy, row 2: key is not .*, received 'x'"),
        (np.zeros((2, 2)), np.zeros((2, 1), int), r"keys.npy must be an array of integers or text .*shape \(2, 1\)"),
        (np.zeros(2), np.arange(2), r"words.npy must be a matrix of numbers, 2 a row, in .*float64 of shape \(2,\)"),
        (np.array([["a", "b"]]), np.arange(1), "words.npy must be a matrix of numbers.*received <U1"),
        (np.array([[None, 1]]), np.arange(1), "words.npy must be a matrix of numbers.*received object"),
        (np.zeros((0, 2)), np.arange(0), "keys.npy of `words` has no rows"),
        (np.array([[0, 1], [np.nan, 2]]), np.arange(2), "words.npy, row 2: has a number that is not finite"),
        (np.array([[0, 1], [1e300, 2]]), np.arange(2), "words.npy, row 2: has a number that is not finite in 32 bits"),
        (np.zeros((2, 2)), None, r"keys.npy cannot be read: No such file"),
    ],
)
def test_what_is_wrong_with_a_matrix_is_named_by_file_and_row(tmp_path, matrix, keys, message):
    write_matrix(tmp_path, matrix, keys)
    feature = matrix_words("keys.csv" if isinstance(keys, str) else "keys.npy")
    with pytest.raises(ValueError, match=message):
        read(feature, tmp_path)


def test_a_matrix_that_is_cut_off_or_none_and_keys_that_change_are_named(tmp_path):
    write_matrix(tmp_path, np.zeros((2, 2)), np.arange(2))
    found = with_side_files(spec(matrix_words()), str(tmp_path))
    assert s.FeatureSpec.from_json(found.to_json()) == found and found.from_files[0].ids == 3
    np.save(tmp_path / "keys.npy", np.arange(1, 3))
    with pytest.raises(ValueError, match=r"words\.npy of `words` has changed since the run began"):
        read_side_file(found, found.from_files[0])
    whole = (tmp_path / "words.npy").read_bytes()
    for content in (whole[:-8], b"clip,words\n", b""):
        (tmp_path / "words.npy").write_bytes(content)
        with pytest.raises(ValueError, match=r"words\.npy must be a matrix of numbers"):
            with_side_files(spec(matrix_words()), str(tmp_path))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: words(file="w.npy"), "w.npy is a matrix without keys: name the file that has them"),
        (lambda: words(key_file="k.npy"), "`key_file` is for a matrix in `.npy`; clips.parquet has its keys in"),
        (lambda: words(file="w.npy", key_file="k.npy", separator=" "), "`separator` splits text; w.npy holds numbers"),
        (lambda: s.VectorFile("w.npy"), "w.npy is a matrix without keys"),
    ],
)
def test_a_matrix_is_declared_with_its_keys(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_missing_file_and_one_that_changes_in_a_run_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"clips\.csv"):
        with_side_files(spec(lookup()), str(tmp_path))
    (tmp_path / "clips.csv").write_text("clip,maker\n1,a\n")
    found = with_side_files(spec(lookup()), str(tmp_path))
    (tmp_path / "clips.csv").write_text("clip,maker\n1,b\n")
    again = with_side_files(spec(lookup()), str(tmp_path))
    assert found.to_json() != again.to_json(), "what is computed from the file is not computed again"
    with pytest.raises(ValueError, match=r"clips\.csv of `maker` has changed since the run began"):
        read_side_file(found, found.from_files[0])
    assert s.FeatureSpec.from_json(again.to_json()) == again


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (lambda: lookup(key="maker"), "`maker`: `key` and `value` must be two columns, both are `maker`"),
        (
            lambda: s.Lookup("x", of="clp", file="f", group="item"),
            "lookup `x` is of `clp`, which must be a Categorical; did",
        ),
        (
            lambda: s.Lookup("x", of="clip", file="f", group="user"),
            r"lookup `x` is of \('clip',\): it must be of group item",
        ),
        (
            lambda: words(histories=("past",)),
            "vector_table `words` names history `past`, which must be one that lists `clip`",
        ),
    ],
)
def test_a_lookup_is_declared_of_a_category_in_its_group(feature, message):
    with pytest.raises(ValueError, match=message):
        spec(feature())


@pytest.mark.slow
def test_a_matrix_in_an_object_store_is_copied_to_the_disk(tmp_path, bucket):
    write_matrix(tmp_path, np.float32([[1, 2], [3, 4]]), np.arange(2))
    for name in ("words.npy", "keys.npy"):
        stores.upload(tmp_path / name, f"{bucket}/{name}")
    found = with_side_files(spec(matrix_words()), bucket)
    assert found.from_files[0].found.keys == f"{bucket}/keys.npy"
    table = read_side_file(found, found.from_files[0])
    assert isinstance(table.values, np.memmap) and table.values.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match=f"{bucket}/other.npy"):
        with_side_files(spec(matrix_words(keys="other.npy")), bucket)
