"""ExampleValidator that stops the run: everything wrong with the data is named before anything is trained."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx.components.example_validator import executor
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import Channel, artifact_utils, component_spec, standard_artifacts, standard_component_specs
from tfx.utils import io_utils

from mixrank.components.gates import REPORT, Figures, GateSettings, data_findings, stopping
from mixrank.schemas import Dataset
from mixrank.schemas.files import write_text_atomically

ALLOWED = "allowed.json"


class Executor(executor.Executor):
    """Judges the figures of the log by the gates, validates each split against the schema, and later splits against
    `train` where the spec sets a drift limit.
    """

    def Do(self, input_dict: dict[str, list[Any]], output_dict: dict[str, list[Any]], exec_properties: Any) -> Any:
        """Runs the stock validation, adds drift and gates, and raises if anything was found.

        Raises:
            ValueError: names split, feature, rule and what was seen, one line each.
        """
        result = super().Do(input_dict, output_dict, exec_properties)
        statistics = artifact_utils.get_single_instance(input_dict[standard_component_specs.STATISTICS_KEY])
        splits = artifact_utils.decode_split_names(statistics.split_names)
        schema = io_utils.SchemaReader().read(
            io_utils.get_only_uri_in_dir(artifact_utils.get_single_uri(input_dict["schema"]))
        )
        loaded = {split: stats_artifact_utils.load_statistics(statistics, split).proto() for split in splits}
        found = []
        for split, stats in loaded.items():
            earlier = loaded["train"] if split != "train" and "train" in loaded else None
            anomalies = tfdv.validate_statistics(stats, schema, previous_statistics=earlier)
            found += describe(split, anomalies)
        dataset = Dataset.model_validate_json(exec_properties["dataset"])
        gates = GateSettings.model_validate_json(exec_properties["gates"])
        figures = Path(artifact_utils.get_single_uri(input_dict["examples"])) / REPORT
        findings = data_findings(Figures.model_validate_json(figures.read_bytes()), dataset, gates)
        stops = stopping(findings, gates.allow)
        if found or stops:
            lines = [*(f"  {finding.message}" for finding in stops), *found]
            raise ValueError("the data does not fit what was declared:\n" + "\n".join(lines))
        allowed = [finding.problem for finding in findings]
        for problem in allowed:
            logging.warning("allowed by the config: %s", problem)
        folder = Path(artifact_utils.get_single_uri(output_dict[standard_component_specs.ANOMALIES_KEY]))
        write_text_atomically(folder / ALLOWED, json.dumps(allowed))
        return result


class ExampleValidatorSpec(component_spec.ComponentSpec):
    """Parameters of TFX's own component, the log and its gates, and a fingerprint of the code."""

    PARAMETERS = {
        **standard_component_specs.ExampleValidatorSpec.PARAMETERS,
        "dataset": component_spec.ExecutionParameter(type=str),
        "gates": component_spec.ExecutionParameter(type=str),
        "source": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        **standard_component_specs.ExampleValidatorSpec.INPUTS,
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
    }
    OUTPUTS = standard_component_specs.ExampleValidatorSpec.OUTPUTS


class ExampleValidator(base_component.BaseComponent):
    """TFX component around the executor above.

    Args:
        examples: output of ExampleGen, for the figures beside the rows.
        statistics: output of StatisticsGen.
        schema: output of SchemaGen.
        dataset: declaration of the log.
        gates: bounds, and what is allowed.
        source: fingerprint of the code, so that the cache notices an edit.
    """

    SPEC_CLASS = ExampleValidatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self, *, examples: Any, statistics: Any, schema: Any, dataset: Dataset, gates: GateSettings, source: str
    ) -> None:
        super().__init__(
            ExampleValidatorSpec(
                examples=examples,
                statistics=statistics,
                schema=schema,
                dataset=dataset.model_dump_json(),
                # What a config leaves to the code is known to its fingerprint.
                gates=gates.model_dump_json(exclude_defaults=True),
                source=source,
                exclude_splits="[]",
                anomalies=Channel(type=standard_artifacts.ExampleAnomalies),
            )
        )


def describe(split: str, anomalies: anomalies_pb2.Anomalies) -> list[str]:
    """One line per anomaly: `eval: tab: Out-of-range values (...)`."""
    lines = [
        f"  {split}: {name}: {info.short_description} ({info.description})"
        for name, info in sorted(anomalies.anomaly_info.items())
    ]
    if anomalies.HasField("dataset_anomaly_info"):
        lines.append(f"  {split}: {anomalies.dataset_anomaly_info.description}")
    return lines
