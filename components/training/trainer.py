"""Trainer: transformed rows -> a trained, exported ranker."""

from __future__ import annotations

import hashlib
import json
import sys
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
import tensorflow_transform as tft

from mixrank.components import calibration
from mixrank.components.metrics import weights_in
from mixrank.components.training.batches import TransformedRows, training_stream
from mixrank.components.training.exports import is_state
from mixrank.components.training.model_factory import (
    build_model,
    compile_for_training,
    insights,
    known_values,
    model_card,
    resolve,
    training_rows,
    transformed_rows,
)
from mixrank.components.training.position_bias import PositionBias
from mixrank.components.training.predictions import (
    UnknownIds,
    inference,
    logits_of,
    predict,
    shown_metrics,
    validation_metrics,
)
from mixrank.components.training.resumable_training import Rounds, validations_within
from mixrank.components.training.settings import PUSHED, ModelSettings, TrainSettings
from mixrank.components.training.side_rows import write_side_rows
from mixrank.components.training.states import (
    keep_state,
    origin_of,
    steps_before,
    steps_that_fit,
    take_state,
    take_what_fits,
)
from mixrank.components.training.strategy import build_strategy
from mixrank.components.training.training_step import TrainingStep
from mixrank.components.training.warm_start import warm_start
from mixrank.components.training.workers import WorkerLostError, Workers
from mixrank.layers import registry
from mixrank.layers.backbone import backbone_of
from mixrank.layers.ranking import calibrated, take_weights
from mixrank.layers.tokens import rows_on
from mixrank.schemas import FeatureSpec
from mixrank.schemas.files import abandoned, remove, withdraw, write_atomically, write_text_atomically
from mixrank.serving.export import export

if TYPE_CHECKING:
    from tfx.components.trainer.fn_args_utils import FnArgs

PREDICTIONS, TRAINING_LOG, MODEL_CARD = "predictions.parquet", "training.jsonl", "model.json"
# What a training leaves for the next, and how its model was on the rows of that one before it saw them.
STATE, PROGRESSIVE = "state", "progressive.parquet"
UNKNOWN_IDS = "unknown_ids.json"


def run_fn(fn_args: FnArgs) -> None:
    """Entry point of the TFX Trainer component.

    Args:
        fn_args: `custom_config` must hold `spec`, `model` and `train` (JSON of `FeatureSpec`, `ModelSettings` and
            `TrainSettings`) and `checkpoints`, a folder that outlives a killed run. `base_model` is what
            `warm_start: pushed` means, and may be missing.

    Raises:
        ValueError: if the model has no such preset.
    """
    config = fn_args.custom_config
    model = ModelSettings.model_validate_json(config["model"])
    registry.check(model.name, model.params, model.preset)
    settings = TrainSettings.model_validate_json(config["train"])
    if settings.warm_start == PUSHED:
        settings = settings.model_copy(update={"warm_start": _existing(fn_args.base_model)})
    patterns = {_split_of(p): p for p in [*fn_args.train_files, *fn_args.eval_files]}
    # Re-running Transform changes ids, so older states must not be resumed.
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
    state: Path | None = None,
) -> None:
    """Builds, trains, exports and scores the evaluation split.

    Under a TF_CONFIG with several workers, all of them call this with the same arguments. All return when the chief,
    the only one that writes, has exported and scored.

    Args:
        spec: columns of a row.
        model_settings: which architecture.
        settings: how to train it.
        patterns: split -> files of transformed rows; `train` and `eval`, and `valid` where there is one.
        transform_output: result of Transform.
        checkpoints: states to resume from; removed when training ends. All workers must see the same folder.
        run_dir: gets `training.jsonl`, `model.json`, `predictions.parquet` and TensorBoard files.
        export_dir: gets the SavedModel; None exports nothing. It must be empty, unless `run_dir` holds the log of a
            training that was killed: then what that one exported is replaced.
        state: folder `state` that a training with `settings.keep_state` left in its `run_dir`: this one goes on with
            the weights, optimizer slots and number of steps of that one, and schedules of learning rates count its own
            steps alone. Where vocabularies are others now, rows of tables are taken over value by value (`take_state`).
            Before the first step the rows of `eval` are scored into `progressive.parquet`, with the columns of
            `predictions.parquet`, by the float32 weights, not calibrated. `eval` may be the files of `train`: these
            scores are of rows that the model has not seen. None begins with fresh weights.

    Raises:
        ValueError: if settings, data and devices do not fit together, `export_dir` holds something else, or `state` is
            of another model, optimizer or encoding.
        WorkerLostError: if another worker has gone.
    """
    if state is not None:
        settings.check_going_on(patterns)
    # Before anything else uses TensorFlow.
    workers = Workers.of_environment()
    strategy = build_strategy(settings.replicas, workers, settings.tables)
    settings = settings.on(strategy.num_replicas_in_sync)
    if workers.chief:
        if export_dir and export_dir.is_dir() and any(export_dir.iterdir()) and not (run_dir / TRAINING_LOG).is_file():
            raise ValueError(f"`export_dir` must be empty, {export_dir} is not")
        run_dir.mkdir(parents=True, exist_ok=True)
        for left in abandoned(checkpoints.parent, checkpoints.name):
            remove(left)
    keras.utils.set_random_seed(settings.seed)
    keras.config.set_dtype_policy(settings.precision)
    trained_on = [patterns[split] for split in settings.splits if split in patterns]
    training = training_rows(spec, trained_on, settings, transform_output)
    resolved = resolve(spec, model_settings)
    origin = origin_of(spec, resolved, settings)
    job = Job(
        spec=spec,
        settings=settings,
        rows={split: transformed_rows(spec, [pattern], transform_output) for split, pattern in patterns.items()},
        trained_on=training,
        lengths=Lengths.of(training.count(), settings),
        transform_output=transform_output,
        checkpoints=checkpoints,
        run_dir=run_dir,
        workers=workers,
        strategy=strategy,
        state=state,
        first_step=_steps_before(state, settings, origin),
    )
    model, compiled = _build(job, resolved, origin)
    _fit(job, compiled, _rounds(job, model))
    if not workers.chief:
        return
    if settings.keep_state:
        keep_state(run_dir / STATE, compiled, origin, spec, transform_output)
    plain, final, card = _export(job, model, model_settings, resolved, export_dir)
    if compiled.position is not None:
        card["position_bias"] = compiled.position.learned()
    _score(job, model, plain, final, card)
    if checkpoints.exists():
        # A kill in the middle must not leave half a state, from which nothing could resume.
        withdraw(checkpoints)
    # Workers wait here, so that they fail if the chief fails. A finished run must not fail because a worker did.
    with suppress(WorkerLostError), workers.watched(checkpoints):
        workers.total(strategy, 0)


class Lengths(NamedTuple):
    """Length of a training, in steps of one batch."""

    steps_per_pass: int
    steps_per_round: int
    rounds: int

    @classmethod
    def of(cls, rows: int, settings: TrainSettings) -> Lengths:
        """The number of rounds is the nearest to `epochs` passes."""
        per_pass = rows // settings.batch_size
        per_round = min(settings.steps_per_round or per_pass, settings.epochs * max(per_pass, 1))
        return cls(per_pass, per_round, max(1, round(settings.epochs * per_pass / max(per_round, 1))))

    @property
    def steps(self) -> int:
        return self.rounds * self.steps_per_round


@dataclass(frozen=True)
class Job:
    """State shared by the parts of `train_model`.

    Args:
        spec: columns of a row.
        settings: how to train, in numbers.
        rows: split -> its rows.
        trained_on: rows of all splits that are trained on.
        lengths: number of steps and rounds.
        transform_output, checkpoints, run_dir: as in `train_model`.
        workers: who takes part.
        strategy: of their replicas.
        state: as in `train_model`.
        first_step: number of steps that led to the state with which it begins, 0 without one.
    """

    spec: FeatureSpec
    settings: TrainSettings
    rows: Mapping[str, TransformedRows]
    trained_on: TransformedRows
    lengths: Lengths
    transform_output: tft.TFTransformOutput
    checkpoints: Path
    run_dir: Path
    workers: Workers
    strategy: tf.distribute.Strategy
    state: Path | None
    first_step: int


def _steps_before(state: Path | None, settings: TrainSettings, origin: Mapping[str, Any]) -> int:
    if state is not None:
        return steps_before(state, origin)
    begins_at = _warm_state(settings)
    return 0 if begins_at is None else steps_that_fit(begins_at, origin)


def _warm_state(settings: TrainSettings) -> Path | None:
    """The kept state that a warm start takes what fits from; None for one from an export, which has rows alone."""
    folder = None if settings.warm_start is None else Path(settings.warm_start)
    return folder if folder is not None and is_state(folder) else None


def _build(job: Job, resolved: ModelSettings, origin: Mapping[str, Any]) -> tuple[keras.Model, TrainingStep]:
    """The model, and around it what `fit` trains; both inside the strategy."""
    on_host = "CPU:0" if job.settings.tables == "host" else None
    with job.workers.watched(job.checkpoints), job.strategy.scope(), rows_on(on_host):
        model = build_model(job.spec, resolved, job.settings, job.transform_output)
        write_side_rows(model, job.spec, job.transform_output)
        begins_at = _warm_state(job.settings)
        if job.settings.warm_start and begins_at is None:
            taken = warm_start(model, job.spec, job.transform_output, job.settings.warm_start)
            print(f"  warm start: {sum(taken.values()):,} embedding rows taken over", file=sys.stderr, flush=True)
        compiled = compile_for_training(
            model,
            job.spec,
            job.settings,
            job.strategy,
            steps=job.lengths.steps,
            first_step=job.first_step,
            several_workers=job.workers.several,
            position=PositionBias.of(job.spec, job.trained_on),
        )
    if begins_at is not None:
        fitting = take_what_fits(begins_at, compiled, job.spec, job.transform_output, origin)
        print(textwrap.indent(fitting.said, "  "), file=sys.stderr, flush=True)
    if job.state is not None:
        new = take_state(job.state, compiled, job.spec, job.transform_output)
        print(
            f"  going on after {job.first_step:,} steps, from {job.state}; {new:,} new rows of values",
            file=sys.stderr,
            flush=True,
        )
    return model, compiled


def _rounds(job: Job, model: keras.Model) -> Rounds:
    """The rounds' callback; only the chief validates, and only on rows that are not trained on."""
    job.settings.check(job.spec, job.rows)
    validate, within = None, 0
    if "valid" in job.rows and "valid" not in job.settings.splits and job.workers.chief:
        held_out = job.rows["valid"]
        infer = inference(model)
        within = validations_within(job.lengths.steps_per_round * job.settings.batch_size, held_out.count())

        def validate() -> dict[str, float]:
            return validation_metrics(job.spec, predict(job.spec, infer, held_out), job.settings.entire_space)

    return Rounds(
        directory=job.checkpoints,
        log=job.run_dir / TRAINING_LOG,
        steps_per_round=job.lengths.steps_per_round,
        steps_per_pass=job.lengths.steps_per_pass,
        batch_size=job.settings.batch_size,
        total_rounds=job.lengths.rounds,
        validate=validate,
        validations_within=within,
        shown=shown_metrics(job.spec),
        early_stopping=job.settings.early_stopping,
        chief=job.workers.chief,
        total=partial(job.workers.total, job.strategy),
    )


def _fit(job: Job, compiled: TrainingStep, rounds: Rounds) -> None:
    """Trains the remaining rounds from the newest state; at the end the model holds the best weights.

    A worker that is not the chief waits here until the chief has finished everything.
    """
    done = rounds.restore(compiled)
    if job.state is not None and not done and job.workers.chief:
        _score_before(job, compiled.model)
    stream = partial(
        training_stream,
        job.trained_on,
        batch_size=job.settings.batch_size,
        steps_per_pass=job.lengths.steps_per_pass,
        steps=job.lengths.steps,
        seed=job.settings.seed,
        shuffle_rows=job.settings.shuffle_rows,
        rows_together=job.settings.rows_together,
        first_step=done * job.lengths.steps_per_round,
    )
    callbacks: list[keras.callbacks.Callback] = [rounds]
    if job.workers.chief:
        callbacks.append(keras.callbacks.TensorBoard(str(job.run_dir / "tensorboard"), write_graph=False))
    with job.workers.watched(job.checkpoints):
        job.workers.check_same_round(job.strategy, done, job.checkpoints)
        if done < job.lengths.rounds and not rounds.stopped:
            compiled.fit(
                job.strategy.distribute_datasets_from_function(lambda share: stream(share=share))
                if job.workers.several
                else stream(),
                steps_per_epoch=job.lengths.steps_per_round,
                initial_epoch=done,
                epochs=job.lengths.rounds,
                callbacks=callbacks,
                shuffle=False,
                verbose=0,
            )
        if not job.workers.chief:
            job.workers.total(job.strategy, 0)
            return
    rounds.restore_best(compiled)


def _export(
    job: Job, model: keras.Model, given: ModelSettings, resolved: ModelSettings, folder: Path | None
) -> tuple[keras.Model, keras.Model, dict[str, Any]]:
    """The weights as they are served, the same calibrated and exported, and the model's card."""
    plain = _served(job, model, resolved)
    final, fitted = _calibrated(job, plain)
    card = model_card(final, {**given.model_dump(mode="json"), "params": resolved.params})
    card["insights"] = insights(final, job.rows["eval"])
    backbone_of(final).freeze()
    if folder is not None:
        # Of a training that was killed at its export, or after it.
        for left in (*abandoned(folder.parent, folder.name), *([folder] if folder.exists() else [])):
            remove(left)
        export(folder, spec=job.spec, model=final, transform_output=job.transform_output, metadata={"model": card})
    if fitted:
        card["calibration"] = fitted
    return plain, final, card


def _calibrated(job: Job, model: keras.Model) -> tuple[keras.Model, dict[str, Any]]:
    """The model with calibrated logits, and what was fitted; the model itself if nothing is to be calibrated."""
    settings, spec = job.settings.calibration, job.spec
    if settings is None:
        return model, {}
    found = calibration.fit(settings, spec, logits_of(spec, inference(model), job.rows["valid"]))
    # Missing, those that are declared, and any other.
    ids = [None, *map(str, spec.scenario.values), "other"]
    curves = {task: [curve.as_argument() for curve in each.by_id(len(ids))] for task, each in found.items()}
    tasks = {
        task: {
            "rows": each.rows,
            "curve": each.curve.model_dump(),
            "scenarios": {ids[number] or "": curve.model_dump() for number, curve in each.scenarios.items()},
        }
        for task, each in found.items()
    }
    return calibrated(spec, model, curves), {"method": settings.method, "split": "valid", "tasks": tasks}


def _served(job: Job, model: keras.Model, resolved: ModelSettings) -> keras.Model:
    """The trained model, or one with the same weights outside the strategy or in another storage."""
    storage = job.settings.table_storage
    if storage == "float32" and job.strategy is tf.distribute.get_strategy():
        # A second copy of large tables might not fit into memory.
        return model
    final = build_model(job.spec, resolved, job.settings, job.transform_output, table_storage=storage)
    take_weights(final, model)
    return final


def _score_before(job: Job, model: keras.Model) -> None:
    """Writes what the model, as it came, gives to every row of the evaluation split."""
    predictions = predict(job.spec, inference(model), job.rows["eval"])
    write_atomically(job.run_dir / PROGRESSIVE, lambda path: predictions.to_parquet(path, index=False))


def _score(job: Job, model: keras.Model, plain: keras.Model, final: keras.Model, card: dict[str, Any]) -> None:
    """Writes the model's card, and what every row of the evaluation split gets.

    Args:
        job: the training.
        model: as it was trained.
        plain: the same as it is stored.
        final: the same, calibrated.
        card: gets what storage and calibration changed.
    """
    known = known_values(job.spec, job.transform_output)
    unknown = UnknownIds({job.spec.scenario.name: len(job.spec.scenario.values), **known})
    predictions = predict(job.spec, inference(final), job.rows["eval"], unknown)
    stored = predictions if final is plain else predict(job.spec, inference(plain), job.rows["eval"])
    if final is not plain:
        _compare_calibrated(job, stored, predictions, card["calibration"]["tasks"])
    if job.settings.table_storage != "float32":
        trained = predict(job.spec, inference(model), job.rows["eval"])
        card["table_storage"] = _cost_of_storage(job, trained, stored)
    write_text_atomically(job.run_dir / MODEL_CARD, json.dumps(card, indent=1))
    write_text_atomically(job.run_dir / UNKNOWN_IDS, json.dumps(unknown.as_dict(), indent=1))
    write_atomically(job.run_dir / PREDICTIONS, lambda path: predictions.to_parquet(path, index=False))


def _compare_calibrated(job: Job, before: pd.DataFrame, after: pd.DataFrame, tasks: dict[str, Any]) -> None:
    """Adds to each task's calibration how good its predictions of the evaluation split are without it and with it."""
    for label in (each for each in job.spec.labels if each.name in tasks):
        found = tasks[label.name]
        for when, frame in (("before", before), ("after", after)):
            labels, scores = (frame[f"{what}_{label.name}"].to_numpy(np.float64) for what in ("label", "score"))
            found[when] = calibration.quality(label, labels, scores, weights_in(frame, label.name))
        said = calibration.sentence(label, found["before"], found["after"])
        print(f"  calibrated on valid: {said}", file=sys.stderr, flush=True)


def _cost_of_storage(job: Job, trained: pd.DataFrame, stored: pd.DataFrame) -> dict[str, Any]:
    """Metrics of the evaluation split by the trained tables and by the stored ones, which are printed as well."""
    storage = job.settings.table_storage
    found: dict[str, Any] = {
        "float32": validation_metrics(job.spec, trained, job.settings.entire_space),
        storage: validation_metrics(job.spec, stored, job.settings.entire_space),
    }
    changes = "  ".join(
        f"{name} {found['float32'][name]:.4f} -> {found[storage][name]:.4f}" for name in shown_metrics(job.spec)
    )
    print(f"  tables in {storage} in place of float32: {changes}", file=sys.stderr, flush=True)
    return found


def _existing(model: str | None) -> str | None:
    """A SavedModel's folder, or None before the first push."""
    return model if model is not None and (Path(model) / "saved_model.pb").is_file() else None


def _split_of(pattern: str) -> str:
    (split,) = [part.removeprefix("Split-") for part in Path(pattern).parts if part.startswith("Split-")]
    return split
