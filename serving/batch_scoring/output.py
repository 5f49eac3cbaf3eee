"""Output folder of a run: ownership, progress, and the final merge."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mixrank.schemas.files import abandoned, write_atomically, write_text_atomically
from mixrank.serving.batch_scoring.scoring_plan import Item
from mixrank.serving.batch_scoring.work import SCORES, WORK

SUMMARY, DEAD_LETTER, MANIFEST = "summary.json", "dead_letter.jsonl", "manifest.json"


def claim(output: Path, run: dict[str, Any]) -> None:
    """Claims an empty folder for a run, or checks that it already belongs to this run.

    Raises:
        ValueError: if the folder belongs to another run, naming the differences.
    """
    path = output / WORK / MANIFEST
    # As JSON reads it back: tuples become lists.
    run = json.loads(json.dumps(run))
    if path.is_file():
        earlier = json.loads(path.read_text())
        differ = [name for name in run if earlier.get(name) != run[name]]
        if differ:
            raise ValueError(
                f"{output} holds scores of another {' and other '.join(differ)}; give another folder or remove it"
            )
        return
    if any((output / SCORES).iterdir()):
        raise ValueError(f"{output}/{SCORES} holds files, but no run of batch scoring has written them")
    write_text_atomically(path, json.dumps(run))


def digest(folder: Path) -> str:
    """Hash of all files of a model."""
    hashed = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        hashed.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                hashed.update(block)
    return hashed.hexdigest()


def finished(output: Path, items: Sequence[Item]) -> set[int]:
    """Numbers of the items that are written and counted."""
    done = set()
    for item in items:
        counts = output / WORK / f"{item.name}.json"
        if counts.is_file() and "error" not in json.loads(counts.read_text()):
            done.add(item.number)
    return done


def sweep(output: Path, items: Sequence[Item], finished: set[int]) -> None:
    """Removes the files of unfinished items that a killed run left behind."""
    for folder in (SCORES, WORK):
        for path in abandoned(output / folder):
            path.unlink()
    for item in items:
        if item.number not in finished:
            (output / SCORES / f"{item.name}.parquet").unlink(missing_ok=True)
            for ending in ("json", "jsonl", "rows"):
                (output / WORK / f"{item.name}.{ending}").unlink(missing_ok=True)


def counts(output: Path, items: Sequence[Item]) -> list[dict[str, Any]]:
    """The counts of every item.

    Raises:
        ValueError: with the errors of the failed items.
    """
    found = []
    for item in items:
        path = output / WORK / f"{item.name}.json"
        found.append(json.loads(path.read_text()) if path.is_file() else {"error": f"{item.file.path} was not scored"})
    errors = [count["error"] for count in found if "error" in count]
    if errors:
        raise ValueError("; ".join(errors[:3]) + (f"; and {len(errors) - 3} more" if len(errors) > 3 else ""))
    return found


def collect(output: Path, items: Sequence[Item]) -> None:
    """All bad rows in one file, in the order of the input."""

    def write(path: Path) -> None:
        with path.open("wb") as letters:
            for item in items:
                letters.write((output / WORK / f"{item.name}.jsonl").read_bytes())

    write_atomically(output / DEAD_LETTER, write)


def stop_if_bad(summary: dict[str, Any], max_bad: float, output: Path) -> None:
    """Refuses a run with too many bad rows.

    Raises:
        ValueError: naming the first bad row.
    """
    if summary["bad"] > max_bad * summary["rows"]:
        with (output / DEAD_LETTER).open() as letters:
            first = json.loads(next(letters))
        where = f"`{first['column']}`: " if first["column"] else ""
        raise ValueError(
            f"{summary['bad']} of {summary['rows']} rows are bad, --max-bad {max_bad} allows "
            f"{int(max_bad * summary['rows'])}; the first is {first['file']} row {first['row']}, {where}"
            f"{first['reason']}. All of them are in {output / DEAD_LETTER}; the good rows are scored"
        )
