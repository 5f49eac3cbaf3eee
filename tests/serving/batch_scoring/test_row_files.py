"""Files of any format -> inputs of a model: what does not fit is a bad value, never the end of the job."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixrank.schemas.arrow import pa, pq
from mixrank.schemas.encode import Column
from mixrank.schemas.raw import RawColumn, convert, files_at
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
        pq.write_table(pa.table({name: [row[name] for row in rows] for name in "nxs"}), file)
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
