"""Kills at random instants, each followed by the same command again."""

from __future__ import annotations

import json
import random
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

from fault_parts.common import (
    Ground,
    Tally,
    end_of,
    fork,
    frame,
    kill,
    mixrank,
    silence,
    temporary,
)
from fault_parts.shop import Shop, content, step

EXAMPLES = 600


def rollout(ground: Ground) -> list[Tally]:
    rng, shop, said = random.Random(ground.seed), Shop(ground.folder), ground.folder / "said"
    tally, before_kill = Tally("kills of rollout push, canary, promote, rollback", ground.tries(300)), 0
    # Imports everything, and pins the model.
    with silence():
        mixrank("rollout", "push", shop.base, shop.model()), mixrank("rollout", "canary", shop.base)
        mixrank("rollout", "promote", shop.base, "--unchecked")
    seconds: dict[str, float] = {}
    while tally.tried < tally.of:
        arguments, after = step(rng, shop)
        name, before, listed = str(arguments[0]), shop.entry().labels, set(shop.versions())
        command = partial(mixrank, "rollout", *arguments)
        if kill(fork(command, said), rng.uniform(0, 1.2 * seconds.get(name, 0.1))):
            tally.count()
        else:
            before_kill += 1
        shop.check(tally, f"{name} was killed")
        labels = shop.entry().labels
        tally.expect(labels in (before, after), f"{name} was killed: labels {labels}, not {before} or {after}")
        if "--keep" not in arguments:
            tally.expect(listed <= set(shop.versions()), f"{name} was killed: it took a version away")
        began = time.monotonic()
        code = end_of(fork(command, said))
        seconds[name] = time.monotonic() - began
        tally.expect(code == 0, f"{name} after its kill: {said.read_text()[-300:]}")
        labels = shop.entry().labels
        tally.expect(labels == after, f"{name} after its kill: labels {labels}, not {after}")
        tally.expect(not temporary(shop.base), f"{name} after its kill leaves {temporary(shop.base)}")
        if name == "push":
            newest = content(shop.versions()[max(shop.versions())])
            tally.expect(newest == shop.pushed[-1], "push after its kill: the model is not the newest version")
    tally.note = f"{before_kill} more came too late; each command was then repeated"
    return [tally]


def pusher(ground: Ground) -> list[Tally]:
    from tfx.types import standard_artifacts
    from tfx.utils import path_utils

    from mixrank.components.judging.model_check import HAS_MODEL
    from mixrank.components.pushing.pusher import Executor

    rng, shop, said = random.Random(ground.seed), Shop(ground.folder), ground.folder / "said"
    tally, seconds = Tally("kills of the Pusher component", ground.tries(40)), 0.2

    def push(number: int) -> None:
        blessing, infra = standard_artifacts.ModelBlessing(), standard_artifacts.InfraBlessing()
        infra.uri = str(shop.folder / "checked" / str(number))
        for artifact in (blessing, infra):
            artifact.set_int_custom_property("blessed", 1)
        infra.set_int_custom_property(HAS_MODEL, 1)
        pushed = standard_artifacts.PushedModel()
        pushed.uri = str(shop.folder / "artifact" / str(number))
        inputs = {"model_blessing": [blessing], "infra_blessing": [infra]}
        Executor().Do(inputs, {"pushed_model": [pushed]}, {"push_to": str(shop.base)})

    while tally.tried < tally.of:
        model, number, before = shop.model(), len(shop.pushed) - 1, len(shop.versions())
        shutil.copytree(model, path_utils.stamped_model_path(str(shop.folder / "checked" / str(number))))
        if kill(fork(partial(push, number), said), rng.uniform(0, 1.2 * seconds)):
            tally.count()
        shop.check(tally, "the Pusher was killed")
        began = time.monotonic()
        code = end_of(fork(partial(push, number), said))
        seconds = time.monotonic() - began
        tally.expect(code == 0, f"the Pusher after its kill: {said.read_text()[-300:]}")
        found = shop.versions()
        tally.expect(len(found) == before + 1, f"the Pusher after its kill: {len(found)} versions, not {before + 1}")
        tally.expect(content(found[max(found)]) == shop.pushed[-1], "the Pusher after its kill: another model")
        tally.expect(not temporary(shop.base), f"the Pusher after its kill leaves {temporary(shop.base)}")
    tally.note = "each was then repeated"
    return [tally]


def score(ground: Ground) -> list[Tally]:
    import pandas as pd

    # For all children.
    from mixrank.serving.batch_scoring import job, work  # noqa: F401

    rng, model, said = random.Random(ground.seed), ground.model(), ground.folder / "said"
    source = ground.folder / "rows.parquet"
    frame(model, EXAMPLES).to_parquet(source, row_group_size=20)
    tally, resumed = Tally("kills of score", ground.tries(12)), 0

    def run(output: Path) -> int:
        return mixrank("score", model, source, output, "--rows-per-item", 20, "--batch-size", 20)

    def rows(output: Path) -> Any:
        frame = pd.concat([pd.read_parquet(path) for path in sorted((output / "scores").glob("*.parquet"))])
        return frame.reset_index(drop=True)

    began = time.monotonic()
    whole = ground.folder / "whole"
    code = end_of(fork(partial(run, whole), said))
    seconds = time.monotonic() - began
    if not tally.expect(code == 0, f"score: {said.read_text()[-1000:]}"):
        return [tally]
    at = 0
    while tally.tried < tally.of:
        output, at = ground.folder / f"killed-{at}", at + 1
        for _ in range(3):
            if tally.tried < tally.of and kill(fork(partial(run, output), said), rng.uniform(0.2, 1) * seconds):
                tally.count()
        code = end_of(fork(partial(run, output), said))
        if not tally.expect(code == 0, f"score after its kill: {said.read_text()[-300:]}"):
            continue
        resumed += json.loads((output / "summary.json").read_text())["resumed_items"]
        tally.expect(rows(output).equals(rows(whole)), "score after its kill: other rows")
        tally.expect(not temporary(output), f"score after its kill leaves {temporary(output)}")
    tally.note = f"{resumed} parts of {at * EXAMPLES // 20} were taken over; all rows equal"
    return [tally]


def trainer(ground: Ground) -> list[Tally]:
    import numpy as np
    import pandas as pd
    import tensorflow_transform as tft

    from mixrank.components.training import PREDICTIONS, TRAINING_LOG, train_model
    from mixrank.pipeline.config import load_config
    from mixrank.pipeline.run_record import split_files

    rng, record, said = random.Random(ground.seed), ground.record, ground.folder / "said"
    config = load_config(ground.config)
    tally, apart = Tally("kills of a training", ground.tries(8)), 0.0

    def run(folder: Path) -> None:
        train_model(
            spec=record.spec,
            model_settings=config.model,
            settings=config.train,
            patterns=split_files(record.rows.transformed),
            transform_output=tft.TFTransformOutput(str(record.rows.transform_graph)),
            checkpoints=folder / "checkpoints",
            run_dir=folder / "model_run",
            export_dir=folder / "export",
        )

    def scores(folder: Path) -> Any:
        frame = pd.read_parquet(folder / "model_run" / PREDICTIONS)
        return frame[[name for name in frame if name.startswith("score_")]].to_numpy()

    def rounds(folder: Path) -> list[int]:
        lines = (folder / "model_run" / TRAINING_LOG).read_text().splitlines()
        return [json.loads(line)["round"] for line in lines]

    began, whole = time.monotonic(), ground.folder / "whole"
    code = end_of(fork(partial(run, whole), said))
    seconds = time.monotonic() - began
    if not tally.expect(code == 0, f"training: {said.read_text()[-1000:]}"):
        return [tally]
    at, taken = 0, 0
    while tally.tried < tally.of:
        folder, at = ground.folder / f"killed-{at}", at + 1
        for _ in range(2):
            if tally.tried < tally.of and kill(fork(partial(run, folder), said), rng.uniform(0.3, 1) * seconds):
                tally.count()
        code = end_of(fork(partial(run, folder), said))
        if not tally.expect(code == 0, f"training after its kill: {said.read_text()[-300:]}"):
            continue
        taken += "resuming after round" in said.read_text()
        gap = float(np.abs(scores(folder) - scores(whole)).max())
        apart = max(apart, gap)
        tally.expect(gap < 1e-5, f"training after its kill: predictions differ by {gap:g}")
        tally.expect(rounds(folder) == rounds(whole), f"training after its kill: rounds {rounds(folder)}")
        tally.expect((folder / "export" / "saved_model.pb").is_file(), "training after its kill: no model")
        tally.expect(not temporary(folder), f"training after its kill leaves {temporary(folder)}")
    tally.note = f"{taken} of {at} went on after a round; predictions apart by at most {apart:.1e}"
    return [tally]
