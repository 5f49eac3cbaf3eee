"""A comparison of served rows with training: as a table, as JSON, and as an HTML page that needs no network."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixrank.pipeline.reports.drift_sources import Known, Side
from mixrank.pipeline.reports.pages import fill
from mixrank.schemas import Label
from mixrank.schemas.files import write_atomically, write_text_atomically
from mixrank.serving.drift import (
    MISSING_COLUMN,
    SCHEMA,
    TASK_DRIFT,
    Finding,
    Limits,
    by_name,
    feature_findings,
    score_findings,
    unseen_findings,
    worst_first,
)

if TYPE_CHECKING:
    from rich.table import Table

# Rows of the table that are below their limits.
CALM = 5


@dataclass(frozen=True)
class Comparison:
    """Two sides and what was found.

    Args:
        baseline, new: the sides.
        limits: what the findings were held against.
        min_rows: int. Fewer rows raise no alarm.
        findings: worst first.
        notes: what a reader should know, one sentence each.
    """

    baseline: Side
    new: Side
    limits: Limits
    min_rows: int
    findings: list[Finding]
    notes: list[str]

    @property
    def alarms(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.alarm]

    @property
    def uncertain(self) -> list[Finding]:
        """Over the limit, but on too few rows to count."""
        return [finding for finding in self.findings if finding.over and not finding.enough]

    def as_json(self) -> str:
        """Everything as one JSON object; findings worst first."""
        found = [{**asdict(finding), "over": finding.over, "alarm": finding.alarm} for finding in self.findings]
        return json.dumps(
            {
                "baseline": {"name": self.baseline.name, "rows": self.baseline.rows},
                "new": {"name": self.new.name, "rows": self.new.rows},
                "limits": asdict(self.limits),
                "min_rows": self.min_rows,
                "alarms": len(self.alarms),
                "uncertain": len(self.uncertain),
                "notes": self.notes,
                "findings": found,
            },
            indent=1,
            ensure_ascii=False,
        )


def compare(baseline: Side, new: Side, known: Known, limits: Limits, min_rows: int) -> Comparison:
    """All findings from two sides.

    Args:
        baseline, new: the sides.
        known: the model.
        limits: the limits.
        min_rows: int >= 0. Fewer rows raise no alarm, unless a column is missing or breaks the schema.

    Raises:
        ValueError: if the sides have nothing in common that could be compared.
    """
    spec, notes = known.spec, [*baseline.notes, *new.notes]
    found: list[Finding] = []
    if baseline.statistics is not None and new.statistics is not None:
        found += feature_findings(spec, baseline.statistics, new.statistics, limits, min_rows)
        found += unseen_findings(baseline.unseen, new.unseen, limits, min_rows)
    if same_scores(baseline, new):
        notes.append("both sides have the same predictions: scores were not compared")
    else:
        judged = score_findings(baseline.judged, new.judged, spec.tasks, limits, min_rows)
        if judged and baseline.scores_from is not None:
            notes.append(f"scores are compared with those of the evaluation split, {len(baseline.judged):,} rows")
        found += judged
        for kind, tasks in spec.tasks_by_kind.items():
            found += TASK_DRIFT[kind].quality(baseline.judged, new.judged, tasks, limits, min_rows)
    rates = _label_means(baseline, spec.labels)
    for kind, tasks in spec.tasks_by_kind.items():
        found += TASK_DRIFT[kind].labels(rates, new.judged, tasks, limits, min_rows)
    if not found:
        raise ValueError(f"{baseline.name} and {new.name} have neither features nor scores nor labels in common")
    if new.rows < min_rows:
        notes.append(
            f"{new.rows:,} rows are fewer than {min_rows:,}: distances may be chance and raise no alarm (--min-rows)"
        )
    return Comparison(baseline, new, limits, min_rows, worst_first(found), notes)


def drift_table(comparison: Comparison) -> Table:
    """Table of the measures over their limits, and of the few that come closest to theirs."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("feature", overflow="fold")
    table.add_column("measure")
    for title in ("value", "limit"):
        table.add_column(title, justify="right", no_wrap=True)
    # One below the other, since both together are wider than most terminals.
    table.add_column("baseline, then new", overflow="fold")
    calm = 0
    for finding in comparison.findings:
        calm += not finding.over
        if calm > CALM:
            break
        mark = " (few rows)" if finding.over and not finding.enough else ""
        said = (finding.baseline, finding.new, finding.note if finding.over else "")
        cells = (finding.name, finding.measure + mark, *shown(finding), "\n".join(text for text in said if text))
        style = "bold red" if finding.alarm else "yellow" if finding.over else "dim"
        table.add_row(*cells, style=style)
    return table


def shown(finding: Finding) -> tuple[str, str]:
    """Value and limit as text; a missing column has neither."""
    if finding.measure in (MISSING_COLUMN, SCHEMA):
        return "yes", "-"
    return f"{finding.value:.3f}", f"{finding.limit:.3f}"


def write_json(comparison: Comparison, file: Path) -> None:
    """Writes the findings as JSON, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(file, comparison.as_json() + "\n")


def write_page(comparison: Comparison, known: Known, file: Path) -> None:
    """Writes the HTML report, whole or not at all."""
    page = render(comparison, known)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(file, page)


def write_statistics(side: Side, file: Path) -> None:
    """Writes the statistics of a side's features for TFDV, whole or not at all.

    Raises:
        ValueError: if the side has no features.
    """
    if side.statistics is None:
        raise ValueError(f"{side.name} has no features whose statistics could be written")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, lambda path: path.write_bytes(side.statistics.SerializeToString()))


def render(comparison: Comparison, known: Known) -> str:
    """The page as text; names from data are escaped by the template."""
    from mixrank.pipeline.reports import drift_plots

    before, after = comparison.baseline, comparison.new
    tasks = () if same_scores(before, after) else known.spec.tasks
    values = {
        "comparison": comparison,
        "spec": known.spec,
        "shown": shown,
        "limits": asdict(comparison.limits),
        "scores": drift_plots.scores(before.judged, after.judged, tasks),
    }
    return fill("drift.html", values)


def same_scores(baseline: Side, new: Side) -> bool:
    """Whether both sides read their scores from one file."""
    return new.scores_from is not None and new.scores_from == baseline.scores_from


def _label_means(side: Side, labels: Sequence[Label]) -> dict[str, float]:
    """Task -> mean label, of the features' statistics if they hold the label of all its rows, else of judged rows."""
    tasks = [label.name for label in labels]
    features: dict[str, Any] = {} if side.statistics is None else by_name(side.statistics)
    means = {
        task: float(side.judged[f"label_{task}"].mean()) if f"label_{task}" in side.judged else math.nan
        for task in tasks
    }
    means |= {
        task: features[task].num_stats.mean
        for task in (label.name for label in labels if not label.counts_where)
        if task in features and features[task].num_stats.common_stats.tot_num_values
    }
    return {task: mean for task, mean in means.items() if not math.isnan(mean)}
