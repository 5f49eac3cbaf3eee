"""Cost of scoring a request once for all candidates, compared with one full row per candidate.

    python benchmarks/request_scoring.py mixformer mixformer:user_heads=2 hemix
    python benchmarks/request_scoring.py mixformer --sizes tiny 5000000 --candidates 1 512 --length 200
    python benchmarks/request_scoring.py mixformer mixformer:user_heads=8 --sizes small --count

One user with two full histories and N candidates, on vectors as wide as KuaiRand's, through a model's backbone: once
with `request_of`, once with everything repeated N times before the clock starts. Both are compiled for their shapes and
run in turn; a time is the shortest of the rounds, because other programs only ever add to it. The ratio that operations
predict stands beside the measured one: matrix products of the traced graph, 2 operations per multiply-add, expanded
over by request. With --count nothing is run. A model may be followed by parameters; a size is a preset, or a number of
dense weights to which the tiny preset is scaled.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


import numpy as np
import tensorflow as tf
import yaml

from mixrank.layers import registry
from mixrank.layers.backbone import Backbone, Widths
from mixrank.layers.ranking import match, widths
from mixrank.schemas import GROUPS
from mixrank.schemas.datasets.kuairand import SPEC


class Case(NamedTuple):
    """A compiled pass, and the operations of its matrix products."""

    run: Callable[[], Any]
    flops: int


def backbone_of(text: str, size: str, sizes: Widths) -> Backbone:
    """The backbone of `name` or `name:parameter=value,...` at a preset, or scaled to a number of dense weights."""
    name, _, given = text.partition(":")
    params = {key: yaml.safe_load(value) for key, value in (each.split("=") for each in given.split(",") if each)}
    scenarios = SPEC.scenario.values
    if not size.isdigit():
        return registry.build(name, params, preset=size, scenarios=scenarios)
    scaled = match(name, int(size), sizes, SPEC.tasks, scenarios, params, preset="tiny")
    return registry.build(name, scaled, scenarios=scenarios)


def request(sizes: Widths, read: tuple[str, ...], candidates: int) -> tuple[dict, dict, Any]:
    """Features, histories and scenario of one user with `candidates` items."""
    rng = np.random.default_rng(0)
    batch = {group: candidates if group == "item" else 1 for group in GROUPS}
    features = {
        group: [tf.constant(rng.normal(size=(batch[group], width)), "float32") for width in sizes.vectors[group]]
        for group in GROUPS
    }
    histories = {
        key: {
            "items": tf.constant(rng.normal(size=(1, *sizes.histories[key])), "float32"),
            "mask": tf.ones((1, sizes.histories[key][0]), "bool"),
        }
        for key in read
    }
    return features, histories, tf.ones((1,), "int64")


def cases(backbone: Backbone, sizes: Widths, candidates: int) -> dict[str, Case]:
    """Both ways to score one request."""
    features, histories, scenario = request(sizes, backbone.reads(sizes.histories), candidates)
    request_of = tf.zeros((candidates,), "int32")
    repeated = tf.nest.map_structure(lambda x: tf.repeat(x, candidates, axis=0), (histories, scenario))
    vectors = {
        group: x if group == "item" else [tf.repeat(each, candidates, axis=0) for each in x]
        for group, x in features.items()
    }
    return {
        "by request": _compiled(
            lambda f, h, s: backbone(f, h, s, request_of=request_of), features, histories, scenario
        ),
        "expanded": _compiled(lambda f, h, s: backbone(f, h, s), vectors, *repeated),
    }


def _compiled(function: Callable, *arguments: Any) -> Case:
    traced = tf.function(function).get_concrete_function(*arguments)
    total = 0
    for op in traced.graph.get_operations():
        if op.type in ("Einsum", "Conv2D"):
            raise ValueError(f"{op.name} is not a plain matrix product; its operations would be left out")
        if op.type in ("MatMul", "BatchMatMulV2"):
            transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
            total += 2 * op.inputs[0].shape[-2 if transposed else -1] * op.outputs[0].shape.num_elements()
    return Case(lambda: traced(*arguments), total)


def shortest_seconds(found: dict[str, Case], rounds: int) -> dict[str, float]:
    """Shortest time of each case over interleaved rounds, after one round that compares the results."""
    left, right = (case.run().numpy() for case in found.values())
    np.testing.assert_allclose(left, right, atol=1e-3 * (1 + np.abs(right).max()))
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, case in found.items():
            began = time.perf_counter()
            case.run().numpy()
            times[name].append(time.perf_counter() - began)
    return {name: min(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="names, each with parameters or without: mixformer:user_heads=2")
    parser.add_argument("--sizes", nargs="+", default=["tiny", "2000000"], help="presets or dense weights")
    parser.add_argument("--candidates", nargs="+", type=int, default=[1, 16, 64, 256, 512])
    parser.add_argument("--length", type=int, default=100, help="events in each history")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", action="store_true", help="operations only")
    options = parser.parse_args()

    known = widths(SPEC)
    sizes = known._replace(histories={w: (options.length, width) for w, (_, width) in known.histories.items()})
    print(f"histories of {options.length} events each, float32, shortest of {options.rounds} rounds")
    columns = (
        ["MFLOP", "expanded", "ratio"] if options.count else ["MFLOP", "expanded", "ratio", "ms", "expanded", "ratio"]
    )
    print(f"{'model':28} {'size':>8} {'cand.':>6}" + "".join(f"{column:>11}" for column in columns))
    for size in options.sizes:
        for model in options.models:
            backbone = backbone_of(model, size, sizes)
            for candidates in options.candidates:
                found = cases(backbone, sizes, candidates)
                short, long = (case.flops for case in found.values())
                values = [short / 1e6, long / 1e6, long / short]
                if not options.count:
                    fast, slow = shortest_seconds(found, options.rounds).values()
                    values += [1e3 * fast, 1e3 * slow, slow / fast]
                print(
                    f"{model:28} {size:>8} {candidates:6}" + "".join(f"{value:11.1f}" for value in values), flush=True
                )


if __name__ == "__main__":
    main()
