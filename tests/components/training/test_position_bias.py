"""A place's bias is learned beside the model, and told from what the items are worth."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import spearmanr

from mixrank.components.training.model_factory import transformed_rows
from mixrank.components.training.optimizing import build_optimizer, build_table_optimizer
from mixrank.components.training.position_bias import PositionBias
from mixrank.components.training.settings import Optimizer, TableOptimizer
from mixrank.components.training.training_step import TrainingStep
from mixrank.layers.tokens import EmbeddingTables, SplitColumns
from mixrank.schemas import Position

ITEMS, PLACES, ROWS, BATCH = 40, 8, 60_000, 500
EXAMINED = 1 / (1 + np.arange(PLACES))
POSITION = Position("place", size=PLACES)


@pytest.fixture(scope="module")
def log():
    """Items of known worth, put in places by a noisy policy; clicked if they are looked at and wanted."""
    rng = np.random.default_rng(0)
    worth = rng.uniform(0.03, 0.4, ITEMS)
    # The policy believes in something else, which decides the places.
    belief = rng.permutation(ITEMS)
    item = rng.integers(0, ITEMS, ROWS)
    place = np.clip(belief[item] * PLACES // ITEMS + rng.integers(-3, 4, ROWS), 0, PLACES - 1)
    click = rng.random(ROWS) < EXAMINED[place] * worth[item]
    return worth, {"item": item, "place": place + 1, "page": rng.integers(0, 3, ROWS)}, click.astype(np.float32)


def made(log, position=POSITION):
    return PositionBias(position, "page", ("click",), np.bincount(log[1]["place"], minlength=position.ids) / ROWS)


def trained(log, with_bias, jit=False):
    """A logit per item, trained with or without a bias of the place: the step, and the items' scores."""
    keras.utils.set_random_seed(1)
    inputs = {"item": keras.Input((), dtype="int64", name="item")}
    tables = EmbeddingTables(dim=4, sizes={"item": ITEMS}, columns={"item": "item"}, name="tables_4")
    split, head = SplitColumns(shapes={"item": []}), keras.layers.Dense(1)

    def behind(vectors):
        return {"click": keras.ops.reshape(head(split(vectors)["item"]), (-1,))}

    model, rows = keras.Model(inputs, behind(tables(inputs))), keras.Input((1, 4))
    step = TrainingStep(
        model,
        keras.Model([inputs, [rows]], behind(rows)),
        build_optimizer(Optimizer(learning_rate=0.01), steps=300),
        build_table_optimizer(TableOptimizer(learning_rate=0.3), steps=300),
        loss={"click": keras.losses.BinaryCrossentropy(from_logits=True)},
        position=made(log) if with_bias else None,
        jit=jit,
    )
    given = {name: log[1][name] for name in (("item", "place") if with_bias else ("item",))}
    data = tf.data.Dataset.from_tensor_slices((given, {"click": log[2][:, None]})).batch(BATCH, drop_remainder=True)
    train = tf.function(step.train_step, reduce_retracing=True)
    for _ in range(2):
        for batch in data:
            train(batch)
    return step, model({"item": np.arange(ITEMS)})["click"].numpy()


@pytest.fixture(scope="module")
def debiased(log):
    return trained(log, with_bias=True)


@pytest.mark.slow
def test_a_debiased_score_ranks_closer_to_the_truth(log, debiased):
    worth, (step, scores), (_, biased) = log[0], debiased, trained(log, with_bias=False)
    assert spearmanr(scores, worth).statistic > 0.9
    assert spearmanr(biased, worth).statistic < 0.75
    learned = np.array(step.position.learned()["click"])
    # The bias of a place is about the logarithm of how often it is looked at.
    np.testing.assert_allclose(np.diff(learned[1:]), np.diff(np.log(EXAMINED)), atol=0.35)


@pytest.mark.slow
def test_the_level_of_the_log_stays_about_the_same(log, debiased):
    rate = 1 / (1 + np.exp(-debiased[1][log[1]["item"]]))
    assert rate.mean() == pytest.approx(log[2].mean(), rel=0.2)
    learned = np.array(debiased[0].position.learned()["click"])
    shares = np.bincount(log[1]["place"], minlength=PLACES + 1) / ROWS
    assert shares @ np.exp(learned) == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_xla_learns_the_same_biases(log, debiased):
    step, scores = trained(log, with_bias=True, jit=True)
    np.testing.assert_allclose(scores, debiased[1], atol=1e-3)
    np.testing.assert_allclose(step.position.weights.numpy(), debiased[0].position.weights.numpy(), atol=1e-3)


def test_the_logits_that_training_sees_are_the_formula(log):
    bias = made(log)
    values = np.random.default_rng(3).normal(size=(PLACES + 1, 1)).astype(np.float32)
    bias.weights.assign(values)
    columns, logits = {"place": tf.constant([0, 3, 8])}, {"click": tf.constant([0.5, -1.0, 2.0]), "buy": tf.ones(3)}
    rows = bias.index(columns)
    assert rows.numpy().tolist() == [[0], [3], [8]]
    got = bias.add(logits, *bias.read(rows))
    level = np.log(bias.shares.numpy() @ np.exp(values[:, 0]))
    np.testing.assert_allclose(got["click"], np.array([0.5, -1.0, 2.0]) + values[[0, 3, 8], 0] - level, rtol=1e-5)
    assert got["buy"] is logits["buy"]


def test_places_of_scenarios_have_rows_of_their_own(toy_spec, toy_data, toy_transform):
    rows = transformed_rows(toy_spec, [toy_data.patterns()["train"]], toy_transform)
    bias = PositionBias.of(toy_spec, rows)
    # Five ids in each of three pages, and of missing and unknown pages.
    assert bias.tasks == ("click",) and bias.weights.shape == (25, 1)
    pages = {page: number for number, page in enumerate(toy_spec.scenario.values, 1)}
    expected = np.zeros(25)
    for row in toy_data.rows["train"]:
        place = 0 if row["rank"] is None else 1 + min(row["rank"], 3)
        expected[5 * pages[row["page"]] + place] += 1
    np.testing.assert_allclose(bias.shares, expected / expected.sum(), rtol=1e-5)
    found = bias.index({"rank": np.array([0, 4]), "page": np.array([2, 3])})
    assert np.ravel(found).tolist() == [10, 19]
    assert PositionBias.of(toy_spec.model_copy(update={"position": None}), rows) is None
