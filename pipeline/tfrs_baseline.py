"""The TFRS baseline: TensorFlow Recommenders' own DLRM and DCN, on the rows and by the measures of a run.

    TF_USE_LEGACY_KERAS=1 python -m mixrank.pipeline.tfrs_baseline CONFIG --model dlrm

TensorFlow Recommenders knows legacy Keras only, which TensorFlow must be told before it is imported. So this is the one
file that imports `tf_keras`, nothing else imports this file, and `mixrank tfrs-baseline` runs it in its own process.

As its authors ship it: `tfrs.experimental.models.Ranking` with its default towers and vectors of 16, and as feature
interaction either its dot products (DLRM) or its cross layers (DCN). It has one output, so there is a model per task.
Histories are read by their mean, field by field; numbers of their events are not read.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

if os.environ.get("TF_USE_LEGACY_KERAS") != "1":
    raise ImportError(
        "mixrank.pipeline.tfrs_baseline needs TF_USE_LEGACY_KERAS=1 in its environment; use `mixrank tfrs-baseline`"
    )

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
import tensorflow_transform as tft
import tf_keras

from mixrank.components.training import (
    MODEL_CARD,
    PREDICTIONS,
    REPORT_EVERY_S,
    TRAINING_LOG,
    Optimizer,
    TableOptimizer,
    TrainSettings,
    predict,
    round_line,
    shown_metrics,
    task_loss,
    training_rows,
    training_stream,
    transformed_rows,
    validation_metrics,
    vocabulary_sizes,
)
from mixrank.layers.ranking import table_sizes
from mixrank.layers.tokens import hash_rows
from mixrank.pipeline.config import load_config
from mixrank.pipeline.fast_loop import last_run, new_folder, record_training
from mixrank.pipeline.run_record import split_files
from mixrank.pipeline.runners import LOG_FILE, quiet
from mixrank.schemas import FeatureSpec, Label
from mixrank.schemas.files import write_atomically, write_text_atomically
from mixrank.schemas.naming import readable
from mixrank.schemas.safe_text import shown

MODELS = ("dlrm", "dcn")
# The towers and the width that `Ranking` has by default; the last one ends in a logit here, not in a probability.
DIM, BOTTOM, TOP = 16, (256, 64, 16), (512, 256, 1)
CROSSES = 3


class Embeddings(tf_keras.layers.Layer):
    """One table per feature, which a history's fields share; several values by the mean of those that are not padding.

    Args:
        tables: column -> name of its table.
        sizes: name of a table -> number of its rows.
        functions: name of a table -> number of its hash functions.
    """

    def __init__(self, tables: Mapping[str, str], sizes: Mapping[str, int], functions: Mapping[str, int]) -> None:
        super().__init__()
        self.tables, self.functions = dict(tables), dict(functions)
        self.vectors = {
            name: tf_keras.layers.Embedding(sizes[name], DIM, name=f"embedding_{name}")
            for name in dict.fromkeys(tables.values())
        }

    def call(self, columns: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {column: self._vector(self.tables[column], ids) for column, ids in columns.items()}

    def _vector(self, table: str, ids: tf.Tensor) -> tf.Tensor:
        buckets, functions = self.vectors[table].input_dim - 1, self.functions[table]
        ids = tf.clip_by_value(ids, 0, buckets**functions)
        found = sum(self.vectors[table](hash_rows(ids, buckets**j, buckets)) for j in range(functions))
        if ids.shape.rank == 1:
            return found
        # (batch, values) -> (batch, values, 1)
        present = tf.cast(tf.not_equal(ids, 0), found.dtype)[:, :, None]
        return tf.reduce_sum(found * present, axis=1) / tf.maximum(tf.reduce_sum(present, axis=1), 1)


class Crosses(tf_keras.layers.Layer):
    """Feature vectors side by side, through `CROSSES` cross layers."""

    def __init__(self) -> None:
        super().__init__()
        self.crosses = [tfrs.layers.feature_interaction.Cross() for _ in range(CROSSES)]

    def call(self, vectors: Sequence[tf.Tensor]) -> tf.Tensor:
        # `Ranking` squeezes the vectors, after which their width is no longer known.
        start = x = tf.reshape(tf.concat(vectors, axis=-1), (-1, len(vectors) * DIM))
        for cross in self.crosses:
            x = cross(start, x)
        return x


class Loss(tf_keras.losses.Loss):
    """A loss of Keras 3, which legacy Keras does not take, on columns of labels and logits.

    Args:
        loss: value per row, `(rows,)`, of labels and logits `(rows, 1)`.
    """

    def __init__(self, loss: Any) -> None:
        super().__init__(name=loss.name)
        self.loss = loss

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        # Keras 3 casts the labels before it calls a loss.
        return self.loss.call(tf.cast(tf.reshape(y_true, (-1, 1)), y_pred.dtype), tf.reshape(y_pred, (-1, 1)))


class Columns:
    """Columns of a row in the form that `Ranking` reads.

    Args:
        spec: the log's declaration.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        looked_up = [feature for feature in spec.model_features if not feature.is_number]
        fields = [pair for history in spec.histories for pair in spec.history_fields(history) if not pair[1].is_number]
        several = {feature.name: feature.functions for feature in spec.looked_up}
        self.tables = {spec.scenario.name: spec.scenario.name} | {f.name: f.owner for f in looked_up}
        self.tables |= {column: field.owner for column, field in fields}
        self.functions = {table: several.get(table, 1) for table in self.tables.values()}
        self.numbers = {feature.name: feature.width for feature in spec.model_features if feature.is_number}

    def arrange(self, row: Mapping[str, tf.Tensor]) -> dict[str, Any]:
        """Transformed columns as `Ranking` takes them; a log without numbers gets a constant one."""
        sparse = {column: row[column] for column in self.tables}
        numbers = [tf.reshape(row[name], (-1, width)) for name, width in self.numbers.items()]
        if not numbers:
            numbers = [tf.ones_like(next(iter(row.values())), tf.float32)[:, None]]
        return {"dense_features": tf.concat(numbers, axis=1), "sparse_features": sparse}

    def infer(self, models: Mapping[str, tf_keras.Model]) -> Any:
        """A function {column: tensor} -> {task: logits (batch,)}."""

        @tf.function(reduce_retracing=True, autograph=False)
        def logits(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            # `Ranking` squeezes its vectors, which would take away the batch axis of a single row.
            longer = self.arrange({name: tf.concat([values, values[:1]], axis=0) for name, values in row.items()})
            return {task: model(longer, training=False)[:-1] for task, model in models.items()}

        return logits


def build(
    name: str, columns: Columns, sizes: Mapping[str, int], settings: TrainSettings, steps: int, label: Label
) -> tf_keras.Model:
    """A compiled model of one task.

    Args:
        name: dlrm or dcn.
        columns: what it reads.
        sizes: number of rows of every table.
        settings: optimizers and losses.
        steps: int >= 1. Length of the training, for schedules.
        label: of the task.
    """
    interaction = tfrs.layers.feature_interaction.DotInteraction() if name == "dlrm" else Crosses()
    model = tfrs.experimental.models.Ranking(
        Embeddings(columns.tables, sizes, columns.functions),
        bottom_stack=tfrs.layers.blocks.MLP(list(BOTTOM), final_activation="relu"),
        feature_interaction=interaction,
        top_stack=tfrs.layers.blocks.MLP(list(TOP)),
        task=tfrs.tasks.Ranking(
            loss=Loss(task_loss(label, settings)),
            loss_metrics=[tf_keras.metrics.Mean(name="mean_loss")],
        ),
    )
    optimizer = tfrs.experimental.optimizers.CompositeOptimizer(
        [
            (_table_optimizer(settings.embedding_optimizer, steps), lambda: model.embedding_trainable_variables),
            (_optimizer(settings.optimizer, steps), lambda: model.dense_trainable_variables),
        ]
    )
    # XLA gains nothing here: the dot products gather by a mask.
    model.compile(optimizer=optimizer, jit_compile=settings.jit_compile == "on")
    return model


def train(
    *,
    spec: FeatureSpec,
    name: str,
    settings: TrainSettings,
    patterns: Mapping[str, str],
    transform_output: tft.TFTransformOutput,
    run_dir: Path,
) -> None:
    """Trains a model per task and scores the evaluation split; a round is one pass over the rows.

    Args:
        spec: columns of a row.
        name: dlrm or dcn.
        settings: how to train; early stopping, mixed precision, warm start and replicas are refused.
        patterns: split -> files of transformed rows; `train` and `eval`, and `valid` where there is one.
        transform_output: result of Transform.
        run_dir: gets `training.jsonl`, `model.json` and `predictions.parquet`, as from the Trainer.

    Raises:
        ValueError: if there is no such model, a setting does not apply, or a label has classes.
    """
    check(name, settings, spec)
    settings = settings.on(1)
    run_dir.mkdir(parents=True, exist_ok=True)
    tf_keras.utils.set_random_seed(settings.seed)
    rows = {split: transformed_rows(spec, [pattern], transform_output) for split, pattern in patterns.items()}
    training = training_rows(spec, [patterns[s] for s in settings.splits if s in patterns], settings, transform_output)
    steps = training.count() // settings.batch_size
    columns, sizes = Columns(spec), table_sizes(spec, vocabulary_sizes(spec, transform_output))
    models = {
        label.name: build(name, columns, sizes, settings, settings.epochs * steps, label) for label in spec.labels
    }
    infer = columns.infer(models)
    validated = "valid" in rows and "valid" not in settings.splits

    history: list[dict[str, Any]] = []
    for number in range(settings.epochs):
        began = time.monotonic()
        losses = {}
        for task, model in models.items():
            batches = training_stream(
                training,
                batch_size=settings.batch_size,
                steps_per_pass=steps,
                steps=(number + 1) * steps,
                seed=settings.seed,
                shuffle_rows=settings.shuffle_rows,
                first_step=number * steps,
            ).map(
                lambda row, labels, *weights, task=task: (
                    columns.arrange(row),
                    labels[task][:, 0],
                    *(each[task][:, 0] for each in weights),
                )
            )
            logs = model.fit(batches, callbacks=[Progress(task, steps, settings.batch_size)], verbose=0).history
            losses[task] = float(logs["mean_loss"][-1])
        seconds = time.monotonic() - began
        loss = sum(label.weight * losses[label.name] for label in spec.labels)
        valid = validation_metrics(spec, predict(spec, infer, rows["valid"])) if validated else {}
        samples = (number + 1) * steps * settings.batch_size
        entry: dict[str, Any] = {
            "round": number + 1,
            "step": (number + 1) * steps,
            "samples": samples,
            "epoch": number + 1.0,
            "loss": loss,
            "metrics": {f"{task}_loss": loss for task, loss in losses.items()},
            "valid": valid,
            "curve": [{"samples": samples, "loss": loss, "valid": valid}],
            "samples_per_second": steps * settings.batch_size / seconds,
            "seconds": seconds,
        }
        if not np.isfinite(entry["loss"]):
            raise ValueError(f"training loss is {entry['loss']} in round {number + 1}; lower the learning rate")
        history.append(entry)
        _write_log(run_dir / TRAINING_LOG, history)
        _say(round_line(entry, settings.epochs, shown_metrics(spec)))

    predictions = predict(spec, infer, rows["eval"])
    card = {"name": f"tfrs-{name}", "preset": None, "params": _params(name), **_counts(models)}
    write_text_atomically(run_dir / MODEL_CARD, json.dumps(card, indent=1))
    write_atomically(run_dir / PREDICTIONS, lambda path: predictions.to_parquet(path, index=False))


def check(name: str, settings: TrainSettings, spec: FeatureSpec) -> None:
    """Refuses a model that does not exist, a task that it cannot learn, and settings that would be silently ignored.

    Raises:
        ValueError: naming what to change.
    """
    if name not in MODELS:
        raise ValueError(f"`--model` must be one of {', '.join(MODELS)}, received {shown(name)}")
    refused = {
        "early_stopping": (settings.early_stopping is not None, "null"),
        "precision": (settings.precision != "float32", "float32"),
        "warm_start": (settings.warm_start is not None, "null"),
        "replicas": (settings.replicas not in ("auto", 1), "auto"),
        "accumulate_steps": (settings.accumulate_steps != 1, "1"),
        "rows_together": (settings.rows_together != 1, "1"),
    }
    for key, (wrong, instead) in refused.items():
        if wrong:
            raise ValueError(f"the TFRS baseline has no `train.{key}`: add  --set train.{key}={instead}")
    if several := [label.name for label in spec.labels if label.classes]:
        raise ValueError(
            f"the TFRS baseline has one logit per task, and label `{several[0]}` has classes: leave it out"
        )


class Progress(tf_keras.callbacks.Callback):
    """Prints step, loss and speed of one task's pass every few seconds."""

    def __init__(self, task: str, steps: int, batch_size: int) -> None:
        super().__init__()
        self.task, self.steps, self.batch_size = task, steps, batch_size
        self.began = self.reported = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        now = time.monotonic()
        if now - self.reported >= REPORT_EVERY_S:
            self.reported = now
            rate = (batch + 1) * self.batch_size / (now - self.began)
            loss = float((logs or {})["mean_loss"])
            _say(f"{self.task}: step {batch + 1}/{self.steps}  loss {loss:.4f}  {rate:,.0f} samples/s")


def _rate(settings: Optimizer | TableOptimizer, steps: int) -> Any:
    decay = settings.decay(steps)
    return settings.learning_rate if decay is None else tf_keras.optimizers.schedules.CosineDecay(**decay)


def _table_optimizer(settings: TableOptimizer, steps: int) -> tf_keras.optimizers.Optimizer:
    """The nearest optimizer of legacy Keras: it has neither a row-wise Adagrad nor a lazy Adam."""
    options = dict(settings.options)
    try:
        if settings.name == "lazy_adam":
            return tf_keras.optimizers.Adam(_rate(settings, steps), **options)
        start = options.pop("start", 1e-8)
        return tf_keras.optimizers.Adagrad(_rate(settings, steps), start, epsilon=0.0, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"legacy Keras refuses optimizer `{settings.name}` {settings.options}: {error}") from error


def _optimizer(settings: Optimizer, steps: int) -> tf_keras.optimizers.Optimizer:
    try:
        config = {"learning_rate": _rate(settings, steps), **settings.options}
        return tf_keras.optimizers.get({"class_name": settings.name, "config": config})
    except (TypeError, ValueError) as error:
        raise ValueError(f"legacy Keras refuses optimizer `{settings.name}` {settings.options}: {error}") from error


def _params(name: str) -> dict[str, Any]:
    towers = {"dim": DIM, "bottom_units": list(BOTTOM), "top_units": list(TOP)}
    return towers if name == "dlrm" else {**towers, "crosses": CROSSES}


def _counts(models: Mapping[str, tf_keras.Model]) -> dict[str, Any]:
    """Parameters and forward FLOPs of all tasks' models, part by part, as in the Trainer's model card."""
    totals: dict[str, list[int]] = {}
    for model in models.values():
        named = {
            "embeddings": model._embedding_layer,
            "bottom tower": model._bottom_stack,
            "interaction": model._feature_interaction,
            "top tower": model._top_stack,
        }
        for part, layer in named.items():
            shapes = [tuple(weight.shape) for weight in layer.trainable_weights]
            products = 0 if part == "embeddings" else sum(int(np.prod(shape)) for shape in shapes if len(shape) == 2)
            if part == "interaction" and not shapes:
                vectors = len(model._embedding_layer.tables) + 1
                products = vectors * vectors * DIM
            total = totals.setdefault(part, [0, 0])
            total[0] += sum(int(np.prod(shape)) for shape in shapes)
            total[1] += 2 * products
    parts = [{"name": part, "parameters": n, "flops": flops} for part, (n, flops) in totals.items()]
    return {
        "parts": parts,
        "parameters": sum(n for n, _ in totals.values()),
        "flops": sum(flops for _, flops in totals.values()),
    }


def _write_log(path: Path, history: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(entry) + "\n" for entry in history)
    write_text_atomically(path, lines)


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", help="a YAML file, or the name of a shipped config")
    parser.add_argument("--model", default="dlrm", help="dlrm or dcn")
    parser.add_argument("--set", action="append", default=[], help="override, such as train.epochs=2")
    options = parser.parse_args()
    try:
        config = load_config(options.config, options.set)
        earlier, dataset = last_run(config)
        check(options.model, config.train, dataset.spec)
        started = datetime.now()
        folder = new_folder(config, started, suffix=f"-tfrs-{options.model}")
        with quiet(folder / LOG_FILE):
            train(
                spec=dataset.spec,
                name=options.model,
                settings=config.train,
                patterns=split_files(earlier.rows.transformed),
                transform_output=tft.TFTransformOutput(str(earlier.rows.transform_graph)),
                run_dir=folder / "model_run",
            )
        record_training(config, earlier, folder, started, export=None)
    except ValueError as error:
        sys.exit(f"error: {readable(error)}")
    # The last line of the output tells the caller where everything is.
    print(folder)


if __name__ == "__main__":
    main()
