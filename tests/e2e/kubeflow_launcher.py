"""Runs a compiled pipeline without a cluster: what Kubeflow Pipelines' driver and launcher do around each container.

It walks the DAG of the YAML file, resolves parameters and artifacts, writes the `ExecutorInput`, starts the container's
command and takes the `ExecutorOutput` back. As on a cluster, an artifact that is handed on has lost its type and keeps
its numbers as floats. Volumes, images, caching, retries and the object store are not part of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import yaml


class Launcher:
    """One run of a compiled pipeline.

    Args:
        compiled: the YAML file.
        root: folder of the run's artifacts.
        parameters: values of the run.
        processes: tasks that get a process of their own; the others run in this one, through the same entry point.
    """

    def __init__(self, compiled: Path, root: Path, parameters: Mapping[str, str], processes: frozenset[str]) -> None:
        self.spec = next(yaml.safe_load_all(compiled.read_text()))
        self.root, self.processes = root, processes
        declared = self.spec["root"]["inputDefinitions"]["parameters"]
        assert set(parameters) <= set(declared)
        self.parameters = {name: each["defaultValue"] for name, each in declared.items()} | dict(parameters)
        self.tasks = self.spec["root"]["dag"]["tasks"]
        self.outputs: dict[str, dict[str, Any]] = {}
        self.ran: list[str] = []

    def run_all(self) -> None:
        """Every task, as soon as the tasks before it have ended."""
        while len(self.outputs) < len(self.tasks):
            ready = [
                name
                for name, task in self.tasks.items()
                if name not in self.outputs and set(task.get("dependentTasks", ())) <= set(self.outputs)
            ]
            assert ready, "the tasks wait for each other"
            for name in ready:
                self.run(name)

    def run(self, name: str) -> dict[str, Any]:
        """One task; returns output -> artifact."""
        task = self.tasks[name]
        component = self.spec["components"][task["componentRef"]["name"]]
        container = self.spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        folder = self.root / f"{len(self.ran):02d}-{name}"
        invocation = self._invocation(task, component, folder)
        arguments = [part.replace("{{$}}", json.dumps(invocation)) for part in container["args"]]
        (folder / "invocation.json").write_text(json.dumps(invocation, indent=1))
        self._start(name, container["command"], arguments, folder)
        produced = json.loads(Path(invocation["outputs"]["outputFile"]).read_text())["artifacts"]
        self.outputs[name] = {
            key: {
                "name": f"{name}.{key}.{len(self.ran)}",
                "uri": listed["artifacts"][0]["uri"],
                "metadata": listed["artifacts"][0].get("metadata", {}),
            }
            for key, listed in produced.items()
        }
        assert set(self.outputs[name]) == set(component["outputDefinitions"]["artifacts"])
        self.ran.append(name)
        return self.outputs[name]

    def _invocation(self, task: dict[str, Any], component: dict[str, Any], folder: Path) -> dict[str, Any]:
        folder.mkdir(parents=True)
        values = {name: self._value(each) for name, each in task.get("inputs", {}).get("parameters", {}).items()}
        sources = {
            name: each["taskOutputArtifact"] for name, each in task.get("inputs", {}).get("artifacts", {}).items()
        }
        taken = {
            name: self.outputs[source["producerTask"]][source["outputArtifactKey"]] for name, source in sources.items()
        }
        made = {
            name: {
                "name": f"{folder.name}.{name}",
                "uri": str(folder / name),
                "type": each["artifactType"],
                "metadata": {},
            }
            for name, each in component["outputDefinitions"]["artifacts"].items()
        }
        return {
            "inputs": {"parameterValues": values, "artifacts": _listed(taken)},
            "outputs": {"artifacts": _listed(made), "outputFile": str(folder / "outputs" / "output_metadata.json")},
        }

    def _value(self, given: dict[str, Any]) -> Any:
        if "componentInputParameter" in given:
            return self.parameters[given["componentInputParameter"]]
        return given["runtimeValue"]["constant"]

    def _start(self, name: str, command: list[str], arguments: list[str], folder: Path) -> None:
        assert command == ["python", "-m", "mixrank.pipeline.kubeflow.step"]
        if name not in self.processes:
            from mixrank.pipeline.kubeflow import step

            # TFX reads flags from the command line of the process.
            with mock.patch.object(sys, "argv", [*command[2:], *arguments]):
                step.main(arguments)
            return
        with (folder / "log.txt").open("w") as log:
            done = subprocess.run(
                [sys.executable, *command[1:], *arguments], stdout=log, stderr=subprocess.STDOUT, check=False
            )
        assert done.returncode == 0, (folder / "log.txt").read_text()[-3000:]


def _listed(artifacts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: {"artifacts": [artifact]} for name, artifact in artifacts.items()}
