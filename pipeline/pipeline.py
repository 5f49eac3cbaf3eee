"""The whole pipeline; reads like the figure in the README.

raw log -> ExampleGen -> StatisticsGen -> ExampleValidator -> Baselines, Transform -> Trainer
        -> Evaluator, ModelGates, ModelCheck -> Pusher
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfx import v1 as tfx

from mixrank.components.baselines import Baselines
from mixrank.components.examples import build_example_gen
from mixrank.components.judging import LastPushed, ModelCheck, ModelGates, build_evaluator
from mixrank.components.pushing import Pusher
from mixrank.components.schema_gen import SchemaGen
from mixrank.components.training import PUSHED, Trainer
from mixrank.components.validation import ExampleValidator
from mixrank.layers import losses, registry
from mixrank.pipeline import fingerprint
from mixrank.pipeline.config import RunConfig
from mixrank.pipeline.named_secrets import resolve
from mixrank.schemas import Dataset
from mixrank.schemas.plain_names import plain
from mixrank.serving.base import newest


@dataclass(frozen=True)
class Target:
    """Settings that differ between this machine and a cluster, where a value may be a parameter of the run.

    Args:
        name: of the pipeline.
        root: folder of the artifacts.
        data: folder or address of the raw files.
        split_days: other days for the dataset's splits, or empty.
        preset: the model's preset, or empty.
        checkpoints: folder of the states of interrupted trainings.
        push_to: folder or address of the pushed versions.
        pushed: number of the newest version, or empty where it is not known beforehand.
        source: modules -> fingerprint of their code.
        beam: options of every Beam pipeline.
        metadata: file of the metadata store, or None where the cluster has one.
    """

    name: str
    root: str
    data: Any
    split_days: Any
    preset: Any
    checkpoints: Path
    push_to: Any
    pushed: str
    source: Callable[..., str]
    beam: Sequence[str]
    metadata: Path | None


def this_machine(config: RunConfig) -> Target:
    """Everything below the run's folder."""
    home = plain(config.run_dir)
    return Target(
        name=config.name,
        root=str(home / "artifacts"),
        data=config.data_dir(),
        split_days="",
        preset=config.model.preset or "",
        checkpoints=home / "checkpoints",
        push_to=config.push_place,
        pushed=newest(config.push_place)[0],
        source=fingerprint.source,
        beam=resolve(config.beam),
        metadata=config.run_dir / "metadata.db",
    )


def create_pipeline(config: RunConfig, dataset: Dataset, target: Target) -> tfx.dsl.Pipeline:
    """Components and their order.

    Args:
        config: the run.
        dataset: its dataset.
        target: where it runs.

    Returns:
        A TFX pipeline for any runner.
    """
    spec, splits, source = dataset.spec, dataset.split_names, target.source
    # Rows are the same whatever is in side files, which Transform and all after it depend on.
    rows = dataset.model_copy(update={"spec": spec.with_files(lambda feature: None)})

    # Impressions joined with user and item features, both histories built point-in-time, split by time.
    examples = build_example_gen(
        rows,
        target.data,
        config.shards,
        source_hash=source("mixrank.components.examples.example_gen"),
        split_days=target.split_days,
    )

    # What the spec promises, as a TFMD schema.
    schema = SchemaGen(spec=rows.spec, source=source("mixrank.components.schema_gen"))

    # Counts and distributions of every column, per split. Without the schema ids would be counted as numbers, and
    # their drift would go unnoticed.
    statistics = tfx.components.StatisticsGen(examples=examples.outputs["examples"], schema=schema.outputs["schema"])

    # Stops the run if a column breaks the promise or drifts, or if the figures of the log say that nothing good can be
    # learned from it: a label of one class, an empty history, a join without matches, impossible times, leakage.
    validator = ExampleValidator(
        examples=examples.outputs["examples"],
        statistics=statistics.outputs["statistics"],
        schema=schema.outputs["schema"],
        dataset=rows,
        gates=config.gates,
        source=source("mixrank.components.validation"),
    )

    # What scenario, user and item say alone: the floor that a model must beat. Boosted trees are the bar, if wanted.
    baselines = Baselines(
        examples=examples.outputs["examples"],
        dataset=dataset,
        splits=config.train.splits,
        boosted_trees=config.baselines.boosted_trees,
        source=source("mixrank.components.baselines.component"),
    )
    baselines.add_upstream_node(validator)

    # Vocabularies and moments from the training split only; ids and numbers for all splits.
    transform = tfx.components.Transform(
        examples=examples.outputs["examples"],
        schema=schema.outputs["schema"],
        preprocessing_fn="mixrank.components.transform.preprocessing_fn",
        splits_config=tfx.proto.SplitsConfig(analyze=["train"], transform=list(splits)),
        custom_config={"spec": spec.to_json(), "source": source("mixrank.components.transform")},
        # StatisticsGen has counted the raw columns already; counting twice more doubles the time.
        disable_statistics=True,
    )
    transform.add_upstream_node(validator)

    # The model to beat, and perhaps to begin from: the newest version that was pushed.
    pushed = LastPushed(push_to=target.push_to, version=target.pushed)

    # Trains under MirroredStrategy, exports, and scores the evaluation split row by row.
    settings = {
        "spec": spec.to_json(),
        # What a config leaves to the code is known to its fingerprint.
        "model": config.model.model_dump_json(exclude_defaults=True),
        "train": config.train.model_dump_json(exclude_defaults=True),
        "source": source(
            "mixrank.components.training.trainer",
            "mixrank.components.training.component",
            "mixrank.layers.models",
            registry.origin(config.model.name),
            *map(losses.origin, config.train.losses.values()),
        ),
    }
    trainer = Trainer(
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        base_model=pushed.outputs["model"] if config.train.warm_start == PUSHED else None,
        splits=splits,
        # A killed run resumes only a training with the same settings and code.
        custom_config={**settings, "checkpoints": str(target.checkpoints / fingerprint.of_values(*settings.values()))},
        preset=target.preset,
    )

    # AUC, GAUC, log loss and calibration per task and scenario; blesses on the overall slice.
    judge = build_evaluator(
        examples=examples.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=pushed.outputs["model"],
        spec=spec,
        thresholds=config.thresholds,
        source=source(
            "mixrank.components.judging.evaluation",
            "mixrank.components.judging.last_pushed",
            "mixrank.components.judging.tfma_metrics",
            "mixrank.components.judging.tfma_batches",
        ),
    )

    # Log loss against the baseline and the last pushed model, with intervals over users, and calibration.
    gates = ModelGates(
        examples=examples.outputs["examples"],
        model_run=trainer.outputs["model_run"],
        baselines=baselines.outputs["scores"],
        pushed_model=pushed.outputs["model"],
        spec=spec,
        gates=config.gates,
        source=source("mixrank.components.judging.model_gates"),
    )

    # Loads the export in a fresh process, as a server would, and compares row by row; adds warm-up requests and golden
    # rows to a model that passes.
    check = ModelCheck(
        examples=examples.outputs["examples"],
        model=trainer.outputs["model"],
        model_run=trainer.outputs["model_run"],
        spec=spec,
        source=source("mixrank.components.judging.model_check", "mixrank.serving.export.loaders"),
        rows=config.check_rows,
    )

    # A new version for the model server, if all three judges agree.
    pusher = Pusher(
        model_blessing=judge.outputs["blessing"],
        gate_blessing=gates.outputs["blessing"],
        infra_blessing=check.outputs["blessing"],
        push_to=target.push_to,
    )

    before_training = [examples, schema, statistics, validator, baselines, transform]
    metadata = tfx.orchestration.metadata.sqlite_metadata_connection_config
    return tfx.dsl.Pipeline(
        pipeline_name=target.name,
        pipeline_root=target.root,
        metadata_connection_config=None if target.metadata is None else metadata(str(target.metadata)),
        components=[*before_training, pushed, trainer, judge, gates, check, pusher],
        enable_cache=True,
        beam_pipeline_args=list(target.beam),
    )
