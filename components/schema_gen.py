"""The TFMD schema of a feature spec, as an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import Channel, artifact_utils, component_spec, standard_artifacts

from mixrank.schemas import FeatureSpec, tfmd
from mixrank.schemas.files import write_text_atomically


class Executor(base_executor.BaseExecutor):
    """Writes `schema.pbtxt`, the file name that TFX's own components expect."""

    def Do(self, input_dict: dict[str, list[Any]], output_dict: dict[str, list[Any]], exec_properties: Any) -> None:
        folder = Path(artifact_utils.get_single_uri(output_dict["schema"]))
        folder.mkdir(parents=True, exist_ok=True)
        text = tfmd.as_text(FeatureSpec.from_json(exec_properties["spec"]))
        write_text_atomically(folder / "schema.pbtxt", text)


class SchemaGenSpec(component_spec.ComponentSpec):
    """Parameters and output of `SchemaGen`."""

    PARAMETERS = {
        "spec": component_spec.ExecutionParameter(type=str),
        "source": component_spec.ExecutionParameter(type=str),
    }
    INPUTS: dict[str, Any] = {}
    OUTPUTS = {"schema": component_spec.ChannelParameter(type=standard_artifacts.Schema)}


class SchemaGen(base_component.BaseComponent):
    """TFX component with the output `schema`; nothing is inferred, the spec defines everything.

    Args:
        spec: columns of a row.
        source: fingerprint of the code, so that the cache notices an edit.
    """

    SPEC_CLASS = SchemaGenSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, *, spec: FeatureSpec, source: str) -> None:
        super().__init__(
            SchemaGenSpec(spec=spec.to_json(), source=source, schema=Channel(type=standard_artifacts.Schema))
        )
