"""A pipeline that takes the new days of a log, for a schedule: `mixrank advance`, in one step.

One pod has the run folder on the volume, in which days wait for each other; a schedule that failed or paused is caught
up with by the next run. There is nothing to split: a day's steps are short, and each resumes by itself.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml

from mixrank.pipeline.config import RunConfig

TASK = "advance"
NAMES = ("data", "push_to", "until", "redo")


def days_spec(config: RunConfig, image: str, parameters: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """The pipeline spec, as the kfp SDK compiles it.

    Args:
        config: what the days are of; a JSON text of it travels with the step.
        image: of the step.
        parameters: name -> default and description, those of `run_parameters`.
    """
    from kfp import compiler, dsl

    settings = config.model_dump_json(exclude={"kubeflow", "compare"}, exclude_defaults=True)

    def advance(data: str, push_to: str, until: str, redo: str) -> Any:
        return dsl.ContainerSpec(
            image=image,
            command=["python", "-m", "mixrank.pipeline.kubeflow.day_step"],
            args=[
                *("--config", settings, "--output", config.kubeflow.mount),
                *("--data", data, "--push-to", push_to, "--until", until, "--redo", redo),
            ],
        )

    advance.__name__ = TASK
    # The SDK reads types, and not their names.
    advance.__annotations__ = dict.fromkeys(NAMES, str)
    step = dsl.container_component(advance)

    def days(data: str, push_to: str, until: str, redo: str) -> None:
        step(data=data, push_to=push_to, until=until, redo=redo)

    days.__annotations__ = dict.fromkeys(NAMES, str)
    days.__defaults__ = tuple(parameters[name][0] for name in NAMES)
    pipeline = dsl.pipeline(name=f"{config.name.lower().replace('_', '-')}-days")(days)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "days.yaml"
        compiler.Compiler().compile(pipeline, str(file))
        spec: dict[str, Any] = next(yaml.safe_load_all(file.read_text()))
    return spec


def day_parameters(parameters: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Runtime parameters: those of a run that a day has as well, and which days."""
    return {
        "data": parameters["data"],
        "push_to": parameters["push_to"],
        "until": ("", "Last day to take, such as 2022-05-06; empty for all."),
        "redo": ("", "Day to take back, with all after it, and to do again; empty for none."),
    }
