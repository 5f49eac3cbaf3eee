"""`mixrank bench-serve`: a load test of a TensorFlow Serving or a development server."""

from __future__ import annotations

import asyncio
import ipaddress
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.terminal import console, errors, guarded

if TYPE_CHECKING:
    from serving.load_result import Load, Result
    from serving.load_test import Bounds
    from serving.prepared import Prepared, Sender

# What most servers are tried with first.
CLIENTS = "1,4,16"


@guarded
def bench_serve(
    target: Annotated[str, typer.Argument(help="http://127.0.0.1:8501 or grpc://127.0.0.1:8500.")],
    model: Annotated[
        str | None, typer.Option(help="The model's name on the server; that of the folder --spec if left out.")
    ] = None,
    spec: Annotated[
        Path | None, typer.Option(help="Folder of the model: checks and pads rows, and has example rows.")
    ] = None,
    rows: Annotated[
        str | None, typer.Option(help="Rows as `mixrank predict` reads them; examples of --spec if left out.")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(metavar="N", help="Rank N candidates per request, through rank_candidates.")
    ] = None,
    rows_per_request: Annotated[int, typer.Option(help="Rows per request, through score_rows.")] = 1,
    clients: Annotated[
        str | None, typer.Option(help=f"Closed loop: clients that wait for their answers, such as {CLIENTS} (default).")
    ] = None,
    rate: Annotated[str | None, typer.Option(help="Open loop: requests per second, such as 50,100.")] = None,
    arrivals: Annotated[str, typer.Option(help="Arrivals of the open loop: poisson or constant.")] = "poisson",
    seconds: Annotated[float, typer.Option(help="Seconds per load that are counted.")] = 10.0,
    warm_up: Annotated[float, typer.Option(help="Seconds of load before.")] = 1.0,
    requests: Annotated[int, typer.Option(help="Most requests per load that are counted.")] = 1_000_000,
    deadline: Annotated[float, typer.Option(help="Seconds after which a request is given up.")] = 10.0,
    version: Annotated[int | None, typer.Option(help="Ask this version.")] = None,
    label: Annotated[str | None, typer.Option(help="Ask the version with this label, such as canary.")] = None,
    allow_errors: Annotated[
        str, typer.Option(help="Statuses that are no failure of the test, such as RESOURCE_EXHAUSTED,UNAVAILABLE.")
    ] = "",
    remote: Annotated[bool, typer.Option("--remote", help="The target is not on this machine, and may be loaded.")] = (
        False
    ),
    output: Annotated[Path | None, typer.Option(help="HTML file for the numbers with plots.")] = None,
    json: Annotated[Path | None, typer.Option(help="File for the numbers as JSON.")] = None,
) -> None:
    """Load a server: latency, throughput and errors. Exit code 1 if a request failed."""
    from serving.load_test import Bounds

    _check_target(target, remote)
    loads = _loads(clients, rate, arrivals)
    bounds = Bounds(seconds=seconds, warm_up=warm_up, deadline=deadline, requests=requests)
    allowed = _allowed(allow_errors)
    for file in (output, json):
        if file is not None and not file.absolute().parent.is_dir():
            raise ValueError(f"there is no folder {file.absolute().parent} to write {file.name} to")
    from pipeline.commands.load_requests import LoadRequests
    from pipeline.reports.load_report import LoadReport, load_table, write_json, write_page
    from serving.prepared import sender

    asked = LoadRequests(
        target, model, spec=spec, rows=rows, rank=rank, rows_per_request=rows_per_request, version=version, label=label
    )
    connected = sender(asked.address)
    prepared = asked.prepare(connected)
    # One request through the client, which checks what the load test does not: that the answer holds scores.
    asked.try_one(deadline)
    report = LoadReport(
        about=str(asked.address),
        signature=asked.signature,
        rows_per_request=asked.rows_per_request,
        distinct=len(prepared),
        bounds=bounds,
        results=_measure(connected, prepared, loads, bounds),
    )
    console.print(report.title, markup=False, highlight=False, soft_wrap=True)
    console.print(load_table(report))
    for load, note in report.notes():
        console.print(f"note: {load}: {note}", markup=False, highlight=False, soft_wrap=True)
    if json is not None:
        write_json(report, json)
    if output is not None:
        write_page(report, output)
        console.print(f"report: {output}", markup=False, highlight=False, soft_wrap=True)
    failed = {status: count for status, count in report.errors.items() if status not in allowed}
    if failed:
        counts = ", ".join(f"{count:,} {status}" for status, count in failed.items())
        errors.print(f"[bold red]failed:[/] {counts}", highlight=False, soft_wrap=True)
    _next(target, report.results, output)
    if failed:
        raise typer.Exit(1)


def _check_target(target: str, remote: bool) -> None:
    from serving.calls import Address

    Address(target, "any")
    host = urllib.parse.urlsplit(target).hostname or ""
    if not remote and not _is_loopback(host):
        raise ValueError(
            f"{host} is not this machine by name (localhost, 127.0.0.1); a load test takes a server's time from "
            "others: give --remote if you may do that"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _loads(clients: str | None, rate: str | None, arrivals: str) -> list[Load]:
    from serving.load_result import Closed, Open

    if clients is not None and rate is not None:
        raise ValueError("--clients is for a closed loop and --rate for an open one: give one of them")
    if rate is not None:
        return [Open(value, arrivals) for value in _numbers("--rate", rate, float)]  # type: ignore[arg-type]
    return [Closed(int(value)) for value in _numbers("--clients", clients or CLIENTS, int)]


def _numbers(option: str, text: str, kind: type[int] | type[float]) -> list[float]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"{option} takes {what} with commas between them, received {text!r}") from None


def _allowed(text: str) -> set[str]:
    from serving.transport_rest import STATUS

    known = sorted({*STATUS.values(), "UNKNOWN", "CANCELLED", "FAILED_PRECONDITION", "OUT_OF_RANGE", "DATA_LOSS"})
    allowed = {part.strip() for part in text.split(",") if part.strip()}
    if unknown := sorted(allowed - set(known)):
        raise ValueError(f"--allow-errors knows no status {unknown[0]!r}; there are {', '.join(known)}")
    return allowed


def _measure(connected: Sender, prepared: list[Prepared], loads: list[Load], bounds: Bounds) -> list[Result]:
    from rich.progress import BarColumn, Progress, TextColumn

    from serving.load_test import sweep

    each = bounds.warm_up + bounds.seconds

    async def run() -> list[Result]:
        with Progress(TextColumn("{task.description}"), BarColumn(), console=errors, transient=True) as progress:
            bar = progress.add_task("", total=len(loads) * each)
            done = iter(range(len(loads)))
            try:
                return await sweep(
                    connected.send,
                    prepared,
                    loads,
                    bounds,
                    lambda load: progress.update(bar, description=str(load), completed=next(done) * each),
                )
            finally:
                await connected.close()

    return asyncio.run(run())


def _next(target: str, results: list[Result], output: Path | None) -> None:
    from serving.load_result import Closed

    console.print("next:")
    best = max(result.requests_per_second for result in results)
    if best and all(isinstance(result.load, Closed) for result in results):
        rates = ",".join(f"{share * best:.3g}" for share in (0.25, 0.5, 0.75))
        command = f"mixrank bench-serve {target} --rate {rates}   # what many users see, with the same options"
    elif output is None:
        command = f"mixrank bench-serve {target} --output load.html   # with plots, and the same options"
    else:
        command = f"mixrank bench-serve {target} --clients {CLIENTS}   # how much it can answer, with the same options"
    console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)
