"""The model to beat: the newest version in the push folder, as an artifact, and TFX's Evaluator that reads it.

TFX's own way, a resolver that asks the metadata store, is missing from open-source Kubeflow Pipelines.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tfx.components.evaluator import component, executor
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import Channel, artifact_utils, component_spec, standard_artifacts
from tfx.utils import path_utils

from mixrank.schemas.files import write_text_atomically
from mixrank.schemas.stores import is_url
from mixrank.serving.base import fetch_version, newest

# Beside the model, so that the artifact of "nothing was pushed yet" is a folder like any other.
NOTE = "last_pushed.json"


class LastPushedExecutor(base_executor.BaseExecutor):
    """Copies the newest version: what serves may be cleaned up, an artifact must stay."""

    def Do(self, input_dict: dict[str, list[Any]], output_dict: dict[str, list[Any]], exec_properties: Any) -> None:
        model = artifact_utils.get_single_instance(output_dict["model"])
        number, folder = newest(exec_properties["push_to"])
        Path(model.uri).mkdir(parents=True, exist_ok=True)
        target = Path(path_utils.serving_model_dir(model.uri))
        if folder is not None and is_url(folder):
            fetch_version(folder, target)
        elif folder is not None:
            shutil.copytree(folder, target, dirs_exist_ok=True)
        write_text_atomically(Path(model.uri) / NOTE, json.dumps({"version": number}))


class LastPushedSpec(component_spec.ComponentSpec):
    """Parameters and output of `LastPushed`."""

    PARAMETERS = {
        "push_to": component_spec.ExecutionParameter(type=str),
        "version": component_spec.ExecutionParameter(type=str),
    }
    INPUTS: dict[str, Any] = {}
    OUTPUTS = {"model": component_spec.ChannelParameter(type=standard_artifacts.Model)}


class LastPushed(base_component.BaseComponent):
    """TFX component with the output `model`: a Model without a SavedModel if nothing was pushed yet.

    Args:
        push_to: folder or address of the pushed versions.
        version: number of the newest version where it is known when the pipeline is made, so that the cache notices
            a new one; empty where it is not, and then the cache must be off.
    """

    SPEC_CLASS = LastPushedSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(LastPushedExecutor)

    def __init__(self, *, push_to: Any, version: str = "") -> None:
        super().__init__(LastPushedSpec(push_to=push_to, version=version, model=Channel(type=standard_artifacts.Model)))


def saved_model(uri: str) -> Path | None:
    """The SavedModel in a Model artifact, or None in the one that `LastPushed` makes before the first push."""
    folder = Path(path_utils.serving_model_dir(uri))
    return folder if (folder / "saved_model.pb").is_file() else None


class EvaluatorExecutor(executor.Executor):
    """Measures without a baseline where the baseline's artifact holds no model, as before the first push."""

    def Do(self, input_dict: dict[str, list[Any]], output_dict: dict[str, list[Any]], exec_properties: Any) -> None:
        baseline = [model for model in input_dict.get("baseline_model", []) if saved_model(model.uri)]
        super().Do({**input_dict, "baseline_model": baseline}, output_dict, exec_properties)


class Evaluator(component.Evaluator):
    """TFX component with the executor above."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(EvaluatorExecutor)
