"""Trainer: transformed rows -> a trained, exported ranker."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import tensorflow_transform as tft

from mixrank.components.training.batches import training_stream
from mixrank.components.training.model_factory import (
    build_model,
    insights,
    model_card,
    resolve,
    trainee,
    transformed_rows,
)
from mixrank.components.training.predictions import inference, predict, validation_metrics
from mixrank.components.training.resumable_training import Rounds
from mixrank.components.training.settings import PUSHED, ModelSettings, TrainSettings
from mixrank.components.training.strategy import build_strategy
from mixrank.components.training.warm_start import warm_start
from mixrank.components.training.workers import WorkerLostError, Workers
from mixrank.layers import registry
from mixrank.layers.backbone import backbone_of
from mixrank.layers.ranking import take_weights
from mixrank.schemas import FeatureSpec
from mixrank.schemas.files import write_atomically
from mixrank.serving.export import export

if TYPE_CHECKING:
    from tfx.components.trainer.fn_args_utils import FnArgs

PREDICTIONS, TRAINING_LOG, MODEL_CARD = "predictions.parquet", "training.jsonl", "model.json"


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
    export_dir: Path | None,
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
        export_dir: gets the SavedModel; None exports nothing.

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
        trained = trainee(
            model, spec, settings, strategy, steps=total_rounds * steps_per_round, several_workers=workers.several
        )

    # 3. Training, in rounds that can be resumed.
    validate = None
    if settings.early_stopping is not None and "valid" not in rows:
        raise ValueError("`early_stopping` needs a `valid` split, and this dataset has none: give its `split` one")
    if "valid" in rows and "valid" not in settings.splits and workers.chief:
        infer = inference(model)
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
    done = rounds.restore(trained)
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
            trained.fit(
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
    rounds.restore_best(trained)

    # 4. The same weights outside the strategy, for export.
    final = build_model(spec, resolved, settings, transform_output, table_storage=settings.table_storage)
    take_weights(final, model)
    card = model_card(final, {**model_settings.model_dump(mode="json"), "params": resolved.params})
    card["insights"] = insights(final, spec, rows["eval"])
    backbone_of(final).freeze()
    if export_dir is not None:
        export(export_dir, spec=spec, model=final, transform_output=transform_output, metadata={"model": card})

    # 5. What the evaluation split gets, row by row.
    predictions = predict(spec, inference(final), rows["eval"])
    write_atomically(run_dir / MODEL_CARD, lambda path: path.write_text(json.dumps(card, indent=1)))
    write_atomically(run_dir / PREDICTIONS, lambda path: predictions.to_parquet(path, index=False))
    shutil.rmtree(checkpoints, ignore_errors=True)
    # The others have waited for this, to fail if the chief does; what is complete does not fail for their sake.
    with suppress(WorkerLostError), workers.watched(checkpoints):
        workers.total(strategy, 0)


def _existing(model: str | None) -> str | None:
    """A SavedModel's folder, or None before the first push."""
    return model if model is not None and (Path(model) / "saved_model.pb").is_file() else None


def _split_of(pattern: str) -> str:
    (split,) = [part.removeprefix("Split-") for part in Path(pattern).parts if part.startswith("Split-")]
    return split
