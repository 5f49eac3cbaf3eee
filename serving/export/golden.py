"""Golden rows: a few rows with their expected scores, which a version must reproduce before it serves users.

One JSON object per line: `{"row": {"user_id": 196, ...}, "scores": {"click": 0.31}}`. Rows are as in a request, before
padding (`mixrank.schemas.encode`); `assets.extra/golden.jsonl` of a version is the file that a roll-out reads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixrank.schemas import FeatureSpec
from mixrank.schemas.encode import to_instance
from mixrank.schemas.files import write_text_atomically
from mixrank.serving.base import METADATA, differences, load_spec

GOLDEN_FILE = "assets.extra/golden.jsonl"

# Version, JSON instances -> one mapping task -> score per instance.
Scorer = Callable[[int, Sequence[Mapping[str, Any]]], Sequence[Mapping[str, float]]]


@dataclass(frozen=True)
class GoldenRow:
    """A row and its scores.

    Args:
        row: column -> value.
        scores: task -> probability.
    """

    row: dict[str, Any]
    scores: dict[str, float]


def write_golden(path: Path, rows: Iterable[Mapping[str, Any]], scores: Iterable[Mapping[str, float]]) -> None:
    """Writes a golden file.

    Args:
        path: the file.
        rows: rows of a request, at least one.
        scores: one mapping task -> score per row.
    """
    lines = [
        json.dumps({"row": dict(row), "scores": {task: float(value) for task, value in score.items()}})
        for row, score in zip(rows, scores, strict=True)
    ]
    write_text_atomically(path, "".join(f"{line}\n" for line in lines))
    read_golden(path)


def read_golden(path: Path) -> list[GoldenRow]:
    """The rows of a golden file.

    Raises:
        ValueError: if it is missing or empty, or a line is malformed, naming the line.
    """
    if not path.is_file():
        raise ValueError(f"there are no golden rows at {path}")
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            row = GoldenRow(dict(found["row"]), {task: float(value) for task, value in found["scores"].items()})
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(
                f"{path}, line {number}: expected {{'row': {{...}}, 'scores': {{task: number}}}} ({error})"
            ) from None
        if not row.scores or not all(map(math.isfinite, row.scores.values())):
            raise ValueError(f"{path}, line {number}: `scores` must be finite numbers, received {row.scores}")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} holds no golden rows")
    return rows


def check_golden(rows: Sequence[GoldenRow], scorer: Scorer, *, version: int, folder: Path, tolerance: float) -> float:
    """Scores golden rows and compares with the expected scores.

    Args:
        rows: the rows and their expected scores.
        scorer: asks the version.
        version: number of the version.
        folder: its SavedModel; the feature spec inside pads the rows. Without a spec, rows are sent as they are.
        tolerance: maximum difference of a score, as of `differences`.

    Returns:
        The largest difference.

    Raises:
        ValueError: if a score differs by more or is not a number, naming row and task; or as `to_instance`.
    """
    spec = _spec(folder)
    instances = [row.row if spec is None else to_instance(spec, row.row) for row in rows]
    answers = scorer(version, instances)
    if len(answers) != len(rows):
        raise ValueError(f"version {version} answered {len(answers)} of {len(rows)} golden rows")
    worst, where = 0.0, ""
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True), 1):
        for task, expected in row.scores.items():
            if task not in answer:
                raise ValueError(f"version {version} answers no `{task}`, only {sorted(answer)}")
            off = float(differences(answer[task], expected))
            if math.isnan(off) or off > worst:
                worst, where = off, f"golden row {number}, {task}: {answer[task]:.6g} instead of {expected:.6g}"
            if math.isnan(off):
                break
        if math.isnan(worst):
            break
    if not worst <= tolerance:
        raise ValueError(
            f"version {version} does not score the golden rows as expected: off by {worst:.3g}, more than the "
            f"tolerance {tolerance:g}; worst is {where}"
        )
    return worst


def _spec(folder: Path) -> FeatureSpec | None:
    return load_spec(folder) if (folder / METADATA).is_file() else None
