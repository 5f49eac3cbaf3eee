"""Time and memory of models with long histories: forward, backward, and a request with many candidates.

    python benchmarks/long_histories.py onetrans:events_per_token=8 hyformer:encoder=swiglu hemix din
    python benchmarks/long_histories.py onetrans onetrans:events_per_token=16 --lengths 1000 --limit-gb 8

Random vectors as wide as KuaiRand's go through a model's backbone at the preset `tiny`, and a search before it; the
long-term history has the length, the real-time one stays short. Every row is a process of its own. A time is the
shortest of the rounds. The peak is that of the process above what it held before the first pass: of forward passes
alone, then with the gradients of all weights and of the histories' vectors, and of one request. With --limit-gb a
process that asks for more address space than that above its start ends, and its row says so.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def measure(text: str, length: int, part: str, options: argparse.Namespace) -> dict[str, float]:
    """One part of a row, in this process: forward, backward or request."""
    import numpy as np
    import tensorflow as tf
    import yaml

    from mixrank.layers import registry
    from mixrank.layers.ranking import widths
    from mixrank.layers.tokens import HardRelevance, SoftRelevance
    from mixrank.schemas import GROUPS
    from mixrank.schemas.datasets.kuairand import SPEC

    name, _, given = text.partition(":")
    params = {key: yaml.safe_load(value) for key, value in (each.split("=") for each in given.split(",") if each)}
    backbone = registry.build(name, params, preset="tiny", scenarios=SPEC.scenario.values)
    known = widths(SPEC)
    sizes = known._replace(histories={**known.histories, "before": (length, known.histories["before"][1])})
    requests, candidates = (1, options.candidates) if part == "request" else (options.batch, options.batch)
    rng = np.random.default_rng(0)
    rows = {group: candidates if group == "item" else requests for group in GROUPS}
    features = {
        group: [tf.constant(rng.normal(size=(rows[group], width)), "float32") for width in sizes.vectors[group]]
        for group in GROUPS
    }
    histories = {
        key: {
            # From NumPy: what TensorFlow makes on the way to random numbers it keeps, and the passes take it unseen.
            "items": tf.constant(rng.standard_normal((requests, *sizes.histories[key]), "float32")),
            "mask": tf.ones((requests, sizes.histories[key][0]), "bool"),
        }
        for key in backbone.reads(sizes.histories)
    }
    # What a search compares, which the ranker does before the backbone: ids, or vectors and which events have them.
    compared: dict[str, tuple[Any, tuple[Any, ...]]] = {}
    for key, each in histories.items():
        if (search := backbone.search_of(key)) is None:
            continue
        shape, mask = (requests, sizes.histories[key][0]), each["mask"]
        own, theirs = (
            [
                tf.constant(
                    rng.integers(1, 1000, rows) if search == "hard" else rng.standard_normal((*rows, width), "float32")
                )
                for width in sizes.shared[key]
            ]
            for rows in ((candidates,), shape)
        )
        if search == "hard":
            compared[key] = HardRelevance(), (own, theirs, mask)
        else:
            compared[key] = SoftRelevance(), (own, theirs, [mask] * len(own))
    scenario = tf.ones((requests,), "int64")
    request_of = tf.zeros((candidates,), "int32") if part == "request" else None
    # With one row, so that the first pass is not part of what the weights take.
    few = tf.nest.map_structure(lambda x: x[:1], (features, histories, scenario))
    backbone(*few)
    items = [each["items"] for each in histories.values()]

    @tf.function(autograph=False)
    def forward() -> Any:
        relevance = {key: {"relevance": layer(*given)} for key, (layer, given) in compared.items()}
        read = {key: {**each, **relevance.get(key, {})} for key, each in histories.items()}
        return tf.reduce_sum(backbone(features, read, scenario, request_of=request_of))

    @tf.function(autograph=False)
    def backward() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(items)
            loss = forward()
        # A weight of an auxiliary loss has none.
        found = tape.gradient(loss, [*backbone.trainable_variables, *items])
        return sum(tf.reduce_sum(g) for g in found if g is not None)

    run: Callable[[], Any] = backward if part == "backward" else forward
    # From here on the peak is that of the passes, not of what made the inputs.
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_mb("VmRSS")
    if options.limit_gb:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + int(options.limit_gb * 2**30),) * 2)
    times = []
    if options.rounds:
        run().numpy()
    for _ in range(options.rounds or 1):
        began = time.perf_counter()
        run().numpy()
        times.append(time.perf_counter() - began)
    return {"ms": 1e3 * min(times), "mb": memory_mb("VmHWM") - before}


def memory_mb(name: str) -> float:
    """Resident memory of this process now (VmRSS), or its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="names, each with parameters or without: onetrans:events_per_token=8")
    parser.add_argument(
        "--lengths", nargs="+", type=int, default=[1000, 10_000], help="events of the long-term history"
    )
    parser.add_argument("--batch", type=int, default=64, help="rows of a forward or backward pass")
    parser.add_argument("--candidates", type=int, default=512, help="candidates of the request")
    parser.add_argument(
        "--rounds", type=int, default=3, help="passes after a first one; 0 measures the first, tracing included"
    )
    parser.add_argument("--limit-gb", type=float, help="memory that a process may take above its start")
    parser.add_argument("--once", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        text, length, part = options.once
        print(json.dumps(measure(text, int(length), part, options)))
        return
    parts = ("forward", "backward", "request")
    print(f"batch {options.batch}, {options.candidates} candidates of a request, shortest of {options.rounds} rounds")
    print(
        f"{'model':40} {'length':>7}" + "".join(f"{part + ' ' + unit:>14}" for part in parts for unit in ("ms", "MB"))
    )
    for text in options.models:
        for length in options.lengths:
            cells = []
            for part in parts:
                command = [sys.executable, __file__, *sys.argv[1:], "--once", text, str(length), part]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    print(done.stderr.strip()[-300:], file=sys.stderr)
                    cells += ["-", "-"]
                else:
                    found = json.loads(done.stdout.splitlines()[-1])
                    cells += [f"{found['ms']:.1f}", f"{found['mb']:.0f}"]
            print(f"{text:40} {length:7}" + "".join(f"{cell:>14}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
