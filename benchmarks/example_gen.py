"""Seconds and peak memory of ExampleGen, on a log and on copies of it with more users.

    python benchmarks/example_gen.py kuairand DATA_DIR --copies 1 4

Every size runs in a process of its own. Memory is the peak of that process above what it held after its imports, so
that it shows what the data needs. The number of shards grows with the log, so memory should stay flat.

    python benchmarks/example_gen.py kuairand DATA_DIR --copies 1 --encoder ours tfx-bsl

also measures the run with Arrow columns and tfx-bsl's `RecordBatchToExamplesEncoder` in place of
`components/examples/columns.py`, and says how long the columns of all shards took to build and to encode.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ENCODERS = ("ours", "tfx-bsl")
ARROW = {"int": pa.int64(), "float": pa.float32(), "str": pa.large_binary()}


def replicate(name: str, data_dir: str, copies: int, folder: str) -> None:
    """Writes the tables of a dataset as Parquet with `copies` times its users; item tables stay as they are."""
    import pandas as pd
    import pyarrow as pa

    from mixrank.components.examples import find_tables, read_batches
    from mixrank.schemas import datasets

    dataset = datasets.load(name)
    user = dataset.spec.user.name
    for table in find_tables(dataset, data_dir).values():
        pieces = [read_batches(table, number, piece) for number, piece in table.pieces()]
        frame = pd.concat([batch.table.to_pandas() for piece in pieces for batch in piece], ignore_index=True)
        if table.key is not None:
            frame[user] = frame[user].astype("int64")
            step = int(frame[user].max()) + 1
            frame = pd.concat([frame.assign(**{user: frame[user] + step * copy}) for copy in range(copies)])
        written = pa.Table.from_pandas(frame.rename(columns=table.names[0]), preserve_index=False)
        pa.parquet.write_table(written, Path(folder, f"{table.name}.parquet"), row_group_size=131_072)


def as_parquet(name: str) -> str:
    """The dataset with every table read from the file that `replicate` wrote, as JSON."""
    from mixrank.components.examples import LOG, PRIOR, join_name
    from mixrank.schemas import datasets

    dataset = datasets.load(name).model_dump(mode="json")
    source = datasets.load(name).source
    places = {LOG: dataset["source"]["log"], PRIOR: (dataset["source"]["prior"] or {}).get("table", {})}
    places |= {join_name(n, join): dataset["source"]["joins"][n]["table"] for n, join in enumerate(source.joins)}
    for table, declared in places.items():
        declared.update(files=[f"{table}.parquet"], or_files=[], format="parquet")
    return json.dumps(dataset)


class ArrowColumn:
    """A column of `components/examples/columns.py` as Arrow lists, for tfx-bsl's encoder."""

    def __init__(self, name: str, arrays_of: Callable[[np.ndarray], pa.Array]) -> None:
        self.name, self.arrays_of = name, arrays_of


def arrow_value(name: str, kind: str, coded: Any, length: int | None = None) -> ArrowColumn:
    lists = [list(v)[:length] if isinstance(v, tuple) else [] if v is None else [v] for v in coded.values]
    distinct = pa.array(lists, pa.large_list(ARROW[kind]))
    return ArrowColumn(name, lambda rows: distinct.take(pa.array(coded.codes[rows])))


def arrow_history(name: str, kind: str, coded: Any, width: int, sequence: Any, slices: Any) -> ArrowColumn:
    from mixrank.schemas.encode import PADDING

    listed = [list(v)[:width] if isinstance(v, tuple) else [] if v is None else [v] for v in coded.values]
    flat = [value for values in listed for value in values + [PADDING[kind]] * (width - len(values))]
    distinct, codes = pa.array(flat, ARROW[kind]), coded.codes[sequence.events]

    def arrays_of(rows: np.ndarray) -> pa.Array:
        places, ends = places_of(slices, rows)
        values = (codes[places][:, None] * width + np.arange(width)).ravel()
        return pa.LargeListArray.from_arrays(pa.array(np.append(0, ends) * width), distinct.take(pa.array(values)))

    return ArrowColumn(name, arrays_of)


def arrow_gap(name: str, time_ms: np.ndarray, moment: np.ndarray, sequence: Any, slices: Any) -> ArrowColumn:
    from mixrank.schemas.encode import UNKNOWN_GAP

    def arrays_of(rows: np.ndarray) -> pa.Array:
        places, ends = places_of(slices, rows)
        events = sequence.events[places]
        known = events < len(moment)
        passed = np.repeat(time_ms[rows], slices.counts[rows]) - moment[np.where(known, events, 0)]
        seconds = np.where(known, passed // 1000, UNKNOWN_GAP)
        return pa.LargeListArray.from_arrays(pa.array(np.append(0, ends)), pa.array(seconds))

    return ArrowColumn(name, arrays_of)


def places_of(slices: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places in a sequence of the events of some rows, and where each row ends among them."""
    starts, counts = slices.starts[rows], slices.counts[rows]
    ends = np.cumsum(counts)
    return np.arange(counts.sum()) + np.repeat(starts - ends + counts, counts), ends


def arrow_examples(columns: list[ArrowColumn], rows: np.ndarray) -> Iterator[bytes]:
    from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder

    batch = pa.RecordBatch.from_arrays([column.arrays_of(rows) for column in columns], [c.name for c in columns])
    yield from RecordBatchToExamplesEncoder().encode(batch)


def timed(encoder: str) -> dict[str, float]:
    """Makes ExampleGen use an encoder; the result grows by the CPU seconds of building and of encoding columns."""
    from mixrank.components.examples import stages, user_shard

    if encoder == "tfx-bsl":
        user_shard.ValueColumn, user_shard.HistoryColumn = arrow_value, arrow_history  # type: ignore
        user_shard.GapColumn, stages.examples = arrow_gap, arrow_examples  # type: ignore
    spent = {"build_seconds": 0.0, "encode_seconds": 0.0}
    build, encode = stages.build, stages.examples

    def timed_build(*args: Any) -> Any:
        start = time.process_time()
        result = build(*args)
        spent["build_seconds"] += time.process_time() - start
        return result

    def timed_encode(columns: Any, rows: np.ndarray) -> list[bytes]:
        start = time.process_time()
        result = list(encode(columns, rows))
        spent["encode_seconds"] += time.process_time() - start
        return result

    stages.build, stages.examples = timed_build, timed_encode  # type: ignore
    return spent


def measure(dataset: str, data_dir: str, shards: int | None, encoder: str) -> dict[str, float]:
    """Runs ExampleGen once in this process."""
    import apache_beam as beam
    from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
    from tfx.types import standard_artifacts

    from mixrank.components.examples import Executor, build_example_gen
    from mixrank.schemas import Dataset

    spent = timed(encoder)
    component = build_example_gen(Dataset.model_validate_json(dataset), data_dir, shards)
    context = BaseBeamExecutor.Context(make_beam_pipeline_fn=lambda: beam.Pipeline(argv=["--runner=FnApiRunner"]))
    with tempfile.TemporaryDirectory() as output:
        artifact = standard_artifacts.Examples()
        artifact.uri = output
        before, start, cpu = peak_mb(), time.monotonic(), time.process_time()
        Executor(context).Do({}, {"examples": [artifact]}, dict(component.exec_properties))
        seconds, cpu = time.monotonic() - start, time.process_time() - cpu
        report = json.loads(Path(output, "report.json").read_text())
        size = sum(path.stat().st_size for path in Path(output).rglob("*.gz"))
    return {
        "rows": report["rows_read"]["log"],
        "shards": report["num_shards"],
        "seconds": seconds,
        "cpu_seconds": cpu,
        "memory_mb": peak_mb() - before,
        "peak_mb": peak_mb(),
        "output_mb": size / 1e6,
        **spent,
    }


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("data_dir")
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--shards", type=int, help="number of user shards; by default it follows the size")
    parser.add_argument("--encoder", nargs="+", choices=ENCODERS, default=ENCODERS[:1])
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.once:
        print(json.dumps(measure(as_parquet(args.dataset), args.data_dir, args.shards, args.encoder[0])))
        return
    print("copies encoder      rows shards  seconds  CPU s   rows/s  build s  encode s  memory MB  peak MB")
    for copies, encoder in itertools.product(args.copies, args.encoder):
        with tempfile.TemporaryDirectory() as folder:
            replicate(args.dataset, args.data_dir, copies, folder)
            command = [sys.executable, __file__, args.dataset, folder, "--once", "--encoder", encoder]
            command += ["--shards", str(args.shards)] if args.shards else []
            process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(process.stdout.splitlines()[-1])
        print(
            f"{copies:6d} {encoder:7s} {row['rows']:9d} {row['shards']:6d} {row['seconds']:8.1f} "
            f"{row['cpu_seconds']:6.1f} {row['rows'] / row['seconds']:8.0f} "
            f"{row['build_seconds']:8.1f} {row['encode_seconds']:9.1f} {row['memory_mb']:10.0f} {row['peak_mb']:8.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
