"""Two commands at once in one folder."""

from __future__ import annotations

import os
import random
import signal
import time
from functools import partial
from pathlib import Path

from fault_parts.common import (
    HANGS,
    Ground,
    Tally,
    end_of,
    fork,
    kill,
    mixrank,
    silence,
    temporary,
    unclear,
)
from fault_parts.shop import Shop


def races(ground: Ground) -> list[Tally]:
    return [_rollout_races(ground), _run_races(ground)]


def _rollout_races(ground: Ground) -> Tally:
    """Two teams with a models.config each work on one folder of versions."""
    rng, shop = random.Random(ground.seed), Shop(ground.folder / "rollout")
    tally, refused, killed = Tally("two roll-out commands at once", ground.tries(300)), 0, 0
    configs = [shop.base / "models.config", shop.folder / "elsewhere" / "models.config"]
    with silence():
        mixrank("rollout", "push", shop.base, shop.model())
        for config in configs:
            mixrank("rollout", "canary", shop.base, "--config", config)
            mixrank("rollout", "promote", shop.base, "--config", config, "--unchecked")
    while tally.tried < tally.of:
        children = {}
        for config in configs:
            found, labels = shop.versions(), shop.entry(config).labels
            arguments = rng.choice(
                [
                    ["push", shop.base, shop.model(), "--keep", 4],
                    ["canary", shop.base, "--version", rng.choice(list(found))],
                    ["promote", shop.base, "--unchecked", "--keep", 4],
                    ["rollback", shop.base],
                ]
            )
            said = shop.folder / f"said-{len(children)}"
            command = partial(mixrank, "rollout", *arguments, "--config", config)
            children[fork(command, said)] = (arguments[0], config, labels, said)
        victim = rng.choice([None, *children])
        if victim is not None:
            time.sleep(rng.uniform(0, 0.15))
            os.kill(victim, signal.SIGKILL)
        for child, (name, config, before, said) in children.items():
            code, text = end_of(child), said.read_text()
            killed += code < 0
            refused += "is in use by" in text
            good = code in (0, 1) or (code == -signal.SIGKILL and child == victim)
            tally.expect(good and not unclear(text), f"{name} beside another command: {code} {text[-300:]}")
            if code == 1:
                labels = shop.entry(config).labels
                tally.expect(labels == before, f"{name} failed, and labels are {labels}, not {before}")
            shop.check(tally, f"{name} beside another command", config)
        tally.count()
    for config in configs:
        with silence():
            code = mixrank("rollout", "push", shop.base, shop.model(), "--config", config)
        tally.expect(code == 0 and not temporary(shop.base), "after all races: push fails or leaves something")
    tally.note = f"{refused} commands were refused, {killed} killed"
    return tally


def _run_races(ground: Ground) -> Tally:
    """A second `train` or `run` in the folder of a first one, and a third one after the first was killed."""
    from mixrank.pipeline.config import load_config

    given = [f"output={ground.folder / 'runs'}"]
    tally, lock = (
        Tally("two of run and train at once", ground.tries(12)),
        load_config(ground.config, given).run_dir / ".lock",
    )
    lock.parent.mkdir(parents=True)
    ground.record.write(lock.parent)
    record = (lock.parent / "run.json").read_bytes()

    def command(name: str) -> int:
        return mixrank(name, ground.config, "--set", *given)

    def begin(name: str, said: Path) -> int:
        child = fork(partial(command, name), said)
        end = time.monotonic() + HANGS
        while f"process {child} " not in (lock.read_text() if lock.exists() else "") and time.monotonic() < end:
            time.sleep(0.01)
        return child

    while tally.tried < tally.of:
        names = ("train", "run") if tally.tried % 2 else ("train", "train")
        first = begin(names[0], ground.folder / "first")
        said = ground.folder / "second"
        code = end_of(fork(partial(command, names[1]), said))
        text = " ".join(said.read_text().split())
        tally.expect(code == 1 and "is in use by `mixrank train`" in text, f"second {names[1]}: {code} {text[-300:]}")
        tally.expect(kill(first, 0), f"first {names[0]}: {(ground.folder / 'first').read_text()[-300:]}")
        third = begin(names[1], said)
        tally.expect(f"process {third} " in lock.read_text(), f"{names[1]} after a kill: {said.read_text()[-300:]}")
        kill(third, 0)
        tally.expect((lock.parent / "run.json").read_bytes() == record, "run.json has changed")
        tally.count()
    tally.note = "the second was refused; after a kill of the first, the next one went ahead"
    return tally
