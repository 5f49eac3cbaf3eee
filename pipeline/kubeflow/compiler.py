"""The pipeline of a config for Kubeflow Pipelines: a pipeline spec (schema 2.1), as YAML.

TFX compiles the components; settings that it cannot express (retries, resources, caching per step, defaults of a run's
parameters, volumes and node selectors) are added to the document in the form that the kfp SDK writes.
"""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from mixrank.pipeline.config import KubeflowSettings, RunConfig, TrainerResources
from mixrank.pipeline.kubeflow.day_pipeline import TASK, day_parameters, days_spec
from mixrank.schemas import Dataset, SplitByDay
from mixrank.schemas.files import write_text_atomically
from mixrank.schemas.stores import is_url

CHECKOUT = Path(__file__).parents[3]
# Steps whose result may differ between two runs with equal parameters.
UNCACHED = {"ExampleGen", "LastPushed", TASK}
# An installation may be busy for minutes, not for hours.
BACKOFF = {"backoffDuration": "30s", "backoffFactor": 2.0, "backoffMaxDuration": "600s"}


def compile_pipeline(config: RunConfig, output: Path, days: bool = False) -> Path:
    """Compiles a config.

    Args:
        config: the run.
        output: file to write, ending in .yaml.
        days: as in `compiled`.

    Returns:
        `output`.

    Raises:
        ValueError: if the ending is another, which the API would refuse, or the config is wrong or names a file.
    """
    if output.suffix not in (".yaml", ".yml"):
        raise ValueError(f"--output must end in .yaml, since Kubeflow Pipelines takes no other file; received {output}")
    text = compiled(config, days)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(output, text)
    return output


def compiled(config: RunConfig, days: bool = False) -> str:
    """The two YAML documents: the pipeline spec, and what only Kubernetes understands.

    The same config and image give the same text on every machine.

    Args:
        config: the run.
        days: whether the pipeline takes the new days of the log (`mixrank advance`) in place of a run.
    """
    settings = config.kubeflow
    outside = {"model.name": config.model.name, **{f"train.loss.{t}": name for t, name in config.train.losses.items()}}
    for key, reference in outside.items():
        if reference.endswith(".py"):
            raise ValueError(
                f"`{key}` is the file {reference}, which no image holds: install it in the image as a package and give "
                "its dotted path"
            )
    image = settings.image or image_name()
    dataset = config.load_dataset()
    parameters = run_parameters(config, dataset)
    if days:
        if "split_days" not in parameters:
            raise ValueError(f"dataset {config.dataset} is not split by day (SplitByDay), so that it has no new days")
        parameters = day_parameters(parameters)
        spec, trainer = days_spec(config, image, parameters), TASK
    else:
        spec, trainer = _compiled_by_tfx(config, dataset, image, parameters), "Trainer"
    spec["defaultPipelineRoot"] = settings.pipeline_root
    for name, definition in spec["root"]["inputDefinitions"]["parameters"].items():
        default, description = parameters[name]
        definition |= {"defaultValue": default, "isOptional": True, "description": description}
    executors = spec["deploymentSpec"]["executors"]
    for name, task in spec["root"]["dag"]["tasks"].items():
        cached = settings.caching and (name not in UNCACHED or (name == "ExampleGen" and settings.frozen_data))
        task["cachingOptions"] = {"enableCache": cached} if cached else {}
        if settings.retries:
            task["retryPolicy"] = {"maxRetryCount": settings.retries, **BACKOFF}
        container = executors[spec["components"][task["componentRef"]["name"]]["executorLabel"]]["container"]
        # The driver that fingerprints raw files; open-source Kubeflow Pipelines never calls it.
        container.pop("lifecycle", None)
        if name == trainer and (resources := _resources(settings.trainer)):
            container["resources"] = resources
    platform = {}
    for name, task in spec["root"]["dag"]["tasks"].items():
        label = spec["components"][task["componentRef"]["name"]]["executorLabel"]
        platform[label] = _pod(settings, name == trainer)
    documents = [spec, {"platforms": {"kubernetes": {"deploymentSpec": {"executors": platform}}}}]
    return _comment(config, parameters) + yaml.dump_all(documents, Dumper=_Readable, sort_keys=True, width=120)


class _Readable(yaml.SafeDumper):
    """Writes a text of several lines as such."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _text)


def image_name() -> str:
    """The image that holds this code: `mixrank:VERSION-COMMIT`, and `-dirty` if tracked files differ from the commit.

    Outside of a git checkout the installed version says which code it is: `mixrank:VERSION`.
    """
    tag = version("mixrank")
    if (CHECKOUT / ".git").exists():
        tag += f"-{_git('rev-parse', '--short=12', 'HEAD')}"
        tag += "-dirty" if _git("status", "--porcelain", "--untracked-files=no") else ""
    return f"mixrank:{tag}"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(CHECKOUT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def image_of(spec: Path) -> str:
    """The image that a compiled pipeline names.

    Raises:
        ValueError: if the file does not exist or holds no compiled pipeline.
    """
    if not spec.is_file():
        raise ValueError(f"{spec} does not exist; `mixrank compile` writes it")
    try:
        executors = next(yaml.safe_load_all(spec.read_text()))["deploymentSpec"]["executors"]
        # All steps have the same.
        return str(next(iter(executors.values()))["container"]["image"])
    except (yaml.YAMLError, KeyError, TypeError, StopIteration):
        raise ValueError(f"{spec} is not a compiled pipeline") from None


def run_parameters(config: RunConfig, dataset: Dataset) -> dict[str, tuple[str, str]]:
    """Runtime parameters, which a run may set without recompiling: name -> default and description."""
    settings, home = config.kubeflow, PurePosixPath(config.kubeflow.mount)

    def place(value: str) -> str:
        return value if is_url(value) else str(home / value)

    parameters = {
        "data": (place(settings.data or f"data/{config.dataset}"), "Folder or address of the raw files."),
        "preset": (config.model.preset or "", f"Preset of {config.model.name}; empty for the model's defaults."),
        "push_to": (
            place(config.push_to or f"{config.name}/serving/{config.name}"),
            "Folder or address of the pushed versions.",
        ),
    }
    if isinstance(split := dataset.source.split, SplitByDay):
        parameters["split_days"] = (
            json.dumps(split.splits),
            "Split -> first and last day, both included, as JSON.",
        )
    return parameters


def _compiled_by_tfx(
    config: RunConfig, dataset: Dataset, image: str, parameters: dict[str, tuple[str, str]]
) -> dict[str, Any]:
    from tfx import v1 as tfx
    from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner as kubeflow

    from mixrank.pipeline.pipeline import Target, create_pipeline

    def parameter(name: str) -> Any:
        return tfx.dsl.experimental.RuntimeParameter(name=name, ptype=str)

    target = Target(
        name=config.name.lower().replace("_", "-"),
        root=config.kubeflow.pipeline_root,
        data=parameter("data"),
        split_days=parameter("split_days") if "split_days" in parameters else "",
        preset=parameter("preset"),
        checkpoints=Path(config.kubeflow.mount) / config.name / "checkpoints",
        push_to=parameter("push_to"),
        pushed="",
        # The image fixes the code.
        source=lambda *modules: image,
        beam=config.beam,
        metadata=None,
    )
    runner = kubeflow.KubeflowV2DagRunner(
        config=kubeflow.KubeflowV2DagRunnerConfig(
            default_image=image,
            default_commands=["python", "-m", "mixrank.pipeline.kubeflow.step"],
            use_pipeline_spec_2_1=True,
        )
    )
    job: dict[str, Any] = runner.run(create_pipeline(config, dataset, target), write_out=False)
    return job["pipelineSpec"]


def _resources(trainer: TrainerResources) -> dict[str, Any]:
    """A `ResourceSpec`: the texts for new installations, the numbers for those that know no texts."""
    from kfp.compiler import compiler_utils

    resources: dict[str, Any] = {}
    if trainer.cpus is not None:
        resources |= {"resourceCpuLimit": trainer.cpus, "cpuLimit": compiler_utils._cpu_to_float(trainer.cpus)}
    if trainer.memory is not None:
        number = compiler_utils._memory_to_float(trainer.memory)
        resources |= {"resourceMemoryLimit": trainer.memory, "memoryLimit": number}
    if trainer.gpus:
        resources["accelerator"] = {
            "resourceType": trainer.accelerator,
            "resourceCount": str(trainer.gpus),
            "type": trainer.accelerator,
            "count": str(trainer.gpus),
        }
    return resources


def _pod(settings: KubeflowSettings, trainer: bool) -> dict[str, Any]:
    """A `KubernetesExecutorConfig`, as the package kfp-kubernetes writes it."""
    pod: dict[str, Any] = {"pvcMount": [{"constant": settings.volume, "mountPath": settings.mount}]}
    if settings.run_as_user is not None:
        user = str(settings.run_as_user)
        pod["securityContext"] = {"runAsUser": user, "runAsGroup": user, "runAsNonRoot": True}
    if settings.secrets:
        pod["secretAsEnv"] = [
            {"secretName": secret, "keyToEnv": [{"secretKey": key, "envVar": variable}]}
            for variable, (secret, key) in ((name, each.split("/")) for name, each in sorted(settings.secrets.items()))
        ]
    labels = {**settings.node_selector, **(settings.trainer.node_selector if trainer else {})}
    if labels:
        pod["nodeSelector"] = {"labels": labels}
    return pod


def _comment(config: RunConfig, parameters: dict[str, tuple[str, str]]) -> str:
    lines = [f"mixrank {config.name}: {config.model.name} on {config.dataset}", "Parameters of a run:"]
    lines += [f"  {name}: {description} [{default}]" for name, (default, description) in sorted(parameters.items())]
    return "".join(f"# {line}\n" for line in lines)
