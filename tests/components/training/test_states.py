"""Variables in a folder come back as they were; those of another model are refused."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

from mixrank.components.training import build_strategy
from mixrank.components.training.states import INDEX, read_variables, write_variables
from mixrank.components.training.warm_start import MovedRows
from mixrank.layers.tokens import rows


def variables(seed, size=50):
    rng = np.random.default_rng(seed)
    table = keras.Variable(rng.normal(size=(size, 4)).astype("float32"), name="table")
    count = keras.Variable(rng.integers(0, 9, 3), dtype="int64")
    return {"model/0": table, "model/1": count, "iteration": keras.Variable(float(seed))}


def values(found):
    return [np.array(found[name]) for name in sorted(found)]


def test_a_large_variable_is_written_and_read_in_blocks(tmp_path, monkeypatch):
    # 16 bytes per row.
    monkeypatch.setattr(rows, "BLOCK", 160)
    ours, theirs = variables(1), variables(2)
    write_variables(tmp_path / "state", ours)
    table, *_ = json.loads((tmp_path / "state" / INDEX).read_text())
    assert [file["first"] for file in table["files"]] == [0, 10, 20, 30, 40]
    read_variables(tmp_path / "state", theirs)
    for mine, other in zip(values(ours), values(theirs), strict=True):
        np.testing.assert_array_equal(mine, other)
    again = build_strategy(2)
    with again.scope():
        copies = variables(3)
    read_variables(tmp_path / "state", copies)
    for copy in copies["model/0"].value.values:
        np.testing.assert_array_equal(copy.numpy(), np.array(ours["model/0"]))


def test_rows_are_taken_from_where_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK", 160)
    ours, theirs = variables(1), variables(2, size=73)
    write_variables(tmp_path / "state", ours)
    rng = np.random.default_rng(3)
    source = np.where(rng.random(73) < 0.3, -1, rng.integers(0, 50, 73))
    before = np.array(theirs["model/0"])
    read_variables(tmp_path / "state", theirs, {"model/0": MovedRows(50, source)})
    expected = np.where(source[:, None] < 0, before, np.array(ours["model/0"])[source])
    np.testing.assert_array_equal(np.array(theirs["model/0"]), expected)
    assert float(theirs["iteration"].value) == 1
    with pytest.raises(ValueError, match=r"model/0 \(.*\) is \[50, 4\] there and \[49, 4\] here$"):
        read_variables(tmp_path / "state", theirs, {"model/0": MovedRows(49, source)})


def test_the_variables_of_another_model_are_refused(tmp_path):
    write_variables(tmp_path, variables(1))
    other = variables(1, size=51)
    with pytest.raises(ValueError, match=r"another model .*: model/0 \(table\) is \[50, 4\] there and \[51, 4\] here$"):
        read_variables(tmp_path, other)
    fewer = variables(2)
    del fewer["model/1"]
    before = values(fewer)
    with pytest.raises(
        ValueError, match=r"3 variables of another model .* with 2: model/1 \(variable\S*\) is not here$"
    ):
        read_variables(tmp_path, fewer)
    more = variables(2) | {"optimizer/velocity/0": keras.Variable(0.0, name="v"), "extra": keras.Variable(0.0)}
    with pytest.raises(ValueError, match=r"optimizer/velocity/0 \(v\) is not there, and 1 more$"):
        read_variables(tmp_path, more)
    np.testing.assert_array_equal(values(fewer)[0], before[0])


def test_variables_are_told_apart_by_their_names_and_not_by_their_order(tmp_path):
    write_variables(tmp_path, variables(1))
    other = dict(reversed(variables(2).items()))
    read_variables(tmp_path, other)
    for mine, theirs in zip(values(variables(1)), values(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)
