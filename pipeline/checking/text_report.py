"""A check in the terminal: tables of at most 100 columns, what is wrong last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from mixrank.pipeline.checking.log_check import LogCheck, Remark
from mixrank.schemas import FeatureSpec

MOST_SCENARIOS, MOST_DRIFTS, MOST_BAD = 10, 8, 5
STYLES = {"stop": "bold red", "doubt": "yellow", "allowed": "dim"}


def print_check(check: LogCheck, spec: FeatureSpec, console: Console) -> None:
    """Prints all that a check found.

    Args:
        check: what was found.
        spec: of the log.
        console: where to.
    """
    console.print(f"{check.data}", style="bold", soft_wrap=True)
    console.print(headline(check), soft_wrap=True)
    for title, table in tables(check, spec):
        console.print(f"\n{title}", style="bold")
        console.print(table)
    for bad in check.bad_rows[:MOST_BAD]:
        console.print(
            f"bad row: {bad.file} row {bad.row}, {bad.column or 'whole row'}: {bad.value} {bad.reason}", soft_wrap=True
        )
    console.print(f"\n{outlook(check)}")
    print_remarks(check.remarks, console)


def print_remarks(remarks: tuple[Remark, ...] | list[Remark], console: Console) -> None:
    """Prints what is wrong, worst first."""
    for remark in remarks:
        console.print(f"{remark.level}:", style=STYLES[remark.level], end=" ")
        console.print(remark.message, soft_wrap=True)


def headline(check: LogCheck) -> str:
    """What was looked at, in one or two sentences."""
    log = check.tables[0]
    rows = f"{log.rows:,} rows" if log.whole else f"{log.rows:,} of about {log.all_rows:,} rows"
    taken = "" if check.share == 1 else f", of which those of {check.share:.0%} of the users were taken"
    span = f" from {check.first} to {check.last}" if check.first else ""
    return f"{rows} of the log were read{taken};{span} ({check.timezone})" if span else f"{rows} were read{taken}"


def outlook(check: LogCheck) -> str:
    """What a run will take, in one sentence."""
    low, high = map(duration, check.estimate.seconds)
    return (
        f"a run over all {check.estimate.rows:,} rows: about {low} (fast machine) to {high} (slow one) and "
        f"{check.estimate.gib:.1f} GiB on two CPU cores with a `tiny` model, by measured runs"
    )


def duration(seconds: float) -> str:
    """A time in one unit.

    >>> duration(95), duration(600), duration(9000)
    ('95 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def tables(check: LogCheck, spec: FeatureSpec) -> Iterator[tuple[str, Table]]:
    """Title and table, of all that have a row."""
    yield _grid(
        "columns",
        ["table", "column", "declared", "in the file", ">missing", ">distinct", "for example"],
        [
            [c.table, c.column, c.declared, c.seen, percent(c.missing, c.rows), f"{c.distinct:,}", c.example]
            for c in check.columns
        ],
    )
    yield _grid(
        "splits: rows, and rows with each label",
        ["split", "days", ">rows", *(f">{label.name}" for label in spec.labels)],
        [
            [
                name,
                f"{split.first} .. {split.last}" if split.first else "-",
                f"{split.rows:,}",
                *(_rate(check, label.name, name) for label in spec.labels),
            ]
            for name, split in check.splits.items()
        ],
    )
    if scenarios := scenario_rates(check, spec):
        shown = list(scenarios.items())[:MOST_SCENARIOS]
        yield _grid(
            f"scenarios, by `{spec.scenario.name}`"
            + (f": the {MOST_SCENARIOS} largest of {len(scenarios)}" if len(scenarios) > MOST_SCENARIOS else ""),
            [spec.scenario.name, ">rows", *(f">{label.name}" for label in spec.labels)],
            [[name, f"{rows:,}", *rates] for name, (rows, rates) in shown],
        )
    if check.figures.joins:
        yield _grid(
            "joins: rows of the log that find their row",
            ["table", ">rows", ">matched"],
            [[name, f"{j.rows:,}", percent(j.matched, j.rows)] for name, j in check.figures.joins.items()],
        )
    if check.figures.histories:
        yield _grid(
            "histories" + ("" if check.tables[0].whole else ": no longer than shown, since rows are missing between"),
            ["history", "window", "split", ">rows with an event", ">events per row", ">rows cut", ">events cut"],
            [
                [
                    history.name,
                    history.window,
                    split,
                    percent(found.rows - found.empty, found.rows),
                    f"{found.events / max(1, found.rows):.1f}",
                    percent(found.cut_rows, found.rows),
                    percent(found.cut_events, found.cut_events + found.events),
                ]
                for history in spec.histories
                for split, found in check.figures.histories.get(history.name, {}).items()
            ],
        )
    if check.drift:
        yield _grid(
            "drift from train, the largest",
            ["feature", "split", "measure", ">distance", ">limit"],
            [
                [d.feature, d.split, d.measure, f"{d.distance:.3f}", "-" if d.limit is None else f"{d.limit:g}"]
                for d in check.drift[:MOST_DRIFTS]
            ],
        )
    if alone := separations(check):
        yield _grid(
            "features that tell a label alone, the strongest",
            ["feature", "label", ">AUC"],
            [[feature, label, f"{auc:.3f}"] for feature, label, auc in alone[:MOST_DRIFTS]],
        )


def separations(check: LogCheck) -> list[tuple[str, str, float]]:
    """(feature, label, AUC) of one feature alone on held-out rows, highest first."""
    found = [
        (feature, label, separation.auc)
        for feature, labels in check.figures.alone.items()
        for label, separation in labels.items()
        if separation.auc is not None
    ]
    return sorted(found, key=lambda each: -each[2])


def scenario_rates(check: LogCheck, spec: FeatureSpec) -> dict[str, tuple[int, list[str]]]:
    """Scenario -> its rows in all splits, and the share of each label; the largest first."""
    found: dict[str, tuple[int, list[str]]] = {}
    first = check.figures.labels.get(spec.labels[0].name, {})
    for name in dict.fromkeys(name for splits in first.values() for name in splits):
        cells = []
        for label in spec.labels:
            own = [splits[name] for splits in check.figures.labels[label.name].values() if name in splits]
            rows = sum(each.rows for each in own)
            cells.append(percent(sum(each.positives for each in own), rows))
        found[name] = rows, cells
    return dict(sorted(found.items(), key=lambda pair: -pair[1][0]))


def percent(part: int, rows: int) -> str:
    """A share as text.

    >>> percent(1, 8), percent(1, 100000), percent(0, 0)
    ('12.5 %', '0.001 %', '-')
    """
    if not rows:
        return "-"
    share = 100 * part / rows
    return f"{share:.1f} %" if share >= 0.05 or not part else f"{share:.1g} %"


def _rate(check: LogCheck, label: str, split: str) -> str:
    found = check.figures.in_split(label, split)
    return percent(found.positives, found.rows)


def _grid(title: str, heads: list[str], rows: list[list[Any]]) -> tuple[str, Table]:
    """A title and its table; a head that begins with `>` is of a column of numbers."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for head in heads:
        right = head.startswith(">")
        table.add_column(head.lstrip(">"), justify="right" if right else "left", overflow="fold", no_wrap=right)
    for row in rows:
        table.add_row(*row)
    return title, table
