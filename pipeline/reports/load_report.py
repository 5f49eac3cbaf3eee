"""The results of a load test: as a table, as JSON, and as an HTML page that needs no network."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.reports.pages import fill
from schemas.files import write_atomically
from serving.load_result import PERCENTILES, Closed, Load, Result
from serving.load_test import Bounds

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class LoadReport:
    """A load test.

    Args:
        about: whom it asked.
        signature: name of the signature.
        rows_per_request: rows or candidates per request.
        distinct: how many different requests were sent in turn.
        bounds: when it ended.
        results: one per load, at least one.
    """

    about: str
    signature: str
    rows_per_request: int
    distinct: int
    bounds: Bounds
    results: list[Result]

    @property
    def title(self) -> str:
        what = "candidates" if self.signature == "rank_candidates" else "rows"
        return f"{self.about}: {self.signature}, {what} per request: {self.rows_per_request}"

    @property
    def closed(self) -> bool:
        """Whether the loads are clients, else rates."""
        return isinstance(self.results[0].load, Closed)

    @property
    def errors(self) -> dict[str, int]:
        """Status -> requests that failed, over all loads."""
        return dict(sum((Counter(result.errors) for result in self.results), Counter[str]()))

    def notes(self) -> Iterator[tuple[Load, str]]:
        """What a reader of the numbers should know, with the load that it is about."""
        for result in self.results:
            for note in result.notes():
                yield result.load, note

    def as_json(self) -> str:
        """Everything as one JSON object; latencies in milliseconds."""
        return json.dumps(
            {
                "about": self.about,
                "signature": self.signature,
                "rows_per_request": self.rows_per_request,
                "distinct_requests": self.distinct,
                "loop": "closed" if self.closed else "open",
                "bounds": asdict(self.bounds),
                "results": [result.as_dict() for result in self.results],
            },
            indent=1,
        )


HEADERS = ("load", "req/s", "rows/s", *(f"{name} ms" for name in PERCENTILES), "sent", "errors")


def cells(result: Result) -> list[str]:
    """A line of the table, as text."""
    latencies = [milliseconds(result.percentile(percent)) for percent in PERCENTILES.values()]
    failed = "\n".join(f"{count:,} {status}" for status, count in result.errors.items())
    return [
        str(result.load),
        _digits(result.requests_per_second),
        _digits(result.rows_per_second),
        *latencies,
        f"{result.sent:,}",
        failed or "0",
    ]


def load_table(report: LoadReport) -> Table:
    """One line per load."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for title in HEADERS:
        table.add_column(title, justify="left" if title in ("load", "errors") else "right", no_wrap=True)
    for result in report.results:
        table.add_row(*cells(result), style="red" if result.errors else None)
    return table


def milliseconds(seconds: float) -> str:
    """Three digits, "-" for NaN."""
    return "-" if math.isnan(seconds) else _digits(1000 * seconds)


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def write_json(report: LoadReport, file: Path) -> None:
    """Writes the numbers as JSON, whole or not at all."""
    write_atomically(file, lambda path: path.write_text(report.as_json() + "\n", encoding="utf-8"))


def write_page(report: LoadReport, file: Path) -> None:
    """Writes the HTML page, whole or not at all."""
    page = render(report)
    write_atomically(file, lambda path: path.write_text(page, encoding="utf-8"))


def render(report: LoadReport) -> str:
    """The page as text; names are escaped by the template."""
    from pipeline.reports import load_plots

    values = {
        "report": report,
        "headers": HEADERS,
        "cells": cells,
        "milliseconds": milliseconds,
        "percentiles": load_plots.percentiles_over_load(report.results),
        "distribution": load_plots.distribution(report.results),
    }
    return fill("load.html", values)
