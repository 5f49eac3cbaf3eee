"""Trainer: transformed rows -> a trained, exported ranker."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
import tensorflow_transform as tft

from components import ranking_metrics
from components.dataset import TransformedRows, evaluation_batches, training_stream
from components.micro_batches import MicroBatched
from components.optimizers import build_optimizer
from components.rounds import Rounds
from components.settings import PUSHED, ModelSettings, TrainSettings
from components.strategy import build_strategy, use_jit
from components.transform import KEYS
from components.warm_start import warm_start
from components.workers import WorkerLostError, Workers
from layers import registry
from layers.backbone import backbone_of
from layers.budget import match
from layers.counts import counts
from layers.embedding import Storage
from layers.inputs import field_names, model_inputs, widths
from layers.ranker import build_ranker, take_weights
from layers.routing import routing_report
from schemas.features import Categorical, FeatureSpec, MultiCategorical, Vocab
from schemas.files import write_atomically
from serving.signatures import export

if TYPE_CHECKING:
    from tfx.components.trainer.fn_args_utils import FnArgs

PREDICTIONS, TRAINING_LOG, MODEL_CARD = "predictions.parquet", "training.jsonl", "model.json"
EVALUATION_BATCH = 1024
# Batches of evaluation rows that the routing report looks at.
ROUTED_BATCHES = 4


def run_fn(fn_args: FnArgs) -> None:
    """Entry point of the TFX Trainer component.

    Args:
        fn_args: `custom_config` must hold `spec`, `model` and `train` (JSON of `FeatureSpec`, `ModelSettings` and
            `TrainSettings`), `preset` (that of the model; empty for none) and `checkpoints`, a folder that outlives a
            killed run. `base_model` is what `warm_start: pushed` means, and may be missing.

    Raises:
        ValueError: if the model has no such preset.
    """
    config = fn_args.custom_config
    model = ModelSettings(**{**json.loads(config["model"]), "preset": config["preset"] or None})
    registry.check(model.name, model.params, model.preset)
    settings = TrainSettings.model_validate_json(config["train"])
    if settings.warm_start == PUSHED:
        settings = settings.model_copy(update={"warm_start": _existing(fn_args.base_model)})
    patterns = {_split_of(p): p for p in [*fn_args.train_files, *fn_args.eval_files]}
    # Rows that were transformed anew have other ids: a state from before must not be resumed.
    begun = [sorted(patterns.items()), model.preset, settings.warm_start]
    state = hashlib.sha256(str(begun).encode()).hexdigest()[:16]
    train_model(
        spec=FeatureSpec.from_json(config["spec"]),
        model_settings=model,
        settings=settings,
        patterns=patterns,
        transform_output=tft.TFTransformOutput(fn_args.transform_output),
        checkpoints=Path(config["checkpoints"]) / state,
        run_dir=Path(fn_args.model_run_dir),
        export_dir=Path(fn_args.serving_model_dir),
    )


def train_model(
    *,
    spec: FeatureSpec,
    model_settings: ModelSettings,
    settings: TrainSettings,
    patterns: Mapping[str, str],
    transform_output: tft.TFTransformOutput,
    checkpoints: Path,
    run_dir: Path,
    export_dir: Path,
) -> None:
    """Builds, trains, exports and scores the evaluation split.

    Under a TF_CONFIG with several workers, each of them calls this with the same arguments. All return when the chief,
    who alone writes, has exported and scored.

    Args:
        spec: columns of a row.
        model_settings: which architecture.
        settings: how to train it.
        patterns: split -> files of transformed rows; `train` and `eval`, and `valid` where there is one.
        transform_output: result of Transform.
        checkpoints: states to resume from; removed when training ends. All workers must see the same folder.
        run_dir: gets `training.jsonl`, `model.json`, `predictions.parquet` and TensorBoard files.
        export_dir: gets the SavedModel.

    Raises:
        ValueError: if settings, data and devices do not fit together.
        WorkerLostError: if another worker has gone.
    """
    # 0. Devices: before anything else uses TensorFlow.
    workers = Workers.of_environment()
    strategy = build_strategy(settings.replicas, workers)
    settings = settings.on(strategy.num_replicas_in_sync)
    if workers.chief:
        run_dir.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(settings.seed)
    keras.config.set_dtype_policy(settings.precision)

    # 1. Rows.
    rows = {split: transformed_rows(spec, [pattern], transform_output) for split, pattern in patterns.items()}
    trained_on = [patterns[split] for split in settings.splits if split in patterns]
    training = transformed_rows(spec, trained_on, transform_output)
    steps_per_pass = training.count() // settings.batch_size
    steps_per_round = min(settings.steps_per_round or steps_per_pass, settings.epochs * max(steps_per_pass, 1))
    total_rounds = max(1, round(settings.epochs * steps_per_pass / max(steps_per_round, 1)))

    # 2. Model and optimizer, inside the strategy.
    resolved = resolve(spec, model_settings)
    with workers.watched(checkpoints), strategy.scope():
        model = build_model(spec, resolved, settings, transform_output)
        if settings.warm_start:
            taken = warm_start(model, spec, transform_output, settings.warm_start)
            print(f"  warm start: {sum(taken.values()):,} embedding rows taken over", file=sys.stderr, flush=True)
        optimizer = build_optimizer(
            settings.optimizer, settings.embedding_optimizer, steps=total_rounds * steps_per_round
        )
        optimizer.build(model.trainable_variables)
        trainee = MicroBatched(model, settings.accumulate_steps, workers.several)
        trainee.compile(
            optimizer=optimizer,
            loss={label.name: keras.losses.BinaryCrossentropy(from_logits=True) for label in spec.labels},
            loss_weights={label.name: label.weight for label in spec.labels},
            jit_compile=use_jit(settings.jit_compile, strategy),
        )

    # 3. Training, in rounds that can be resumed.
    validate = None
    if settings.early_stopping is not None and "valid" not in rows:
        raise ValueError("`early_stopping` needs a `valid` split, and this dataset has none: give its `split` one")
    if "valid" in rows and "valid" not in settings.splits and workers.chief:
        infer = _inference(model)
        validate = lambda: validation_metrics(spec, predict(spec, infer, rows["valid"]))  # noqa: E731
    rounds = Rounds(
        directory=checkpoints,
        log=run_dir / TRAINING_LOG,
        steps_per_round=steps_per_round,
        steps_per_pass=steps_per_pass,
        batch_size=settings.batch_size,
        total_rounds=total_rounds,
        validate=validate,
        early_stopping=settings.early_stopping,
        chief=workers.chief,
        total=partial(workers.total, strategy),
    )
    done = rounds.restore(trainee)
    stream = partial(
        training_stream,
        training,
        batch_size=settings.batch_size,
        steps_per_pass=steps_per_pass,
        steps=total_rounds * steps_per_round,
        seed=settings.seed,
        shuffle_rows=settings.shuffle_rows,
        first_step=done * steps_per_round,
    )
    board = [keras.callbacks.TensorBoard(str(run_dir / "tensorboard"), write_graph=False)] if workers.chief else []
    with workers.watched(checkpoints):
        workers.check_same_round(strategy, done, checkpoints)
        if done < total_rounds and not rounds.stopped:
            trainee.fit(
                strategy.distribute_datasets_from_function(lambda share: stream(share=share))
                if workers.several
                else stream(),
                steps_per_epoch=steps_per_round,
                initial_epoch=done,
                epochs=total_rounds,
                callbacks=[rounds, *board],
                shuffle=False,
                verbose=0,
            )
        if not workers.chief:
            workers.total(strategy, 0)
            return
    rounds.restore_best(trainee)

    # 4. The same weights outside the strategy, for export.
    final = build_model(spec, resolved, settings, transform_output, table_storage=settings.table_storage)
    take_weights(final, model)
    card = _model_card(final, {**model_settings.model_dump(mode="json"), "params": resolved.params})
    card["insights"] = insights(final, spec, rows["eval"])
    backbone_of(final).freeze()
    export(export_dir, spec=spec, model=final, transform_output=transform_output, metadata={"model": card})

    # 5. What the evaluation split gets, row by row.
    predictions = predict(spec, _inference(final), rows["eval"])
    write_atomically(run_dir / MODEL_CARD, lambda path: path.write_text(json.dumps(card, indent=1)))
    write_atomically(run_dir / PREDICTIONS, lambda path: predictions.to_parquet(path, index=False))
    shutil.rmtree(checkpoints, ignore_errors=True)
    # The others have waited for this, to fail if the chief does; what is complete does not fail for their sake.
    with suppress(WorkerLostError), workers.watched(checkpoints):
        workers.total(strategy, 0)


def predict(spec: FeatureSpec, infer: Any, rows: TransformedRows) -> pd.DataFrame:
    """Scores rows with an in-memory model.

    Returns:
        One row per example: keys, time, scenario (its id as declared, "other" if unknown), `label_<task>` and
        `score_<task>` (probabilities).
    """
    parts: dict[str, list[np.ndarray]] = {}
    keep = {spec.user.name: KEYS["user"], spec.item.name: KEYS["item"], spec.time.name: KEYS["time"]}
    for batch in evaluation_batches(rows, EVALUATION_BATCH):
        logits = infer({name: batch[name] for name in rows.inputs})
        for column, source in keep.items():
            parts.setdefault(column, []).append(batch[source].numpy())
        parts.setdefault("__scenario", []).append(batch[spec.scenario.name].numpy())
        for task in spec.tasks:
            parts.setdefault(f"label_{task}", []).append(batch[task].numpy().astype(np.int64))
            parts.setdefault(f"score_{task}", []).append(tf.sigmoid(logits[task]).numpy().reshape(-1))
    columns = {name: np.concatenate(values) for name, values in parts.items()}
    names = np.array([None, *map(str, spec.scenario.values), "other"], dtype=object)
    scenario = names[columns.pop("__scenario")]
    for key in (spec.user, spec.item):
        if key.dtype == "str":
            columns[key.name] = np.array([value.decode() for value in columns[key.name]], dtype=object)
    frame = pd.DataFrame(columns)
    frame.insert(3, spec.scenario.name, scenario)
    return frame


def validation_metrics(spec: FeatureSpec, predictions: pd.DataFrame) -> dict[str, float]:
    """`loss` (weighted sum over tasks) and `<task>.log_loss`, `<task>.auc`, `<task>.gauc` of predictions."""
    found: dict[str, float] = {"loss": 0.0}
    for label in spec.labels:
        truth, score = predictions[f"label_{label.name}"], predictions[f"score_{label.name}"]
        found[f"{label.name}.log_loss"] = ranking_metrics.log_loss(truth, score)
        found[f"{label.name}.auc"] = ranking_metrics.auc(truth, score)
        found[f"{label.name}.gauc"] = ranking_metrics.gauc(truth, score, predictions[spec.user.name]).impressions
        found["loss"] += label.weight * found[f"{label.name}.log_loss"]
    return found


def vocabulary_sizes(spec: FeatureSpec, transform_output: tft.TFTransformOutput) -> dict[str, int]:
    """Feature -> number of ids, padding and out-of-vocabulary buckets included."""
    sizes = {}
    for feature in spec.inputs:
        if isinstance(feature, Categorical | MultiCategorical):
            if isinstance(feature.vocab, Vocab):
                counted = transform_output.vocabulary_size_by_name(feature.name)
                sizes[feature.name] = 1 + counted + feature.vocab.oov
            else:
                sizes[feature.name] = 1 + feature.vocab.size
    return sizes


def resolve(spec: FeatureSpec, model: ModelSettings) -> ModelSettings:
    """The settings with `match_params` replaced by the `params` that give that size.

    Raises:
        ValueError: if the model cannot be scaled to that size.
    """
    if model.match_params is None:
        return model
    params = match(
        model.name, model.match_params, widths(spec), spec.tasks, spec.scenario.values, model.params, model.preset
    )
    return model.model_copy(update={"params": params, "match_params": None})


def build_model(
    spec: FeatureSpec,
    model: ModelSettings,
    settings: TrainSettings,
    transform_output: tft.TFTransformOutput,
    table_storage: Storage = "float32",
) -> keras.Model:
    """The ranker that settings describe, for rows of one Transform, with fresh weights."""
    model = resolve(spec, model)
    return build_ranker(
        spec,
        vocabulary_sizes(spec, transform_output),
        model=model.name,
        preset=model.preset,
        params=model.params,
        seed=settings.seed,
        table_storage=table_storage,
    )


def transformed_rows(
    spec: FeatureSpec, patterns: Sequence[str], transform_output: tft.TFTransformOutput
) -> TransformedRows:
    """What a ranker of `spec` reads in the files that match any of the patterns.

    Raises:
        ValueError: if a pattern matches no file.
    """
    return TransformedRows.find(
        patterns,
        transform_output.transformed_feature_spec(),
        labels=spec.tasks,
        inputs=tuple(model_inputs(spec)),
    )


def _inference(model: keras.Model) -> Any:
    return tf.function(lambda inputs: model(inputs, training=False), reduce_retracing=True, autograph=False)


def _model_card(model: keras.Model, settings: dict[str, Any]) -> dict[str, Any]:
    parts = counts(model)
    return {
        **settings,
        "parts": [{"name": p.name, "parameters": p.parameters, "flops": p.flops} for p in parts],
        "parameters": sum(p.parameters for p in parts),
        "flops": sum(p.flops for p in parts),
    }


def insights(model: keras.Model, spec: FeatureSpec, rows: TransformedRows) -> dict[str, Any]:
    """What the backbone tells about itself, and where its scenario experts send the first evaluation rows."""
    batches = itertools.islice(evaluation_batches(rows, EVALUATION_BATCH), ROUTED_BATCHES)
    found = backbone_of(model).insights(field_names(spec))
    routing = routing_report(model, batches)
    return {**found, **({"routing": routing} if routing else {})}


def _existing(model: str | None) -> str | None:
    """A SavedModel's folder, or None before the first push."""
    return model if model is not None and (Path(model) / "saved_model.pb").is_file() else None


def _split_of(pattern: str) -> str:
    (split,) = [part.removeprefix("Split-") for part in Path(pattern).parts if part.startswith("Split-")]
    return split
