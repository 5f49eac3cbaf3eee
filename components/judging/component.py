"""TFX's Evaluator, for a baseline that may be empty."""

from __future__ import annotations

from typing import Any

from tfx.components.evaluator import component, executor
from tfx.dsl.components.base import executor_spec

from mixrank.components.judging.last_pushed import saved_model


class Executor(executor.Executor):
    """Measures without a baseline where the baseline's artifact holds no model, as before the first push."""

    def Do(self, input_dict: dict[str, list[Any]], output_dict: dict[str, list[Any]], exec_properties: Any) -> None:
        baseline = [model for model in input_dict.get("baseline_model", []) if saved_model(model.uri)]
        super().Do({**input_dict, "baseline_model": baseline}, output_dict, exec_properties)


class Evaluator(component.Evaluator):
    """TFX component with the executor above."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)
