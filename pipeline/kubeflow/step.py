"""One step of a compiled pipeline, inside its container: `python -m mixrank.pipeline.kubeflow.step ...`.

TFX's own entry point was made for Vertex AI. Open-source Kubeflow Pipelines differs in two ways, handled here:
it does not name the types of input artifacts, and it keeps artifacts in an object store, which its launcher copies to
local folders before the step and back after it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mixrank.pipeline.named_secrets import resolve
from mixrank.schemas import stores
from mixrank.schemas.files import write_text_atomically

# Where the launcher of Kubeflow Pipelines stages an artifact.
STAGED = {"minio://": "/minio/", "s3://": "/s3/", "gs://": "/gcs/"}


def main(arguments: Sequence[str]) -> None:
    """Runs the executor of one component.

    Args:
        arguments: --executor_class_path, --json_serialized_invocation_args (an `ExecutorInput`),
            --json_serialized_inputs_spec_args (a `ComponentInputsSpec`), then options of Beam.
    """
    parser = argparse.ArgumentParser(prog="mixrank.pipeline.kubeflow.step")
    for name in ("executor_class_path", "json_serialized_invocation_args", "json_serialized_inputs_spec_args"):
        parser.add_argument(f"--{name}", required=True)
    parsed, beam = parser.parse_known_args(arguments)
    invocation = json.loads(parsed.json_serialized_invocation_args)
    staged = localise(invocation, json.loads(parsed.json_serialized_inputs_spec_args))
    parsed.json_serialized_invocation_args = json.dumps(invocation)

    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor

    options = resolve(beam)
    stores.configure(options)
    kubeflow_v2_run_executor.main((parsed, options))
    publish(Path(invocation["outputs"]["outputFile"]), staged)


def localise(invocation: dict[str, Any], inputs: dict[str, Any]) -> dict[str, str]:
    """Makes an `ExecutorInput` fit for TFX: local folders, and a type and a name for every artifact.

    Args:
        invocation: the `ExecutorInput`; changed in place.
        inputs: the `ComponentInputsSpec`, which knows the types of the inputs.

    Returns:
        Local folder -> address in the object store.
    """
    staged: dict[str, str] = {}
    for name, artifact in _artifacts(invocation.get("inputs", {})):
        artifact.setdefault("type", inputs["artifacts"][name]["artifactType"])
    for side in ("inputs", "outputs"):
        for _, artifact in _artifacts(invocation.get(side, {})):
            uri = artifact["uri"]
            # TFX tells artifacts apart by their names.
            artifact.setdefault("name", uri)
            for scheme, folder in STAGED.items():
                if uri.startswith(scheme):
                    artifact["uri"] = folder + uri.removeprefix(scheme)
                    staged[artifact["uri"]] = uri
    return staged


def publish(output: Path, staged: dict[str, str]) -> None:
    """Puts the addresses in the object store back into an `ExecutorOutput`.

    Args:
        output: its file.
        staged: as `localise` returned it.
    """
    produced = json.loads(output.read_text())
    for _, artifact in _artifacts(produced):
        artifact["uri"] = staged.get(artifact["uri"], artifact["uri"])
    write_text_atomically(output, json.dumps(produced))


def _artifacts(holder: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, listed in holder.get("artifacts", {}).items():
        for artifact in listed.get("artifacts", ()):
            yield name, artifact


if __name__ == "__main__":
    main(sys.argv[1:])
