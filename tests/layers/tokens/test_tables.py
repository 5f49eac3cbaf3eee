"""All tables of one width are one variable, and every column finds its own rows."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mixrank.layers.tokens import EmbeddingTables, SplitColumns, hash_rows, rows
from mixrank.layers.tokens.rows import RowsNormal

SIZES, COLUMNS = {"item": 5, "tag": 3}, {"item": "item", "tags": "tag", "past": "item"}
# 9 and -1 are beyond the tables.
IDS = {"past": np.array([[4, 0], [9, 1]]), "item": np.array([2, 3]), "tags": np.array([[1, 9], [-1, 2]])}
SHAPES = {"item": [], "tags": [2], "past": [2]}


def layer(**options):
    made = EmbeddingTables(dim=4, sizes=SIZES, columns=COLUMNS, **options)
    made.build({name: ids.shape for name, ids in IDS.items()})
    return made


def by_hand(table, ids):
    return np.take(table, np.clip(ids, 0, len(table) - 1), axis=0)


def test_every_column_reads_its_own_table():
    tables = layer()
    found = SplitColumns(shapes=SHAPES)(tables(IDS))
    assert {name: tables.table(name).read().shape for name in SIZES} == {"item": (5, 4), "tag": (3, 4)}
    for column, table in COLUMNS.items():
        expected = by_hand(tables.table(table).read(), IDS[column])
        np.testing.assert_array_equal(np.array(found[column]), expected, err_msg=column)
    assert [tuple(v.shape) for v in tables.trainable_weights] == [(8, 4)]


def test_some_of_the_columns_can_be_read_alone():
    tables = layer()
    found = np.array(tables({"past": IDS["past"]}))
    np.testing.assert_array_equal(found, by_hand(tables.table("item").read(), IDS["past"]))
    assert tables.compute_output_shape({"past": (None, 2), "item": (None,)}) == (None, 3, 4)
    with pytest.raises(ValueError, match="`ids` of .* holds columns that it has no table for: colour"):
        tables({"colour": IDS["item"]})


def test_several_values_per_event_keep_their_shape():
    found = SplitColumns(shapes={"a": [], "b": [2, 3]})(keras.ops.ones((5, 7, 4)))
    assert {name: tuple(x.shape) for name, x in found.items()} == {"a": (5, 4), "b": (5, 2, 3, 4)}


def test_a_value_with_two_hash_functions_is_the_sum_of_two_rows():
    made = EmbeddingTables(dim=4, sizes={"tag": 3, "item": 5}, columns=COLUMNS, functions={"item": 2}, name="tables")
    # 4 buckets: ids 1..16 are 1 + first + 4 * second; 0 is missing, 99 and -1 are beyond the ids.
    ids = {"past": np.array([[7, 0], [99, 1]]), "item": np.array([16, 5]), "tags": np.array([[1, 2], [0, 2]])}
    given = made(ids)
    assert given.shape == made.compute_output_shape({name: each.shape for name, each in ids.items()}) == (2, 8, 4)
    found = SplitColumns(shapes=SHAPES, functions={"item": 2, "past": 2})(given)
    tag, item = (np.array(made.table(name).read()) for name in ("tag", "item"))
    np.testing.assert_allclose(found["item"], [item[4] + item[4], item[1] + item[2]], rtol=1e-6)
    past = [[item[3] + item[2], 2 * item[0]], [2 * item[4], 2 * item[1]]]
    np.testing.assert_allclose(found["past"], past, rtol=1e-6)
    np.testing.assert_array_equal(found["tags"], by_hand(tag, ids["tags"]))
    assert made.parts()[0].parameters == 8 * 4


def test_hash_functions_survive_a_config():
    made = EmbeddingTables(dim=4, sizes=SIZES, columns=COLUMNS, functions={"item": 2})
    assert EmbeddingTables.from_config(made.get_config()).functions_of("item") == 2
    split = SplitColumns(shapes=SHAPES, functions={"item": 2})
    assert SplitColumns.from_config(split.get_config()).functions == {"item": 2}


def test_every_pair_of_buckets_is_one_id():
    ids = np.arange(26)
    pairs = {(int(a), int(b)) for a, b in zip(hash_rows(ids, 1, 5), hash_rows(ids, 5, 5), strict=True)}
    assert pairs == {(0, 0)} | {(a, b) for a in range(1, 6) for b in range(1, 6)}


def test_a_table_is_written_and_read_alone():
    tables = layer()
    before = tables.table("item").read()
    new = np.arange(12, dtype="float32").reshape(3, 4)
    tables.table("tag").write(new)
    np.testing.assert_array_equal(tables.table("tag").read(), new)
    np.testing.assert_array_equal(tables.table("item").read(), before)
    tables.table("tag").write(-new[:1], first=2)
    np.testing.assert_array_equal(tables.table("tag").read(), np.concatenate([new[:2], -new[:1]]))
    np.testing.assert_array_equal(tables.table("item").read(), before)
    with pytest.raises(ValueError, match=r"a table of 3 rows of 4 received an array \(2, 4\) for row 2"):
        tables.table("tag").write(new[:2], first=2)
    with pytest.raises(ValueError, match=r"a table of 3 rows of 4 received an array \(3, 2\)"):
        tables.table("tag").write(new[:, :2])


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
def test_rows_are_stored_in_blocks_of_any_size(storage, monkeypatch):
    # 16 bytes per row: blocks of 3 rows.
    monkeypatch.setattr(rows, "BLOCK", 48)
    trained, small = layer(), layer(storage=storage)
    small.store(trained)
    np.testing.assert_allclose(np.array(small(IDS)), np.array(trained(IDS)), atol=1e-3)
    assert bool(small.trainable_weights) == (storage == "float32")
    assert small.parts()[0].parameters == 8 * (4 + (storage == "int8"))


def test_rows_start_as_a_normal_draw_of_their_seed():
    drawn = np.array(RowsNormal(seed=3)((50_000, 4)))
    assert abs(drawn.mean()) < 0.001 and drawn.std() == pytest.approx(0.05, rel=0.02)
    assert np.mean(np.abs(drawn) < 0.05) == pytest.approx(0.6827, abs=0.01)
    np.testing.assert_array_equal(drawn, np.array(RowsNormal(seed=3)((50_000, 4))))
    assert not np.array_equal(drawn, np.array(RowsNormal(seed=4)((50_000, 4))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": {}}, "`sizes` must name at least one table"),
        ({"columns": {"item": "itme"}}, "`columns` names tables that `sizes` lacks: itme"),
        ({"functions": {"itme": 2}}, "`functions` names tables that `sizes` lacks: itme"),
        ({"sizes": {"item": 0}}, "`sizes`"),
        ({"dim": 0}, "`dim`"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingTables(**{"dim": 4, "sizes": SIZES, "columns": COLUMNS} | options)
