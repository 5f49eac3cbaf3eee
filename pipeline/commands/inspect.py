"""`mixrank features`, `schema`, `models`, `heads` and `doctor`: what there is, without running anything."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from mixrank.pipeline.commands.terminal import console, errors, guarded, needs


@guarded
def features(dataset: Annotated[str, typer.Argument(help="A dataset, or a config that names one.")]) -> None:
    """Print every column of a log: type, group, encoding, width."""
    from mixrank.schemas.describe import HEADER, describe

    spec = _dataset(dataset).spec
    table = Table(title=f"{spec.name}: {len(spec.features)} features")
    for number, column in enumerate(HEADER):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    for row in describe(spec):
        table.add_row(*row)
    console.print(table)


@guarded
@needs("pipeline")
def schema(
    dataset: Annotated[str, typer.Argument(help="A dataset, or a config that names one.")],
    check: Annotated[
        bool, typer.Option("--check", help="Compare with the committed schema, and print nothing else.")
    ] = False,
    write: Annotated[bool, typer.Option("--write", help="Write the committed schema.")] = False,
) -> None:
    """Print the TFMD schema that a feature spec generates."""
    from mixrank.schemas.files import write_text_atomically
    from mixrank.schemas.tfmd import GENERATED, as_text

    spec = _dataset(dataset).spec
    text, path = as_text(spec), GENERATED / f"{spec.name}.pbtxt"
    if check:
        if not path.exists() or path.read_text() != text:
            raise ValueError(f"{path} is not what the spec generates; refresh it: mixrank schema {dataset} --write")
        console.print(f"{path} is up to date", soft_wrap=True)
    elif write:
        path.parent.mkdir(exist_ok=True)
        write_text_atomically(path, text)
        console.print(f"wrote {path}", soft_wrap=True)
    else:
        sys.stdout.write(text)


@guarded
@needs("layers")
def models(
    name: Annotated[
        str | None, typer.Argument(help="Model whose parameters and presets to print (default: list all models).")
    ] = None,
    sizes: Annotated[bool, typer.Option("--sizes", help="Print parameters and FLOPs of every preset.")] = False,
    match_params: Annotated[
        str | None, typer.Option(help="Scale to this number of dense parameters: 1M, 20M, 1.5B, 1000000.")
    ] = None,
    dataset: Annotated[
        str, typer.Option(help="Log, or config, that gives --sizes and --match-params their input widths.")
    ] = "kuairand",
    preset: Annotated[str, typer.Option(help="Preset that --match-params scales.")] = "tiny",
    heads: Annotated[
        str | None,
        typer.Option(help="Kind of heads that --sizes and --match-params count (default: each model's own)."),
    ] = None,
) -> None:
    """List the models, or the parameters and presets of one; print their sizes, or scale them to one size."""
    from mixrank.layers import registry

    chosen = None if heads is None else {"kind": heads}
    if match_params is not None:
        from mixrank.components.training import parse_count

        budget = parse_count(match_params)
        if budget < 1:
            raise ValueError(f"--match-params must be at least 1, received {match_params}")
        names = registry.names() if name is None else [registry.model(name).name]
        _print_matched(_dataset(dataset).spec, names, budget, preset, chosen)
        return
    if sizes:
        names = registry.names() if name is None else [registry.model(name).name]
        _print_sizes(_dataset(dataset).spec, names, chosen)
        return
    if name is None:
        table = Table("model", "paper", "arXiv", "presets")
        for each in registry.names():
            found = registry.model(each)
            table.add_row(each, found.title, found.arxiv, ", ".join(found.presets))
        console.print(table)
        console.print("next:\n  mixrank models NAME                # its parameters and presets")
        console.print("  mixrank models --sizes             # parameters and FLOPs of every preset")
        console.print("  mixrank models --match-params 1M   # all of them at one size")
        console.print("  mixrank heads                      # heads that any of them can have")
        return
    found = registry.model(name)
    presets = list(found.presets)
    table = Table("parameter", "type", "default", *presets, "meaning", title=f"{name}: {found.title} ({found.arxiv})")
    for parameter in found.parameters:
        values = [str(found.presets[preset].get(parameter.name, "")) for preset in presets]
        cells = (parameter.name, parameter.type, str(parameter.default), *values, parameter.description)
        table.add_row(*cells)
    console.print(table)


@guarded
@needs("layers")
def heads(
    kind: Annotated[str | None, typer.Argument(help="Kind whose options to print (default: list all kinds).")] = None,
) -> None:
    """List the kinds of heads that any model can have, or the options of one."""
    from mixrank.layers.heads import HEAD_KINDS, check_heads

    if kind is None:
        table = Table("kind", "paper", "where", "options")
        for name, each in HEAD_KINDS.items():
            table.add_row(name, each.title, each.source, ", ".join(option.name for option in each.options))
        console.print(table)
        console.print("next:\n  mixrank heads KIND                                # its options")
        console.print("  mixrank models --sizes --heads KIND               # parameters and FLOPs with it")
        console.print("  mixrank train CONFIG --set model.heads.kind=KIND   # on the rows of the last run")
        return
    check_heads({"kind": kind})
    found = HEAD_KINDS[kind]
    table = Table("option", "type", "default", "meaning", title=f"{kind}: {found.title} ({found.source})")
    for option in found.options:
        # The model's, unless a configuration says otherwise.
        default = "the model's `head_units`" if option.name == "units" else str(option.default)
        table.add_row(option.name, option.type, default, option.description)
    console.print(table)


@guarded
def doctor() -> None:
    """Check this machine: Python, packages, devices, memory, disk."""
    from mixrank.pipeline.doctor import examine

    findings = examine()
    table = Table("check", "found", "")
    for finding in findings:
        table.add_row(finding.check, finding.found, Text("ok", "green") if finding.ok else Text(finding.advice, "red"))
    console.print(table)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
    console.print("next:\n  mixrank run movielens   # about four minutes")


def _print_sizes(spec: Any, names: list[str], heads: dict[str, Any] | None) -> None:
    _announce_keras()
    from mixrank.pipeline.sizes import preset_sizes

    table = Table("model", "preset", title=f"sizes on {spec.name}, without embeddings")
    for column in ("parameters (M)", "MFLOP per row"):
        table.add_column(column, justify="right")
    sizes = list(preset_sizes(spec, names, heads))
    if any(size.why_not for size in sizes):
        table.add_column("why not", overflow="fold")
    for size in sizes:
        table.add_row(size.model, size.preset, *_millions(size), *([size.why_not] if size.why_not else []))
    console.print(table)


def _print_matched(spec: Any, names: list[str], budget: int, preset: str, heads: dict[str, Any] | None) -> None:
    _announce_keras()
    from mixrank.pipeline.sizes import matched_sizes

    sizes = list(matched_sizes(spec, names, budget, preset, heads))
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
        table.add_row(size.model, parameters, off, flops, size.why_not or values)
    console.print(table)
    console.print(f"next:\n  mixrank run CONFIG --set model.name=... --set model.match_params={budget}", soft_wrap=True)


def _announce_keras() -> None:
    if "keras" not in sys.modules:
        errors.print("loading Keras for the sizes ...", style="dim")


def _millions(size: Any) -> tuple[str, str]:
    if size.why_not:
        return "-", "-"
    return f"{size.parameters / 1e6:,.2f}", f"{size.flops / 1e6:,.2f}"


def _dataset(reference: str) -> Any:
    from mixrank.pipeline.config import SHIPPED, load_config
    from mixrank.schemas import datasets

    if reference.endswith((".yaml", ".yml")) or (SHIPPED / f"{reference}.yaml").exists():
        return load_config(reference).load_dataset()
    return datasets.load(reference)
