"""A training step: tables outside, parts of a batch, replicas and XLA all give the same weights."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from mixrank.components.training import Optimizer, TableOptimizer, build_strategy
from mixrank.components.training.optimizing import build_optimizer, build_table_optimizer, row_optimizer
from mixrank.components.training.optimizing.row_optimizer import summed_by_row
from mixrank.components.training.training_step import TrainingStep, project_conflicts, projected
from mixrank.layers.losses import over_entire_space, with_uncertainty
from mixrank.layers.tokens import EmbeddingTables, SplitColumns, hash_rows, rows_on

SGD = Optimizer(name="sgd", learning_rate=0.1)
ADAM = Optimizer(learning_rate=0.01, schedule="cosine", warmup=0.5)
ROWWISE = TableOptimizer(name="rowwise_adagrad", learning_rate=0.1)
ROWS, BATCH, STEPS = 48, 12, 4
LOSSES = {"click": 1.0, "buy": 0.5}


def rows():
    rng = np.random.default_rng(3)
    # Ids 7 and 8 are beyond the table.
    inputs = {
        "clip": rng.integers(0, 9, ROWS),
        "past": rng.integers(0, 7, (ROWS, 2)),
        "price": rng.normal(size=(ROWS, 3)).astype(np.float32),
    }
    labels = {task: rng.integers(0, 2, (ROWS, 1)).astype(np.float32) for task in LOSSES}
    return tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(BATCH, drop_remainder=True)


def ranker(functions=1):
    """A model with one table for two columns, and its layers behind that table."""
    keras.utils.set_random_seed(5)
    inputs = {
        "clip": keras.Input((), dtype="int64", name="clip"),
        "past": keras.Input((2,), dtype="int64", name="past"),
        "price": keras.Input((3,), name="price"),
    }
    columns = {"clip": "clip", "past": "clip"}
    tables = EmbeddingTables(dim=4, sizes={"clip": 7}, columns=columns, functions={"clip": functions}, name="tables_4")
    split = SplitColumns(shapes={"clip": [], "past": [2]}, functions=dict.fromkeys(columns, functions))
    flat, joined = keras.layers.Flatten(), keras.layers.Concatenate()
    hidden = keras.layers.Dense(5, activation="tanh", name="hidden")
    heads = {task: keras.layers.Dense(1, name=task) for task in LOSSES}

    def behind(vectors):
        found = split(vectors)
        x = hidden(joined([found["clip"], flat(found["past"]), inputs["price"]]))
        return {task: head(x) for task, head in heads.items()}

    model = keras.Model(inputs, behind(tables({name: inputs[name] for name in ("clip", "past")})))
    vectors = keras.Input((3 * functions, 4))
    return model, keras.Model([inputs, [vectors]], behind(vectors))


def losses():
    return {task: keras.losses.BinaryCrossentropy(from_logits=True) for task in LOSSES}


def trained(optimizer, tables=ROWWISE, *, parts=1, replicas=1, jit=False, steps=STEPS, functions=1, data=rows, **more):
    strategy = build_strategy(replicas)
    with strategy.scope():
        step = TrainingStep(
            *ranker(functions),
            build_optimizer(optimizer, steps=STEPS),
            build_table_optimizer(tables, steps=STEPS),
            loss=losses(),
            loss_weights=LOSSES,
            parts=parts,
            jit=jit,
            **more,
        )
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    history = step.fit(data().with_options(options), epochs=1, steps_per_epoch=steps, shuffle=False, verbose=0)
    return step, history.history["loss"][0]


def weights(step):
    return {v.path: np.array(v) for v in [*step.model.variables, *step.row_optimizer.variables]}


def same_weights(a, b, atol):
    before, mine, theirs = {v.path: np.array(v) for v in ranker()[0].variables}, weights(a), weights(b)
    assert max(np.abs(theirs[path] - old).max() for path, old in before.items()) > 0.005
    for (path, value), other in zip(mine.items(), theirs.values(), strict=True):
        np.testing.assert_allclose(value, other, atol=atol, rtol=0, err_msg=path)


def alike():
    """Rows with one label for both tasks, whose heads start apart, so that their gradients conflict."""
    return rows().map(lambda inputs, labels: (inputs, {"click": labels["click"], "buy": labels["click"]}))


def by_hand(gradients, orders):
    """Algorithm 1 of PCGrad, vector by vector."""
    total = 0
    for task, order in enumerate(orders):
        mine = gradients[task].copy()
        for other in order:
            if other != task and mine @ gradients[other] < 0:
                mine -= mine @ gradients[other] / (gradients[other] @ gradients[other]) * gradients[other]
        total = total + mine
    return total


@pytest.mark.parametrize("step", range(6))
def test_conflicting_gradients_are_projected_as_in_pcgrads_algorithm(step):
    gradients = np.random.default_rng(step).normal(size=(4, 3)).astype("float32")
    found = np.array(projected(tf.constant(gradients @ gradients.T), tf.constant(step, tf.int64)))
    seed = tf.constant([step, 4])
    orders = np.argsort(np.array(tf.random.stateless_uniform((4, 4), seed)), axis=1)
    np.testing.assert_allclose(found @ gradients, by_hand(gradients.astype("float64"), orders), rtol=1e-3, atol=1e-5)
    assert np.any(np.abs(found - 1) > 0.01)


def test_the_order_of_the_tasks_changes_with_the_step_and_is_the_same_for_a_step():
    gradients = np.array([[1, 0], [-1, 1], [-1, -2], [0.5, -1]], "float32")
    products = tf.constant(gradients @ gradients.T)
    found = {tuple(np.array(projected(products, step)).round(4)) for step in (0, 1, 2, 3, 0, 1, 2, 3)}
    assert 1 < len(found) <= 4


def test_gradients_that_agree_and_weights_of_one_task_are_left_alone():
    shared = [np.array(g, "float32") for g in ([1, 0], [-1, 1])]
    own = np.array([5, 7], "float32")
    of_tasks = [[tf.constant(shared[0]), tf.constant(own), None], [tf.constant(shared[1]), None, None]]
    total = [tf.constant(shared[0] + shared[1]), tf.constant(own), None]
    changed, alone, none = project_conflicts(total, of_tasks, 0)
    # [1, 0] loses what it has along [-1, 1], and [-1, 1] what it has along [1, 0].
    np.testing.assert_allclose(changed, [0.5, 0.5 + 1.0], atol=1e-6)
    np.testing.assert_array_equal(alone, own)
    assert none is None
    agree = [[tf.constant([1.0, 0.0])], [tf.constant([0.5, 1.0])]]
    np.testing.assert_allclose(project_conflicts([tf.constant([1.5, 1.0])], agree, 0)[0], [1.5, 1.0])


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"jit": True}, {"parts": 2}, {"replicas": 2}], ids=str)
def test_projected_gradients_train_on_one_device_and_several(options):
    fixed, _ = trained(SGD, data=alike, **options)
    step, loss = trained(SGD, project=True, data=alike, **options)
    assert np.isfinite(loss)
    pairs = zip(weights(fixed).values(), weights(step).values(), strict=True)
    assert max(np.abs(a - b).max() for a, b in pairs) > 1e-5


@pytest.mark.slow
def test_the_first_projected_step_moves_the_weights_by_hand():
    model, dense = ranker()
    (inputs, labels), *_ = alike()
    (tables,) = [layer for layer in model.layers if isinstance(layer, EmbeddingTables)]
    vectors = [tables({column: inputs[column] for column in tables.columns})]
    variables, gradients = dense.trainable_weights, []
    for task, weight in LOSSES.items():
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            value = weight * losses()[task](labels[task], dense([inputs, vectors])[task])
        gradients.append([None if g is None else np.array(g) for g in tape.gradient(value, [*variables, *vectors])])
    shared = [i for i, pair in enumerate(zip(*gradients, strict=True)) if all(g is not None for g in pair)]
    flat = [np.concatenate([np.ravel(g[i]) for i in shared]).astype("float64") for g in gradients]
    assert flat[0] @ flat[1] < 0 and len(shared) == 3
    total = by_hand(flat, [[0, 1], [0, 1]])
    after = {v.path: np.array(v) for v in trained(SGD, steps=1, project=True, data=alike)[0].model.trainable_weights}
    first = 0
    for index, variable in enumerate(variables):
        if index in shared:
            change = total[first : first + np.size(variable)].reshape(variable.shape)
            first += np.size(variable)
        else:
            (change,) = [g[index] for g in gradients if g[index] is not None]
        np.testing.assert_allclose(after[variable.path], np.array(variable) - 0.1 * change, atol=1e-6)
    table = tables.embeddings
    moved = np.flatnonzero(np.abs(after[table.path] - np.array(table)).max(axis=1) > 1e-6)
    assert moved.size


@pytest.mark.slow
def test_learned_variances_come_to_twice_the_loss_and_are_part_of_the_state():
    variances = {}

    def uncertain():
        variances.update({task: keras.Variable(0.0, name=f"log_variance_{task}") for task in LOSSES})
        return {task: with_uncertainty(loss, variances[task]) for task, loss in losses().items()}

    optimizer = build_optimizer(Optimizer(name="adam", learning_rate=0.05, options={"weight_decay": 0.5}))
    # Rates of zero everywhere else: the losses stay as they are.
    model, dense = ranker()
    for layer in (*model.layers, *dense.layers):
        layer.trainable = False
    step = TrainingStep(
        model,
        dense,
        optimizer,
        build_table_optimizer(TableOptimizer(learning_rate=1e-30)),
        loss=uncertain(),
        loss_weights=LOSSES,
        log_variances=variances,
    )
    history = step.fit(rows().repeat(), epochs=1, steps_per_epoch=400, shuffle=False, verbose=0).history
    outputs = {task: [] for task in LOSSES}
    for inputs, labels in rows():
        for task, loss in losses().items():
            outputs[task].append(float(loss(labels[task], model(inputs)[task])))
    for task, variable in variances.items():
        assert float(np.exp(np.array(variable))) == pytest.approx(2 * np.mean(outputs[task]), rel=0.05)
        assert history[f"{task}_task_weight"][0] > 0
    assert {id(v) for v in variances.values()} <= {id(v) for v in step.state.values()}
    assert not {id(v) for v in variances.values()} & {id(v) for v in step.model.variables}


def test_the_loss_under_a_learned_variance_is_kendalls():
    labels, logits = np.array([[1], [0]], "float32"), np.array([0.3, -1.2], "float32")
    s = keras.Variable(0.7)
    plain = keras.losses.BinaryCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        value = with_uncertainty(plain, s)(labels, logits[:, None])
    mean = float(plain(labels, logits[:, None]))
    assert float(value) == pytest.approx(np.exp(-0.7) * mean + 0.35, rel=1e-5)
    assert float(tape.gradient(value, s.value)) == pytest.approx(-np.exp(-0.7) * mean + 0.5, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("replicas", [1, 2])
def test_parts_of_a_batch_move_the_weights_as_the_whole_batch_does(parts, replicas):
    whole, loss_of_whole = trained(SGD)
    split, loss_of_split = trained(SGD, parts=parts, replicas=replicas)
    same_weights(split, whole, atol=1e-6)
    assert loss_of_split == pytest.approx(loss_of_whole, abs=1e-6)


@pytest.mark.slow
def test_a_value_moves_the_rows_of_all_its_hash_functions():
    step, _ = trained(SGD, steps=1, functions=2)
    (inputs, _), *_ = rows()
    ids = np.concatenate([np.ravel(inputs["clip"]), np.ravel(inputs["past"])])
    read = {int(row) for power in (1, 6) for row in np.array(hash_rows(ids, power, 6))}
    before, after = (np.array(model.get_layer("tables_4").embeddings) for model in (ranker(2)[0], step.model))
    assert set(np.flatnonzero((after != before).any(axis=1))) == read
    jitted, _ = trained(SGD, steps=1, functions=2, jit=True)
    np.testing.assert_allclose(np.array(jitted.model.get_layer("tables_4").embeddings), after, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("tables", [ROWWISE, TableOptimizer(name="lazy_adam", learning_rate=0.01)])
def test_both_optimizers_count_updates_not_parts(tables):
    whole, _ = trained(ADAM, tables)
    split, _ = trained(ADAM, tables, parts=3)
    # Adam divides a gradient by its own size, so the last bits of tiny gradients are seen in the weights.
    same_weights(split, whole, atol=1e-5)
    assert int(split.optimizer.iterations.numpy()) == STEPS
    assert float(split.optimizer.learning_rate.numpy()) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
def test_xla_gives_the_same_weights(parts):
    same_weights(trained(SGD, parts=parts, jit=True)[0], trained(SGD)[0], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True])
def test_the_losses_see_the_entire_space_and_the_model_is_trained_by_it(jit):
    def selected():
        return rows().map(
            lambda x, y: (x, {**y, "buy": tf.where(y["click"] > 0, y["buy"], tf.constant(np.nan, tf.float32))})
        )

    seen = functools.partial(over_entire_space, given={"buy": "click"}, tasks=("buy",))
    step, loss = trained(SGD, data=selected, steps=1, jit=jit, seen=seen)
    model, _ = ranker()
    (inputs, labels), *_ = rows()
    with tf.GradientTape() as tape:
        logits = {task: tf.reshape(z, (-1,)) for task, z in model(inputs).items()}
        p = {task: tf.sigmoid(z) for task, z in logits.items()}
        both = labels["click"] * labels["buy"]
        of_probabilities = keras.losses.BinaryCrossentropy()
        value = of_probabilities(labels["click"][:, 0], p["click"]) + 0.5 * of_probabilities(
            both[:, 0], p["click"] * p["buy"]
        )
    assert loss == pytest.approx(float(value), rel=1e-4)
    dense = [v for v in model.trainable_weights if "tables_4" not in v.path]
    after = {v.path: np.array(v) for v in step.model.trainable_weights}
    for variable, gradient in zip(dense, tape.gradient(value, dense), strict=True):
        np.testing.assert_allclose(after[variable.path], np.array(variable) - 0.1 * np.array(gradient), atol=1e-5)


@pytest.mark.slow
def test_a_hundred_steps_end_alike_with_xla_and_on_two_replicas():
    def many(**options):
        strategy = build_strategy(options.pop("replicas", 1))
        with strategy.scope():
            step = TrainingStep(
                *ranker(),
                build_optimizer(SGD),
                build_table_optimizer(
                    TableOptimizer(name="rowwise_adagrad", learning_rate=0.1, options={"global_clipnorm": 0.1})
                ),
                loss=losses(),
                **options,
            )
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        step.fit(rows().with_options(options), epochs=25, shuffle=False, verbose=0)
        return step

    plain = many()
    same_weights(many(jit=True), plain, atol=1e-5)
    same_weights(many(replicas=2), plain, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
def test_tables_on_the_host_train_as_those_beside_the_dense_weights(parts, monkeypatch):
    """A second CPU device stands for the accelerator."""
    plain, _ = trained(SGD, parts=parts)
    with tf.device("CPU:1"), rows_on("CPU:0"):
        step = TrainingStep(
            *ranker(),
            build_optimizer(SGD),
            build_table_optimizer(ROWWISE),
            loss=losses(),
            loss_weights=LOSSES,
            parts=parts,
            device="CPU:1",
        )
    computed, whole = [], step._gradients

    def gradients(*arguments):
        computed.append(tf.identity(0.0).device)
        return whole(*arguments)

    monkeypatch.setattr(step, "_part", gradients)
    updated = []

    def summed(gradient):
        updated.append(tf.identity(0.0).device)
        return summed_by_row(gradient)

    monkeypatch.setattr(row_optimizer, "summed_by_row", summed)
    step.fit(rows(), epochs=1, steps_per_epoch=STEPS, shuffle=False, verbose=0)
    same_weights(step, plain, atol=1e-6)
    table, slot = step.tables[0].embeddings, step.row_optimizer.variables[0]
    dense = [v.value.device[-5:] for v in step.dense_weights]
    assert [v.value.device[-5:] for v in (table, slot)] == ["CPU:0"] * 2
    assert dense == ["CPU:1"] * len(dense)
    assert {device[-5:] for device in computed} == {"CPU:1"}
    assert {device[-5:] for device in updated} == {"CPU:0"}


@pytest.mark.slow
def test_a_step_is_that_of_keras_where_every_row_is_read_once():
    """Keras' own Adagrad on the whole table: with other ids in every batch, summing equal ids changes nothing."""

    def distinct():
        return rows().map(lambda x, y: ({**x, "clip": tf.range(BATCH) % 7, "past": 0 * x["past"]}, y)).take(1)

    step = TrainingStep(
        *ranker(),
        build_optimizer(SGD),
        build_table_optimizer(
            TableOptimizer(name="adagrad", learning_rate=0.1, schedule="constant", options={"start": 0.01})
        ),
        loss=losses(),
        loss_weights=LOSSES,
    )
    step.fit(distinct(), epochs=3, shuffle=False, verbose=0)
    model, _ = ranker()
    (table,) = [v for v in model.trainable_weights if "tables_4" in v.path]
    other = keras.optimizers.Adagrad(0.1, initial_accumulator_value=0.01, epsilon=0.0)
    for _ in range(3):
        (inputs, labels), *_ = distinct()
        with tf.GradientTape() as tape:
            logits = model(inputs)
            loss = sum(LOSSES[task] * losses()[task](labels[task], logits[task]) for task in LOSSES)
        gradients = tape.gradient(loss, model.trainable_weights)
        dense = [(g, v) for g, v in zip(gradients, model.trainable_weights, strict=True) if v is not table]
        summed = [
            tf.convert_to_tensor(g) for g, v in zip(gradients, model.trainable_weights, strict=True) if v is table
        ]
        other.apply(summed, [table])
        for gradient, variable in dense:
            variable.assign_sub(0.1 * gradient)
    for mine, theirs in zip(step.model.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
def test_the_loss_of_a_batch_weighs_its_rows(parts):
    """`sum_t v_t / n sum_i w_ti l_ti`, and a row of weight 0 has no gradient."""
    model, dense = ranker()
    step = TrainingStep(
        model, dense, build_optimizer(Optimizer(name="sgd", learning_rate=0.5), steps=1),
        build_table_optimizer(ROWWISE, steps=1), loss=losses(), loss_weights=LOSSES, parts=parts,
    )  # fmt: skip
    ((inputs, labels),) = rows().take(1)
    rng = np.random.default_rng(2)
    weights = {task: rng.integers(0, 3, (BATCH, 1)).astype(np.float32) for task in LOSSES}
    # The last rows weigh nothing in any task, so their labels do not matter.
    silent = np.arange(BATCH) >= BATCH - 5
    weights = {task: np.where(silent[:, None], 0, weight) for task, weight in weights.items()}
    logits = {task: value.numpy() for task, value in model(inputs).items()}
    each = {task: np.logaddexp(0, logits[task]) - labels[task].numpy() * logits[task] for task in LOSSES}
    expected = sum(LOSSES[task] * (weights[task] * each[task]).mean() for task in LOSSES)

    before = model.get_weights()
    found = []
    for change in (0, 1):
        model.set_weights(before)
        step.reset_metrics()
        other = {task: np.where(silent[:, None] & bool(change), 1 - v, v) for task, v in labels.items()}
        step.train_step((inputs, other, weights))
        assert float(step._loss_tracker.result()) == pytest.approx(float(expected), abs=1e-6)
        found.append(model.get_layer("hidden").kernel.numpy())
    np.testing.assert_allclose(found[0], found[1], atol=1e-7)
    assert np.abs(found[0] - before[1]).max() > 1e-3


def test_a_gradient_has_as_many_rows_as_were_read():
    step, _ = trained(SGD, steps=1)
    seen = []
    step.row_optimizer.apply = lambda gradients, number: seen.extend(gradients)
    step.train_step(next(iter(rows())))
    (gradient,) = seen
    assert gradient.rows.shape == (3 * BATCH,) and gradient.values.shape == (3 * BATCH, 4)
    assert len(summed_by_row(gradient).rows) <= 7


def test_rows_that_no_batch_names_keep_their_values():
    before = {v.path: np.array(v) for v in ranker()[0].variables}
    step = TrainingStep(*ranker(), build_optimizer(SGD), build_table_optimizer(ROWWISE), loss=losses())
    inputs, labels = next(iter(rows()))
    step.train_step(({**inputs, "clip": 0 * inputs["clip"] + 2, "past": 0 * inputs["past"] + 5}, labels))
    changed = np.any(weights(step)["tables_4/embeddings"] != before["tables_4/embeddings"], axis=1)
    assert np.flatnonzero(changed).tolist() == [2, 5]


def test_two_trainings_with_other_shapes_follow_each_other_on_the_same_devices():
    for width in (3, 5):
        strategy = build_strategy(2)

        @tf.function
        def total(strategy=strategy, width=width):
            return strategy.run(lambda: tf.distribute.get_replica_context().all_reduce("SUM", tf.ones(width)))

        for found in strategy.experimental_local_results(total()):
            np.testing.assert_array_equal(found, 2 * np.ones(width))
