"""`mixrank compile` and `mixrank submit`: a config as a pipeline, once or recurring, on Kubeflow Pipelines."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixrank.pipeline.commands.terminal import Config, arguments, console, errors, guarded, needs
from mixrank.schemas.safe_text import shown

if TYPE_CHECKING:
    from mixrank.pipeline.config import RunConfig
    from mixrank.pipeline.kubeflow import Kubeflow, RunState, WantedRun

TOKEN = "MIXRANK_KFP_TOKEN"

Host = Annotated[str, typer.Option(help="API of Kubeflow Pipelines, such as http://localhost:8888.")]
Parameters = Annotated[
    list[str] | None, typer.Option("--param", help="Set a runtime parameter, name=value; repeatable.")
]
Spec = Annotated[Path | None, typer.Option(help="Compiled pipeline to submit (default: compile the config).")]
Cron = Annotated[
    str | None, typer.Option(metavar="CRON", help="Schedule the run: six fields, seconds first, such as '0 0 3 * * *'.")
]
Experiment = Annotated[str | None, typer.Option(help="Experiment (default: the config's name).")]
Namespace = Annotated[str | None, typer.Option(help="Namespace of a multi-user installation.")]
Root = Annotated[str | None, typer.Option(help="Folder of the run's artifacts (default: as compiled).")]
ServiceAccount = Annotated[str | None, typer.Option(help="Service account of the run's pods.")]
TokenFile = Annotated[Path | None, typer.Option(help=f"File with the bearer token (default: the variable {TOKEN}).")]
CaFile = Annotated[Path | None, typer.Option(help="File with the certificates of a private authority.")]
Wait = Annotated[bool, typer.Option(help="Follow the run to its end.")]
Days = Annotated[bool, typer.Option("--days", help="The pipeline that takes new days (`mixrank advance`), not a run.")]
Every = Annotated[float, typer.Option(help="Seconds between checks of the run.", min=0.1)]


@guarded
@needs("pipeline")
def compile_spec(
    config: Config,
    output: Annotated[
        Path | None,
        typer.Option(
            help="File to write (default: NAME.yaml or NAME-days.yaml in kubeflow/compiled).", show_default=False
        ),
    ] = None,
    days: Days = False,
    check: Annotated[
        bool, typer.Option("--check", help="Compare with the file, for the image that it names, and write nothing.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a value of the config, such as kubeflow.trainer.gpus=1; repeatable."),
    ] = None,
) -> None:
    """Compile the pipeline of a config for Kubeflow Pipelines (pipeline spec 2.1, YAML)."""
    from mixrank.pipeline.config import load_config

    settings = load_config(config, overrides or [])
    # What is wrong is said at once, before TensorFlow is imported.
    settings.load_dataset()
    output = output or Path("kubeflow/compiled") / f"{settings.name}{'-days' if days else ''}.yaml"
    errors.print("loading TensorFlow and TFX ...", style="dim")
    from mixrank.pipeline.kubeflow import compile_pipeline, compiled, image_of

    if check:
        image = image_of(output)
        given = [*(overrides or []), f"kubeflow.image={image}"]
        settings = load_config(config, given)
        if output.read_text() != compiled(settings, days):
            raise ValueError(
                f"{output} is not what {config} compiles to; refresh it: "
                f"mixrank compile {arguments(config, given)}{' --days' if days else ''} --output {output}"
            )
        console.print(f"{output} is up to date", soft_wrap=True)
        return
    compile_pipeline(settings, output, days)
    image = image_of(output)
    console.print(f"wrote {output}, with image {image}", soft_wrap=True)
    console.print(
        f"next:\n  docker build -f kubeflow/Dockerfile --target cpu -t {image} .   # or --target gpu\n"
        f"  mixrank submit {config} --host http://localhost:8888 --spec {output}",
        soft_wrap=True,
    )


@guarded
@needs("pipeline")
def submit(
    config: Config,
    host: Host,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a value of the config before it is compiled; repeatable."),
    ] = None,
    days: Days = False,
    param: Parameters = None,
    spec: Spec = None,
    recurring: Cron = None,
    experiment: Experiment = None,
    namespace: Namespace = None,
    pipeline_root: Root = None,
    service_account: ServiceAccount = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
    wait: Wait = True,
    every: Every = 10.0,
) -> None:
    """Upload a pipeline to Kubeflow Pipelines, start or schedule it, and follow the run."""
    from mixrank.pipeline.config import load_config

    settings = load_config(config, overrides or [])
    _check(host, recurring, {"--token-file": token_file, "--ca-file": ca_file})
    for option, unread in {"--set changes": overrides, "--days chooses": days}.items():
        if spec is not None and unread:
            raise ValueError(f"{option} what is compiled; with --spec nothing is")
    from mixrank.pipeline.kubeflow import CompiledSpec, Kubeflow, WantedRun

    # Before compiling, because an unreachable host is noticed sooner.
    token = None if token_file else os.environ.get(TOKEN)
    service = Kubeflow(host, namespace=namespace, token=token, token_file=token_file, ca_file=ca_file)
    with _compiled(settings, spec, days) as file:
        compiled = CompiledSpec.load(file)
        parameters = compiled.values(param or [])
        version = service.upload(file, compiled.name)
    console.print(f"{'uploaded' if version.uploaded else 'unchanged'}: version {version.name}", soft_wrap=True)
    name = f"{settings.name}-days" if days else settings.name
    wanted = WantedRun(
        version,
        name if recurring else f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}",
        experiment or settings.name,
        parameters,
        pipeline_root,
        service_account,
    )
    if recurring:
        _schedule(service, wanted, recurring)
        return
    run = service.start(wanted)
    console.print(f"started: {service.link(run)}", soft_wrap=True)
    if wait:
        _finish(_follow(service, run, compiled.tasks, every), service.link(run))
    else:
        console.print(f"next:\n  kfp --endpoint {service.host} run get {run}   # how it is doing", soft_wrap=True)


def _check(host: str, recurring: str | None, files: Mapping[str, Path | None]) -> None:
    """Refuses options that cannot work, before anything is loaded or asked."""
    if not re.match(r"https?://[^/]", host):
        raise ValueError(f"--host is an address such as http://localhost:8888, received {shown(host)}")
    if recurring is not None and len(recurring.split()) != 6:
        raise ValueError(
            f"--recurring takes six fields, seconds first, such as '0 0 3 * * *' for 03:00 every day; "
            f"received {shown(recurring)}"
        )
    for option, file in files.items():
        if file is not None and not file.is_file():
            raise ValueError(f"{option} {file} does not exist")


@contextmanager
def _compiled(settings: RunConfig, spec: Path | None, days: bool) -> Iterator[Path]:
    """The compiled pipeline that was given, or that of the config for as long as it is needed."""
    if spec is not None:
        yield spec
        return
    errors.print("compiling; this loads TensorFlow and TFX ...", style="dim")
    from mixrank.pipeline.kubeflow import compile_pipeline

    with tempfile.TemporaryDirectory() as folder:
        yield compile_pipeline(settings, Path(folder) / f"{settings.name}.yaml", days)


def _schedule(service: Kubeflow, wanted: WantedRun, recurring: str) -> None:
    made, replaced = service.schedule(wanted, recurring)
    again = f", in place of {replaced} earlier" if replaced else ""
    console.print(f"scheduled: {wanted.name} at {recurring!r} (UTC){again}; id {made}", soft_wrap=True)
    console.print(f"next:\n  {service.host}/#/recurringruns   # its runs, and where it is paused", soft_wrap=True)


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
