"""Time and memory of a vocabulary of many ids, from counting to serving.

    python benchmarks/vocabulary.py --ids 1e6                       # about three minutes
    python benchmarks/vocabulary.py --ids 1e7 --folder BIG_DISK     # half an hour
    python benchmarks/vocabulary.py --ids 1e7 --min-count 2         # one row in three counts; see below

A log of 1.5 rows per id: every id once, and the other third drawn with Zipf's law. A history of 5 events names the same
ids, so it has the same vocabulary. Every step runs in a process of its own; peak is the memory of that process at most,
and "imports" is what it needs before it begins.

* count: Transform's analysis, which counts the vocabulary and writes the graph
* ids: Transform's graph loaded (`load_s`) and 100,000 rows sent through it
* sizes: the size of the vocabulary, as a model needs it
* warm start: rows of the vocabulary matched to those of one with the same ids in another order
* drift: a million values looked up in the vocabulary
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

BATCH, EVENTS, ROWS_PER_ID = 10_000, 5, 1.5


def spec(options: argparse.Namespace) -> Any:
    from mixrank.schemas import Categorical, EventTime, FeatureSpec, History, Key, Label, Scenario, Vocab

    vocab = Vocab(min_count=options.min_count, max_size=options.max_size)
    return FeatureSpec(
        name="vocabulary",
        user=Key("user"),
        item=Key("item"),
        time=EventTime("at"),
        scenario=Scenario("page", values=(1, 2)),
        labels=(Label("click"),),
        features=(
            Categorical("item", group="item", vocab=vocab),
            History("past", of=("item",), length=EVENTS, window="before"),
        ),
    )


def batch(ids: int, number: int) -> Any:
    """Rows `number * BATCH` and on, as an Arrow batch: ids in order, then by Zipf's law."""
    import numpy as np

    from mixrank.schemas.arrow import pa

    rng = np.random.default_rng(number)
    rows = np.arange(number * BATCH, min((number + 1) * BATCH, rows_of(ids)))
    # An odd factor spreads the ids over the 64-bit numbers, as those of a real log are.
    item = np.where(rows < ids, rows, (rng.zipf(1.2, len(rows)) - 1) % ids).astype(np.uint64) * np.uint64(0x9E3779B1)
    past = rng.choice(item, len(rows) * EVENTS)
    one = {"user": rows, "at": rows, "page": 1 + rows % 2, "click": rows % 2, "item": item}

    def column(values: Any, per_row: int) -> Any:
        ends = np.arange(0, len(values) + 1, per_row)
        return pa.LargeListArray.from_arrays(pa.array(ends), pa.array(values.astype(np.int64)))

    columns = {name: column(values, 1) for name, values in one.items()} | {"past_item": column(past, EVENTS)}
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def rows_of(ids: int) -> int:
    return round(ROWS_PER_ID * ids)


def count(options: argparse.Namespace) -> dict[str, Any]:
    import apache_beam as beam
    import tensorflow_transform.beam as tft_beam
    from tfx_bsl.public import tfxio

    from mixrank.components.transform import transform
    from mixrank.schemas.tfmd import schema

    log, ids = spec(options), options.ids
    numbers = range(-(-rows_of(ids) // BATCH))
    # Batches are made as they would be read from files.
    config = tfxio.TFExampleRecord(
        "none", schema=schema(log), telemetry_descriptors=["benchmark"]
    ).TensorAdapterConfig()
    with (
        warnings.catch_warnings(),
        beam.Pipeline("FnApiRunner") as pipeline,
        tft_beam.Context(temp_dir=str(options.folder / "tmp"), use_deep_copy_optimization=True),
    ):
        warnings.simplefilter("ignore")
        rows = pipeline | beam.Create(numbers) | beam.Map(lambda number: batch(ids, number))
        graph = (rows, config) | tft_beam.AnalyzeDataset(lambda inputs: transform(log, inputs))
        _ = graph | tft_beam.WriteTransformFn(str(options.folder / "graph"))
    return {}


def ids(options: argparse.Namespace) -> dict[str, Any]:
    import tensorflow as tf
    from tensorflow_transform.saved.saved_transform_io_v2 import SavedModelLoader

    began = time.monotonic()
    graph = SavedModelLoader(str(options.folder / "graph" / "transform_fn"))
    loaded = time.monotonic() - began
    found = 0
    for number in range(10):
        rows = batch(options.ids, number)
        raw = {
            name: tf.RaggedTensor.from_row_splits(column.flatten().to_numpy(), column.offsets.to_numpy())
            for name, column in zip(rows.schema.names, rows.columns, strict=True)
        }
        found += int(tf.reduce_sum(tf.cast(graph.apply_transform_model(raw)["item"] > 0, tf.int64)))
    return {"load_s": round(loaded, 1), "found": found}


def sizes(options: argparse.Namespace) -> dict[str, Any]:
    from mixrank.components.training import vocabulary_sizes

    return {"rows": vocabulary_sizes(spec(options), _graph(options))["item"]}


def warm_start(options: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    from mixrank.components.training.warm_start import old_rows

    log, graph = spec(options), _graph(options)
    place = {"vocabulary": "shuffled"}
    found = old_rows(log.get("item"), options.folder, place, graph, options.ids + 2)
    return {"matched": int(np.count_nonzero(found))}


def drift(options: argparse.Namespace) -> dict[str, Any]:
    from mixrank.serving.drift import read_vocabularies
    from mixrank.serving.drift.row_summary import Outside

    log = spec(options)
    outside = Outside(read_vocabularies(log, options.folder / "graph" / "transform_fn" / "assets")["item"])
    for number in range(100):
        outside.add(batch(options.ids, number).column("item").flatten())
    return {"unseen": outside.counted()[0]}


STEPS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "count": count,
    "ids": ids,
    "sizes": sizes,
    "warm start": warm_start,
    "drift": drift,
}


def shuffle(folder: Path) -> None:
    """Writes a vocabulary with the tokens of the graph's in another order."""
    import numpy as np

    from mixrank.schemas.arrow import lines_of, pa, pc

    tokens = lines_of((folder / "graph" / "transform_fn" / "assets" / "item").read_bytes())
    order = np.random.default_rng(0).permutation(len(tokens))
    lines = pc.binary_join_element_wise(
        tokens.take(pa.array(order)), pa.scalar(b"", tokens.type), pa.scalar(b"\n", tokens.type)
    )
    (folder / "shuffled").write_bytes(lines.buffers()[2])


def _graph(options: argparse.Namespace) -> Any:
    import tensorflow_transform as tft

    return tft.TFTransformOutput(str(options.folder / "graph"))


def peak() -> int:
    """Most memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def run_step(name: str, options: argparse.Namespace) -> dict[str, Any]:
    import apache_beam  # noqa: F401
    import tensorflow_transform  # noqa: F401

    import mixrank.components.training.warm_start
    import mixrank.serving.drift.row_summary  # noqa: F401

    imports, began = peak(), time.monotonic()
    found = STEPS[name](options)
    return {"seconds": round(time.monotonic() - began, 2), "peak_mib": peak(), "imports_mib": imports, **found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=lambda text: int(float(text)), default=10**6, help="distinct ids")
    parser.add_argument("--min-count", type=int, default=1, help="as in Vocab")
    parser.add_argument("--max-size", type=lambda text: int(float(text)), help="as in Vocab")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    parser.add_argument("--one", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_step(options.one, options)))
        return 0
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    figures: dict[str, Any] = {}
    try:
        print(f"{'step':12} {'seconds':>9} {'peak':>12} {'imports':>12}")
        for name in STEPS:
            command = [sys.executable, __file__, *sys.argv[1:], "--folder", str(folder), "--one", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                print(f"{name}: exit {done.returncode}", file=sys.stderr)
                return 1
            figures[name] = found = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{name:12} {found['seconds']:9.1f} {found['peak_mib']:8,} MiB {found['imports_mib']:8,} MiB",
                flush=True,
            )
            if name == "count":
                shuffle(folder)
    finally:
        shutil.rmtree(folder)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
