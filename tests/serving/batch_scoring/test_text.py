"""Cells of a CSV file: what does not fit is a bad cell, never the end of the job."""

from __future__ import annotations

import pytest

from mixrank.schemas.encode import Column
from mixrank.serving.batch_scoring.text import to_table


@pytest.mark.parametrize("cell", ["[" * 50_000, "[" + "9" * 5000 + "]", '["a"', "{}"])
def test_a_cell_that_holds_no_list_is_bad_and_the_next_one_is_read(cell):
    table, bad = to_table(["tag"], [[cell], ['["a"]']], {"tag": Column("tag", "str", length=3)})
    assert table["tag"].to_pylist() == [None, ["a"]]
    assert list(bad) == [0] and bad[0][0] == "tag"
    assert bad[0][1].startswith("takes a JSON list, received '") and len(bad[0][1]) < 350
