"""Pusher that a model server may watch: a version appears whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfx.components.pusher import executor
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import Channel, artifact_utils, component_spec, standard_artifacts, standard_component_specs
from tfx.utils import io_utils

from serving.versions import publish


class Executor(executor.Executor):
    """Copies a blessed model to a temporary name beside its destination and renames it."""

    def Do(self, input_dict: dict[str, list[Any]], output_dict: dict[str, list[Any]], exec_properties: Any) -> None:
        pushed = artifact_utils.get_single_instance(output_dict["pushed_model"])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed)
            return
        version = publish(Path(self.GetModelPath(input_dict)), Path(exec_properties["push_to"]))
        io_utils.copy_dir(str(version), pushed.uri)
        self._MarkPushed(pushed, pushed_destination=str(version), pushed_version=version.name)


class PusherSpec(component_spec.ComponentSpec):
    """TFX's, with the folder as plain text, which a run can choose."""

    PARAMETERS = {"push_to": component_spec.ExecutionParameter(type=str)}
    INPUTS = standard_component_specs.PusherSpec.INPUTS
    OUTPUTS = standard_component_specs.PusherSpec.OUTPUTS


class Pusher(base_component.BaseComponent):
    """TFX component with the executor above.

    Args:
        model: output of the Trainer.
        model_blessing, infra_blessing: without both of them nothing is pushed.
        push_to: folder of the pushed versions.
    """

    SPEC_CLASS = PusherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, *, model: Any, model_blessing: Any, infra_blessing: Any, push_to: Any) -> None:
        super().__init__(
            PusherSpec(
                model=model,
                model_blessing=model_blessing,
                infra_blessing=infra_blessing,
                push_to=push_to,
                pushed_model=Channel(type=standard_artifacts.PushedModel),
            )
        )
