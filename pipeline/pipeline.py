"""The whole pipeline; reads like the figure in the README.

raw log -> ExampleGen -> StatisticsGen -> ExampleValidator -> Transform -> Trainer -> Evaluator -> ModelCheck -> Pusher
"""

from __future__ import annotations

from pathlib import Path

from tfx import v1 as tfx
from tfx.dsl.components.common.resolver import Resolver
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import LatestBlessedModelStrategy

from components.evaluator import evaluator
from components.example_gen import example_gen
from components.model_check import ModelCheck
from components.pusher import Pusher
from components.validation import ExampleValidator
from pipeline.config import RunConfig
from pipeline.fingerprint import of_values, source
from schemas import tfmd
from schemas.files import write_atomically


def create_pipeline(config: RunConfig) -> tfx.dsl.Pipeline:
    """Components and their order.

    Args:
        config: the run.

    Returns:
        A TFX pipeline for any runner.
    """
    dataset = config.load_dataset()
    spec = dataset.spec
    run_dir = config.run_dir
    splits = dataset.split_names

    # Impressions joined with user and item features, both histories built point-in-time, split by time.
    examples = example_gen(dataset, str(config.data_dir()), config.shards, source_hash=source("components.example_gen"))

    # What the spec promises, as a TFMD schema.
    schema = tfx.components.ImportSchemaGen(
        schema_file=str(_write_schema(run_dir / "schema.pbtxt", tfmd.as_text(spec)))
    )

    # Counts and distributions of every column, per split. Without the schema ids would be counted as numbers, and
    # their drift would go unnoticed.
    statistics = tfx.components.StatisticsGen(examples=examples.outputs["examples"], schema=schema.outputs["schema"])

    # Stops the run if a column breaks the promise or drifts.
    validator = ExampleValidator(
        statistics=statistics.outputs["statistics"],
        schema=schema.outputs["schema"],
        source=source("components.validation"),
    )

    # Vocabularies and moments from the training split only; ids and numbers for all splits.
    transform = tfx.components.Transform(
        examples=examples.outputs["examples"],
        schema=schema.outputs["schema"],
        preprocessing_fn="components.transform.preprocessing_fn",
        splits_config=tfx.proto.SplitsConfig(analyze=["train"], transform=list(splits)),
        custom_config={"spec": spec.to_json(), "source": source("components.transform")},
        # StatisticsGen has counted the raw columns already; counting twice more doubles the time.
        disable_statistics=True,
    )
    transform.add_upstream_node(validator)

    # Trains under MirroredStrategy, exports, and scores the evaluation split row by row.
    training = [config.model.model_dump_json(), config.train.model_dump_json(), spec.to_json()]
    code = source("components.trainer", "layers.models")
    trainer = tfx.components.Trainer(
        run_fn="components.trainer.run_fn",
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        train_args=tfx.proto.TrainArgs(splits=[split for split in splits if split != "eval"]),
        eval_args=tfx.proto.EvalArgs(splits=["eval"]),
        custom_config={
            "spec": spec.to_json(),
            "model": config.model.model_dump_json(),
            "train": config.train.model_dump_json(),
            "source": code,
            # A killed run resumes only a training with the same settings and code.
            "checkpoints": str(run_dir / "checkpoints" / of_values(code, *training)),
        },
    )

    # The model to beat: the last one that was blessed in this run's folder.
    blessed = Resolver(
        strategy_class=LatestBlessedModelStrategy,
        model=tfx.dsl.Channel(type=tfx.types.standard_artifacts.Model),
        model_blessing=tfx.dsl.Channel(type=tfx.types.standard_artifacts.ModelBlessing),
    ).with_id("LatestBlessedModel")

    # AUC, GAUC, log loss and calibration per task and scenario; blesses on the overall slice.
    judge = evaluator(
        examples=examples.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=blessed.outputs["model"],
        spec=spec,
        thresholds=config.thresholds,
        source=source("components.evaluator", "components.metrics", "components.batches"),
    )

    # Loads the export in a fresh process, as a server would, and compares row by row.
    check = ModelCheck(
        examples=examples.outputs["examples"],
        model=trainer.outputs["model"],
        model_run=trainer.outputs["model_run"],
        spec=spec,
        source=source("components.model_check", "serving.loaders"),
        rows=config.check_rows,
    )

    # A new version for the model server, if both judges agree.
    pusher = Pusher(
        model=trainer.outputs["model"],
        model_blessing=judge.outputs["blessing"],
        infra_blessing=check.outputs["blessing"],
        push_destination=tfx.proto.PushDestination(
            filesystem=tfx.proto.PushDestination.Filesystem(base_directory=str(config.push_dir))
        ),
    )

    return tfx.dsl.Pipeline(
        pipeline_name=config.name,
        pipeline_root=str(run_dir / "artifacts"),
        metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(
            str(run_dir / "metadata.db")
        ),
        components=[examples, schema, statistics, validator, transform, trainer, blessed, judge, check, pusher],
        enable_cache=True,
        beam_pipeline_args=list(config.beam),
    )


def _write_schema(run_dir: Path, text: str) -> Path:
    # The cache compares the path, not the content.
    path = run_dir / f"schema-{of_values(text)}.pbtxt"
    if not path.exists():
        run_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: temporary.write_text(text))
    return path
