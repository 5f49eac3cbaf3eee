"""Speed of per-token layers next to the peak of a plain matrix product, measured in the same run.

    python benchmarks/token_matmul.py            # a table, about half a minute on two cores; --jit compiles with XLA
    python benchmarks/token_matmul.py --check    # exits with 1 if a ratio of the fast path is below 0.8

Every round times each case once, in turn, so that a busy moment of the machine meets all of them alike; a case's time
is its median over the rounds. Forward counts 2 operations per multiply-add, forward + backward three times as many.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


import keras
import tensorflow as tf
from keras import ops

from mixrank.layers.mixing import PerTokenDense, PerTokenFFN, SharedFFN

GOAL = 0.8


@keras.saving.register_keras_serializable("benchmark")
class EinsumDense(PerTokenDense):
    """The same layer by `einsum`, for comparison."""

    def call(self, x):
        return self.activation(ops.einsum("bti,tio->bto", x, self.kernel) + self.bias[:, 0])


class EinsumFFN(keras.Sequential):
    """`PerTokenFFN` by `einsum`, for comparison."""

    def __init__(self, dim: int, expansion: int) -> None:
        super().__init__([EinsumDense(expansion * dim, activation="relu"), EinsumDense(dim)])


def step(layer: Any, x, backward: bool, jit: bool) -> Callable[[], object]:
    """A compiled forward, or forward and backward, pass over `x`.

    The backward pass starts from a random gradient, and the output is returned with the gradients: nothing of either
    pass may be dropped as unused.
    """
    upstream = tf.random.normal(layer(x).shape)

    def forward():
        return layer(x)

    def both():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return y, tape.gradient(y, [x, *layer.trainable_variables], output_gradients=upstream)

    compiled = tf.function(both if backward else forward, jit_compile=jit)
    compiled()
    return compiled


def median_seconds(cases: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median time of each case over interleaved rounds; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for index in range(rounds + 1):
        for name, run in cases.items():
            start = time.perf_counter()
            run()
            if index:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--square", type=int, default=3072, help="side of the plain matrix product")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--jit", action="store_true", help="compile with XLA")
    parser.add_argument(
        "--check", action="store_true", help=f"exit with 1 if the fast path is below {GOAL} of the peak"
    )
    options = parser.parse_args()
    batch, tokens, width = options.batch, options.tokens, options.width
    expansion = 4

    a, b = tf.random.normal((options.square, options.square)), tf.random.normal((options.square, options.square))
    x = tf.random.normal((batch, tokens, width))
    dense_work = 2 * batch * tokens * width * width
    # The same work with one kernel for all tokens: what a layer of this size can reach at all.
    layers: dict[str, tuple[tuple[Any, Any, Any], int]] = {
        "dense D->D": ((PerTokenDense(width), EinsumDense(width), keras.layers.Dense(width)), dense_work),
        "FFN D->4D->D": (
            (PerTokenFFN(expansion=expansion), EinsumFFN(width, expansion), SharedFFN(expansion=expansion)),
            2 * expansion * dense_work,
        ),
    }
    peak = tf.function(lambda: tf.matmul(a, b))
    cases: dict[str, Callable[[], object]] = {"peak": peak}
    work = {"peak": 2 * options.square**3}
    for name, (forms, operations) in layers.items():
        for kind, layer in zip(("fast", "einsum", "shared kernel"), forms, strict=True):
            for backward in (False, True):
                case = f"{name:13} {'forward+backward' if backward else 'forward':17} {kind}"
                cases[case] = step(layer, x, backward, options.jit)
                work[case] = operations * (3 if backward else 1)
    seconds = median_seconds(cases, options.rounds)
    speed = {name: work[name] / seconds[name] / 1e9 for name in cases}

    print(f"batch {batch}, tokens {tokens}, width {width}, float32, XLA {'on' if options.jit else 'off'}")
    print(f"plain matrix product of side {options.square}: {speed['peak']:.1f} GFLOP/s = 1.00")
    for name in list(cases)[1:]:
        print(f"{name:46} {speed[name]:7.1f} GFLOP/s  {speed[name] / speed['peak']:.2f}")
    slow = [name for name in cases if name.endswith("fast") and speed[name] < GOAL * speed["peak"]]
    if slow:
        print(f"below {GOAL} of the peak: {', '.join(' '.join(name.split()) for name in slow)}")
    return 1 if options.check and slow else 0


if __name__ == "__main__":
    sys.exit(main())
