"""Seconds and peak memory of ExampleGen, on a log and on copies of it with as many more users.

    python benchmarks/example_gen.py kuairand DATA_DIR --copies 1 4

Every size runs in a process of its own. Memory is the peak of that process above what it held after its imports, so
that it shows what the data needs. The number of shards grows with the log, so memory should stay flat.
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
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def replicate(name: str, data_dir: str, copies: int, folder: str) -> None:
    """Writes the tables of a dataset as Parquet with `copies` times its users; item tables stay as they are."""
    import pandas as pd
    import pyarrow as pa

    from mixrank.components.examples import find_tables, read_batches
    from mixrank.schemas import datasets

    dataset = datasets.load(name)
    user = dataset.spec.user.name
    for table in find_tables(dataset, data_dir).values():
        pieces = [read_batches(table, file, group, before) for file, _, group, before in table.chunks()]
        frame = pd.concat([batch.table.to_pandas() for piece in pieces for batch in piece], ignore_index=True)
        if table.key is not None:
            frame[user] = frame[user].astype("int64")
            step = int(frame[user].max()) + 1
            frame = pd.concat([frame.assign(**{user: frame[user] + step * copy}) for copy in range(copies)])
        written = pa.Table.from_pandas(frame.rename(columns=table.names), preserve_index=False)
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
        declared.update(files=[f"{table}.parquet"], format="parquet")
    return json.dumps(dataset)


def measure(dataset: str, data_dir: str, shards: int | None) -> dict[str, float]:
    """Runs ExampleGen once in this process."""
    import apache_beam as beam
    from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
    from tfx.types import standard_artifacts

    from mixrank.components.examples import Executor, build_example_gen
    from mixrank.schemas import Dataset

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
    }


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset")
    parser.add_argument("data_dir")
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--shards", type=int, help="number of user shards; by default it follows the size")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.once:
        print(json.dumps(measure(as_parquet(args.dataset), args.data_dir, args.shards)))
        return
    print("copies      rows shards  seconds  CPU s   rows/s  memory MB  peak MB")
    for copies in args.copies:
        with tempfile.TemporaryDirectory() as folder:
            replicate(args.dataset, args.data_dir, copies, folder)
            command = [sys.executable, __file__, args.dataset, folder, "--once"]
            command += ["--shards", str(args.shards)] if args.shards else []
            process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(process.stdout.splitlines()[-1])
        print(
            f"{copies:6d} {row['rows']:9d} {row['shards']:6d} {row['seconds']:8.1f} {row['cpu_seconds']:6.1f} "
            f"{row['rows'] / row['seconds']:8.0f} {row['memory_mb']:10.0f} {row['peak_mb']:8.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
