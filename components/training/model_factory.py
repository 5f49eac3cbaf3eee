"""The ranker of some settings and a Transform result, the rows that it reads, and its model card."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, assert_never

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from mixrank.components.training.batches import Sampled, TransformedRows, evaluation_batches
from mixrank.components.training.optimizing import build_optimizer, build_table_optimizer
from mixrank.components.training.position_bias import PositionBias
from mixrank.components.training.predictions import EVALUATION_BATCH
from mixrank.components.training.settings import ModelSettings, TrainSettings, named_loss
from mixrank.components.training.strategy import dense_device, use_jit
from mixrank.components.training.training_step import TrainingStep
from mixrank.layers import losses
from mixrank.layers.backbone import backbone_of
from mixrank.layers.base import counts
from mixrank.layers.heads import heads_for
from mixrank.layers.ranking import build_ranker, dense_ranker, field_names, match, model_inputs, widths
from mixrank.layers.task_kinds import new_loss
from mixrank.layers.tokens import Storage
from mixrank.schemas import FeatureSpec, Hash, Label, Vocab

# Batches of evaluation rows from which a model may compute its insights.
INSIGHT_BATCHES = 4
# Bytes of a vocabulary that are read at once.
BLOCK = 16 << 20


def known_values(spec: FeatureSpec, transform_output: tft.TFTransformOutput) -> dict[str, int]:
    """Feature -> number of values in its vocabulary, for those that have one."""
    found = {}
    for name in spec.vocabularies:
        path = transform_output.vocabulary_file_by_name(name)
        found[name] = _lines(path, tf.io.gfile.stat(path).mtime_nsec)
    return found


@functools.lru_cache(maxsize=256)
def _lines(path: str, changed: int) -> int:
    """Number of lines of a file; a training asks for those of each vocabulary several times."""
    del changed
    # Lines as Python objects take ten times as long.
    with tf.io.gfile.GFile(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(BLOCK), b""))


def vocabulary_sizes(spec: FeatureSpec, transform_output: tft.TFTransformOutput) -> dict[str, int]:
    """Feature -> number of ids, padding and out-of-vocabulary buckets included."""
    sizes, known = {}, known_values(spec, transform_output)
    for feature in spec.looked_up:
        match feature.vocab:
            case Vocab(oov=oov):
                sizes[feature.name] = 1 + known[feature.name] + oov
            case Hash(size=size):
                sizes[feature.name] = 1 + size
            case _:
                assert_never(feature.vocab)
    return sizes


def resolve(spec: FeatureSpec, model: ModelSettings) -> ModelSettings:
    """The settings with `match_params` replaced by `params` that give that size.

    Raises:
        ValueError: if the model cannot be scaled to that size.
    """
    if model.match_params is None:
        return model
    params = match(
        model.name,
        model.match_params,
        widths(spec.widened(model.embedding_width)),
        spec.logits,
        spec.scenario.values,
        params=model.params,
        preset=model.preset,
        heads=heads_for(model.heads, spec),
        field_names=field_names(spec),
    )
    return model.model_copy(update={"params": params, "match_params": None})


def transformed_rows(
    spec: FeatureSpec, patterns: Sequence[str], transform_output: tft.TFTransformOutput
) -> TransformedRows:
    """The rows that a ranker of `spec` reads, in the files that match any of the patterns.

    Raises:
        ValueError: if a pattern matches no file.
    """
    return TransformedRows.find(
        patterns,
        transform_output.transformed_feature_spec(),
        labels=spec.tasks,
        inputs=tuple(model_inputs(spec)),
    )


def training_rows(
    spec: FeatureSpec, patterns: Sequence[str], settings: TrainSettings, transform_output: tft.TFTransformOutput
) -> TransformedRows:
    """The same, with what a training needs besides: weights, places, and groups whose rows are compared.

    Raises:
        ValueError: as `transformed_rows`.
    """
    weights = {label.name: weight for label in spec.labels if (weight := spec.weight_of(label)) is not None}
    rows = replace(
        transformed_rows(spec, patterns, transform_output),
        weights=weights,
        beside=() if spec.position is None else (spec.position.name,),
        learned={label.name: label.learned for label in spec.labels if label.learned != label.name},
        groups=settings.groups,
    )
    if (label := spec.sampled) is not None:
        reweighted = tuple(each.name for each in spec.labels if spec.is_reweighted(each))
        rows = replace(rows, sampled=Sampled(label, reweighted))
    if settings.scenario_balance == "scenarios":
        rows = replace(rows, scenario_weights=(spec.scenario.name, scenario_weights(spec, rows)))
    return rows


def scenario_weights(spec: FeatureSpec, rows: TransformedRows) -> np.ndarray:
    """Weight of a row by the id of its scenario, for every scenario to count alike: `N / (C N_c)`; 0 without rows."""
    scenario = spec.scenario.name
    counts = rows.count_ids(len(spec.scenario.values) + 2, lambda row: row[scenario], scenario)
    return np.divide(counts.sum() / np.count_nonzero(counts), counts, out=np.zeros(len(counts)), where=counts > 0)


def build_model(
    spec: FeatureSpec,
    model: ModelSettings,
    settings: TrainSettings,
    transform_output: tft.TFTransformOutput,
    table_storage: Storage = "float32",
) -> keras.Model:
    """The ranker of some settings, for the rows of one Transform, with fresh weights."""
    model = resolve(spec, model)
    return build_ranker(
        spec.widened(model.embedding_width),
        vocabulary_sizes(spec, transform_output),
        model=model.name,
        preset=model.preset,
        params=model.params,
        seed=settings.seed,
        table_storage=table_storage,
        heads=model.heads,
    )


def compile_for_training(
    model: keras.Model,
    spec: FeatureSpec,
    settings: TrainSettings,
    strategy: tf.distribute.Strategy,
    *,
    steps: int,
    first_step: int = 0,
    several_workers: bool = False,
    position: PositionBias | None = None,
) -> TrainingStep:
    """The ranker, compiled for training: weighted sum of the tasks' losses, optimizers as settings say.

    Args:
        model: built inside the scope of `strategy`, which must be entered here as well.
        spec, settings: tasks, and how to train.
        strategy: the distribution strategy of the replicas.
        steps: total number of optimizer steps, for the learning rate's schedule.
        first_step: number of steps of the trainings that this one goes on from.
        several_workers: whether other processes train too.
        position: bias of an impression's place, made in the same scope, or None.
    """
    task_losses = {label.name: task_loss(label, settings) for label in spec.labels}
    variances = {}
    if settings.task_weighting == "uncertainty":
        variances = {task: keras.Variable(0.0, name=f"log_variance_{task}") for task in task_losses}
    return TrainingStep(
        model,
        dense_ranker(spec, model),
        build_optimizer(settings.optimizer, steps=steps, first_step=first_step),
        build_table_optimizer(settings.embedding_optimizer, steps=steps, first_step=first_step),
        loss={
            task: losses.with_uncertainty(loss, variances[task]) if variances else loss
            for task, loss in task_losses.items()
        },
        loss_weights={label.name: label.weight for label in spec.labels},
        seen=_seen_by_losses(spec.labels, settings),
        log_variances=variances,
        project=settings.task_weighting == "pcgrad",
        parts=settings.accumulate_steps,
        jit=use_jit(settings.jit_compile, strategy),
        several_workers=several_workers,
        device=dense_device(settings.tables),
        position=position,
    )


def task_loss(label: Label, settings: TrainSettings) -> keras.losses.Loss:
    """The loss of labels and logits that a label is trained by."""
    given = settings.loss.get(label.name)
    loss = new_loss(label) if given is None else losses.load(*named_loss(given), label.kind)
    if label.keep_negatives < 1:
        loss = losses.of_kept(loss, label.keep_negatives)
    # A loss of groups leaves unknown labels out itself.
    return loss if not label.counts_where or label.name in settings.groups else losses.of_known(loss)


def _seen_by_losses(labels: Sequence[Label], settings: TrainSettings) -> Callable[[Any, Any], tuple[Any, Any]] | None:
    if not settings.entire_space:
        return None
    given = {label.name: label.given for label in labels if label.given is not None}
    return functools.partial(losses.over_entire_space, given=given, tasks=settings.entire_space)


def model_card(model: keras.Model, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a model with its parameters and forward FLOPs per row, whole and by part."""
    parts = counts(model)
    return {
        **settings,
        "parts": [{"name": p.name, "parameters": p.parameters, "flops": p.flops} for p in parts],
        "parameters": sum(p.parameters for p in parts),
        "flops": sum(p.flops for p in parts),
    }


def insights(model: keras.Model, rows: TransformedRows) -> dict[str, Any]:
    """Insights of the backbone and the heads, some of them computed on the first evaluation rows."""
    batches = list(itertools.islice(evaluation_batches(rows, EVALUATION_BATCH), INSIGHT_BATCHES))
    return {**backbone_of(model).insights(model, batches), **model.get_layer("heads").insights(model, batches)}
