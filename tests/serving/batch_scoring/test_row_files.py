"""Files of any format -> inputs of a model: what does not fit is a bad value, never the end of the job."""

from __future__ import annotations

import json
import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mixrank.components.examples.raw_tables import RawTable, _typed
from mixrank.schemas.arrow import pa, pq
from mixrank.schemas.encode import PADDING, Column
from mixrank.schemas.raw import Batch, RawColumn, RawFile, convert, files_at, to_arrow
from mixrank.schemas.raw.text import TextFormat
from mixrank.serving.batch_scoring.row_files import Texts, read_rows

COLUMNS = (Column("n", "int"), Column("x", "float"), Column("s", "str"))


@pytest.mark.parametrize("cell", ["[" * 50_000, "[" + "9" * 5000 + "]", '["a"', "{}", '["a", 1]', "a", "\xff"])
def test_a_cell_that_holds_no_list_is_bad_and_the_next_one_is_read(cell):
    table = pa.table({"tag": pa.array([cell.encode("latin-1"), b'["a"]', None])})
    rows = read_rows([Column("tag", "str", length=2)], {}, table)
    tags = rows.inputs["tag"]
    assert isinstance(tags, Texts) and [[tags.values[code] for code in row] for row in tags.codes] == [
        [b"", b""], [b"a", b""], [b"", b""]
    ]  # fmt: skip
    assert list(rows.bad) == [0] and rows.bad[0][0] == "tag"
    assert rows.bad[0][1].startswith("takes a JSON list") and len(rows.bad[0][1]) < 400


TEXTS = ["", "7", " 7 ", "7.0", "-3", "7.5", "1e3", "abc", "NULL", "nan", "inf", "1_0", "é", "9007199254740993", "0.1"]
NUMBERS = [0, 7, -3, 2**53 + 1, 7.5, 0.1, -0.0]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    form=st.sampled_from(["csv", "jsonl", "parquet"]),
    rows=st.lists(
        st.fixed_dictionaries({name: st.sampled_from(TEXTS) for name in "nxs"})
        | st.fixed_dictionaries({name: st.sampled_from(NUMBERS) | st.none() for name in "nxs"}),
        min_size=1,
        max_size=6,
    ),
)
def test_scoring_takes_what_training_takes_and_refuses_what_it_refuses(tmp_path, form, rows):
    file = tmp_path / f"t.{form}"
    if form == "csv":
        cells = [",".join("" if row[name] is None else str(row[name]) for name in "nxs") for row in rows]
        file.write_text("n,x,s\n" + "".join(f"{line}\n" for line in cells))
    elif form == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        rows = [row for row in rows if isinstance(row["n"], str) == isinstance(rows[0]["n"], str)]
        pq.write_table(pa.table({name: to_arrow([row[name] for row in rows]) for name in "nxs"}), file)
    (found,) = files_at(file).files
    for batch in found.read(["n", "x", "s"]):
        scored = read_rows(COLUMNS, {}, batch.table)
        for column in COLUMNS:
            array = pa.concat_arrays(batch.table[column.name].chunks)
            trained, bad = convert(array, RawColumn(column.name, column.kind))
            assert {place for place, (name, _) in scored.bad.items() if name == column.name} <= set(bad)
            assert set(bad) <= set(scored.bad)
            values = scored.inputs[column.name]
            for place in set(range(len(array))) - set(scored.bad):
                value = trained[place].as_py()
                if isinstance(values, Texts):
                    assert values.values[values.codes[place]].decode() == (value or "")
                elif column.kind == "float":
                    same = (
                        math.isnan(values[place]) if value is None else math.isclose(values[place], value, rel_tol=1e-6)
                    )
                    assert same, (values[place], value)
                else:
                    assert values[place] == (-(2**63) if value is None else value)


KINDS = {kind: Column(f"a_{kind}", kind) for kind in ("int", "float", "str")}
WORDS = [
    "", " ", "7", " 7 ", "007", "7.0", "-3", "1e3", "1_000", "1,5", "abc", "nan", "NaN", "null", "NULL", "inf", "-inf",
    "1e308", "3.4028235e38", "9007199254740993", str(2**63), str(-(2**63)), "true", "é", "\x00",
]  # fmt: skip
NUMBERS = [0.0, -0.0, 7.0, 0.5, 1e10, 2.0**53, 2.0**54, 3.5e38, 1e308, math.inf, -math.inf, math.nan]
WHOLE = [0, 7, -7, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)]
DECIMALS = [Decimal("0.5"), Decimal("9007199254740993"), Decimal("1e18"), Decimal(7)]
ARRAYS = st.one_of(
    *(
        st.lists(st.none() | st.sampled_from(values), min_size=1, max_size=6).map(
            lambda chosen, kind=kind: pa.array(chosen, kind)
        )
        for values, kind in (
            (WORDS, pa.string()),
            ([word.encode() for word in WORDS] + [b"\xff"], pa.binary()),
            (NUMBERS, pa.float64()),
            (WHOLE, pa.int64()),
            ([0, 2**63, 2**64 - 1], pa.uint64()),
            ([True, False], pa.bool_()),
            (DECIMALS, pa.decimal128(38, 2)),
        )
    )
)


def of_training(array, column):
    """(value or None, whether it is bad) of every row, as ExampleGen reads a log."""
    wanted = RawColumn(column.name, column.kind, many=column.length is not None)
    file = RawFile("f", "parquet", None, TextFormat(",", True))
    table = RawTable("log", (file,), ({column.name: column.name},), (wanted,), None)
    typed, letters = _typed(table, 0, Batch(pa.table({column.name: array}), np.arange(len(array))))
    bad = {letter["row"] for letter in letters}
    return [(None, True) if row in bad else (value, False) for row, value in enumerate(typed[column.name].to_pylist())]


def of_scoring(array, column):
    rows = read_rows([column], {}, pa.table({column.name: array}))
    values = rows.inputs[column.name]
    plain = [values.values[code].decode() for code in values.codes] if isinstance(values, Texts) else values.tolist()
    missing = [value == PADDING[column.kind] or value != value for value in plain]
    return [
        (None, True) if row in rows.bad else (None if missing[row] else value, False) for row, value in enumerate(plain)
    ]


@settings(max_examples=50, deadline=None)
@given(array=ARRAYS, kind=st.sampled_from(["int", "float", "str"]))
@example(array=pa.array(["null", "7.0", "x"]), kind="str")
@example(array=pa.array([1e308, 3.4028235e38]), kind="float")
def test_an_odd_table_gives_the_same_values_or_refusals_as_in_training(array, kind):
    column = KINDS[kind]
    expected = of_training(array, column)
    if kind == "float":
        expected = [(None if v is None else float(np.float32(v)), bad) for v, bad in expected]
    assert of_scoring(array, column) == expected


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.none() | st.lists(st.none() | st.sampled_from(WORDS), max_size=3), min_size=1, max_size=4),
    kind=st.sampled_from(["int", "str"]),
)
def test_lists_lose_the_same_missing_values_as_in_training(rows, kind):
    column = Column("tags", kind, length=3)
    array = pa.array(rows, pa.list_(pa.string()))
    expected = [([] if value is None else value, bad) for value, bad in of_training(array, column)]
    scored = read_rows([column], {}, pa.table({"tags": array}))
    values = scored.inputs["tags"]
    if isinstance(values, Texts):
        dense = np.array([value.decode() for value in values.values], object)[values.codes].tolist()
    else:
        dense = values.tolist()
    for row, (value, bad) in enumerate(expected):
        assert (row in scored.bad) == bad
        if not bad:
            assert dense[row] == value + [PADDING[kind]] * (3 - len(value))


def test_padding_in_a_history_keeps_its_place_and_a_null_does_not_stand_for_it():
    for kind, flat in (("int", [5, PADDING["int"], 6]), ("str", ["a", "", "b"])):
        column = Column("past", kind, length=4, history="past")
        array = pa.array([flat, [flat[0], None]], pa.list_(pa.int64() if kind == "int" else pa.string()))
        rows = read_rows([column], {}, pa.table({"past": array}))
        values = rows.inputs["past"]
        dense = [[values.values[c].decode() for c in values.codes[0]]] if kind == "str" else values.tolist()
        assert dense[0] == [*flat, PADDING[kind]]
        assert rows.bad == {1: ("past", "is missing in an event")}


def test_a_type_without_a_value_of_the_column_is_named():
    with pytest.raises(ValueError, match=r"column `a_int`: cannot read type struct"):
        read_rows([KINDS["int"]], {}, pa.table({"a_int": pa.array([{"x": 1}])}))


def test_a_list_in_text_that_is_not_utf8_is_one_bad_row():
    cells = pa.array([b'["a"]', b'["\xff"]'], pa.binary()).cast(pa.string(), safe=False)
    rows = read_rows([Column("tags", "str", length=3)], {}, pa.table({"tags": cells}))
    assert rows.bad == {1: ("tags", "takes a JSON list, but is not UTF-8 text, received '[\"\ufffd\"]'")}


def test_weights_that_do_not_fit_their_values_are_a_bad_row():
    known = [Column("tag", "str", length=2), Column("w", "float", length=2, weighs="tag")]
    tags = pa.array([["a", "b"], ["a"], ["a", "b"], ["b"]])
    weights = pa.array([[0.5, 2.0], [1.0, 2.0], None, [-1.0]])
    rows = read_rows(known, {}, pa.table({"tag": tags, "w": weights}))
    assert rows.bad == {1: ("w", "has not as many weights as `tag` has values"), 3: ("w", "has a weight below 0")}
    np.testing.assert_array_equal(rows.inputs["w"][[0, 2]], [[0.5, 2.0], [np.nan, np.nan]])


def test_a_vector_of_another_length_is_a_bad_row():
    column = Column("look", "float", length=2, exact=True)
    array = pa.array([[1.0, 2.0], [1.0], None, [1.0, 2.0, 3.0], [1.0, None]], pa.list_(pa.float64()))
    rows = read_rows([column], {}, pa.table({"look": array}))
    reason = "has {} numbers, expected 2"
    assert rows.bad == {1: ("look", reason.format(1)), 3: ("look", reason.format(3)), 4: ("look", reason.format(1))}
    np.testing.assert_array_equal(rows.inputs["look"][[0, 2]], [[1.0, 2.0], [np.nan, np.nan]])
