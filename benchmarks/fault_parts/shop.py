"""A folder of versions that are no models, and the roll-out commands on it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from fault_parts.common import (
    Tally,
)


def save(folder: Path, number: int, shards: int = 6, size: int = 50_000) -> Path:
    """Something that looks like a SavedModel to everyone but TensorFlow."""
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph %d" % number)
    (folder / "variables" / "variables.index").write_bytes(b"index %d" % number)
    for shard in range(shards):
        name = f"variables.data-{shard:05d}-of-{shards:05d}"
        (folder / "variables" / name).write_bytes(b"%d" % number * size)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """What a server reads of a version."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "assets.extra")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


class Shop:
    """A folder of versions and what was pushed to it.

    Args:
        folder: to work in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.base, self.pushed = folder, folder / "shop", list[dict[str, bytes]]()

    def model(self) -> Path:
        """A new model to push."""
        folder = save(self.folder / "models" / str(len(self.pushed)), len(self.pushed))
        self.pushed.append(content(folder))
        return folder

    def versions(self) -> dict[int, Path]:
        from mixrank.serving.base import versions

        return versions(self.base)

    def entry(self, config: Path | None = None) -> Any:
        from mixrank.serving.rollout import Rollout

        return Rollout(self.base, config=config).entry

    def check(self, tally: Tally, when: str, config: Path | None = None) -> None:
        """Every listed version is whole, and every name of a version is of one that is listed."""
        found, entry = self.versions(), self.entry(config)
        for version, path in found.items():
            tally.expect(content(path) in self.pushed, f"{when}: version {version} is not whole")
        named = {*entry.labels.values(), *entry.loaded}
        tally.expect(named <= set(found), f"{when}: {sorted(named - set(found))} are served, but not there")


def step(rng: random.Random, shop: Shop) -> tuple[list[object], dict[str, int]]:
    """A roll-out command that can be done now, and the labels that it leads to."""
    labels, found = shop.entry().labels, shop.versions()
    stable, canary = labels.get("stable"), labels.get("canary")
    keep = rng.choice([[], ["--keep", 4]])
    trials = [version for version in found if version != stable]
    able = ["push"] + ["canary"] * bool(trials)
    able += ["promote"] * (canary not in (None, stable)) + ["rollback"] * ("previous" in labels)
    match rng.choice(able):
        case "canary":
            version = rng.choice(trials)
            return ["canary", shop.base, "--version", version], {**labels, "canary": version}
        case "promote":
            before = {} if stable is None else {"previous": stable}
            return ["promote", shop.base, "--unchecked", *keep], {"stable": canary, "canary": canary, **before}
        case "rollback":
            previous = labels["previous"]
            return ["rollback", shop.base], {"stable": previous, "canary": previous}
    return ["push", shop.base, shop.model(), *keep], labels
