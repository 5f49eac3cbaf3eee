"""Dead letters of ExampleGen can be written whatever the bad value is; rows are shuffled in pieces."""

import datetime
import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from mixrank.components.examples.raw_tables import RawTable, checked_rows
from mixrank.components.examples.stages import PIECE, shuffled_pieces
from mixrank.schemas.raw import Batch, RawColumn, RawFile
from mixrank.schemas.raw.text import TextFormat


def letters_of(array, kind):
    file = RawFile("f", "parquet", None, TextFormat(",", True))
    table = RawTable("log", (file,), ({"n": "raw_n"},), (RawColumn("n", kind, required=True),), None)
    return checked_rows(table, 0, Batch(pa.table({"n": array}), np.arange(1, len(array) + 1)))[1]


@pytest.mark.parametrize(
    ("array", "kind", "values"),
    [
        (pa.array([Decimal("0.50"), Decimal(1)], pa.decimal128(5, 2)), "flag", ["0.50"]),
        (pa.array([Decimal(2**70)], pa.decimal256(40, 0)), "int", [str(2**70)]),
        (pa.array([b"\xff\x00"]), "str", ["\ufffd\x00"]),
        (pa.array([datetime.datetime(1960, 1, 2)], pa.timestamp("s")), "time", ["1960-01-02 00:00:00"]),
        (pa.array([1e308, float("inf")]), "float", [1e308, "inf"]),
        (pa.array([None, True]), "int", [None]),
    ],
)
def test_one_bad_row_is_one_dead_letter_that_json_can_hold(array, kind, values):
    letters = letters_of(array, kind)
    assert [letter["value"] for letter in letters] == values
    assert [letter["row"] for letter in letters] == list(range(1, len(values) + 1))
    assert json.loads(json.dumps(letters, allow_nan=False)) == letters
    assert {(letter["file"], letter["column"]) for letter in letters} == {("f", "raw_n")}


def test_text_that_is_not_utf_8_in_a_column_of_text_is_a_dead_letter():
    broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
    assert [letter["value"] for letter in letters_of(broken, "str")] == ["\ufffd"]


def test_a_column_of_a_type_that_cannot_be_read_is_named_with_its_file():
    with pytest.raises(ValueError, match=r"f, column `raw_n`: cannot read type struct"):
        letters_of(pa.array([{"a": 1}]), "int")


def test_rows_of_a_user_stay_in_pieces_that_are_shuffled():
    users = np.repeat(np.arange(40), np.random.default_rng(0).integers(1, 60, 40))
    order = shuffled_pieces(users, np.random.default_rng(7))
    assert sorted(order) == list(range(len(users)))
    np.testing.assert_array_equal(order, shuffled_pieces(users, np.random.default_rng(7)))
    # A piece ends where its user does, or after `PIECE` rows.
    expected = sum(-(-count // PIECE) for count in np.bincount(users))
    joints = np.flatnonzero((np.diff(order) != 1) | (np.diff(users[order]) != 0))
    pieces = np.split(order, joints + 1)
    assert abs(len(pieces) - expected) <= 3 and all(len(set(users[piece])) == 1 for piece in pieces)
    assert (np.diff([piece[0] for piece in pieces]) < 0).mean() > 0.3
    assert list(shuffled_pieces(np.zeros(0, int), np.random.default_rng(0))) == []
