"""`mixrank submit`: a config as a run, or a recurring run, on Kubeflow Pipelines."""

from __future__ import annotations

import os
import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixrank.pipeline.commands.terminal import console, errors, guarded, needs

if TYPE_CHECKING:
    from mixrank.pipeline.kubeflow import Kubeflow, RunState

TOKEN = "MIXRANK_KFP_TOKEN"


@guarded
@needs("pipeline")
def submit(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped config.")],
    host: Annotated[str, typer.Option(help="API of Kubeflow Pipelines, such as http://localhost:8888.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override in the config before it is compiled; repeatable.")
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option("--param", help="Runtime parameter name=value; repeatable.")
    ] = None,
    spec: Annotated[Path | None, typer.Option(help="A compiled pipeline, in place of compiling the config.")] = None,
    recurring: Annotated[
        str | None, typer.Option(metavar="CRON", help="Schedule it: six fields, seconds first, such as '0 0 3 * * *'.")
    ] = None,
    experiment: Annotated[str | None, typer.Option(help="Experiment; the config's name if left out.")] = None,
    namespace: Annotated[str | None, typer.Option(help="Namespace of a multi-user installation.")] = None,
    pipeline_root: Annotated[str | None, typer.Option(help="Where the run's artifacts go.")] = None,
    service_account: Annotated[str | None, typer.Option(help="Service account of the run's pods.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help=f"File with the bearer token; without it, the variable {TOKEN} if it is set.")
    ] = None,
    ca_file: Annotated[Path | None, typer.Option(help="Certificates of a private authority.")] = None,
    wait: Annotated[bool, typer.Option(help="Follow the run to its end.")] = True,
    every: Annotated[float, typer.Option(help="Seconds between two looks at the run.", min=0.1)] = 10.0,
) -> None:
    """Upload a pipeline to Kubeflow Pipelines, start or schedule it, and follow the run."""
    from mixrank.pipeline.config import load_config
    from mixrank.pipeline.kubeflow import CompiledSpec

    settings = load_config(config, overrides or [])
    if not re.match(r"https?://[^/]", host):
        raise ValueError(f"--host is an address such as http://localhost:8888, received {host!r}")
    if recurring is not None and len(recurring.split()) != 6:
        raise ValueError(
            f"--recurring takes six fields, seconds first, such as '0 0 3 * * *' for 03:00 every day; "
            f"received {recurring!r}"
        )
    for option, file in (("--token-file", token_file), ("--ca-file", ca_file)):
        if file is not None and not file.is_file():
            raise ValueError(f"{option} {file} does not exist")
    if spec is not None and overrides:
        raise ValueError("--set changes what is compiled; with --spec nothing is")
    from mixrank.pipeline.kubeflow import Kubeflow, WantedRun

    # Before compiling, which takes longer than to find out that nobody is there.
    service = Kubeflow(
        host,
        namespace=namespace,
        token=None if token_file else os.environ.get(TOKEN),
        token_file=token_file,
        ca_file=ca_file,
    )
    with tempfile.TemporaryDirectory() as folder:
        if spec is None:
            errors.print("compiling; this loads TensorFlow and TFX ...", style="dim")
            from mixrank.pipeline.kubeflow import compile_pipeline

            spec = compile_pipeline(settings, Path(folder) / f"{settings.name}.yaml")
        compiled = CompiledSpec.load(spec)
        parameters = compiled.values(param or [])
        version = service.upload(spec, compiled.name)
    console.print(f"{'uploaded' if version.uploaded else 'unchanged'}: version {version.name}", soft_wrap=True)
    wanted = WantedRun(
        version,
        settings.name if recurring else f"{settings.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}",
        experiment or settings.name,
        parameters,
        pipeline_root,
        service_account,
    )
    if recurring:
        made, replaced = service.schedule(wanted, recurring)
        again = f", in place of {replaced} earlier" if replaced else ""
        console.print(f"scheduled: {settings.name} at {recurring!r} (UTC){again}; id {made}", soft_wrap=True)
        console.print(f"next:\n  {service.host}/#/recurringruns   # its runs, and where it is paused", soft_wrap=True)
        return
    run = service.start(wanted)
    console.print(f"started: {service.link(run)}", soft_wrap=True)
    if not wait:
        console.print(f"next:\n  kfp --endpoint {service.host} run get {run}   # how it is doing", soft_wrap=True)
        return
    _finish(_follow(service, run, compiled.tasks, every), service.link(run))


def _follow(service: Kubeflow, run: str, tasks: tuple[str, ...], every: float) -> RunState:
    from mixrank.pipeline.kubeflow import KubeflowError, follow

    try:
        return follow(service, run, tasks, console, every=every)
    except KeyboardInterrupt:
        errors.print(f"interrupted; the run goes on: {service.link(run)}", soft_wrap=True)
        raise typer.Exit(130) from None
    except KubeflowError as error:
        raise ValueError(f"{error}; the run may go on: {service.link(run)}") from None


def _finish(state: RunState, link: str) -> None:
    if state.state == "SUCCEEDED":
        console.print(f"succeeded: {link}", soft_wrap=True)
        console.print(
            "next:\n  mixrank rollout canary BASE   # the new version on trial, if it was pushed", soft_wrap=True
        )
        return
    failed = [task for task in state.tasks if task.state == "FAILED"]
    reasons = [f"{task.name}: {task.error}" if task.error else task.name for task in failed]
    why = "; ".join(reasons) or state.error or "no task says why"
    raise ValueError(f"the run ended as {state.state.lower()} ({' '.join(why.split())}); its logs: {link}")
