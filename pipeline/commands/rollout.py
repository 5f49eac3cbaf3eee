"""`mixrank deploy` and `mixrank rollout`; neither needs TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mixrank.pipeline.commands.terminal import Unverified, console, errors, guarded, needs

if TYPE_CHECKING:
    from mixrank.serving.rollout import Golden, Rollout

app = typer.Typer(no_args_is_help=True, add_completion=False)

Base = Annotated[Path, typer.Argument(help="The model's folder of versions, such as runs/kuairand/serving/kuairand.")]
Config = Annotated[Path | None, typer.Option("--config", help="The server's models.config (default: the one in BASE).")]
Name = Annotated[str | None, typer.Option("--name", help="Name of the model (default: the name of BASE).")]
BasePath = Annotated[
    str | None, typer.Option(help="BASE as the server sees it, for a models.config that lacks the model.")
]
Url = Annotated[
    str | None, typer.Option("--url", help="REST address of the server to wait for, such as http://localhost:8501.")
]
Wait = Annotated[float, typer.Option("--wait", help="Seconds to wait for the server at each step.")]
GoldenFile = Annotated[
    Path | None, typer.Option("--golden", help="File of golden rows (default: the one inside the version).")
]
Tolerance = Annotated[float, typer.Option("--tolerance", help="Maximum difference from a golden score.")]
Unchecked = Annotated[bool, typer.Option("--unchecked", help="Send no golden rows.")]
Keep = Annotated[
    int | None,
    typer.Option(
        "--keep",
        help="Number of newest versions to keep; labelled and loaded ones stay too (default: all).",
    ),
]


@app.callback()
def rollout() -> None:
    """Roll out versions of a served model: push, canary, promote, rollback, status."""


@guarded
@needs("pipeline")
def deploy(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of versions, or single versions.")],
    output: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")] = Path("deploy"),
    model_name: Annotated[
        list[str] | None, typer.Option(help="Name of the model, once per DIR (default: the folder's name).")
    ] = None,
    grpc_port: Annotated[int, typer.Option(help="gRPC port on the host.")] = 8500,
    rest_port: Annotated[int, typer.Option(help="REST port on the host.")] = 8501,
    publish: Annotated[
        str, typer.Option(help="Address of this machine on which the ports are published; 0.0.0.0 is all of them.")
    ] = "127.0.0.1",
    image: Annotated[str | None, typer.Option(help="Image of TensorFlow Serving, with its tag or digest.")] = None,
    batch_size: Annotated[int, typer.Option(help="Maximum rows per batch; 0 turns batching off.")] = 0,
    batch_timeout: Annotated[
        float, typer.Option(help="Milliseconds that a request waits for others to join its batch.")
    ] = 2.0,
    unverified: Unverified = False,
) -> None:
    """Write what TensorFlow Serving needs to serve pushed models: configuration, flags, docker run, compose."""
    from mixrank.serving import rollout as deployment
    from mixrank.serving.base import check_sums

    if model_name and len(model_name) != len(folders):
        raise ValueError(f"--model-name is given {len(model_name)} times for {len(folders)} folders")
    names: Sequence[str | None] = model_name or [None] * len(folders)
    models = [deployment.served(folder, name) for folder, name in zip(folders, names, strict=True)]
    if not unverified:
        for folder in (folder for model in models for folder in deployment.loaded_folders(model)):
            check_sums(folder)
    deployment.write_deployment(
        output,
        models,
        deployment.Options(
            grpc_port=grpc_port,
            rest_port=rest_port,
            batch_size=batch_size,
            batch_timeout_ms=batch_timeout,
            image=image or deployment.IMAGE,
            publish=publish,
        ),
    )
    table = Table("model", "versions", "on this machine")
    for model in models:
        table.add_row(model.name, "latest" if model.version is None else str(model.version), str(model.base))
    console.print(table)
    if batch_size:
        console.print("batching is on: a row that a model refuses fails all requests of its batch", soft_wrap=True)
    console.print(f"wrote {output}, read back and checked; the server itself was not started", soft_wrap=True)
    console.print(
        f"next:\n  {output}/docker-run.sh   # {image or deployment.IMAGE}; "
        f"or docker compose -f {output}/compose.yaml up",
        soft_wrap=True,
    )
    console.print(
        f"  mixrank rollout status {models[0].base} --config {output}/models.config "
        f"--name {models[0].name} --url http://localhost:{rest_port}",
        soft_wrap=True,
    )


@app.command()
@guarded
@needs("pipeline")
def push(
    base: Base,
    model: Annotated[Path, typer.Argument(help="A SavedModel, or a folder of versions (the newest is used).")],
    golden: Annotated[Path | None, typer.Option(help="File of golden rows to put into the version.")] = None,
    keep: Keep = None,
    config: Config = None,
    name: Name = None,
    base_path: BasePath = None,
    unverified: Unverified = False,
) -> None:
    """Copy a SavedModel in as the next version; nothing serves it yet."""
    _rollout(base, config, name, base_path, unverified=unverified).push(model, golden=golden, keep=keep)
    _next("canary", base, config, name, "http://localhost:8501", "load it and give it the label canary")


@app.command()
@guarded
@needs("pipeline")
def canary(
    base: Base,
    version: Annotated[int | None, typer.Option(help="Version to load (default: the newest).")] = None,
    url: Url = None,
    golden: GoldenFile = None,
    tolerance: Tolerance = 1e-4,
    unchecked: Unchecked = False,
    config: Config = None,
    name: Name = None,
    base_path: BasePath = None,
    wait: Wait = 120.0,
    unverified: Unverified = False,
) -> None:
    """Load a version beside the stable one, and label it canary."""
    _rollout(base, config, name, base_path, url, wait, unverified).canary(
        version, golden=_golden(golden, tolerance, unchecked)
    )
    _next("promote", base, config, name, url or "http://localhost:8501", "make it stable")


@app.command()
@guarded
@needs("pipeline")
def promote(
    base: Base,
    version: Annotated[int | None, typer.Option(help="Refuse if the canary is not this version.")] = None,
    url: Url = None,
    golden: GoldenFile = None,
    tolerance: Tolerance = 1e-4,
    unchecked: Unchecked = False,
    keep: Keep = None,
    config: Config = None,
    name: Name = None,
    base_path: BasePath = None,
    wait: Wait = 120.0,
    unverified: Unverified = False,
) -> None:
    """Make the canary stable if it passes the golden rows; the previous version stays loaded."""
    steps = _rollout(base, config, name, base_path, url, wait, unverified)
    steps.promote(version, golden=_golden(golden, tolerance, unchecked), keep=keep)
    _next("rollback", base, config, name, url, "if it disappoints: back to the previous version")


@app.command()
@guarded
@needs("pipeline")
def rollback(
    base: Base,
    to: Annotated[int | None, typer.Option(help="Version to return to (default: the previous stable one).")] = None,
    trial: Annotated[
        bool, typer.Option("--canary", help="End the canary's trial and leave the stable version as it is.")
    ] = False,
    url: Url = None,
    config: Config = None,
    name: Name = None,
    base_path: BasePath = None,
    wait: Wait = 120.0,
    unverified: Unverified = False,
) -> None:
    """Give all labels back to the previous stable version, and unload the others."""
    _rollout(base, config, name, base_path, url, wait, unverified).rollback(to, trial=trial)
    _next("status", base, config, name, url, "what is served now")


@app.command()
@guarded
@needs("pipeline")
def delta(
    base: Base,
    old: Annotated[int, typer.Option("--from", help="Version that is there where the delta goes.")],
    version: Annotated[int | None, typer.Option(help="Version to make there (default: the newest).")] = None,
    output: Annotated[
        Path | None, typer.Option(help="File to write (default: MODEL-FROM-VERSION.delta in this folder).")
    ] = None,
) -> None:
    """Write what turns one version into another: of embedding tables, only the rows that changed."""
    from mixrank.serving.base import versions
    from mixrank.serving.rollout import write_delta

    found = versions(base)
    if not found:
        raise ValueError(f"{base} holds no version")
    version = max(found) if version is None else version
    for each in (old, version):
        if each not in found:
            raise ValueError(f"there is no version {each}; there are {', '.join(map(str, found))}")
    if old == version:
        raise ValueError(f"--from is {old}, the version to make: name an older one")
    output = output or Path(f"{base.absolute().name}-{old}-{version}.delta")
    with errors.status(f"comparing versions {old} and {version}"):
        sizes = write_delta(found[old], found[version], output, lambda line: console.print(line, soft_wrap=True))
    console.print(
        f"wrote {output}: {sizes.delta:,} bytes, {100 * sizes.ratio:.1f} % of version {version} "
        f"({sizes.version:,} bytes)",
        soft_wrap=True,
    )
    console.print(f"next:\n  mixrank rollout apply BASE {output}   # where version {old} is", soft_wrap=True)


@app.command()
@guarded
@needs("pipeline")
def apply(
    base: Base,
    file: Annotated[Path, typer.Argument(metavar="DELTA", help="A file that `mixrank rollout delta` wrote.")],
    config: Config = None,
    name: Name = None,
    base_path: BasePath = None,
) -> None:
    """Make a version, byte for byte, from one that is there and a delta; nothing serves it yet."""
    with errors.status(f"applying {file}"):
        _rollout(base, config, name, base_path).apply(file)
    _next("canary", base, config, name, "http://localhost:8501", "load it and give it the label canary")


@app.command()
@guarded
@needs("pipeline")
def status(base: Base, url: Url = None, config: Config = None, name: Name = None) -> None:
    """Print every version: label, time of the push, model and metrics if known, and whether it is served."""
    from mixrank.serving.base import describe

    steps = _rollout(base, config, name, None, url)
    rows = steps.status()
    if not rows:
        raise ValueError(f"{base} holds no version; begin with: mixrank rollout push {base} MODEL")
    table = Table("version", "label", "pushed at (UTC)", "model", "metrics", "served", title=steps.entry.name)
    for row in rows:
        model = describe(row.folder)
        served = row.served or ("in models.config" if row.loaded else "no")
        table.add_row(
            str(row.version),
            ", ".join(row.labels),
            f"{row.pushed:%Y-%m-%d %H:%M:%S}" if row.pushed else "",
            " ".join(str(model[key]) for key in ("name", "preset") if model.get(key)),
            _metrics(row.folder),
            served,
        )
    console.print(table)
    decisions = [record for record in steps.journal.records() if record["command"] == "decide"]
    if decisions:
        last = decisions[-1]
        why = f": {'; '.join(last['reasons'])}" if last["reasons"] else ""
        console.print(
            f"last decision of `mixrank advance --deploy`, {last['at']}: version {last['version']}, "
            f"{last['verdict']}{why}",
            soft_wrap=True,
        )
    if steps.entry.serves_latest:
        console.print(f"{steps.entry.path} serves the latest version; the first roll-out pins it", soft_wrap=True)
    labels = steps.entry.labels
    if not labels or "stable" not in labels:
        step, why = ("promote", "make the canary stable") if labels else ("canary", "try the newest version")
    elif labels.get("canary", labels["stable"]) != labels["stable"]:
        step, why = "promote", "make the canary stable"
    elif rows[0].version > labels["stable"]:
        step, why = "canary", "try the newest version"
    else:
        console.print(f"next:\n  mixrank rollout push {base} MODEL   # a new version", soft_wrap=True)
        return
    _next(step, base, config, name, url, why)


def _rollout(
    base: Path,
    config: Path | None,
    name: str | None,
    base_path: str | None,
    url: str | None = None,
    wait: float = 120.0,
    unverified: bool = False,
) -> Rollout:
    from mixrank.serving.rollout import RestServer, Rollout

    server = None if url is None else RestServer(url, name or base.absolute().name)
    return Rollout(
        base,
        config=config,
        name=name,
        base_path=base_path,
        server=server,
        wait=wait,
        say=lambda line: console.print(line, soft_wrap=True),
        verified=not unverified,
    )


def _golden(file: Path | None, tolerance: float, unchecked: bool) -> Golden | None:
    from mixrank.serving.rollout import Golden

    return None if unchecked else Golden(file, tolerance)


def _next(step: str, base: Path, config: Path | None, name: str | None, url: str | None, why: str) -> None:
    options = "".join(f" --{key} {value}" for key, value in (("config", config), ("name", name), ("url", url)) if value)
    console.print(f"next:\n  mixrank rollout {step} {base}{options}   # {why}", soft_wrap=True)


def _metrics(version: Path) -> str:
    """Primary metric per task of the run that pushed a version, if the folder is there: `RUN/serving/MODEL/VERSION`."""
    from mixrank.pipeline.run_record import RunRecord, is_run

    run = version.parent.parent.parent
    if not is_run(run):
        return ""
    try:
        record = RunRecord.read(run)
        if record.pushed is None or Path(record.pushed).name != version.name:
            return ""
        from mixrank.components.metrics import Rows, primary
        from mixrank.pipeline.reports import RunFolder

        frame = RunFolder(run, record).predictions
    except ValueError:
        # The run folder was moved or cleaned; the version can still be served.
        return ""
    said = []
    for label in record.spec.labels:
        metric, rows = primary(label.kind), Rows.of(frame, label.name, record.spec)
        said.append(f"{label.name} {metric.title} {metric.of_rows(rows):.4f}")
    return ", ".join(said)
