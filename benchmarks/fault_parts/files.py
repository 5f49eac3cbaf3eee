"""Damaged files and folders given to commands."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fault_parts.common import (
    Ground,
    Tally,
    each_in_a_child,
    frame,
    mixrank,
    silence,
    temporary,
    unclear,
)
from fault_parts.damage import as_json, changed, damaged
from fault_parts.shop import content, save


@dataclass(frozen=True)
class Case:
    """A command on something damaged.

    Args:
        arguments: of the command.
        output: what the command writes, which must be whole or not there.
        good: given the output of a command that succeeded, what is wrong with its result, or nothing.
        kept: files and folders that a command which fails must leave as they are.
    """

    arguments: list[object]
    output: Path | None = None
    good: Callable[[str], str] = lambda said: ""
    kept: tuple[Path, ...] = ()


def files(ground: Ground) -> list[Tally]:
    # For all children.
    import mixrank.pipeline.reports
    import mixrank.serving.batch_scoring.job
    import mixrank.serving.drift
    import mixrank.serving.export.local_model  # noqa: F401

    found = []
    for kind, (number, make) in Cases(ground).kinds.items():
        tally = Tally(f"damaged {kind}", ground.tries(number))
        each_in_a_child(tally, ground.folder / "said", partial(_attempt, ground, kind, make))
        found.append(tally)
    return found


def _attempt(ground: Ground, kind: str, make: Any, number: int) -> list[str]:
    place = ground.folder / "case"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    case = make(random.Random(f"{ground.seed} {kind} {number}"), place)
    return [f"number {number}: {each}" for each in _try(case, place)]


def _try(case: Case, place: Path) -> Iterator[str]:
    from typer.testing import CliRunner

    from mixrank.pipeline.cli import app

    before = [_state(path) for path in case.kept]
    result = CliRunner().invoke(app, [*map(str, case.arguments)])
    said, code = result.output, result.exit_code
    command = " ".join(map(str, case.arguments[:2]))
    if code not in (0, 1, 3) or unclear(said) or not isinstance(result.exception, SystemExit | None):
        yield f"{command}: {code} {said[-600:]}"
    if code == 1:
        if len(errors := re.findall("^error: .+", said, re.MULTILINE)) != 1:
            yield f"{command}: {len(errors)} errors in {said[-600:]}"
        if case.output is not None and case.output.exists():
            yield f"{command} failed and wrote {case.output.name}: {said[-300:]}"
        if before != [_state(path) for path in case.kept]:
            yield f"{command} failed and changed its files: {said[-300:]}"
    elif code == 0 and (wrong := case.good(said)):
        yield f"{command} succeeded, but {wrong}"
    if left := temporary(place):
        yield f"{command} leaves {left}"


def _state(path: Path) -> Any:
    if not path.is_dir():
        return path.read_bytes() if path.is_file() else None
    hidden = (".lock", ".rollout")
    return {each: _state(each) for each in sorted(path.iterdir()) if each.name not in hidden}


class Cases:
    """Damaged files and folders, by kind: how many at full share, and a function that makes one.

    Args:
        ground: with the run whose rows, model and report are damaged.
    """

    def __init__(self, ground: Ground) -> None:
        import yaml

        from mixrank.pipeline.request_files import example_lines

        record = ground.record
        self.run, self.model = ground.record, ground.model()
        self.config = Path(ground.config).read_bytes()
        self.values = yaml.safe_load(self.config)
        self.rows = example_lines(self.model, False, 6)
        rows = frame(self.model, 60)
        self.raw = {"parquet": ground.folder / "rows.parquet", "csv": ground.folder / "rows.csv"}
        rows.to_parquet(self.raw["parquet"])
        lists = {name: rows[name].map(lambda value: "|".join(map(str, value)) if isinstance(value, list) else value)
                 for name in rows}  # fmt: skip
        rows.assign(**lists).to_csv(self.raw["csv"], index=False)
        self.raw["tfrecord"] = next(iter(sorted(record.rows.examples.glob("Split-eval/*"))))
        self.kinds: dict[str, tuple[int, Callable[[random.Random, Path], Case]]] = {
            "config YAML": (500, self.config_yaml),
            "models.config": (400, self.models_config),
            "roll-out journals": (200, self.journal),
            "version folders": (400, self.version),
            "golden.jsonl": (200, self.golden),
            "run folders": (150, self.run_folder),
            "rows for predict": (40, self.rows_file),
            "Parquet for score": (30, partial(self.scored, "parquet")),
            "CSV for score": (30, partial(self.scored, "csv")),
            "TFRecord for score": (30, partial(self.scored, "tfrecord")),
            "rows for drift": (15, self.drifted),
            "models for predict": (30, self.predicting),
        }

    def config_yaml(self, rng: random.Random, place: Path) -> Case:
        import yaml

        file = place / "config.yaml"
        text = self.config
        if rng.random() < 0.6:
            with suppress(yaml.YAMLError, UnicodeError):
                text = yaml.safe_dump(changed(rng, self.values)).encode(errors="surrogatepass")
        file.write_bytes(damaged(rng, text) if text == self.config else text)
        return Case(["features", file])

    def _shop(self, place: Path) -> Path:
        from mixrank.serving import model_config
        from mixrank.serving.base import publish

        base = place / "shop"
        for number in (1, 2, 3):
            publish(save(place / "saved" / str(number), number, shards=1, size=10), base, version=number)
        config = model_config.new()
        model_config.pin(model_config.add(config, "shop", str(base)), {1, 2}, {"stable": 1, "canary": 2})
        model_config.write(base / "models.config", config)
        return base

    def _rolled(self, rng: random.Random, base: Path) -> Case:
        from mixrank.serving.base import versions
        from mixrank.serving.rollout import Rollout

        new = save(base.parent / "new", 4, shards=1, size=10)
        command = rng.choice(
            [["push", base, new], ["canary", base, "--version", 3], ["promote", base, "--unchecked"], ["status", base],
             ["rollback", base, "--canary"]]
        )  # fmt: skip

        def good(said: str) -> str:
            entry = Rollout(base).entry
            # A file may name versions that are not there; a command must not add any.
            named = {*entry.labels.values()} - {*before}
            return f"it names {named}" if named - {*versions(base)} else ""

        before: list[int] = []
        with suppress(ValueError):
            before = [*Rollout(base).entry.labels.values()]
        return Case(["rollout", *command], good=good, kept=(base,))

    def models_config(self, rng: random.Random, place: Path) -> Case:
        base = self._shop(place)
        file = base / "models.config"
        file.write_bytes(damaged(rng, file.read_bytes()))
        return self._rolled(rng, base)

    def journal(self, rng: random.Random, place: Path) -> Case:
        base = self._shop(place)
        with silence():
            mixrank("rollout", "canary", base, "--version", 3)
        (file,) = (path for path in (base / ".rollout").rglob("*") if path.is_file())
        lines = file.read_bytes().splitlines()
        if rng.random() < 0.5:
            lines[-1] = as_json(changed(rng, json.loads(lines[-1])))
            file.write_bytes(b"\n".join([*lines, b""]))
        else:
            file.write_bytes(damaged(rng, file.read_bytes()))
        return self._rolled(rng, base)

    def version(self, rng: random.Random, place: Path) -> Case:
        from mixrank.serving.base import versions

        shop, model = self._shop(place), place / "model" / "7"
        shutil.copytree(self.model, model)
        for _ in range(rng.randint(1, 2)):
            _damage_file(rng, rng.choice([*model.rglob("*")]))
        said, trust = place / "deploy", rng.choice([[], ["--unverified"]])

        def pushed(_: str) -> str:
            same = content(shop / str(max(versions(shop)))) == content(model)
            return "" if same else "what it pushed is not the model"

        return rng.choice(
            [
                Case(["rollout", "push", shop, model, *trust], good=pushed, kept=(shop,)),
                Case(["rollout", "status", model.parent]),
                Case(["rollout", "canary", model.parent, *trust]),
                Case(["deploy", model, "--output", said, *trust], output=said),
                Case(["predict", "--example", model, *rng.choice([[], ["--rank"]])]),
            ]
        )

    def golden(self, rng: random.Random, place: Path) -> Case:
        from mixrank.serving.base import versions
        from mixrank.serving.export import GOLDEN_FILE

        shop, model = self._shop(place), place / "model"
        shutil.copytree(self.model, model)
        file = model / GOLDEN_FILE
        lines = file.read_bytes().splitlines()
        if rng.random() < 0.5:
            lines[0] = as_json(changed(rng, json.loads(lines[0])))
            file.write_bytes(b"\n".join(lines))
        else:
            file.write_bytes(damaged(rng, file.read_bytes()))
        if rng.random() < 0.5:
            return Case(["predict", "--example", model, "--count", "2"])

        def good(_: str) -> str:
            from mixrank.serving.export import read_golden

            read_golden(shop / str(max(versions(shop))) / GOLDEN_FILE)
            return ""

        return Case(["rollout", "push", shop, self.model, "--golden", file], good=good, kept=(shop,))

    def run_folder(self, rng: random.Random, place: Path) -> Case:
        run, page = place / "run", place / "report.html"
        shutil.copytree(self.run.model_run, run / "model_run", ignore=shutil.ignore_patterns("tensorboard"))
        values = json.loads(self.run.model_copy(update={"model_run": run / "model_run"}).model_dump_json())
        file = rng.choice([run / "run.json", *(path for path in (run / "model_run").iterdir() if path.is_file())])
        (run / "run.json").write_bytes(as_json(values))
        if file.suffix == ".json" and rng.random() < 0.7:
            file.write_bytes(as_json(changed(rng, json.loads(file.read_bytes()))))
        else:
            _damage_file(rng, file)
        return Case(["report", run, "--output", page], output=page)

    def rows_file(self, rng: random.Random, place: Path) -> Case:
        file, output = place / "rows.jsonl", place / "scores.jsonl"
        rows = [changed(rng, row) if rng.random() < 0.4 else row for row in self.rows]
        text = b"\n".join(map(as_json, rows))
        file.write_bytes(damaged(rng, text) if rng.random() < 0.4 else text)

        def good(_: str) -> str:
            lines = [line for line in file.read_bytes().splitlines() if line.strip()]
            scores = [json.loads(line) for line in output.read_text().splitlines()]
            wrong = [each for each in scores if not all(0 <= value <= 1 for value in each.values())]
            return (
                f"{len(lines)} rows have {len(scores)} scores"
                if len(lines) != len(scores)
                else f"{wrong}" * bool(wrong)
            )

        return Case(["predict", self.model, file, "--output", output], output=output, good=good)

    def scored(self, kind: str, rng: random.Random, place: Path) -> Case:
        file, output = place / f"rows.{kind}", place / "scores"
        file.write_bytes(damaged(rng, self.raw[kind].read_bytes()))
        given = ["--format", kind]

        def good(_: str) -> str:
            import pandas as pd

            summary = json.loads((output / "summary.json").read_text())
            frame = pd.concat([pd.read_parquet(path) for path in (output / "scores").glob("*.parquet")])
            scores = frame[[name for name in frame if name.startswith("score_")]].to_numpy()
            wrong = not ((scores >= 0) & (scores <= 1)).all() or len(frame) != summary["rows"] - summary["bad"]
            return f"{len(frame)} scores, {summary}" if wrong else ""

        summary = output / "summary.json"
        return Case(["score", self.model, file, output, *given, "--max-bad", "1"], output=summary, good=good)

    def drifted(self, rng: random.Random, place: Path) -> Case:
        file = place / "rows.parquet"
        file.write_bytes(damaged(rng, self.raw["parquet"].read_bytes()))
        page = place / "drift.html"
        return Case(["drift", self.run_of(place), file, "--html", page], output=page)

    def run_of(self, place: Path) -> Path:
        folder = place / "of"
        folder.mkdir()
        self.run.write(folder)
        return folder

    def predicting(self, rng: random.Random, place: Path) -> Case:
        model, file, output = place / "model", place / "rows.jsonl", place / "scores.jsonl"
        shutil.copytree(self.model, model)
        _damage_file(rng, rng.choice([path for path in model.rglob("*") if path.is_file()]))
        file.write_bytes(b"\n".join(map(as_json, self.rows)))
        trust = rng.choice([[], ["--unverified"]])
        return Case(["predict", model, file, "--output", output, *trust], output=output)


def _damage_file(rng: random.Random, path: Path) -> None:
    """Takes a file or folder away, or puts something else in its place."""
    from mixrank.schemas.files import remove

    if not path.exists():
        return
    text = damaged(rng, path.read_bytes()) if path.is_file() else b""
    how = rng.randrange(10)
    if how < 6 and path.is_file():
        path.write_bytes(text)
        return
    remove(path)
    match how:
        case 7:
            path.mkdir()
        case 8:
            path.symlink_to(rng.choice(["/etc/passwd", path.name, "nowhere", ".."]))
        case 9:
            path.write_bytes(b"")
