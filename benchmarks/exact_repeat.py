"""A log whose label says whether the user has had this very item before, with and without a `Match`.

    python benchmarks/exact_repeat.py FOLDER                         # two models, two seeds: seven minutes
    python benchmarks/exact_repeat.py FOLDER --models mixformer      # others; run again to go on after a kill

Grocery orders, reminders, subscriptions: where people come back for the same thing, that is the strongest signal there
is. In this log a user sees items of the past again with probability 1/2, the newer the more likely, and else an item by
its popularity; the label is 1 if it is one of the past, of any age, and one label in fifty is wrong. Histories hold the
newest 60 events of earlier days and 15 of the same day, so that the oldest repeats cannot be seen.

"rule" scores 1 where the item is in the histories that a model gets. The commands are those of a user: `mixrank run`,
then `mixrank compare` with and without the line `Match("had", of="item", flags=("bought",))`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd

USERS, ITEMS, DAYS, PER_DAY = 1500, 3000, 10, 8.0
FIRST_MS, DAY_MS = 1_704_067_200_000, 86_400_000
WRONG = 0.02

DECLARATION = '''"""Written by benchmarks/exact_repeat.py."""
from mixrank.schemas import (
    Action, Categorical, Dataset, EventTime, FeatureSpec, History, Key, Label, LogSource, Match, Scenario, SplitByDay,
    Table, TimeGap,
)

FIELDS = ("item", "action", "gap")
SPEC = FeatureSpec(
    name="repeat",
    user=Key("user"),
    item=Key("item"),
    time=EventTime("ms"),
    scenario=Scenario("page", values=("home",)),
    labels=(Label("bought"),),
    features=(
        Categorical("item", group="item", dim=16),
        Action("action", flags=("bought",)),
        TimeGap("gap"),
        History("earlier", of=FIELDS, length=60, window="before"),
        History("today", of=FIELDS, length=15, window="within"),
        Match("had", of="item", flags=("bought",)),
    ),
)
DATASET = Dataset(
    spec=SPEC,
    source=LogSource(
        log=Table(files=("log.parquet",)),
        split=SplitByDay(splits={
            "train": ("2024-01-03", "2024-01-08"),
            "valid": ("2024-01-09", "2024-01-09"),
            "eval": ("2024-01-10", "2024-01-10"),
        }),
    ),
)
'''


def draw(seed: int = 0) -> pd.DataFrame:
    """The log, user by user in the order of time."""
    rng = np.random.default_rng(seed)
    share = np.arange(1, ITEMS + 1) ** -0.7
    share /= share.sum()
    parts = []
    for user in range(USERS):
        moments = np.sort(rng.integers(0, DAYS * DAY_MS, rng.poisson(PER_DAY * DAYS)))
        had: list[int] = []
        items, labels = [], []
        for _ in moments:
            again = had and rng.random() < 0.5
            # The newer the more likely: a place from the end with an exponential law.
            item = had[-1 - min(int(rng.exponential(25.0)), len(had) - 1)] if again else int(rng.choice(ITEMS, p=share))
            labels.append(int(item in had) ^ int(rng.random() < WRONG))
            items.append(item)
            had.append(item)
        parts.append(pd.DataFrame({"user": user, "item": items, "ms": FIRST_MS + moments, "bought": labels}))
    return pd.concat(parts, ignore_index=True).assign(page="home")


def config(folder: Path, models: list[str], seeds: int) -> Path:
    """The run's configuration: each model with the match and without."""
    variants = [
        {"name": f"{name}{ending}", "model": {"name": name}, **without}
        for name in models
        for ending, without in ((", match", {}), ("", {"without": ["had"]}))
    ]
    table = {"title": "With and without a match", "budgets": ["250K"], "variants": variants}
    settings = {
        "name": "repeat",
        "dataset": str(folder / "repeat_log.py"),
        "data": str(folder),
        "model": {"name": models[0], "preset": "tiny"},
        "train": {
            "splits": ["train", "valid"],
            "batch_size": 128,
            "optimizer": {"name": "adam", "learning_rate": 0.001},
        },
        "compare": {"seeds": list(range(seeds)), "tables": {"repeat": table}},
    }
    file = folder / "repeat.json"
    # JSON is YAML.
    file.write_text(json.dumps(settings, indent=1))
    return file


def rule(log: pd.DataFrame) -> float:
    """AUC of "the item is among the newest 60 events of earlier days or 15 of the same day" on the evaluated day."""
    from mixrank.components.metrics import auc

    scores, labels = [], []
    log = log.assign(day=(log["ms"] - FIRST_MS) // DAY_MS)
    for _, own in log.groupby("user"):
        items, days = own["item"].to_numpy(), own["day"].to_numpy()
        for place in np.flatnonzero(days == DAYS - 1):
            first = int(np.searchsorted(days, DAYS - 1))
            seen = {*items[max(0, first - 60) : first], *items[max(first, place - 15) : place]}
            scores.append(float(items[place] in seen))
        labels.append(own.loc[own["day"] == DAYS - 1, "bought"].to_numpy())
    return auc(np.concatenate(labels), np.array(scores))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the log, its declaration and the run")
    parser.add_argument("--models", nargs="+", default=["hemix", "dcnv2"])
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "log.parquet").is_file():
        draw().to_parquet(folder / "log.parquet", index=False)
    (folder / "repeat_log.py").write_text(DECLARATION)
    file = config(folder, options.models, options.seeds)
    mixrank = [sys.executable, "-m", "mixrank.pipeline.cli"]
    subprocess.run([*mixrank, "run", str(file)], cwd=folder, check=True)
    subprocess.run([*mixrank, "compare", str(file), "repeat", "--no-speed"], cwd=folder, check=True)
    log = pd.read_parquet(folder / "log.parquet")
    print((folder / "runs/repeat/compare/report.md").read_text())
    print(f"{len(log):,} rows, {log['bought'].mean():.1%} with label 1; AUC of the rule {rule(log):.4f}")


if __name__ == "__main__":
    main()
