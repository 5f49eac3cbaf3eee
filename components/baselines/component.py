"""The baselines as a step of the pipeline: what a model must beat is known before it is judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import Channel, artifact_utils, component_spec, standard_artifacts

from mixrank.components.baselines.score_files import ADDITIVE, BOOSTED_TREES
from mixrank.components.baselines.scores import fit_additive, fit_boosted_trees
from mixrank.schemas import Dataset


class Executor(base_executor.BaseExecutor):
    """Writes the additive baseline's scores of the evaluation rows, and those of boosted trees if they are wanted."""

    def Do(self, input_dict: dict[str, list[Any]], output_dict: dict[str, list[Any]], exec_properties: Any) -> None:
        dataset = Dataset.model_validate_json(exec_properties["dataset"])
        examples = artifact_utils.get_single_instance(input_dict["examples"])
        folder = Path(artifact_utils.get_single_uri(output_dict["scores"]))
        folder.mkdir(parents=True, exist_ok=True)
        splits = exec_properties["splits"].split(",")
        known = artifact_utils.decode_split_names(examples.split_names)
        patterns = {split: artifact_utils.get_split_uri([examples], split) + "/*" for split in known}
        fit_additive(dataset.spec, patterns, splits, folder / ADDITIVE)
        if exec_properties["boosted_trees"]:
            fit_boosted_trees(dataset, patterns, splits, folder / BOOSTED_TREES)


class BaselinesSpec(component_spec.ComponentSpec):
    """Input, output and parameters of `Baselines`."""

    PARAMETERS = {
        "dataset": component_spec.ExecutionParameter(type=str),
        "splits": component_spec.ExecutionParameter(type=str),
        "boosted_trees": component_spec.ExecutionParameter(type=int),
        "source": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {"examples": component_spec.ChannelParameter(type=standard_artifacts.Examples)}
    OUTPUTS = {"scores": component_spec.ChannelParameter(type=standard_artifacts.InferenceResult)}


class Baselines(base_component.BaseComponent):
    """TFX component with the output `scores`: a file of scores per baseline.

    Args:
        examples: output of ExampleGen.
        dataset: declaration of the log.
        splits: those that the model is trained on.
        boosted_trees: whether trees are grown besides, which takes minutes.
        source: fingerprint of the code, so that the cache notices an edit.
    """

    SPEC_CLASS = BaselinesSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self, *, examples: Any, dataset: Dataset, splits: tuple[str, ...], boosted_trees: bool, source: str
    ) -> None:
        super().__init__(
            BaselinesSpec(
                examples=examples,
                dataset=dataset.model_dump_json(),
                splits=",".join(splits),
                boosted_trees=int(boosted_trees),
                source=source,
                scores=Channel(type=standard_artifacts.InferenceResult),
            )
        )
