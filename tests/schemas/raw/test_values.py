import datetime
import math

import pyarrow as pa
import pytest

from mixrank.schemas.raw import RawColumn, convert

INT, TEXT, FLOAT = RawColumn("n", "int"), RawColumn("n", "str"), RawColumn("n", "float")
FLAG, KEY = RawColumn("n", "flag", required=True), RawColumn("n", "int", required=True)


def converted(values, column, kind=None):
    array, bad = convert(pa.array(values, kind), column)
    assert array.type == column.arrow_type
    return array.to_pylist(), bad


@pytest.mark.parametrize("values", [[b"7", b"7.0", b"", b" 8 ", b"nan"], ["7", "7.0", "", " 8 ", "nan"]])
def test_text_and_bytes_become_integers(values):
    assert converted(values, INT) == ([7, 7, None, 8, None], {})


def test_floats_of_a_column_with_nulls_become_integers():
    assert converted([7.0, math.nan, None, -3.0], INT) == ([7, None, None, -3], {})


def test_small_and_unsigned_integers_are_widened():
    assert converted([1, None], INT, pa.int8()) == ([1, None], {})
    assert converted([1, 2**63], INT, pa.uint64()) == ([1, None], {1: "does not fit into 64 bits"})


def test_what_is_no_whole_number_is_refused_and_not_rounded():
    values, bad = converted(["3.5", "abc", "1_000", "inf", "9007199254740993"], INT)
    assert values == [None, None, None, None, 9007199254740993]
    assert bad == {0: "is not a whole number", 1: "is not a number", 2: "is not a number", 3: "is not finite"}
    assert converted([0.5], INT)[1] == {0: "is not a whole number"}


def test_a_missing_text_never_becomes_the_word_nan():
    assert converted(["nan", "", None, "NULL", " x "], TEXT) == ([None, None, None, None, "x"], {})
    assert converted([math.nan, 9.0, 1.5], TEXT) == ([None, "9", "1.5"], {})
    assert converted([True, None], TEXT) == (["1", None], {})
    assert converted([math.inf], TEXT) == (["inf"], {})


def test_bytes_that_are_no_text_are_refused():
    assert converted([b"\xff", "é".encode()], TEXT) == ([None, "é"], {0: "is not UTF-8 text"})


def test_numbers():
    assert converted(["1.5", "x", "", "inf"], FLOAT) == (
        [1.5, None, None, None],
        {1: "is not a number", 3: "is not finite"},
    )
    assert converted([2, None], FLOAT) == ([2.0, None], {})


def test_flags_are_zero_or_one_and_never_missing():
    values, bad = converted(["0", "1", "True", "false", "2", "", "yes"], FLAG)
    assert values == [0, 1, 1, 0, None, None, None]
    assert bad == {4: "must be 0 or 1", 5: "is missing", 6: "is not a number"}
    assert converted([True, False], FLAG) == ([1, 0], {})


def test_a_required_value_must_be_there():
    assert converted([5, None, 6], KEY) == ([5, None, 6], {1: "is missing"})


def test_times_become_milliseconds_in_every_unit():
    seconds = RawColumn("t", "time", required=True, unit="s")
    assert converted([881250949, 881250949.25, None], seconds, pa.float64())[0] == [881250949000, 881250949250, None]
    assert converted(["881250949"], seconds) == ([881250949000], {})
    moment = datetime.datetime(2022, 4, 25, 12, 0, 0, 5000)
    expected = int(moment.replace(tzinfo=datetime.UTC).timestamp() * 1000)
    for unit in ("ms", "us", "ns"):
        assert converted([moment], seconds, pa.timestamp(unit)) == ([expected], {})


def test_a_time_in_the_wrong_unit_is_refused():
    seconds = RawColumn("t", "time", required=True, unit="s")
    reason = "is not a time between 1970 and 2200 in the declared unit"
    assert converted([1650812741436, -1], seconds) == ([None, None], {0: reason, 1: reason})


def test_text_is_split_into_values_and_empty_parts_are_dropped():
    tags = RawColumn("tag", "str", many=True, separator=",")
    assert converted([b"39", b"2, 1,", b"", None], tags) == ([["39"], ["2", "1"], [], None], {})
    numbers = RawColumn("tag", "int", many=True, separator=" ")
    assert converted(["3 4", "3 x"], numbers) == ([[3, 4], None], {1: "is not a number"})


@pytest.mark.parametrize("make", [pa.list_, pa.large_list])
def test_lists_lose_missing_elements_and_keep_their_order(make):
    column = RawColumn("seen", "int", many=True)
    values = [[3, None, 1], None, [], [2]]
    assert converted(values, column, make(pa.int32())) == ([[3, 1], [], [], [2]], {})
    sliced = pa.array([[9, 9], *values], make(pa.int32())).slice(1)
    assert convert(sliced, column)[0].to_pylist() == [[3, 1], [], [], [2]]


def test_a_bad_element_makes_its_row_bad():
    column = RawColumn("seen", "int", many=True)
    assert converted([["1"], ["2", "x"]], column)[1] == {1: "is not a number"}


def test_a_list_of_one_is_a_value_and_a_list_of_two_is_not():
    array, bad = convert(pa.array([[7], [], None, [8, 9]], pa.large_list(pa.int64())), KEY)
    assert array.to_pylist()[:3] == [7, None, None]
    assert bad == {1: "is missing", 2: "is missing", 3: "has 2 values"}


def test_a_column_that_no_record_has_is_missing_everywhere():
    for column in (INT, TEXT, FLOAT, RawColumn("n", "str", many=True), RawColumn("n", "str", many=True, separator=",")):
        array, bad = convert(pa.nulls(2), column)
        assert array.type == column.arrow_type and array.null_count == 2 and not bad


def test_dictionary_columns_are_read_through():
    array = pa.array(["b", None, "b"]).dictionary_encode()
    assert convert(array, TEXT)[0].to_pylist() == ["b", None, "b"]


@pytest.mark.parametrize(
    ("array", "column", "message"),
    [
        (pa.array([{"a": 1}]), INT, "cannot read type struct"),
        (pa.array([datetime.date(2022, 1, 1)]), INT, "cannot read type date32"),
        (pa.array(["1,2"]), RawColumn("n", "int", many=True), "lists need Parquet or TFRecord, or a `separator`"),
    ],
)
def test_a_type_that_cannot_be_read_is_named(array, column, message):
    with pytest.raises(ValueError, match=message):
        convert(array, column)
