"""Scenario experts, K of C active: computing all and masking, against computing only the active ones, in one run.

    python benchmarks/sparse_experts.py            # a table, a few minutes on two cores; --jit compiles with XLA
    KERAS_BACKEND=tensorflow python benchmarks/sparse_experts.py --batch 4096 --dim 756 --hidden 234 --tokens 27   # GPU

Both forms are the same layer, `Experts`, with the same weights and choices; before a case is timed their
outputs are compared. FLOPs are those of the matrix products in the traced graph, the grouped form's filled-up blocks
included. Rounds time every case once, in turn; a case's time is its median. A ratio above 1 means grouped is ahead.
The last column is what `dispatch` auto takes on CPU; on an accelerator it takes dense.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


import numpy as np
import tensorflow as tf
from token_matmul import median_seconds

from mixrank.layers.experts import Experts, choose_dispatch

FORMS = ("dense", "grouped")


def matrix_product_flops(step: Callable) -> int:
    """2 per multiply-add of every matrix product in a traced function's graph."""
    total = 0
    for op in step.get_concrete_function().graph.get_operations():
        if op.type in ("MatMul", "BatchMatMulV2"):
            left, (output,) = op.inputs[0].shape, op.outputs
            inner = left[-2] if op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x") else left[-1]
            total += 2 * inner * output.shape.num_elements()
    return total


def steps(layer: Experts, x, gates, chosen, jit: bool) -> tuple[Callable, Callable]:
    """A compiled forward pass, and one forward and backward."""
    upstream = tf.random.normal(x.shape)

    def forward():
        return layer(x, gates, chosen)

    def both():
        with tf.GradientTape() as tape:
            tape.watch([x, gates])
            y = layer(x, gates, chosen)
        gradients = tape.gradient(y, [x, gates, *layer.trainable_variables], output_gradients=upstream)
        # A gradient that an optimizer would take as a list of rows is not yet the work of a dense one.
        return y, [tf.convert_to_tensor(gradient) for gradient in gradients]

    return tf.function(forward, jit_compile=jit), tf.function(both, jit_compile=jit)


def case(options, experts: int, active: int) -> str:
    """One line of the table."""
    rng = np.random.default_rng(0)
    shape = (options.tokens, options.batch)
    x = tf.constant(rng.normal(size=(*shape, options.dim)), tf.float32)
    gates = tf.constant(rng.random(size=(*shape, active)), tf.float32)
    chosen = tf.math.top_k(tf.constant(rng.random(size=(*shape, experts)), tf.float32), active)[1]
    layers = {
        form: Experts(experts=experts, hidden_dim=options.hidden, dispatch=form, block=options.block) for form in FORMS
    }
    outputs = [layer(x, gates, chosen) for layer in layers.values()]
    layers["grouped"].set_weights(layers["dense"].get_weights())
    outputs = [layer(x, gates, chosen) for layer in layers.values()]
    error = float(tf.reduce_max(tf.abs(outputs[0] - outputs[1])))
    if error > 1e-3:
        raise SystemExit(f"the two forms differ by {error}")
    cases = {}
    for form, layer in layers.items():
        cases[form, "forward"], cases[form, "both"] = steps(layer, x, gates, chosen, options.jit)
    flops = [matrix_product_flops(cases[form, "forward"]) / 1e6 / options.batch for form in FORMS]
    seconds = median_seconds(cases, options.rounds)
    cells = [f"{experts:3} {active:3}  {flops[0]:9.2f} {flops[1]:9.2f} {flops[0] / flops[1]:6.2f}"]
    for kind in ("forward", "both"):
        dense, grouped = (1e3 * seconds[form, kind] for form in FORMS)
        cells.append(f"{dense:9.1f} {grouped:9.1f} {dense / grouped:6.2f}")
    return "  ".join(cells) + f"  {choose_dispatch('auto', experts, active, options.dim * options.hidden)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--dim", type=int, default=204)
    parser.add_argument("--hidden", type=int, default=62)
    parser.add_argument("--block", type=int, help="rows per block of the grouped form (default: the layer's choice)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jit", action="store_true", help="compile with XLA")
    parser.add_argument("--cases", default="2/1,5/1,5/2,8/2,10/2,15/2,30/2", help="C/K, separated by commas")
    options = parser.parse_args()
    devices = ", ".join(device.device_type for device in tf.config.list_logical_devices())
    print(
        f"{devices}; batch {options.batch}, tokens {options.tokens}, width {options.dim}, hidden {options.hidden}, "
        f"block {options.block or 'chosen by the layer'}, float32, XLA {'on' if options.jit else 'off'}"
    )
    print(
        "  C   K  MFLOP per row: dense, grouped, ratio   forward ms: dense, grouped, ratio   forward + backward  auto"
    )
    for pair in options.cases.split(","):
        experts, active = (int(number) for number in pair.split("/"))
        print(case(options, experts, active), flush=True)


if __name__ == "__main__":
    main()
