"""Cost of a training step by the size of the embedding tables: time, memory, and what the step computes.

    python benchmarks/tables.py                      # 10^4, 10^6 and 10^7 ids: a table, about three minutes
    python benchmarks/tables.py --check              # the same; exits with 1 where a bar is missed
    python benchmarks/tables.py --ids 5e7            # one size of one's own

HeMix `tiny` with two tables of that many ids, 16 wide, one of them also read by a history of 20 events; batches of 1024
random rows, one of them cached. Every size runs in a process of its own, in turn, over three rounds; a size's time is
the least of its rounds' medians. Memory above the tables is what the largest size takes at its peak, less the smallest
size's and less the larger tables themselves. The last line holds the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

BATCH, DIM, HISTORY, TABLES = 1024, 16, 20, 2
SIZES = (10**4, 10**6, 10**7)
ROUNDS, SECONDS = 3, 5.0
# Time of a step at the largest size over that at the smallest; memory above the tables over the tables; and the
# difference of a step from a dense reference.
TIME_BAR, MEMORY_BAR, EQUAL_BAR = 1.2, 0.15, 1e-6


def spec() -> Any:
    from mixrank.schemas import Categorical, EventTime, FeatureSpec, History, Key, Label, Scenario

    return FeatureSpec(
        name="tables",
        user=Key("user"),
        item=Key("item"),
        time=EventTime("at"),
        scenario=Scenario("page", values=("home", "search"), dim=DIM),
        labels=(Label("click"),),
        features=(
            Categorical("user", group="user", dim=DIM),
            Categorical("item", group="item", dim=DIM),
            History("past", of=("item",), length=HISTORY, window="before"),
        ),
    )


def measure(size: int, optimizer: str) -> dict[str, float]:
    """Seconds of a step and peak memory of a training in this process."""
    import numpy as np
    import tensorflow as tf

    from mixrank.components.training import (
        TableOptimizer,
        TrainSettings,
        build_strategy,
        compile_for_training,
    )
    from mixrank.layers.ranking import build_ranker
    from mixrank.pipeline.comparing import median_seconds

    log = spec()
    model = build_ranker(log, {"user": size, "item": size}, "hemix", {"realtime_sequence": False}, preset="tiny")
    settings = TrainSettings(batch_size=BATCH, embedding_optimizer=TableOptimizer(name=optimizer))
    trained = compile_for_training(model, log, settings, build_strategy(1), steps=10**6)
    rng = np.random.default_rng(0)
    rows = {
        "page": rng.integers(1, 3, BATCH),
        "user": rng.integers(1, size, BATCH),
        "item": rng.integers(1, size, BATCH),
        "past_item": rng.integers(1, size, (BATCH, HISTORY)),
    }
    labels = {"click": rng.integers(0, 2, (BATCH, 1)).astype("float32")}
    batches = iter(tf.data.Dataset.from_tensors((rows, labels)).cache().repeat())
    trained.make_train_function()

    def step() -> float:
        return float(tf.nest.flatten(trained.train_function(batches))[0])

    seconds = median_seconds(step, SECONDS)
    return {"seconds": seconds, "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def difference() -> float:
    """Largest difference of row-wise Adagrad from a dense reference in NumPy with float64, over 20 steps."""
    import keras
    import numpy as np
    import tensorflow as tf

    from mixrank.components.training.optimizing.row_optimizer import Gradient, build_row_optimizer

    size, rate, start = 1000, 0.16, 1e-8
    rng = np.random.default_rng(0)
    w = rng.normal(0, 0.05, (size, DIM))
    table = keras.Variable(w.astype("float32"))
    optimizer = build_row_optimizer("rowwise_adagrad", rate, {"start": start})
    optimizer.build([table])
    w, a = np.array(table).astype(np.float64), np.zeros((size, 1))
    for step in range(20):
        rows = np.minimum(rng.zipf(1.3, 4 * BATCH), size) - 1
        values = rng.normal(0, 1e-3, (len(rows), DIM)).astype("float32")
        optimizer.apply([Gradient(tf.constant(rows, tf.int64), tf.constant(values))], tf.constant(step))
        g = np.zeros((size, DIM))
        np.add.at(g, rows, values.astype(np.float64))
        a += (g**2).mean(axis=1, keepdims=True)
        w -= rate * g / np.sqrt(a + start)
    return float(np.abs(np.array(table) - w).max())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=float, nargs="*", default=SIZES, help="ids of each table")
    parser.add_argument("--optimizer", default="rowwise_adagrad", help="optimizer of the tables")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bar is missed")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(options.one, options.optimizer)))
        return 0
    sizes = sorted(int(size) for size in options.ids)
    found: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for number in range(ROUNDS):
        for size in sizes:
            began = time.monotonic()
            command = [sys.executable, __file__, "--one", str(size), "--optimizer", options.optimizer]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if run.returncode:
                print(f"{size:,} ids: exit {run.returncode}", file=sys.stderr)
                return 1
            found[size].append(json.loads(run.stdout.splitlines()[-1]))
            print(f"round {number + 1}: {size:,} ids in {time.monotonic() - began:.0f} s", file=sys.stderr)
    seconds = {size: min(each["seconds"] for each in runs) for size, runs in found.items()}
    peaks = {size: min(each["peak_bytes"] for each in runs) for size, runs in found.items()}
    print(f"{'ids':>12} {'tables':>10} {'step':>10} {'peak':>10}")
    for size in sizes:
        print(
            f"{size:12,} {of_tables(size) / 2**20:7,.0f} MiB {1000 * seconds[size]:7.1f} ms "
            f"{peaks[size] / 2**20:6,.0f} MiB"
        )
    least, most = sizes[0], sizes[-1]
    larger = of_tables(most) - of_tables(least)
    figures = {"largest_difference": difference()}
    if larger:
        figures["time_ratio"] = seconds[most] / seconds[least]
        figures["memory_above_tables"] = (peaks[most] - peaks[least] - larger) / larger
    print(json.dumps({name: float(f"{value:.3g}") for name, value in figures.items()}))
    bars = {"time_ratio": TIME_BAR, "memory_above_tables": MEMORY_BAR, "largest_difference": EQUAL_BAR}
    missed = [name for name, value in figures.items() if value > bars[name]]
    if options.check and missed:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
        return 1
    return 0


def of_tables(size: int) -> int:
    """Bytes of both tables."""
    return TABLES * size * DIM * 4


if __name__ == "__main__":
    sys.exit(main())
