"""Variables in a folder come back as they were; those of another model are refused."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

from mixrank.components.training import build_strategy
from mixrank.components.training.states import INDEX, read_variables, write_variables
from mixrank.layers.tokens import rows


def variables(seed, size=50):
    rng = np.random.default_rng(seed)
    table = keras.Variable(rng.normal(size=(size, 4)).astype("float32"), name="table")
    return [table, keras.Variable(rng.integers(0, 9, 3), dtype="int64"), keras.Variable(float(seed))]


def values(found):
    return [np.array(each) for each in found]


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
    for copy in copies[0].value.values:
        np.testing.assert_array_equal(copy.numpy(), values(ours)[0])


def test_the_variables_of_another_model_are_refused(tmp_path):
    write_variables(tmp_path, variables(1))
    other = variables(1, size=51)
    with pytest.raises(ValueError, match=r"another model .*: table \[50, 4\] where this one has \[51, 4\]"):
        read_variables(tmp_path, other)
    with pytest.raises(ValueError, match="holds 3 variables of another model than this one with 2"):
        read_variables(tmp_path, variables(1)[:2])
