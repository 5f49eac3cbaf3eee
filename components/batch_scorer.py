"""Batch scoring inside a pipeline: a model and examples in, Parquet files with one score per task and row out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tfx.dsl.components.base import base_beam_component, base_beam_executor, executor_spec
from tfx.types import Channel, artifact_utils, component_spec, standard_artifacts
from tfx.utils import path_utils

from serving.batch_scoring.job import score


class Executor(base_beam_executor.BaseBeamExecutor):
    """Scores one split with the options of the pipeline's Beam runner."""

    def Do(self, input_dict: dict[str, list[Any]], output_dict: dict[str, list[Any]], exec_properties: Any) -> None:
        """Writes the scores.

        Args:
            input_dict: "examples": Examples artifact; "model": Model artifact of the Trainer.
            output_dict: "scores": one InferenceResult artifact, which becomes the output folder of the run.
            exec_properties: "split", "keep" as JSON list, "max_bad".

        Raises:
            ValueError: as `serving.batch_scoring.job.score`.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        examples = artifact_utils.get_single_instance(input_dict["examples"])
        model = artifact_utils.get_single_instance(input_dict["model"])
        scores = artifact_utils.get_single_instance(output_dict["scores"])
        summary = score(
            Path(path_utils.serving_model_path(model.uri)),
            Path(artifact_utils.get_split_uri([examples], exec_properties["split"])),
            Path(scores.uri),
            format="tfrecord",
            keep=json.loads(exec_properties["keep"]),
            max_bad=exec_properties["max_bad"],
            beam_args=self._beam_pipeline_args or (),
        )
        for name in ("rows", "bad"):
            scores.set_int_custom_property(name, summary[name])


class BatchScorerSpec(component_spec.ComponentSpec):
    """Inputs, outputs and parameters of `BatchScorer`."""

    PARAMETERS = {
        "split": component_spec.ExecutionParameter(type=str),
        "keep": component_spec.ExecutionParameter(type=str),
        "max_bad": component_spec.ExecutionParameter(type=float),
        "source": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
    }
    OUTPUTS = {"scores": component_spec.ChannelParameter(type=standard_artifacts.InferenceResult)}


class BatchScorer(base_beam_component.BaseBeamComponent):
    """TFX component around `serving.batch_scoring.job.score`.

    Its artifact is the output folder of a run: `scores/`, `dead_letter.jsonl` and `summary.json`; custom properties
    `rows` and `bad` hold the counts.

    Args:
        examples: raw rows, as ExampleGen writes them.
        model: output of the Trainer.
        source: fingerprint of the code, so that an edit is noticed by the cache.
        split: the split to score.
        keep: columns to copy besides user, item, time and scenario, for instance the labels.
        max_bad: float in [0, 1]. Share of the rows that may be bad.
    """

    SPEC_CLASS = BatchScorerSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        *,
        examples: Any,
        model: Any,
        source: str,
        split: str = "eval",
        keep: tuple[str, ...] = (),
        max_bad: float = 0.01,
    ) -> None:
        super().__init__(
            BatchScorerSpec(
                examples=examples,
                model=model,
                split=split,
                keep=json.dumps(list(keep)),
                max_bad=max_bad,
                source=source,
                scores=Channel(type=standard_artifacts.InferenceResult),
            )
        )
