"""A log's files -> the two files of a first run, loaded and checked before they are written."""

from __future__ import annotations

import datetime
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mixrank.pipeline.config import load_config
from mixrank.pipeline.starting.config_file import config_file
from mixrank.pipeline.starting.plan import Plan
from mixrank.pipeline.starting.planning import plan_log
from mixrank.pipeline.starting.python_file import python_file
from mixrank.pipeline.starting.questions import Answers
from mixrank.pipeline.starting.tables import Found, find_tables


@dataclass(frozen=True)
class Started:
    """The files that were written.

    Args:
        declaration, config: their paths.
        plan: what they say.
    """

    declaration: Path
    config: Path
    plan: Plan


@dataclass(frozen=True)
class Tables:
    """What was found among the files of a log.

    Args:
        folder: that holds them.
        found: the tables.
        skipped: what is no table, and why.
    """

    folder: str
    found: tuple[Found, ...]
    skipped: tuple[str, ...]


def look(logs: Sequence[str]) -> Tables:
    """The tables of a log.

    Args:
        logs: files, folders or prefixes of an object store.

    Raises:
        ValueError: if nothing can be read as a table.
    """
    folder, found, skipped = find_tables(logs)
    return Tables(folder, tuple(found), tuple(skipped))


def start(
    tables: Tables,
    name: str,
    folder: Path,
    answers: Answers,
    command: str = "mixrank init",
    today: datetime.date | None = None,
) -> Started:
    """Writes `name`.py and `name`.yaml for a log.

    Args:
        tables: the log.
        name: of the log, its run and its files.
        folder: to write to.
        answers: columns that are told, and how to ask for others.
        command: that is named in the files.
        today: later times are not plausible; the current day if None.

    Raises:
        ValueError: if a file of that name exists, or the log lacks what a declaration needs.
    """
    declaration, config = check_name(name, folder)
    today = today or datetime.datetime.now(datetime.UTC).date()
    plan = plan_log(tables.folder, tables.found, tables.skipped, name, answers, today)
    texts = {declaration: python_file(plan, command), config: config_file(plan, _shown(declaration))}
    _check(plan, texts[declaration], texts[config])
    for path, text in texts.items():
        # Fails if somebody wrote it in the meantime.
        with path.open("x") as file:
            file.write(text)
    return Started(declaration, config, plan)


def check_name(name: str, folder: Path) -> tuple[Path, Path]:
    """The paths of the two files.

    Raises:
        ValueError: if the name cannot be that of a run, or one of them exists.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ValueError(f"--name must be letters, digits and underscores, a letter first; received {name!r}")
    paths = folder / f"{name}.py", folder / f"{name}.yaml"
    for path in paths:
        if path.exists():
            raise ValueError(f"{_shown(path)} exists, and nothing is written over: give another --name, or move it")
    return paths


def _check(plan: Plan, declaration: str, config: str) -> None:
    """Loads both texts as a run would, and compares them with the plan."""
    with tempfile.TemporaryDirectory() as scratch:
        python, yaml = Path(scratch, f"{plan.name}.py"), Path(scratch, f"{plan.name}.yaml")
        python.write_text(declaration)
        yaml.write_text(config)
        loaded = load_config(str(yaml), [f"dataset={python}"])
        if loaded.load_dataset() != plan.dataset:
            raise RuntimeError("the written declaration does not say what was planned")


def _shown(path: Path) -> str:
    """From the current folder if the path is below it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
