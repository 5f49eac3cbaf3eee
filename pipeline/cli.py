"""The `mixrank` command.

TensorFlow and TFX take half a minute to import, so they are imported inside the commands that need them.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from pipeline import serving_commands
from pipeline.terminal import console, errors, guarded

app = typer.Typer(
    help="Ranking models from raw impression logs: train, judge, push.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Config = Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped config (movielens, kuairand).")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override, such as train.epochs=2; repeatable.")]


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Registers a command whose errors are one readable message and exit code 1."""
    return app.command()(guarded(function))


@command
def run(config: Config, overrides: Overrides = None) -> None:
    """Run the whole pipeline: raw log to a judged, pushed model and a report."""
    from pipeline.config import load_config

    settings = load_config(config, overrides or [])
    settings.load_dataset(), settings.data_dir()
    errors.print(f"run folder {settings.run_dir}; details in {settings.run_dir}/run.log", style="dim", soft_wrap=True)
    errors.print("loading TensorFlow and TFX (about half a minute) ...", style="dim")
    from pipeline.baseline import write_baseline
    from pipeline.runners import run_local

    began = time.monotonic()
    result = run_local(settings)
    write_baseline(settings.run_dir)
    page = _report([settings.run_dir], settings.run_dir / "report.html")
    errors.print(f"all components: {time.monotonic() - began:.0f} s", style="dim")
    console.print(f"report: {page}", soft_wrap=True)
    if not result["blessed"]:
        errors.print("\n[bold red]the model was not pushed:[/]")
        for reason in result["reasons"]:
            errors.print(f"  {reason}", markup=False, soft_wrap=True)
        errors.print(f"next: look at the report, then  mixrank run {config} --set train.epochs=...", markup=False)
        raise typer.Exit(1)
    console.print(f"pushed: {result['pushed']}", soft_wrap=True)
    console.print("\nnext:")
    console.print(
        f"  mixrank report {settings.run_dir}          # this table and the HTML report again", soft_wrap=True
    )
    console.print(
        f"  mixrank train {config} --set train.epochs=5   # a fast loop on the transformed rows", soft_wrap=True
    )
    console.print("  mixrank models hemix                       # parameters and presets", soft_wrap=True)


@command
def train(config: Config, overrides: Overrides = None) -> None:
    """Train on the rows that the last `run` of this config transformed, without the other components."""
    from pipeline.config import load_config

    settings = load_config(config, overrides or [])
    errors.print("loading TensorFlow (about 20 s) ...", style="dim")
    from pipeline.fast_loop import train_only

    folder = train_only(settings)
    page = _report([folder], folder / "report.html")
    console.print(f"report: {page}", soft_wrap=True)
    console.print(f"next:\n  mixrank report {settings.run_dir} {folder}   # side by side with the run", soft_wrap=True)


@command
def incumbent(
    config: Config,
    model: Annotated[str, typer.Option(help="dlrm or dcn.")] = "dlrm",
    overrides: Overrides = None,
) -> None:
    """Train TensorFlow Recommenders' DLRM or DCN on the last run's rows, one model per task, to compare with."""
    from pipeline.config import load_config
    from pipeline.fast_loop import last_run

    settings = load_config(config, overrides or [])
    last_run(settings)
    errors.print("loading TensorFlow Recommenders in a process of its own (about 20 s) ...", style="dim")
    arguments = [config, "--model", model, *(part for value in overrides or [] for part in ("--set", value))]
    # Legacy Keras must be chosen before TensorFlow is imported.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "pipeline.incumbent", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if done.returncode:
        raise typer.Exit(1)
    folder = Path(done.stdout.splitlines()[-1])
    page = _report([settings.run_dir, folder], folder / "report.html")
    console.print(f"report: {page}", soft_wrap=True)
    console.print("next:\n  mixrank report RUN...   # this table for any runs side by side", soft_wrap=True)
    console.print(f"  {folder} is this one's folder", soft_wrap=True)


@command
def features(dataset: Annotated[str, typer.Argument(help="A dataset, or a config that names one.")]) -> None:
    """Print every column of a log: type, group, encoding, width."""
    from schemas.describe import HEADER, describe

    spec = _dataset(dataset).spec
    table = Table(title=f"{spec.name}: {len(spec.features)} features")
    for number, column in enumerate(HEADER):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    for row in describe(spec):
        table.add_row(*row)
    console.print(table)


@command
def schema(
    dataset: Annotated[str, typer.Argument(help="A dataset, or a config that names one.")],
    check: Annotated[bool, typer.Option("--check", help="Compare with the committed schema instead.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Write the committed schema.")] = False,
) -> None:
    """Print the TFMD schema that a feature spec generates."""
    from schemas.tfmd import GENERATED, as_text

    spec = _dataset(dataset).spec
    text, path = as_text(spec), GENERATED / f"{spec.name}.pbtxt"
    if check:
        if not path.exists() or path.read_text() != text:
            raise ValueError(f"{path} is not what the spec generates; refresh it: mixrank schema {dataset} --write")
        console.print(f"{path} is up to date", soft_wrap=True)
    elif write:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        console.print(f"wrote {path}", soft_wrap=True)
    else:
        sys.stdout.write(text)


@command
def models(
    name: Annotated[str | None, typer.Argument(help="One model: its parameters and presets.")] = None,
    dataset: Annotated[str, typer.Option(help="The log, or a config, whose widths decide the sizes.")] = "kuairand",
    match_params: Annotated[
        str | None, typer.Option(help="Scale to so many dense parameters: 1M, 20M, 1.5B, 1000000.")
    ] = None,
    preset: Annotated[str, typer.Option(help="The preset that --match-params scales.")] = "tiny",
) -> None:
    """List the architectures and their sizes, or the parameters and presets of one; scale them to one size."""
    from components.settings import parse_count
    from layers import registry

    if match_params is not None:
        budget = parse_count(match_params)
        if budget < 1:
            raise ValueError(f"--match-params must be at least 1, received {match_params}")
        names = registry.names() if name is None else [registry.model(name).name]
        _print_matched(_dataset(dataset).spec, names, budget, preset)
        return
    if name is None:
        spec = _dataset(dataset).spec
        table = Table("model", "paper", "arXiv", "presets")
        for each in registry.names():
            found = registry.model(each)
            table.add_row(each, found.title, found.arxiv, ", ".join(found.presets))
        console.print(table)
        _print_sizes(spec, registry.names())
        console.print("next:\n  mixrank models NAME                # its parameters and presets")
        console.print("  mixrank models --match-params 1M   # all of them at one size")
        return
    found = registry.model(name)
    presets = list(found.presets)
    table = Table("parameter", "type", "default", *presets, "meaning", title=f"{name}: {found.title} ({found.arxiv})")
    for parameter in found.parameters:
        values = [str(found.presets[preset].get(parameter.name, "")) for preset in presets]
        cells = (parameter.name, parameter.type, str(parameter.default), *values, parameter.description)
        table.add_row(*map(escape, cells))  # `tuple[int, ...]` is no markup.
    console.print(table)


@command
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    output: Annotated[Path | None, typer.Option(help="HTML file; report.html in the first folder if left out.")] = None,
) -> None:
    """Write the HTML report of one or several runs, and print their metrics."""
    page = _report(runs, output or runs[0] / "report.html")
    console.print(f"report: {page}", soft_wrap=True)


@command
def doctor() -> None:
    """Check this machine: Python, packages, devices, memory, disk."""
    from pipeline.doctor import examine

    findings = examine()
    table = Table("check", "found", "")
    for finding in findings:
        table.add_row(finding.check, finding.found, "[green]ok[/]" if finding.ok else f"[red]{finding.advice}[/]")
    console.print(table)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
    console.print("next:\n  mixrank run movielens   # about four minutes")


app.command()(serving_commands.deploy)
app.add_typer(serving_commands.rollout, name="rollout")


def _print_sizes(spec: Any, names: list[str]) -> None:
    _announce_keras()
    from pipeline.sizes import preset_sizes

    table = Table("model", "preset", title=f"sizes on {spec.name}, without embeddings")
    for column in ("parameters (M)", "MFLOP per row"):
        table.add_column(column, justify="right")
    sizes = list(preset_sizes(spec, names))
    if any(size.why_not for size in sizes):
        table.add_column("why not", overflow="fold")
    for size in sizes:
        table.add_row(size.model, size.preset, *_millions(size), *([escape(size.why_not)] if size.why_not else []))
    console.print(table)


def _print_matched(spec: Any, names: list[str], budget: int, preset: str) -> None:
    _announce_keras()
    from pipeline.sizes import matched_sizes

    sizes = list(matched_sizes(spec, names, budget, preset))
    if len(sizes) == 1 and sizes[0].why_not:
        raise ValueError(sizes[0].why_not)
    title = f"{preset} at {budget / 1e6:,g} M parameters on {spec.name}, without embeddings"
    table = Table("model", title=title)
    for column in ("parameters (M)", "off by", "MFLOP per row"):
        table.add_column(column, justify="right")
    table.add_column("scaled parameters", overflow="fold")
    for size in sizes:
        parameters, flops = _millions(size)
        off = "" if size.why_not else f"{100 * (size.parameters / budget - 1):+.1f} %"
        values = ", ".join(f"{key}={value}" for key, value in size.scaled.items())
        table.add_row(size.model, parameters, off, flops, escape(size.why_not or values))
    console.print(table)
    console.print(f"next:\n  mixrank run CONFIG --set model.name=... --set model.match_params={budget}", soft_wrap=True)


def _announce_keras() -> None:
    if "keras" not in sys.modules:
        errors.print("loading Keras for the sizes (about 15 s) ...", style="dim")


def _millions(size: Any) -> tuple[str, str]:
    if size.why_not:
        return "-", "-"
    return f"{size.parameters / 1e6:,.2f}", f"{size.flops / 1e6:,.2f}"


def _dataset(reference: str) -> Any:
    from pipeline.config import SHIPPED, load_config
    from schemas import datasets

    if reference.endswith((".yaml", ".yml")) or (SHIPPED / f"{reference}.yaml").exists():
        return load_config(reference).load_dataset()
    return datasets.load(reference)


def _report(runs: list[Path], page: Path) -> Path:
    from pipeline.report import metrics_table, write_report

    write_report(runs, page)
    console.print(metrics_table(runs))
    return page


def main() -> None:
    """Console entry point."""
    # What libraries say to their own developers; a run keeps it in its run.log.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in (None, "tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="google|tensorflow|tfx|keras|jax|apache_beam")
    warnings.filterwarnings("ignore", category=FutureWarning)
    app()


if __name__ == "__main__":
    main()
