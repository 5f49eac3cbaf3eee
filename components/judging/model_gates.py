"""ModelGates: blesses a model that beats its baseline and is no worse than the last pushed one, row by row."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import Channel, artifact_utils, component_spec, standard_artifacts

from mixrank.components.baselines import ADDITIVE, read_columns
from mixrank.components.gates import GateSettings, judge_model
from mixrank.components.judging.last_pushed import saved_model
from mixrank.components.judging.row_scores import scores_beside
from mixrank.components.metrics import answers_in, find_metric, weights_in
from mixrank.components.training import PREDICTIONS
from mixrank.layers.task_kinds import TASK_KINDS
from mixrank.schemas import FeatureSpec, Label
from mixrank.schemas.arrow import read_frame
from mixrank.schemas.files import write_text_atomically
from mixrank.schemas.plain_names import plain

RESULTS = "gates.json"
BATCH = 4096


class Executor(base_executor.BaseExecutor):
    """Writes the verdicts, and `BLESSED` or `NOT_BLESSED` as TFX's Evaluator does."""

    def Do(self, input_dict: dict[str, list[Any]], output_dict: dict[str, list[Any]], exec_properties: Any) -> None:
        spec = FeatureSpec.from_json(exec_properties["spec"])
        gates = GateSettings.model_validate_json(exec_properties["gates"])
        predictions = read_frame(Path(artifact_utils.get_single_uri(input_dict["model_run"])) / PREDICTIONS)
        additive = Path(artifact_utils.get_single_uri(input_dict["baselines"])) / ADDITIVE
        baseline = scores_beside(predictions, read_frame(additive), spec, str(additive))
        pushed = pd.DataFrame()
        folder = saved_model(artifact_utils.get_single_uri(input_dict["pushed_model"]))
        if folder is not None and gates.above_pushed is not None:
            examples = artifact_utils.get_single_instance(input_dict["examples"])
            scored = score_rows(folder, spec, artifact_utils.get_split_uri([examples], "eval") + "/*")
            pushed = scores_beside(predictions, scored, spec, f"the last pushed model, {folder},")
        results = judge_model(
            {label.name: _in_unit(predictions[f"label_{label.name}"].to_numpy(), label) for label in spec.labels},
            _by_task(predictions, spec),
            predictions[spec.user.name].to_numpy(),
            gates,
            losses={label.name: find_metric(TASK_KINDS[label.kind].loss_metric) for label in spec.labels},
            baseline=_by_task(baseline, spec),
            pushed=_by_task(pushed, spec),
            weights={task: found for task in spec.tasks if (found := weights_in(predictions, task)) is not None},
            classes={label.name: label.classes for label in spec.labels},
        )
        for result in results:
            logging.info("%s %s", "passed:" if result.passed else "not passed:", result.said)
        blessed = all(result.passed or result.finding.key in gates.allow for result in results)
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        Path(blessing.uri).mkdir(parents=True, exist_ok=True)
        write_text_atomically(
            Path(blessing.uri) / RESULTS, json.dumps([result.model_dump() for result in results], indent=1)
        )
        marks = [Path(blessing.uri) / name for name in ("NOT_BLESSED", "BLESSED")]
        marks[not blessed].unlink(missing_ok=True)
        marks[blessed].touch()
        blessing.set_int_custom_property("blessed", int(blessed))


class ModelGatesSpec(component_spec.ComponentSpec):
    """Inputs, output and parameters of `ModelGates`."""

    PARAMETERS = {
        "spec": component_spec.ExecutionParameter(type=str),
        "gates": component_spec.ExecutionParameter(type=str),
        "source": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "model_run": component_spec.ChannelParameter(type=standard_artifacts.ModelRun),
        "baselines": component_spec.ChannelParameter(type=standard_artifacts.InferenceResult),
        "pushed_model": component_spec.ChannelParameter(type=standard_artifacts.Model),
    }
    OUTPUTS = {"blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing)}


class ModelGates(base_component.BaseComponent):
    """TFX component around `mixrank.components.gates.judge_model`.

    Args:
        examples: raw rows with a split `eval`, which the last pushed model scores.
        model_run: the Trainer's scores of the same rows.
        baselines: those of the baselines.
        pushed_model: the last pushed model, or an artifact without one before the first push.
        spec: columns of a row.
        gates: bounds, and what is allowed.
        source: fingerprint of the code, so that the cache notices an edit.
    """

    SPEC_CLASS = ModelGatesSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        *,
        examples: Any,
        model_run: Any,
        baselines: Any,
        pushed_model: Any,
        spec: FeatureSpec,
        gates: GateSettings,
        source: str,
    ) -> None:
        super().__init__(
            ModelGatesSpec(
                examples=examples,
                model_run=model_run,
                baselines=baselines,
                pushed_model=pushed_model,
                spec=spec.to_json(),
                # What a config leaves to the code is known to its fingerprint.
                gates=gates.model_dump_json(exclude_defaults=True),
                source=source,
                blessing=Channel(type=standard_artifacts.ModelBlessing),
            )
        )


def score_rows(model: Path, spec: FeatureSpec, pattern: str) -> pd.DataFrame:
    """Scores of a pushed model: the columns that identify a row, and `score_<output>` of every task that it has.

    Args:
        model: SavedModel.
        spec: columns of a row.
        pattern: files of joined rows.
    """
    import numpy as np
    import tensorflow as tf

    from mixrank.serving.base import untuned

    signature = tf.saved_model.load(str(plain(model))).signatures["serving_default"]
    records = untuned(tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(pattern)), compression_type="GZIP")).batch(BATCH)
    parts = [{task: score.numpy().reshape(-1) for task, score in signature(examples=each).items()} for each in records]
    keys = read_columns(spec, pattern, spec.key_columns)
    # A label that has other classes now is another task.
    outputs = [name for label in spec.labels if {*label.outputs} <= {*parts[0]} for name in label.outputs]
    return pd.DataFrame(keys | {f"score_{name}": np.concatenate([part[name] for part in parts]) for name in outputs})


def _by_task(frame: pd.DataFrame, spec: FeatureSpec) -> dict[str, Any]:
    """Task -> what `answers_in` finds, in the unit in which its loss is measured; without the tasks that have none."""
    return {
        label.name: _in_unit(answers_in(frame, label), label) for label in spec.labels if f"score_{label.name}" in frame
    }


def _in_unit(values: Any, label: Label) -> Any:
    # Labels of 0 and 1 stay whole numbers.
    return values if label.scale == 1 else values / label.scale
