import datetime
import math
from decimal import Decimal

import pyarrow as pa
import pytest

from mixrank.schemas.raw import RawColumn, convert, uneven_weights

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
    text = 'is not a number; a column of text is declared with `dtype="str"`'
    assert bad == {0: "is not a whole number", 1: text, 2: text, 3: "is not finite"}
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
    assert bad[5] == "is missing" and bad[6] == "is not 0 or 1, true or false"
    assert bad[4] == "is not 0 or 1; a number such as a watch time becomes a label by a `Threshold` in `derive`"
    assert converted([True, False], FLAG) == ([1, 0], {})
    assert set(converted([0.5, 1.0], FLAG)[1]) == {0}


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
    assert converted(["3 4", "3 x"], numbers)[0] == [[3, 4], []] and converted(["3 4", "3 x"], numbers)[1].keys() == {1}


@pytest.mark.parametrize("make", [pa.list_, pa.large_list])
def test_lists_lose_missing_elements_and_keep_their_order(make):
    column = RawColumn("seen", "int", many=True)
    values = [[3, None, 1], None, [], [2]]
    assert converted(values, column, make(pa.int32())) == ([[3, 1], None, [], [2]], {})
    sliced = pa.array([[9, 9], *values], make(pa.int32())).slice(1)
    assert convert(sliced, column)[0].to_pylist() == [[3, 1], None, [], [2]]


def test_a_bad_element_makes_its_row_bad():
    column = RawColumn("seen", "int", many=True)
    assert converted([["1"], ["2", "x"]], column)[1].keys() == {1}


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
        (pa.array([{"a": 1}]), INT, "cannot read type struct.* as int.*write the fields of a struct as columns"),
        (pa.array([datetime.date(2022, 1, 1)]), INT, "cannot read type date32.*a time is declared as `EventTime`"),
        (pa.array([[[1]]]), RawColumn("n", "int", many=True), "cannot read type list.*one list per row"),
        (pa.array([datetime.timedelta(1)]), RawColumn("t", "time"), "which takes .* timestamps and dates"),
        (pa.array(["1,2"]), RawColumn("n", "int", many=True), "lists need Parquet, JSON or TFRecord, or a `separator`"),
    ],
)
def test_a_type_that_cannot_be_read_is_named_with_what_is_accepted(array, column, message):
    with pytest.raises(ValueError, match=message):
        convert(array, column)


UTC_18_30 = 1_704_479_400_000  # 2024-01-05 18:30 UTC
BERLIN = RawColumn("t", "time", required=True, format="iso", timezone="Europe/Berlin")


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-05T18:30:00Z",
        "2024-01-05T19:30:00+01:00",
        "2024-01-05 19:30:00",
        "2024-01-05T19:30",
        "2024-01-05 18:30:00 UTC",
        "2024-01-05 13:30:00 -0500",
        b"2024-01-05T19:30:00.000000",
        " 20240105T193000 ",
    ],
)
def test_iso_times_are_read_with_their_own_zone_or_the_declared_one(text):
    assert converted([text], BERLIN) == ([UTC_18_30], {})


def test_iso_fractions_dates_and_what_is_no_time():
    midnight = UTC_18_30 - (19 * 60 + 30) * 60_000
    values, bad = converted(["2024-01-05T18:30:00.1259Z", "2024-01-05", "20240105", "noon", "1704479400", ""], BERLIN)
    assert values == [UTC_18_30 + 125, midnight, midnight, None, None, None]
    assert bad.keys() == {3, 4, 5} and "ISO 8601, such as 2024-01-05T18:30:00+01:00" in bad[3]
    assert converted([20240105, 5], BERLIN, pa.int64())[0] == [midnight, None]


def test_clock_changes_repeat_or_skip_an_hour_alike_in_text_and_timestamps():
    moments = [
        datetime.datetime(2024, 10, 27, 2, 30),
        datetime.datetime(2024, 3, 31, 2, 30),
        datetime.datetime(2024, 7, 1, 12),
    ]
    expected = [
        datetime.datetime(2024, *each, tzinfo=datetime.UTC) for each in ((10, 27, 0, 30), (3, 31, 1, 30), (7, 1, 10))
    ]
    wanted = [round(moment.timestamp() * 1000) for moment in expected]
    assert converted([str(moment) for moment in moments], BERLIN)[0] == wanted
    for unit in ("s", "ms", "us", "ns"):
        assert converted([*moments, None], BERLIN, pa.timestamp(unit))[0] == [*wanted, None]


def test_timestamps_with_a_zone_keep_it_and_dates_begin_at_local_midnight():
    moment = datetime.datetime(2024, 1, 5, 18, 30, tzinfo=datetime.UTC)
    assert converted([moment], BERLIN, pa.timestamp("us", "Asia/Tokyo")) == ([UTC_18_30], {})
    midnight = UTC_18_30 - (19 * 60 + 30) * 60_000
    for kind in (pa.date32(), pa.date64()):
        assert converted([datetime.date(2024, 1, 5)], BERLIN, kind) == ([midnight], {})
    assert converted([datetime.datetime(1960, 1, 1)], BERLIN, pa.timestamp("s"))[1] == {
        0: "is not a time between 1970 and 2200"
    }


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_times_are_counted_in_the_declared_unit(unit, factor):
    column = RawColumn("t", "time", unit=unit)
    seconds = 1_704_479_400
    assert converted([seconds * factor], column)[0] == [UTC_18_30]
    assert converted([str(seconds * factor), f"{seconds * factor}.0"], column)[0] == [UTC_18_30] * 2
    assert converted([Decimal(seconds * factor)], column, pa.decimal128(25, 3))[0] == [UTC_18_30]


def test_an_iso_time_in_a_column_of_numbers_says_how_to_declare_it():
    _, bad = converted(["2024-01-05T18:30:00Z", "noon", "1e308"], RawColumn("t", "time", unit="s"))
    assert bad[0] == 'is not a number; a time in ISO 8601 is declared as `EventTime(..., format="iso")`'
    assert bad[1] == "is not a number" and "between 1970 and 2200" in bad[2]


def test_decimal_commas_and_groups_of_thousands_are_read_as_declared():
    german = RawColumn("n", "float", decimal=",", thousands=".")
    values, bad = converted(["1.234,5", "12,5", "-1.234.567", "12.5", "1.2345", "1,2,3", "7"], german)
    assert values == [1234.5, 12.5, -1234567.0, None, None, None, 7.0] and bad.keys() == {3, 4, 5}
    swiss = RawColumn("n", "int", thousands="'")
    assert converted(["1'234", "12'34"], swiss)[0] == [1234, None]
    french = RawColumn("n", "float", decimal=",", thousands=" ")
    assert converted(["1\u202f234,5", "1\u00a0234,5", "1 234,5"], french)[0] == [1234.5] * 3
    assert converted(["12,5"], FLOAT)[1] == {0: "is not a number"}
    assert converted([12.5], german, pa.float64())[0] == [12.5]


def test_missing_texts_of_a_table_are_missing_in_every_kind_and_in_lists():
    words = ("N/A", "-", "None")
    for kind in ("int", "str", "float"):
        column = RawColumn("n", kind, missing=words)
        assert converted(["N/A", b"-", " None ", "null"], column) == ([None] * 4, {})
    tags = RawColumn("n", "str", many=True, separator="|", missing=words)
    assert converted(["a|-|b", "N/A"], tags)[0] == [["a", "b"], []]
    assert converted(["N/A"], TEXT)[0] == ["N/A"]


@pytest.mark.parametrize("kind", [pa.decimal128(38, 1), pa.decimal256(60, 1)])
def test_decimals_are_read_exactly_to_64_bits(kind):
    values = [Decimal("9007199254740993.0"), Decimal("9223372036854775807"), Decimal("0.5"), Decimal(2**64), None]
    read, bad = converted(values, INT, kind)
    assert read == [9007199254740993, 2**63 - 1, None, None, None]
    assert bad == {2: "is not a whole number", 3: "does not fit into 64 bits"}
    assert converted(values[:3], TEXT, kind)[0] == ["9007199254740993", "9223372036854775807", "0.5"]
    assert converted([Decimal("0.5")], FLOAT, kind)[0] == [0.5]
    assert converted([Decimal("0.5"), Decimal(1)], FLAG, kind)[1].keys() == {0}


def test_ids_above_2_to_the_53_never_pass_through_a_float():
    assert converted(["9007199254740993.0", "9223372036854775807"], INT)[0] == [9007199254740993, 2**63 - 1]
    _, bad = converted([2.0**53 + 2], INT, pa.float64())
    assert bad == {0: "is a float above 2**53, where whole numbers are rounded"}


def test_the_number_that_pads_requests_is_no_value():
    reason = "is the smallest 64-bit number, which stands for a missing value"
    assert converted([-(2**63), -(2**63) + 1], INT, pa.int64()) == ([None, -(2**63) + 1], {0: reason})
    assert converted([str(-(2**63)), "9" * 5000], INT)[1] == {0: reason, 1: "does not fit into 64 bits"}


def test_numbers_beyond_32_bits_are_refused_and_the_last_that_fits_is_not():
    last = 3.4028235e38
    values, bad = converted([last, -last, 3.5e38, 1e308, math.nan], FLOAT, pa.float64())
    assert values == [last, -last, None, None, None]
    assert bad == dict.fromkeys((2, 3), "does not fit into a 32-bit number")
    assert converted(["1e308", str(10**400)], FLOAT)[1] == {0: "does not fit into a 32-bit number", 1: "is not finite"}


def test_text_in_a_parquet_column_that_is_not_utf_8_is_a_bad_value():
    broken = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff", b"a"]).buffers())
    assert convert(broken, TEXT)[0].to_pylist() == [None, "a"]
    assert convert(broken, TEXT)[1] == {0: "is not UTF-8 text"}


def test_keys_as_text_keep_their_leading_zeros_and_as_numbers_lose_them():
    assert converted(["007", "7", "7.0"], TEXT)[0] == ["007", "7", "7.0"]
    assert converted(["007", "7", "7.0"], INT)[0] == [7, 7, 7]


def test_lists_of_candidates_keep_the_places_of_missing_values():
    column = RawColumn("n", "int", many=True, keep_places=True)
    assert converted([[1, None, 3], [], None], column, pa.list_(pa.int64()))[0] == [[1, None, 3], [], None]
    text = RawColumn("n", "int", many=True, keep_places=True, separator="|")
    assert converted(["1||3", "", None], text)[0] == [[1, None, 3], [], None]
    required = RawColumn("n", "int", True, many=True, keep_places=True)
    assert converted([[1, None], None, [2]], required, pa.list_(pa.int64()))[1] == dict.fromkeys((0, 1), "is missing")


def test_a_single_value_may_stand_for_a_list_of_one():
    column = RawColumn("n", "int", many=True, single=True)
    assert converted([3, None], column)[0] == [[3], None]
    assert converted([[3, 4], []], column, pa.list_(pa.int64()))[0] == [[3, 4], []]


def test_entries_of_a_list_may_be_split_and_lists_of_a_fixed_size_are_lists():
    column = RawColumn("n", "str", many=True, separator="|")
    assert converted([["a|b", "c"], [], None], column, pa.list_(pa.string()))[0] == [["a", "b", "c"], [], None]
    fixed = RawColumn("n", "int", many=True)
    assert converted([[1, 2], None, [3, None]], fixed, pa.list_(pa.int32(), 2))[0] == [[1, 2], None, [3]]
    sliced = pa.array([[9, 9], [1, 2]], pa.list_(pa.int32(), 2)).slice(1)
    assert convert(sliced, fixed)[0].to_pylist() == [[1, 2]]


def test_seconds_that_overflow_as_milliseconds_are_no_time():
    # 2**64 milliseconds after a time that looks right.
    far = (2**64 + 1_600_000_000_000) // 1000
    typed, bad = convert(pa.array([1_600_000_000, far], pa.timestamp("s")), RawColumn("t", "time"))
    assert typed.to_pylist() == [1_600_000_000_000, None] and list(bad) == [1]


def test_a_vector_has_all_of_its_numbers_or_none():
    column = RawColumn("v", "float", many=True, exactly=2)
    lists = [[1.0, -2.0], [1.0], [], None, [1.0, None], [1.0, 2.0, 3.0], [math.nan, math.nan]]
    reason = "has {} numbers, expected 2"
    expected = {1: reason.format(1), 4: reason.format(1), 5: reason.format(3)}
    values, bad = converted(lists, column)
    assert [value for place, value in enumerate(values) if place not in bad] == [[1.0, -2.0], [], None, []]
    assert bad == expected
    sized = pa.array([[0.5, 1.5], None], pa.list_(pa.float32(), 2))
    assert convert(sized, column)[0].to_pylist() == [[0.5, 1.5], None]


def test_weights_in_text_stand_behind_their_values():
    values = RawColumn("tag", "str", many=True, separator="|", mark=":")
    weights = RawColumn("w", "float", many=True, separator="|", source="tag", mark=":", weighs="tag")
    texts = ["a:0.5|b: 2", "a|b:0|", "x:y:3", "", None, ":4|b:1", "a:x", "a:-1"]
    assert converted(texts, values) == ([["a", "b"], ["a", "b"], ["x:y"], [], None, ["b"], ["a"], ["a"]], {})
    found, bad = converted(texts, weights)
    assert found[:6] == [[0.5, 2.0], [1.0, 0.0], [3.0], [], None, [1.0]]
    assert bad == {6: "is not a number", 7: "has a weight below 0"}


def test_weights_are_as_many_as_their_values():
    values, weights = pa.array([["a", "b"], ["a"], None, ["b"]]), pa.array([[1.0], [2.0], None, []])
    assert uneven_weights(values, weights) == {0: "has 1 weights for 2 values"}


def test_a_vector_in_text_may_stand_in_brackets():
    column = RawColumn("v", "float", many=True, separator=",", exactly=2)
    values, bad = converted(["[0.5, -1]", "0.5,-1", "[]", "", "[0.5]", "[a, 1]"], column)
    assert values[:3] == [[0.5, -1.0], [0.5, -1.0], []]
    assert bad == {4: "has 1 numbers, expected 2", 5: "is not a number"}
    assert converted(["[0.5  -1 ]"], RawColumn("v", "float", many=True, separator=" "))[0] == [[0.5, -1.0]]
