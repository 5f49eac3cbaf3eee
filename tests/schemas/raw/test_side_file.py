"""What a spec looks up in files beside the log: keys, values, and what is wrong with them by file and row."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mixrank import schemas as s
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
