"""Tables, means over several values, history masks."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mixrank.layers.tokens import HistoryMask, IdEmbedding, ValuePooling

IDS = np.array([[1, 4, 0], [2, 1, 3]])


def test_an_embedding_is_a_row_of_the_table(check_layer):
    layer = check_layer(IdEmbedding, {"size": 5, "dim": 4}, IDS, parameters=20)
    np.testing.assert_array_equal(layer(IDS), np.array(layer.embeddings)[IDS])


def test_ids_beyond_the_table_take_the_last_row():
    layer = IdEmbedding(size=5, dim=4)
    expected = np.array(layer(np.array([4, 4, 0])))
    np.testing.assert_array_equal(layer(np.array([5, 2**40, -1])), expected)


def test_the_table_stays_float32_in_mixed_precision(float32_afterwards):
    keras.config.set_dtype_policy("mixed_bfloat16")
    layer = IdEmbedding(size=5, dim=4)
    assert layer(IDS).dtype == "bfloat16"
    assert layer.embeddings.dtype == "float32"


def stored(storage, table):
    layer = IdEmbedding(size=len(table), dim=table.shape[1], storage=storage)
    layer.build((None,))
    layer.store(table)
    return layer


@pytest.mark.parametrize("storage", ["bfloat16", "int8"])
def test_a_stored_table_gives_nearly_the_same_rows(storage):
    table = np.random.default_rng(0).normal(size=(50, 8)).astype("float32")
    table[7] = 0
    layer = stored(storage, table)
    rows = np.array(layer(np.arange(50)))
    # Half a step of the last place: 2^-9 of a value in bfloat16, 1/254 of the row's largest value in int8.
    bound = np.abs(table) / 2**8 if storage == "bfloat16" else np.abs(table).max(axis=1, keepdims=True) / 253
    assert rows.dtype == np.float32
    assert (np.abs(rows - table) <= bound).all()
    assert not np.array_equal(rows, table)
    np.testing.assert_array_equal(rows[7], 0)
    assert layer.embeddings.dtype == storage
    assert not layer.trainable_weights


def test_an_int8_row_is_its_codes_times_its_scale():
    layer = stored("int8", np.array([[0.5, -1.27, 0.004], [2.54, 0.0, -2.54]]))
    np.testing.assert_array_equal(np.array(layer.embeddings), [[50, -127, 0], [127, 0, -127]])
    np.testing.assert_allclose(np.array(layer.scale), [[0.01], [0.02]], rtol=1e-6)
    np.testing.assert_allclose(np.array(layer(np.array([1]))), [[2.54, 0.0, -2.54]], rtol=1e-6)


@pytest.mark.parametrize("storage", ["bfloat16", "int8"])
def test_a_stored_table_survives_a_file(storage, tmp_path):
    table = np.random.default_rng(1).normal(size=(5, 4))
    ids = keras.Input((), dtype="int64")
    layer = IdEmbedding(size=5, dim=4, storage=storage)
    model = keras.Model(ids, layer(ids))
    layer.store(table)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(np.array(again(np.arange(5))), np.array(model(np.arange(5))))


def test_an_unknown_storage_is_refused():
    with pytest.raises(ValueError, match="`storage` must be float32, bfloat16 or int8, received 'int4'"):
        IdEmbedding(size=5, dim=4, storage="int4")


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match="`size` of layer `embedding_tag` must be at least 1, received 0"):
        IdEmbedding(size=0, dim=4, name="embedding_tag")


def test_the_mean_ignores_padding_and_an_empty_list_is_zero():
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    mean = ValuePooling()(x, np.array([[7, 0, 2], [0, 0, 0]]))
    np.testing.assert_allclose(mean, [(x[0, 0] + x[0, 2]) / 2, np.zeros(4)], rtol=1e-6)


def test_the_mean_works_per_history_slot():
    x = np.ones((2, 5, 3, 4), "float32")
    ids = np.zeros((2, 5, 3), int)
    ids[1, 2, 0] = 1
    mean = np.array(ValuePooling()(x, ids))
    assert mean.shape == (2, 5, 4)
    assert mean.sum() == 4 and mean[1, 2].sum() == 4


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "sum", "max", "sqrtn", "attention"])
def test_several_values_are_pooled_as_the_formula_says(pooling, weighted, check_layer):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 4, 5)).astype("float32")
    ids = np.array([[7, 0, 2, 1], [0, 0, 0, 0], [3, 0, 0, 0]])
    given = rng.uniform(0.1, 3, size=ids.shape).astype("float32") if weighted else np.ones(ids.shape)
    inputs = (x, ids, given) if weighted and pooling != "max" else (x, ids)
    layer = check_layer(ValuePooling, {"pooling": pooling}, *inputs, parameters=5 if pooling == "attention" else 0)
    assert sum(part.parameters for part in layer.parts()) == layer.count_params()
    expected = []
    for row, own, all_weights in zip(x.astype("float64"), ids, given, strict=True):
        values, w = row[own > 0], all_weights[own > 0]
        if not len(values):
            pooled = np.zeros(5)
        elif pooling == "attention":
            w = w * np.exp(values @ np.array(layer.query))
            pooled = (w / w.sum()) @ values
        elif pooling == "max":
            pooled = values.max(axis=0)
        else:
            pooled = w @ values / {"sum": 1, "mean": w.sum(), "sqrtn": np.linalg.norm(w)}[pooling]
        expected.append(pooled)
    np.testing.assert_allclose(layer(*inputs), expected, rtol=1e-5, atol=1e-6)


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="`pooling` of layer `tags` must be mean, sum, max, sqrtn or attention"):
        ValuePooling(pooling="avg", name="tags")


def test_a_slot_is_valid_if_any_field_is_set():
    single = np.array([[0, 3, 0], [1, 0, 0]])
    several = np.zeros((2, 3, 2), int)
    several[0, 2, 1] = 5
    mask = np.array(HistoryMask()([single, several]))
    np.testing.assert_array_equal(mask, [[False, True, True], [True, False, False]])
    np.testing.assert_array_equal(HistoryMask()([single]), single != 0)
    first = np.arange(single.shape[1]) < 1
    np.testing.assert_array_equal(HistoryMask()([single], first & (single >= 0)), first & (single != 0))
