"""Gates of the data: what is wrong with a log by its figures, before anything is trained."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mixrank.components.gates.figures import Figures, JoinFigures, Separation
from mixrank.components.gates.findings import Finding
from mixrank.components.gates.gate_settings import GateSettings
from mixrank.schemas import Dataset
from mixrank.schemas.naming import nearest
from mixrank.schemas.safe_text import shown

SHOWN_KEYS = SHOWN_ROWS = 3
# Units in a millisecond, and milliseconds in a unit.
PER_MS = {"s": 1e-3, "ms": 1, "us": 1000, "ns": 10**6}
# Fewer pairs may be in order by chance.
LEAST_PAIRS = 100
# A smaller split may lack something rare by chance; what the training rows lack cannot be learned.
LEAST_ROWS = 100
# Logarithm of the chance that rows have a label in common.
UNLIKELY = -14
# Unit of a column -> milliseconds.
UNITS = {"seconds": 1000.0, "milliseconds": 1.0, "microseconds": 1e-3, "nanoseconds": 1e-6, "days": 86_400_000.0}


def data_findings(
    figures: Figures, dataset: Dataset, gates: GateSettings, *, today: datetime.date | None = None
) -> list[Finding]:
    """Everything that is wrong with a log, allowed or not.

    Args:
        figures: of the log, or of a sample.
        dataset: its declaration.
        gates: bounds; `gates.allow` is left to `stopping`.
        today: says what the next year is; the current day if None.

    Returns:
        Findings of the kinds `implausible_time`, `unmatched_join`, `one_class_label`, `empty_history`,
        `empty_feature` and `leakage`, in this order.
    """
    return [
        *_implausible_times(figures, dataset, gates, today or datetime.date.today()),
        *_unmatched_joins(figures, dataset),
        *_one_class_labels(figures, dataset),
        *_empty_histories(figures, dataset, gates),
        *_empty_features(figures, dataset),
        *_leakage(figures, dataset, gates),
    ]


def _implausible_times(figures: Figures, dataset: Dataset, gates: GateSettings, today: datetime.date) -> list[Finding]:
    if gates.first_year is None or figures.first_ms is None or figures.last_ms is None:
        return []
    first, last = gates.first_year, today.year + 1
    wrong = {year: rows for year, rows in figures.years.items() if not first <= int(year) <= last}
    if sum(wrong.values()) <= dataset.source.max_bad_rows * sum(figures.years.values()):
        return []
    time = dataset.spec.time
    extreme = figures.first_ms if _year(figures.first_ms) < first else figures.last_ms
    said = (
        f"{sum(wrong.values())} of {sum(figures.years.values())} times in column `{time.name}` are before {first} or "
        f"after {last}, the {'earliest' if extreme == figures.first_ms else 'latest'} is {_day(extreme)}"
    )
    hint = likely_unit(extreme, time.unit if time.format == "epoch" else None, first, last)
    return [Finding("implausible_time", time.name, f"{said} ({hint})" if hint else said)]


def likely_unit(time_ms: int, unit: str | None, first_year: int, last_year: int) -> str:
    """The unit in which an implausible time would be plausible: `2020-09-13 if these were seconds`, or an empty text.

    Args:
        time_ms: as it was read.
        unit: "s", "ms", "us" or "ns". The declared unit of the column; None if it is not a number.
        first_year, last_year: plausible years.

    >>> likely_unit(1_600_000_000, "ms", 1990, 2027)
    '2020-09-13 if these were seconds'
    >>> likely_unit(20_200_913_000, "s", 1990, 2027)
    '2020-09-13 if these were dates as yyyymmdd'
    """
    if unit is None:
        return ""
    raw = round(time_ms * PER_MS[unit])
    for form, name in (("%Y%m%d", "yyyymmdd"), ("%Y%m%d%H%M%S", "yyyymmddhhmmss")):
        # A number of seconds may look like such a date by chance only outside the plausible years.
        if re.fullmatch(r"\d{8}|\d{14}", str(raw)) and len(str(raw)) == len(name):
            try:
                day = datetime.datetime.strptime(str(raw), form)
            except ValueError:
                continue
            if first_year <= day.year <= last_year:
                return f"{day:%Y-%m-%d} if these were dates as {name}"
    for name, factor in UNITS.items():
        if first_year <= _year(raw * factor) <= last_year:
            return f"{_day(raw * factor)} if these were {name}"
    return ""


def _unmatched_joins(figures: Figures, dataset: Dataset) -> list[Finding]:
    findings = []
    for (name, found), join in zip(figures.joins.items(), dataset.source.joins, strict=False):
        if found.rows and found.matched < join.min_matched * found.rows:
            key = (dataset.spec.user if join.on == "user" else dataset.spec.item).name
            problem = (
                f"{found.matched} of {found.rows} rows of the log find their `{key}` in table `{name}` "
                f"({' or '.join(join.table.files)}), less than the share of {join.min_matched:g} that `min_matched` "
                f"asks for{examples(found)}"
            )
            findings.append(Finding("unmatched_join", name, problem))
    return findings


def examples(join: JoinFigures) -> str:
    """Keys of both sides that found no match: those that look alike, or else some of each."""
    alike = [plain for plain in join.log_keys if plain in join.table_keys][:SHOWN_KEYS]
    if alike:
        pairs = (f"{shown(join.log_keys[key])} and {shown(join.table_keys[key])}" for key in alike)
        return f"; keys that look alike in log and table: {', '.join(pairs)}"
    sides = [list(keys.values())[:SHOWN_KEYS] for keys in (join.log_keys, join.table_keys)]
    if not all(sides):
        return ""
    return "; the log has {}, the table {}".format(*(", ".join(map(shown, side)) for side in sides))


def _one_class_labels(figures: Figures, dataset: Dataset) -> list[Finding]:
    findings = []
    for label in dataset.spec.labels:
        # A label that evaluation rows do not tell apart is never judged, however few they are.
        splits = (split for split in dataset.split_names if split == "eval" or _tells(figures, split))
        where = {split: figures.in_split(label.name, split) for split in splits}
        # Labels that are numbers may all differ from 0.
        wrong = {
            split: found
            for split, found in where.items()
            if found.rows and (not found.positives or (label.is_flag and found.positives == found.rows))
        }
        if wrong:
            said = " and ".join(
                f"{int(f.positives > 0)} in all {f.rows} rows of `{split}`" for split, f in wrong.items()
            )
            problem = (
                f"label `{label.name}` is {said}, so nothing can be learned or judged; check the column and its days"
            )
            findings.append(Finding("one_class_label", label.name, problem))
    return findings


def _empty_histories(figures: Figures, dataset: Dataset, gates: GateSettings) -> list[Finding]:
    findings = []
    for history in dataset.spec.histories if gates.min_history is not None else ():
        for split, found in figures.histories.get(history.name, {}).items():
            full = found.rows - found.empty
            if _tells(figures, split) and found.rows and (not full or full < (gates.min_history or 0) * found.rows):
                only = f" with `{history.only}`" if history.only is not None else ""
                times = f"the times, the key `{dataset.spec.user.name}` and `window`"
                problem = (
                    f"history `{history.name}` has an event{only} in {full} of {found.rows} rows of `{split}`; check "
                    f"{times if history.in_row is None else 'its columns in the log'}, or leave the history out"
                )
                findings.append(Finding("empty_history", history.name, problem))
                break
    return findings


def _empty_features(figures: Figures, dataset: Dataset) -> list[Finding]:
    findings = []
    for feature in dataset.spec.inputs:
        present = figures.features[feature.name].present if feature.name in figures.features else {}
        empty = [split for split, rows in present.items() if not rows and _tells(figures, split)]
        if empty:
            where = " and ".join(f"all {figures.rows[split]} rows of `{split}`" for split in empty)
            problem = f"feature `{feature.name}` has no value in {where}; check its column and the join that brings it"
            findings.append(Finding("empty_feature", feature.name, problem))
    return findings


def _leakage(figures: Figures, dataset: Dataset, gates: GateSettings) -> list[Finding]:
    findings = []
    flags = {label.name for label in dataset.spec.labels if label.is_flag}
    for feature, labels in figures.alone.items() if gates.max_auc_alone is not None else ():
        for label, found in labels.items():
            pair, auc = f"feature `{feature}`", found.auc
            if found.rows and not found.unequal and not (label in flags and _one_class(figures, label)):
                problem = f"{pair} equals label `{label}` in all {found.rows} rows; remove it"
            elif label in flags and _after(figures, label, found):
                problem = (
                    f"{pair} has a value in {found.present} rows, and label `{label}` is 1 in all of them; remove it "
                    "if it is known only after the label"
                )
            elif (
                auc is not None
                and found.pairs >= LEAST_PAIRS
                and gates.max_auc_alone is not None
                and auc > gates.max_auc_alone
            ):
                problem = (
                    f"{pair} alone ranks label `{label}` with AUC {auc:.3f} on rows it was not counted on, more than "
                    f"{gates.max_auc_alone:g}; remove it if it is known only after the label"
                )
            else:
                continue
            findings.append(Finding("leakage", feature, problem))
            break
    return findings


def _tells(figures: Figures, split: str) -> bool:
    """Whether a split has rows enough to say that something is not there."""
    return figures.rows.get(split, 0) >= (1 if split == "train" else LEAST_ROWS)


def too_many_bad_rows(table: str, letters: Sequence[Mapping[str, Any]], rows: int, allowed: float) -> str | None:
    """Problem of a table with too many bad rows, or None.

    Args:
        table: its name.
        letters: its bad rows, as in `dead_letter.jsonl`.
        rows: of the table, the bad ones included.
        allowed: share of them that may be bad.
    """
    if len(letters) <= allowed * rows:
        return None
    first = "; ".join(map(bad_row, letters[:SHOWN_ROWS]))
    return (
        f"{len(letters)} of {rows} rows of table `{table}` are bad, but `max_bad_rows` ({allowed}) allows "
        f"{int(allowed * rows)}: {first}"
    )


def bad_row(letter: Mapping[str, Any]) -> str:
    """A bad row in words: file, row, column, value and reason."""
    where = f"{letter['file']} row {letter['row']}, {letter['column'] or 'whole row'}"
    return f"{where}: {shown(letter['value'])} {letter['reason']}"


def empty_splits(figures: Figures, dataset: Dataset) -> dict[str, str]:
    """Split -> problem, of the splits without a row, which no config can allow."""
    empty = [split for split in dataset.split_names if not figures.rows.get(split)]
    if figures.first_ms is None or figures.last_ms is None:
        span = "the log has no good rows"
    else:
        span = f"good rows of the log run from {_day(figures.first_ms)} to {_day(figures.last_ms)} (UTC)"
    # An unknown unit is the usual cause.
    odd = [finding.problem for finding in _implausible_times(figures, dataset, GateSettings(), datetime.date.today())]
    advice = "; ".join(odd) or "check `split` of the source"
    return {split: f"split `{split}` got no rows; {span}: {advice}" for split in empty}


def check_allowed(gates: GateSettings, dataset: Dataset) -> None:
    """Refuses a key in `gates.allow` whose subject the dataset does not have.

    Raises:
        ValueError: naming the nearest subject.
    """
    spec = dataset.spec
    inputs = (spec.scenario.name, *(feature.name for feature in spec.inputs))
    subjects: dict[str, Iterable[str]] = {
        "implausible_time": (spec.time.name,),
        "unmatched_join": (f"{join.on}_{number}" for number, join in enumerate(dataset.source.joins)),
        "empty_history": (history.name for history in spec.histories),
        "empty_feature": inputs,
        "leakage": inputs,
    }
    for key in gates.allow:
        kind, _, subject = key.partition(":")
        known = tuple(subjects.get(kind, spec.tasks))
        if subject not in known:
            raise ValueError(f"`gates.allow`: {key!r} names {subject!r}{nearest(subject, known)}")


def _after(figures: Figures, label: str, found: Separation) -> bool:
    """Whether a feature has values only in rows with the label, which chance does not explain."""
    share = _share(figures, label)
    only = 0 < found.present == found.present_positives
    return only and found.present < found.rows and 0 < share < 1 and found.present * math.log(share) < UNLIKELY


def _share(figures: Figures, label: str) -> float:
    """Share of the rows of all splits with a label."""
    found = [f for splits in figures.labels.get(label, {}).values() for f in splits.values()]
    return sum(f.positives for f in found) / max(1, sum(f.rows for f in found))


def _one_class(figures: Figures, label: str) -> bool:
    return not 0 < _share(figures, label) < 1


def _moment(time_ms: float) -> datetime.datetime | None:
    try:
        return datetime.datetime.fromtimestamp(time_ms / 1000, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _year(time_ms: float) -> int:
    moment = _moment(time_ms)
    return moment.year if moment else 10_000


def _day(time_ms: float) -> str:
    moment = _moment(time_ms)
    return f"{moment:%Y-%m-%d}" if moment else "beyond the calendar"
