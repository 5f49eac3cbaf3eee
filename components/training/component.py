"""TFX's Trainer with the model's preset as a separate parameter, so that a run on Kubeflow can choose it.

`custom_config` is a single JSON string, so it cannot carry a runtime parameter. The preset has its own property; the
executor puts it into the model's settings, where `run_fn` finds it.
"""

from __future__ import annotations

import json
from typing import Any

from tfx.components.trainer import executor
from tfx.dsl.components.base import base_component, executor_spec
from tfx.proto import trainer_pb2
from tfx.types import Channel, component_spec, standard_artifacts, standard_component_specs

from mixrank.components.training.workers import Workers


class Executor(executor.GenericExecutor):
    """Hands `run_fn` the model's settings with the preset of this run."""

    def Do(self, input_dict: dict[str, list[Any]], output_dict: dict[str, list[Any]], exec_properties: Any) -> None:
        config = json.loads(exec_properties["custom_config"])
        config["model"] = json.dumps({**json.loads(config["model"]), "preset": exec_properties["preset"] or None})
        properties = {**exec_properties, "custom_config": json.dumps(config)}
        if Workers.of_environment().chief:
            super().Do(input_dict, output_dict, properties)
        else:
            from mixrank.components.training.trainer import run_fn

            # TFX would expect an export, but only the chief writes one.
            run_fn(self._GetFnArgs(input_dict, output_dict, properties))


class TrainerSpec(component_spec.ComponentSpec):
    """Parameters of TFX's own component, and the preset."""

    PARAMETERS = {
        **standard_component_specs.TrainerSpec.PARAMETERS,
        "preset": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = standard_component_specs.TrainerSpec.INPUTS
    OUTPUTS = standard_component_specs.TrainerSpec.OUTPUTS


class Trainer(base_component.BaseComponent):
    """TFX component around `mixrank.components.training.trainer.run_fn`.

    Args:
        examples, transform_graph: outputs of Transform.
        splits: splits of the dataset.
        custom_config: settings for `run_fn`.
        preset: replaces the preset in `custom_config`; empty for the model's defaults.
        base_model: Model to start from, or None.
    """

    SPEC_CLASS = TrainerSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self,
        *,
        examples: Any,
        transform_graph: Any,
        splits: tuple[str, ...],
        custom_config: dict[str, str],
        preset: Any,
        base_model: Any | None = None,
    ) -> None:
        super().__init__(
            TrainerSpec(
                examples=examples,
                transform_graph=transform_graph,
                base_model=base_model,
                train_args=trainer_pb2.TrainArgs(splits=[split for split in splits if split != "eval"]),
                eval_args=trainer_pb2.EvalArgs(splits=["eval"]),
                run_fn="mixrank.components.training.trainer.run_fn",
                custom_config=json.dumps(custom_config),
                preset=preset,
                model=Channel(type=standard_artifacts.Model),
                model_run=Channel(type=standard_artifacts.ModelRun),
            )
        )
