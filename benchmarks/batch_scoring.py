"""Rows per second and memory of batch scoring, next to a plain tf.data loop over the same signature.

    python benchmarks/batch_scoring.py runs/kuairand/serving/kuairand "runs/kuairand/artifacts/ExampleGen/examples/1/Split-*/*"
    python benchmarks/batch_scoring.py MODEL FILES --repeat 1 10 --rounds 3 --parquet

The loop reads TFRecords, calls `serving_default` on each batch and drops the answers; the job also checks every row,
copies the keys and writes Parquet. Both run in this process, in turn, so that other load on the machine hits
both; a ratio is that of the shortest times. On a busy machine the ratio of the processor times says more: it does not
count the waiting for others. --repeat lists the files several times. Memory is the largest resident set while a case runs, sampled every 50 ms, so that sizes can be compared.
"""  # noqa: E501

from __future__ import annotations

import argparse
import glob
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from tfx_bsl.coders import example_coder

from mixrank.serving.batch_scoring import find_model, load, score

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """A list whose last entry is the largest resident set so far, in MB."""
    seen, over = [resident_mb()], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            seen.append(max(seen[-1], resident_mb()))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def plain_loop(model: Path, files: list[str], batch_size: int) -> Callable[[], int]:
    """The signature over a tf.data pipeline, answers dropped."""
    loaded = tf.saved_model.load(str(model))
    signature = loaded.signatures["serving_default"]

    def run() -> int:
        rows = 0
        for examples in tf.data.TFRecordDataset(files, "GZIP").batch(batch_size).prefetch(2):
            answers = signature(examples=examples)
            rows += len(next(iter(answers.values())).numpy())
        return rows

    # The loaded model must live as long as its signature.
    run.loaded = loaded  # type: ignore[attr-defined]
    return run


def as_parquet(files: list[str], folder: Path) -> None:
    """The same rows in the request layout, every column a list."""
    decoder = example_coder.ExamplesToRecordBatchDecoder()
    for number, file in enumerate(files):
        writer = None
        for records in tf.data.TFRecordDataset(file, "GZIP").batch(16_384).as_numpy_iterator():
            table = pa.Table.from_batches([decoder.DecodeBatch(list(records))])
            writer = writer or pq.ParquetWriter(folder / f"rows-{number:03d}.parquet", table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()


def listed(files: list[str], times: int, folder: Path) -> Path:
    """A folder that lists the files several times."""
    folder.mkdir()
    for time_ in range(times):
        for number, file in enumerate(files):
            name = Path(file).name
            (folder / f"{time_:03d}-{number:03d}-{name}").symlink_to(Path(file).absolute())
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("files", help="pattern of gzipped TFRecords of examples")
    parser.add_argument("--repeat", nargs="+", type=int, default=[1, 10])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--parquet", action="store_true", help="the same rows from Parquet as well")
    options = parser.parse_args()

    model, files = find_model(options.model), sorted(glob.glob(options.files))
    began = time.perf_counter()
    # While this reference lives, the job finds the model loaded.
    kept = load(str(model.absolute()), None)
    print(f"{len(files)} files; {len(kept.spec.features)} features; loading took {time.perf_counter() - began:.1f} s")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        sources = {"job, TFRecord": files}
        if options.parquet:
            (root / "parquet").mkdir()
            as_parquet(files, root / "parquet")
            sources["job, Parquet"] = [str(path) for path in sorted((root / "parquet").iterdir())]
        for repeat in options.repeat:
            cases: dict[str, Callable[[], int]] = {
                "tf.data loop": plain_loop(model, files * repeat, options.batch_size)
            }
            for number, (name, each) in enumerate(sources.items()):
                folder = listed(each, repeat, root / f"in-{repeat}-{number}")

                def job(folder: Path = folder) -> int:
                    with tempfile.TemporaryDirectory(dir=root) as output:
                        return score(model, folder, Path(output), batch_size=options.batch_size)["rows"]

                cases[name] = job
            compare(cases, options.rounds)


def compare(cases: dict[str, Callable[[], int]], rounds: int) -> None:
    """Runs the cases in turns and prints a line for each."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    busy: dict[str, list[float]] = {name: [] for name in cases}
    peaks = dict.fromkeys(cases, 0.0)
    rows = 0
    for round_ in range(rounds):
        for name, case in cases.items():
            with peak_memory() as memory:
                began, used = time.perf_counter(), time.process_time()
                rows = case()
                seconds[name].append(time.perf_counter() - began)
                busy[name].append(time.process_time() - used)
            peaks[name] = max(peaks[name], memory[-1])
            print(
                f"  round {round_ + 1} {name}: {rows:,} rows in {seconds[name][-1]:.1f} s, "
                f"processor {busy[name][-1]:.1f} s, peak {memory[-1]:,.0f} MB",
                flush=True,
            )
    print(f"{'case':14} {'rows':>10} {'rows/s':>9} {'of loop':>8} {'processor':>10} {'peak MB':>8}")
    for name, own in seconds.items():
        of_loop = min(seconds["tf.data loop"]) / min(own)
        processor = min(busy["tf.data loop"]) / min(busy[name])
        print(
            f"{name:14} {rows:>10,} {rows / min(own):>9,.0f} {of_loop:>8.2f} {processor:>10.2f} {peaks[name]:>8,.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
