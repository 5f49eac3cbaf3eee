"""Speed and memory of every model at one size: training, forward latency, share of the matrix-product peak.

    python benchmarks/models.py --params 1M                          # every model, a table and runs/models-1M.json
    python benchmarks/models.py --params 20M --models hemix,dcnv2
    python benchmarks/models.py --params 20M --backend torch --peak-tflops 67
    python benchmarks/models.py --params 20M --batch 1024 --models hemix --profile   # where a step's time goes

Every model runs in a process of its own, one after the other, on random rows of a log's widths. The peak is that of a
plain matrix product, timed in the same process before and after. Forward counts the FLOPs of the model's own count,
training three times as many. On TensorFlow both are timed as a plain graph, as a model is served, and compiled by XLA;
the faster of the two counts. `xla` is the time of a compiled training step over that of a plain one, `first` what the
first step takes in seconds, plain and with XLA: tracing and compilation. The two take turns, and the least time
counts. `faults` are the page faults of a plain step; TF_CPU_ALLOCATOR_USE_BFC=false shows them without memory kept.
`--profile` adds which operations of a plain training step take its time, as TensorFlow's profiler counts it over all
threads. `--backend` runs the layers on another Keras backend, on its accelerator if it has one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


from mixrank.pipeline.comparing import median_seconds

LATENCY_BATCHES = (1, 64, 1024)
# Ids of a feature whose vocabulary is only known after Transform.
VOCABULARY = 1000
# Kinds of operations in a profile, by what their names contain; all others are arithmetic on single elements.
KINDS = {
    "products": ("MatMul", "Einsum"),
    "moves": (
        *("Transpose", "Concat", "Split", "Slice", "Pack", "Gather", "Scatter", "Segment", "Unique", "Tile", "Pad"),
        *("BroadcastTo", "Where", "Cast", "OneHot"),
    ),
    "softmax and sums": ("Softmax", "Sum", "Mean", "Max", "Min", "Prod", "TopK", "Cumsum"),
}
PROFILED_STEPS = 3
# Of the training step with XLA and that without.
TURNS = 3
# On CPU these passes of jaxlib 0.4.30 fuse products with what follows them into a kernel that crashes.
JAX_FLAGS = "--xla_disable_hlo_passes=onednn-contraction-rewriter,onednn-matmul-rewriter"


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Builds one model in this process, trains it and scores with it."""
    import keras
    import numpy as np

    from mixrank.layers.base import counts
    from mixrank.layers.ranking import build_ranker, match, table_sizes, widths
    from mixrank.schemas import datasets

    spec = datasets.load(options.dataset).spec
    params = match(name, options.params, widths(spec), spec.tasks, spec.scenario.values, preset="tiny")
    sizes = {feature.name: VOCABULARY for feature in spec.looked_up}
    before = peak_mb()
    model = build_ranker(spec, sizes, model=name, params=params)
    parts = {part.name: part for part in counts(model)}
    flops = sum(part.flops for part in parts.values())
    columns = {
        column: table_sizes(spec, sizes).get(feature.name, 1)
        for history in spec.histories
        for column, feature in spec.history_fields(history)
    }
    columns |= table_sizes(spec, sizes)
    rng = np.random.default_rng(0)

    def rows(batch: int) -> dict[str, Any]:
        found = {}
        for column, tensor in model.input.items():
            shape = (batch, *tensor.shape[1:])
            whole = tensor.dtype == "int64"
            found[column] = rng.integers(1, columns[column], shape) if whole else rng.normal(size=shape)
            found[column] = found[column].astype(tensor.dtype)
        return found

    peaks = [matmul_peak(options)]
    passes = forward_passes(model)
    latency = {}
    for batch in LATENCY_BATCHES:
        given = on_device(rows(batch))
        times = [median_seconds(lambda run=run, given=given: run(given), options.seconds) for run in passes.values()]
        latency[batch] = min(times)
    # That of the largest batch.
    fastest = list(passes)[times.index(min(times))]
    given = rows(options.batch)
    trains, steps, firsts, profile = {}, {}, {}, {}
    for kind in ("off", "on") if keras.backend.backend() == "tensorflow" else ("on",):
        began = time.perf_counter()
        trains[kind] = training_step(model, options.batch, given, spec, rng, kind)
        trains[kind]()
        firsts[kind] = time.perf_counter() - began
    # In turn, because other programs may take the cores for some seconds.
    for _ in range(TURNS):
        for kind, train in trains.items():
            steps[kind] = min(median_seconds(train, options.seconds / TURNS), steps.get(kind, float("inf")))
    if options.profile:
        profile = profiled(trains["off"])
    step = min(steps.values())
    peaks.append(matmul_peak(options))
    peak = options.peak_tflops * 1e12 if options.peak_tflops else max(peaks)
    largest = max(LATENCY_BATCHES)
    return {
        "model": name,
        "params": params,
        "dense_parameters": sum(p.parameters for p in parts.values() if p.name != "embeddings"),
        "flops_per_row": flops,
        "backend": keras.backend.backend(),
        "device": device(),
        "steps_per_second": 1 / step,
        "xla": steps["on"] / steps.get("off", steps["on"]),
        "first_step_seconds": [firsts.get("off", 0.0), firsts["on"]],
        "forward": fastest,
        "latency_ms": {batch: 1000 * seconds for batch, seconds in latency.items()},
        "peak_mb": peak_mb(),
        "peak_mb_above_imports": peak_mb() - before,
        "peak_gflops": peak / 1e9,
        "forward_gflops": flops * largest / latency[largest] / 1e9,
        "training_gflops": 3 * flops * options.batch / step / 1e9,
        "forward_share": flops * largest / latency[largest] / peak,
        "training_share": 3 * flops * options.batch / step / peak,
        "profile": profile,
        "page_faults": page_faults(next(iter(trains.values()))),
    }


def training_step(
    model: Any, batch: int, rows: dict[str, Any], spec: Any, rng: Any, jit: str = "auto"
) -> Callable[[], object]:
    """One training step as the Trainer takes it; waits for its result."""
    import keras

    labels = {task: rng.integers(0, 2, (batch, 1)).astype("float32") for task in spec.tasks}
    if keras.backend.backend() != "tensorflow":
        model.compile(
            keras.optimizers.Adam(1e-3),
            {task: keras.losses.BinaryCrossentropy(from_logits=True) for task in spec.tasks},
            jit_compile=keras.backend.backend() != "torch",
        )
        if keras.backend.backend() == "jax":
            return jax_step(model, rows, labels)
        return lambda: model.train_on_batch(rows, labels)
    import tensorflow as tf

    from mixrank.components.training import TrainSettings, build_strategy, compile_for_training

    settings = TrainSettings(batch_size=batch, jit_compile=jit)
    trained = compile_for_training(model, spec, settings, build_strategy(1), steps=10**6)
    # One cached batch: nothing of the input pipeline is measured.
    batches = iter(tf.data.Dataset.from_tensors((rows, labels)).cache().repeat())
    trained.make_train_function()
    return lambda: float(tf.nest.flatten(trained.train_function(batches))[0])


def page_faults(step: Callable[[], object]) -> int:
    """Pages that the kernel gives this process in one step, for memory that was not kept."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def profiled(step: Callable[[], object]) -> dict[str, float]:
    """Kind of operation -> its share of the time of all operations; the three slowest single types come last."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        for _ in range(PROFILED_STEPS):
            step()
        tf.profiler.experimental.stop()
        (path,) = Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    spent: dict[str, float] = {}
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            # An operation is called `path/of/its/name:Type`; all other events contain operations.
            place, _, operation = plane.event_metadata[event.metadata_id].name.partition(":")
            if "/" in place and operation.isidentifier():
                spent[operation] = spent.get(operation, 0) + event.duration_ps
    total = sum(spent.values())
    shares = dict.fromkeys([*KINDS, "element by element"], 0.0)
    for operation, duration in spent.items():
        kind = next((kind for kind, names in KINDS.items() if any(n in operation for n in names)), "element by element")
        shares[kind] += duration / total
    slowest = sorted((name for name in spent if "MatMul" not in name), key=spent.__getitem__)[-3:]
    return shares | {name: spent[name] / total for name in reversed(slowest)}


def forward_passes(model: Any) -> dict[str, Callable[[Any], object]]:
    """Ways to score a batch, by name; each waits for its result."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        def of(jit: bool) -> Callable[[Any], object]:
            run = tf.function(lambda given: model(given, training=False), jit_compile=jit, autograph=False)
            return lambda given: [logits.numpy() for logits in run(given).values()]

        return {"graph": of(False), "xla": of(True)}
    if keras.backend.backend() == "jax":
        import jax

        weights = [v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables]
        run = jax.jit(lambda given: model.stateless_call(*weights, given, training=False)[0])
        return {"jax": lambda given: jax.block_until_ready(run(given))}
    import torch

    def score(given: Any) -> None:
        with torch.no_grad():
            model(given, training=False)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return {"torch": score}


def jax_step(model: Any, rows: Any, labels: Any) -> Callable[[], object]:
    """`fit`'s own compiled step, with the state handed from step to step on the device."""
    import jax

    model._symbolic_build(data_batch=(rows, labels))
    model.optimizer.build(model.trainable_variables)
    model.make_train_function()
    batch = jax.device_put((rows, labels))
    held = {
        "state": model._get_jax_state(
            trainable_variables=True, non_trainable_variables=True, optimizer_variables=True, metrics_variables=True
        )
    }

    def step() -> None:
        logs, held["state"] = model.train_function(held["state"], iter([batch]))
        jax.block_until_ready(logs)

    return step


def on_device(rows: dict[str, Any]) -> dict[str, Any]:
    import keras

    return {name: keras.ops.convert_to_tensor(values) for name, values in rows.items()}


def device() -> str:
    """Name of the accelerator, or "cpu"."""
    import keras

    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    if keras.backend.backend() == "jax":
        import jax

        return str(jax.devices()[0].device_kind)
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return gpus[0].name if gpus else "cpu"


def matmul_peak(options: argparse.Namespace) -> float:
    """FLOP/s of a plain float32 matrix product on the device the model runs on."""
    import keras
    import numpy as np

    side = options.square
    a = keras.ops.convert_to_tensor(np.random.default_rng(0).normal(size=(side, side)).astype("float32"))
    if keras.backend.backend() == "torch":
        import torch

        def product() -> None:
            torch.matmul(a, a)
            if torch.cuda.is_available():
                torch.cuda.synchronize()

    elif keras.backend.backend() == "jax":
        import jax

        run = jax.jit(lambda x: x @ x)
        product = lambda: jax.block_until_ready(run(a))  # noqa: E731
    else:
        import tensorflow as tf

        run = tf.function(lambda: tf.reduce_max(tf.matmul(a, a)))
        product = lambda: float(run())  # noqa: E731
    return 2 * side**3 / median_seconds(product, options.seconds)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def print_row(row: dict[str, Any]) -> None:
    if "error" in row:
        print(f"{row['model']:12} {row['error']}", flush=True)
        return
    latency = "".join(f"{row['latency_ms'][str(batch)]:9.2f}" for batch in LATENCY_BATCHES)
    print(
        f"{row['model']:12}{row['dense_parameters'] / 1e6:9.2f}{row['flops_per_row'] / 1e6:9.1f}"
        f"{row['steps_per_second']:9.1f}{latency}{row['peak_mb']:9.0f}"
        f"{row['forward_gflops']:10.1f}{row['forward_share']:7.2f}{row['training_gflops']:11.1f}"
        f"{row['training_share']:7.2f}{row['peak_gflops']:10.0f}{row['xla']:7.2f}"
        f"{row['first_step_seconds'][0]:7.0f}{row['first_step_seconds'][1]:6.0f}{row['page_faults']:9,}",
        flush=True,
    )
    if row["profile"]:
        print(" " * 12, ", ".join(f"{name} {share:.0%}" for name, share in row["profile"].items()), flush=True)


def main() -> int:
    from mixrank.components.training import parse_count
    from mixrank.layers import registry
    from mixrank.schemas.files import write_text_atomically

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=parse_count, default=10**6, help="dense parameters of every model, 1M or 20M")
    parser.add_argument("--models", help="names, separated by commas; all if left out")
    parser.add_argument("--dataset", default="kuairand", help="the log whose widths the models get")
    parser.add_argument("--batch", type=int, default=256, help="rows of a training step")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each measured number")
    parser.add_argument("--square", type=int, default=2048, help="side of the plain matrix product")
    parser.add_argument("--backend", choices=("tensorflow", "jax", "torch"), default="tensorflow")
    parser.add_argument("--peak-tflops", type=float, help="the device's peak, in place of the measured one")
    parser.add_argument("--profile", action="store_true", help="which operations take the time (TensorFlow)")
    parser.add_argument("--output", type=Path, help="JSON file; runs/models-PARAMS[-BACKEND].json if left out")
    parser.add_argument("--once", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.profile and options.backend != "tensorflow":
        parser.error(f"--profile is TensorFlow's: leave it out with --backend {options.backend}")
    if options.once:
        print(json.dumps(measure(options.once, options)))
        return 0
    names = options.models.split(",") if options.models else registry.names()
    for name in names:
        registry.model(name)  # A wrong name is answered before an hour has passed.
    suffix = "" if options.backend == "tensorflow" else f"-{options.backend}"
    output = options.output or Path("runs", f"models-{options.params / 1e6:g}M{suffix}.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    print(f"{options.params / 1e6:g} M dense parameters, widths of {options.dataset}, training batch {options.batch}")
    titles = ("M par", "MFLOP/r", "steps/s", *(f"ms@{batch}" for batch in LATENCY_BATCHES), "MB")
    speeds = ("fwd GF/s", "share", "train GF/s", "share", "peak GF/s", "xla", "first", "xla", "faults")
    widths = (10, 7, 11, 7, 10, 7, 7, 6, 9)
    print(
        f"{'model':12}",
        *(f"{t:>9}" for t in titles),
        *(f"{t:>{w}}" for t, w in zip(speeds, widths, strict=True)),
        sep="",
    )
    environment = {**os.environ, "KERAS_BACKEND": options.backend}
    if options.backend == "jax":
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {JAX_FLAGS}".strip()
    found: list[dict[str, Any]] = []
    for name in names:
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--once", name],
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            row = {"model": name, "error": f"exit code {done.returncode}: {done.stderr.strip()[-200:]}"}
        else:
            row = json.loads(done.stdout.splitlines()[-1])
        found.append(row)
        print_row(row)
        about = {"params": options.params, "dataset": options.dataset, "batch": options.batch, "models": found}
        write_text_atomically(output, json.dumps(about, indent=1))
    print(f"written: {output}")
    return int(any("error" in row for row in found))


if __name__ == "__main__":
    sys.exit(main())
