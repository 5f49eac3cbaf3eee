"""What became of the rows of a log, in a few lines: rows, losses, empty histories, calibration, unknown values."""

from __future__ import annotations

from collections.abc import Iterable

from mixrank.components.calibration import sentence
from mixrank.components.gates import Figures
from mixrank.pipeline.reports.run_folder import RunFolder


def summarise_log(run: RunFolder) -> list[tuple[str, str]]:
    """(heading, text) of what a reader must know before he believes the metrics; nothing about what is not there."""
    figures = run.figures
    rows = ", ".join(f"{split} {count:,}" for split, count in figures.rows.items())
    unknown = {
        name: counts["unknown"] / counts["values"] for name, counts in run.unknown_ids.items() if counts["unknown"]
    }
    parts = [
        (
            "rows",
            _joined(
                [
                    rows,
                    _some(figures.negatives_left_out, "negatives left out of train"),
                    _some(figures.rows_in_no_split, "in no split"),
                ]
            ),
        ),
        ("lost", _joined(_lost(figures))),
        ("empty", _joined(_empty(figures))),
        ("calibration", "; ".join(_calibrated(run))),
        ("unknown", _joined(f"{name} {share:.1%}" for name, share in unknown.items())),
    ]
    return [(heading, text) for heading, text in parts if text]


def _calibrated(run: RunFolder) -> Iterable[str]:
    """What the calibration changed on the evaluation rows, task by task."""
    found = run.model.get("calibration")
    labels = {label.name: label for label in run.record.spec.labels}
    for task, each in found["tasks"].items() if found else ():
        yield sentence(labels[task], each["before"], each["after"])


def _lost(figures: Figures) -> Iterable[str]:
    for table, count in figures.bad_rows.items():
        yield _some(count, f"bad rows of {table}")
    yield _some(figures.duplicates, "duplicates")
    for table, files in figures.files.items():
        yield _some(files.hidden, f"hidden files of {table} skipped")
        yield _some(files.empty, f"empty files of {table} skipped")
    for name, join in figures.joins.items():
        if join.matched < join.rows:
            yield f"{join.rows - join.matched:,} rows without a match in {name} ({1 - join.matched / join.rows:.1%})"
    for name, events in figures.event_tables.items():
        yield _some(events.rows - events.matched, f"events of {name} by users without impressions")
    for name, splits in figures.histories.items():
        rows, older = (sum(getattr(split, kind) for split in splits.values()) for kind in ("cut_rows", "cut_events"))
        yield _some(older, f"events of {name} beyond its length in {rows:,} rows")
    for name, feature in figures.features.items():
        if feature.cut_rows:
            yield f"{feature.cut_values:,} values of {name} cut in {feature.cut_rows:,} rows"


def _empty(figures: Figures) -> Iterable[str]:
    for name, splits in figures.histories.items():
        rows, empty = (sum(getattr(split, kind) for split in splits.values()) for kind in ("rows", "empty"))
        if empty:
            yield f"{name} {empty / rows:.1%}"
    for name, feature in figures.features.items():
        missing = 1 - sum(feature.present.values()) / max(1, sum(figures.rows.values()))
        if missing >= 0.5:
            yield f"{name} {missing:.1%}"


def _some(count: int, what: str) -> str:
    return f"{count:,} {what}" if count else ""


def _joined(parts: Iterable[str]) -> str:
    return ", ".join(part for part in parts if part)
