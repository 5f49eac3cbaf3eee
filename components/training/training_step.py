"""The training step of a ranker: tables outside, everything dense in one graph that XLA may compile.

1. Every table is read at the rows that the batch names: one gather per width, on the device of the table.
2. The dense part (all layers behind the tables) computes the loss, and its gradients by the dense weights and by those
   rows. With XLA this part is compiled, and with one replica it also updates the dense weights. A lookup or a scatter
   inside would cost XLA the whole table.
3. The row optimizer sums the gradients of equal rows and updates them.

A replica may compute its rows in parts. Keras' own `gradient_accumulation_steps` updates inside a branch, where
tf.distribute cannot synchronize replicas, and keeps a dense copy of every embedding table. Here a step is still one
update, so schedules, rounds and the order of rows are those of the whole batch, and replicas exchange their gradients
once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from mixrank.components.training.optimizing import Gradient, RowOptimizer, named_variables
from mixrank.components.training.position_bias import PositionBias
from mixrank.layers.tokens import EmbeddingTables


class TrainingStep(keras.Model):
    """What `fit` trains: a ranker with its two optimizers; create it inside the strategy's scope.

    Loss and gradients are means over the parts; they equal those of the whole batch unless a layer looks at more
    than one row at a time.

    Args:
        model: functional ranker, built; its weights are trained.
        dense: [inputs of `model`, [output of each of its `EmbeddingTables`]] -> its outputs, by the same layers.
        optimizer: of the dense weights.
        rows: of the embedding tables.
        loss, loss_weights: as in Keras' `compile`.
        log_variances: task -> variable that its loss is weighted by, trained with the dense weights and left out of
            their decay.
        project: bool. Whether gradients of tasks that conflict are projected (`project_conflicts`).
        seen: labels, outputs -> labels, outputs as the losses see them; None leaves them as they are.
        parts: int >= 1. Micro-batches per step; must divide the rows of a replica.
        jit: bool. Whether XLA compiles the dense part.
        several_workers: whether the strategy spans several processes.
        device: where the dense part runs, if the tables are elsewhere; None leaves it to TensorFlow.
        position: what the place of an impression adds to logits, whose columns are then among the inputs; or None.
    """

    def __init__(
        self,
        model: keras.Model,
        dense: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        rows: RowOptimizer,
        *,
        loss: Any,
        loss_weights: Any = None,
        seen: Callable[[Any, Any], tuple[Any, Any]] | None = None,
        log_variances: Mapping[str, keras.Variable] | None = None,
        project: bool = False,
        parts: int = 1,
        jit: bool = False,
        several_workers: bool = False,
        device: str | None = None,
        position: PositionBias | None = None,
    ) -> None:
        super().__init__(name="training_step")
        self.device = device
        self.position = position
        self.seen = seen
        self.model = model
        self.tables = [layer for layer in model.layers if isinstance(layer, EmbeddingTables)]
        # Frozen ones are read like all others.
        self.trained = [place for place, layer in enumerate(self.tables) if layer.trainable]
        self.dense = dense
        self.parts = parts
        self.several_workers = several_workers
        self.row_optimizer = rows
        self.log_variances = dict(log_variances or {})
        self.project = project
        self.task_losses, self.task_weights = loss, loss_weights or dict.fromkeys(loss, 1.0)
        self.dense_weights = [*self.dense.trainable_weights, *self.log_variances.values()]
        if self.log_variances and optimizer.weight_decay:
            optimizer.exclude_from_weight_decay(var_list=list(self.log_variances.values()))
        optimizer.build(self.dense_weights)
        rows.build(self._table_weights, [self.tables[place].first_rows for place in self.trained])
        # The step compiles its dense part itself.
        self.compile(optimizer=optimizer, loss=loss, loss_weights=loss_weights, jit_compile=False)
        # A branch across replicas cannot be compiled, so several replicas update the dense weights outside.
        self._inside = jit and self.distribute_strategy.num_replicas_in_sync == 1
        compiled = {"jit_compile": jit or None, "autograph": False, "reduce_retracing": True}
        self._part = tf.function(self._gradients, **compiled)
        self._step = tf.function(self._one_part, **compiled)
        self.built = True

    @property
    def of_model(self) -> dict[str, keras.Variable]:
        """Weights and random states of the ranker, by their place in it."""
        return {f"model/{place}": variable for place, variable in enumerate(self.model.variables)}

    @property
    def state(self) -> dict[str, keras.Variable]:
        """Everything that a later step depends on, by names that are the same in every process: weights, random states,
        the number of the step, and the slots of both optimizers. Learning rates are left out: settings give them.
        """
        biases = {} if self.position is None else {"position_bias": self.position.weights}
        variances = {f"log_variance/{task}": variable for task, variable in self.log_variances.items()}
        dense = {f"optimizer/{name}": v for name, v in named_variables(self.optimizer, self.dense_weights).items()}
        rows = {
            f"tables/{place}/{number}": slot
            for place, slots in enumerate(self.row_optimizer.slots)
            for number, slot in enumerate(slots)
        }
        return {**self.of_model, **biases, **variances, **dense, **rows}

    @property
    def _table_weights(self) -> list[keras.Variable]:
        biases = [] if self.position is None else [self.position.weights]
        return [*(self.tables[place].embeddings for place in self.trained), *biases]

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.model(self._of_model(inputs), training=training)

    def _of_model(self, inputs: Any) -> Any:
        """The inputs without the place of the impression, which no model reads."""
        if self.position is None:
            return inputs
        return {name: column for name, column in inputs.items() if name != self.position.position.name}

    def train_step(self, data: tuple[Any, ...]) -> dict[str, tf.Tensor]:
        step = tf.identity(self.optimizer.iterations)
        dense: list[Any] = []
        tables: list[list[Gradient]] = []
        for part in range(self.parts):
            # Without this dependency all parts would run at the same time and fill the memory.
            with tf.control_dependencies([tf.identity(v) for v in tf.nest.flatten(dense, expand_composites=True)]):
                inputs, labels, *weights = tf.nest.map_structure(lambda x, part=part: _part(x, part, self.parts), data)
            places = [layer.places({c: inputs[c] for c in layer.columns}) for layer in self.tables]
            vectors = [layer.vectors(rows) for layer, rows in zip(self.tables, places, strict=True)]
            places = [places[place] for place in self.trained]
            bias: tuple[tf.Tensor, ...] = ()
            if self.position is not None:
                # Last of the tables, and no input of the model.
                places.append(self.position.index(inputs))
                inputs = self._of_model(inputs)
                bias = self.position.read(places[-1])
            with self._on_device():
                if self.parts == 1 and self._inside:
                    loss, outputs, found = self._step(inputs, vectors, labels, weights, bias)
                else:
                    loss, outputs, (gradients, found) = self._part(inputs, vectors, labels, weights, bias)
                    dense = [_add(a, b) for a, b in zip(dense, gradients, strict=True)] if part else gradients
            tables.append([Gradient(_flat(rows), _flat(g)) for rows, g in zip(places, found, strict=True)])
            replicas = self.distribute_strategy.num_replicas_in_sync
            self._loss_tracker.update_state(loss * replicas, sample_weight=tf.shape(tf.nest.flatten(inputs)[0])[0])
            logs = self.compute_metrics(inputs, labels, outputs, *weights)
        logs |= {f"{task}_task_weight": tf.exp(-tf.identity(s)) for task, s in self.log_variances.items()}
        if dense:
            with self._on_device():
                self.optimizer.apply([_over(g, self.parts) for g in dense], self.dense_weights)
        self.row_optimizer.apply([_joined(each, self.parts) for each in zip(*tables, strict=True)], step)
        # Keras averages the workers' results along an axis, but a scalar has none.
        return {name: value[None] if self.several_workers else value for name, value in logs.items()}

    def _on_device(self) -> contextlib.AbstractContextManager[Any]:
        # `tf.device(None)` would take an operation off its replica's device.
        return contextlib.nullcontext() if self.device is None else tf.device(self.device)

    def _gradients(
        self, inputs: Any, vectors: list[tf.Tensor], labels: Any, weights: list[Any], bias: tuple[tf.Tensor, ...]
    ) -> tuple[Any, Any, tuple[Any, Any]]:
        read = [*(vectors[place] for place in self.trained), *bias[:1]]
        with tf.GradientTape(persistent=self.project) as tape:
            tape.watch(read)
            outputs = self.dense([inputs, vectors], training=True)
            if self.position is not None:
                outputs = self.position.add(outputs, *bias)
            y, z = self._seen(labels, outputs)
            loss = self.compute_loss(inputs, y, z, *weights, training=True)
            each = [
                w * self.task_losses[task](y[task], z[task], *(of[task] for of in weights))
                for task, w in self.task_weights.items()
                if self.project
            ]
        dense, rows = tape.gradient(loss, (self.dense_weights, read))
        if self.project:
            of_tasks = [[*a, *b] for a, b in (tape.gradient(value, (self.dense_weights, read)) for value in each)]
            found = project_conflicts([*dense, *rows], of_tasks, self.optimizer.iterations)
            dense, rows = found[: len(dense)], found[len(dense) :]
        rows = [tf.zeros_like(v) if g is None else g for v, g in zip(read, rows, strict=True)]
        return loss, outputs, (dense, [tf.cast(g, tf.float32) for g in rows])

    def _seen(self, labels: Any, outputs: Any) -> tuple[Any, Any]:
        return (labels, outputs) if self.seen is None else self.seen(labels, outputs)

    def _one_part(
        self, inputs: Any, vectors: list[tf.Tensor], labels: Any, weights: list[Any], bias: tuple[tf.Tensor, ...]
    ) -> tuple[Any, ...]:
        loss, outputs, (dense, rows) = self._gradients(inputs, vectors, labels, weights, bias)
        self.optimizer.apply(dense, self.dense_weights)
        return loss, outputs, rows

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # Keras learns the shapes of a batch from its mean over the replicas, which fails across workers.
        del data_batch
        strategy = self.distribute_strategy
        for _, _, batches in iterator:
            first = keras.tree.map_structure(lambda value: strategy.experimental_local_results(value)[0], next(batches))
            with strategy.scope():
                self._symbolic_build(data_batch=first)
            break


def project_conflicts(total: list[Any], of_tasks: list[list[Any]], step: Any) -> list[Any]:
    """PCGrad (Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, algorithm 1).

    The gradient of each task i, over all weights that several tasks reach, is taken through the other tasks j in random
    order, and where `g_i . g_j < 0` becomes `g_i - (g_i . g_j) / (g_j . g_j) g_j`; the results are added up. That is
    a sum `sum_j a_j g_j`, whose coefficients follow from the products `g_j . g_k` alone.

    Gradients of embedding rows count as those of what was looked up, before equal rows are summed; each replica, and
    each part of a batch, projects its own.

    Args:
        total: gradient of the whole loss by each weight; None where it has none.
        of_tasks: the same for the loss of each task.
        step: int tensor; the order of the tasks follows from it alone.

    Returns:
        As `total`: that of a weight of one task is as it was.
    """
    shared = [index for index, found in enumerate(zip(*of_tasks, strict=True)) if sum(g is not None for g in found) > 1]
    dense = [[None if g[index] is None else tf.convert_to_tensor(g[index]) for index in shared] for g in of_tasks]

    def product(a: list[Any], b: list[Any]) -> Any:
        pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
        return sum((tf.reduce_sum(tf.cast(x, tf.float32) * tf.cast(y, tf.float32)) for x, y in pairs), tf.constant(0.0))

    products = tf.stack([tf.stack([product(a, b) for b in dense]) for a in dense])
    added = tf.unstack(projected(products, step) - 1.0)
    changed = list(total)
    for place, index in enumerate(shared):
        mine = [(a, g[place]) for a, g in zip(added, dense, strict=True)]
        changes = [tf.cast(a, g.dtype) * g for a, g in mine if g is not None]
        changed[index] = tf.convert_to_tensor(total[index]) + tf.add_n(changes)
    return changed


def projected(products: tf.Tensor, step: Any) -> tf.Tensor:
    """Coefficients a of `sum_j a_j g_j`, the sum of all projected gradients.

    Args:
        products: float32 tensor (tasks, tasks) of `g_j . g_k`.
        step: int tensor; the order of the tasks follows from it alone.
    """
    tasks = products.shape[0]
    seed = tf.stack([tf.cast(step, tf.int32), tf.constant(tasks)])
    orders = tf.argsort(tf.random.stateless_uniform((tasks, tasks), seed), axis=1)
    total = tf.zeros(tasks)
    for task in range(tasks):
        mine = tf.one_hot(task, tasks)
        for place in range(tasks):
            other = orders[task, place]
            along = tf.reduce_sum(mine * tf.gather(products, other, axis=1))
            conflict = tf.logical_and(along < 0, tf.not_equal(other, task))
            length = tf.gather(tf.linalg.diag_part(products), other)
            mine -= tf.where(conflict, tf.math.divide_no_nan(along, length), 0.0) * tf.one_hot(other, tasks)
        total += mine
    return total


def _part(rows: tf.Tensor, part: int, parts: int) -> tf.Tensor:
    return tf.identity(tf.split(rows, parts)[part]) if parts > 1 else rows


def _add(a: Any, b: Any) -> Any:
    if a is None or b is None:
        return b if a is None else a
    # Layers may read rows of their weights as well, such as the experts of a mixture.
    if isinstance(a, tf.IndexedSlices):
        return tf.IndexedSlices(tf.concat([a.values, b.values], 0), tf.concat([a.indices, b.indices], 0), a.dense_shape)
    return a + b


def _over(gradient: Any, parts: int) -> Any:
    if gradient is None or parts == 1:
        return gradient
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(gradient.values / parts, gradient.indices, gradient.dense_shape)
    return gradient / parts


def _flat(tensor: tf.Tensor) -> tf.Tensor:
    """(batch, values, ...) -> (batch * values, ...)"""
    return tf.reshape(tensor, [-1, *tensor.shape[2:]])


def _joined(parts: tuple[Gradient, ...], over: int) -> Gradient:
    if over == 1:
        return parts[0]
    return Gradient(tf.concat([p.rows for p in parts], 0), tf.concat([p.values for p in parts], 0) / over)
