"""A column is known by its values: numbers, words for missing ones, several in a text, what they are fixed by."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

from mixrank.pipeline.starting.columns import Column, auc, parts, profile, separation, share_fixed_by
from mixrank.schemas.arrow import pa


def column(values, name="x") -> Column:
    return profile(name, pa.array(values))


def test_bytes_of_a_text_file_are_numbers_where_all_of_them_are():
    found = column([b"3", b" 1 ", None, b"3", b"NULL"])
    assert (found.look, found.values, found.codes.tolist()) == ("int", ["3", "1"], [0, 1, -1, 0, -1])
    assert found.numbers.tolist() == [3.0, 1.0]
    assert found.missing_share == 0.4
    assert column([b"1.5", b"2"]).look == "float"
    assert column([b"1.5", b"two"]).numbers is None
    assert column([b"1_000", b"2"]).numbers is None


def test_values_that_python_cannot_hold_are_missing_or_shown_as_they_can_be():
    far = pa.array([1_700_000_000, 10**15], pa.timestamp("s"))
    assert profile("x", far).codes.tolist() == [0, -1]
    broken = pa.StringArray.from_buffers(2, pa.py_buffer(np.array([0, 1, 3], np.int32)), pa.py_buffer(b"a\xff\xfe"))
    assert profile("x", broken).values == ["a", "\ufffd\ufffd"]


def test_words_among_numbers_are_missing_values_to_declare():
    found = column(["18", "35", "N/A", "-", "40", "41", "42", "43"])
    assert (found.look, found.missing_words) == ("int", ("N/A", "-"))
    assert found.missing_share == 0.25
    # Of a column of text they are words like any other.
    assert column(["Berlin", "N/A", "-"]).missing_words == ()


def test_decimal_commas_are_read_and_declared():
    found = column(["1,50", "1.234,00", "3,25"])
    assert found.decimal_comma
    assert found.numbers.tolist() == [1.5, 1234.0, 3.25]
    # Lists of tags have commas as well.
    assert not column(["1,2,3", "4,5", "6"]).decimal_comma


@pytest.mark.parametrize(
    ("values", "look"),
    [
        ([True, False], "int"),
        (["true", "False"], "int"),
        ([2**60, 1], "int"),
        ([1.0, 2.0, float("nan")], "int"),
        ([datetime.datetime(2024, 1, 1)], "time"),
        ([datetime.date(2024, 1, 1)], "time"),
        ([None, None], "empty"),
        ([{"a": 1}], "nested"),
        (["ä", "b"], "text"),
    ],
)
def test_every_type_has_a_look(values, look):
    assert column(values).look == look


def test_a_list_column_is_profiled_by_its_elements():
    found = column([["a", "b"], [], None, ["a"]])
    assert (found.values, found.lengths.tolist(), found.rows) == (["a", "b"], [2, 0, 0, 1], 4)
    assert found.missing_share == 0.5


def test_codes_written_with_leading_zeros_are_told_from_numbers():
    assert column(["007", "012"]).padded
    assert not column(["0", "7", "10"]).padded


def test_a_separator_is_believed_if_its_parts_repeat():
    tags = [f"t{i % 5}|t{i % 7}" for i in range(35)]
    found = parts(column(tags))
    assert (found.separator, len(found.values), found.most, found.usual) == ("|", 7, 2, 2)
    titles = [f"The tale of {chr(97 + i % 26)}{i} and {i * 7}" for i in range(60)]
    assert parts(column(titles)) is None
    assert parts(column(["New York", "New Orleans", "San Jose", "Santa Cruz"] * 5)) is None
    genres = [f"{a} {b}" for a in "ABCDEFGH" for b in "IJKLMN"]
    assert parts(column(genres)).separator == " "


def test_equally_many_decimals_in_every_text_are_a_vector():
    draw = np.random.default_rng(0)
    texts = ["|".join(f"{x:.3f}" for x in draw.normal(size=4)) for _ in range(20)]
    assert parts(column(texts)).is_vector


def test_what_never_changes_within_an_item_is_fixed_by_it():
    draw = np.random.default_rng(0)
    item = draw.integers(0, 30, 600)
    items = column(item)
    assert share_fixed_by(column(item % 7), items) == 1.0
    assert share_fixed_by(column(draw.integers(0, 7, 600)), items) == 0.0
    # A column that is nearly always 0 is the same within most items by chance.
    assert share_fixed_by(column((draw.random(600) < 0.001).astype(int)), items) is None
    assert share_fixed_by(column([1] * 600), items) is None


def test_the_auc_counts_ties_half():
    assert auc(np.array([1.0, 2, 2, 3]), np.array([0, 0, 1, 1])) == 0.875
    assert auc(np.array([1.0, 1]), np.array([1, 1])) == 0.5


def test_a_column_written_after_the_label_gives_it_away():
    label = np.arange(400) % 2
    draw = np.random.default_rng(0)
    assert separation(column(label * draw.random(400)), label) > 0.99
    assert separation(column(1 - label), label) == 1.0
    assert separation(column(np.where(label, "paid", "open")), label) == 1.0
    assert separation(column(draw.random(400)), label) < 0.6
