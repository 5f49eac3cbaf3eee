"""An export whose embedding table is larger than 2 GB: written, loaded, served, and a second version beside it.

    python benchmarks/large_export.py                        # 4 x 10^7 rows of 16 numbers: 2.4 GiB, a few minutes
    python benchmarks/large_export.py --rows 1e7 --storage int8

DLRM `tiny` with a hashed feature of that many rows and random weights. Each line is a process of its own: its memory
at the peak, and above that of the same process with a table of a hundred rows. `write` has the model in memory already,
as a training has. Both loaders must give the scores of the model in memory.
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
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SMALL, ROWS, DIM = 100, 8, 16
STEPS = ("write", "tf2", "session", "two versions")


def spec(buckets: int) -> Any:
    from mixrank.schemas import Categorical, EventTime, FeatureSpec, Hash, History, Key, Label, Scenario

    return FeatureSpec(
        name="large",
        user=Key("user"),
        item=Key("item"),
        time=EventTime("at"),
        scenario=Scenario("page", values=("home", "search"), dim=DIM),
        labels=(Label("click"),),
        features=(
            Categorical("item", group="item", dim=DIM, vocab=Hash(size=buckets)),
            History("past", of=("item",), length=5, window="before"),
        ),
    )


def rows() -> list[dict[str, Any]]:
    return [
        {"user": 1, "item": 7 * n, "at": 10**12, "page": "home", "click": n % 2, "past_item": [n, 3 * n]}
        for n in range(1, ROWS + 1)
    ]


def write(folder: Path, buckets: int, storage: str) -> dict[str, Any]:
    """Builds and exports the model; keeps what the model in memory answers."""
    import numpy as np
    import tensorflow as tf
    from rank_candidates import toy_transform

    from mixrank.components.training import vocabulary_sizes
    from mixrank.layers.ranking import build_ranker
    from mixrank.schemas.encode import encode
    from mixrank.schemas.tfmd import parsing_spec
    from mixrank.serving.export import export
    from mixrank.serving.export.signatures import Scorer

    log = spec(buckets)
    (folder / "transform").mkdir()
    graph = toy_transform(log, str(folder / "transform"))
    model = build_ranker(log, vocabulary_sizes(log, graph), "dlrm", {}, preset="tiny", table_storage=storage)
    began = time.monotonic()
    export(folder / "1", spec=log, model=model, transform_output=graph)
    seconds, most = time.monotonic() - began, peak()
    # The same files as a second version.
    subprocess.run(["cp", "-rl", str(folder / "1"), str(folder / "2")], check=True)
    raw = tf.io.parse_example([encode(log, row) for row in rows()], parsing_spec(log, labels=False))
    np.save(folder / "scores.npy", Scorer(log, model, graph).answer(model, raw, [])["click"].numpy())
    files = sum(file.stat().st_size for file in (folder / "1").rglob("*") if file.is_file())
    return {"seconds": seconds, "peak": most, "files": files}


def tf2(folder: Path, buckets: int) -> dict[str, Any]:
    import tensorflow as tf

    from mixrank.serving.export import to_columns

    columns = {name: tf.constant(value) for name, value in to_columns(spec(buckets), rows()).items()}
    began = time.monotonic()
    loaded = tf.saved_model.load(str(folder / "1"))
    seconds = time.monotonic() - began
    check(folder, loaded.signatures["score_rows"](**columns)["click"].numpy())
    return {"seconds": seconds}


def session(folder: Path, buckets: int, versions: tuple[str, ...] = ("1",)) -> dict[str, Any]:
    from mixrank.serving.dev_server.loaded_model import LoadedModel
    from mixrank.serving.export import to_columns

    columns = to_columns(spec(buckets), rows())
    began = time.monotonic()
    held = [LoadedModel(folder / version) for version in versions]
    seconds = time.monotonic() - began
    for model in held:
        signature = model.signature("score_rows")
        check(folder, model.run(signature, columns)["click"])
    return {"seconds": seconds}


def check(folder: Path, scores: Any) -> None:
    import numpy as np

    np.testing.assert_allclose(scores, np.load(folder / "scores.npy"), atol=1e-5)


def peak() -> int:
    """Bytes of this process at its peak."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, default=4e7, help="rows of the table")
    parser.add_argument("--storage", choices=("float32", "bfloat16", "int8"), default="float32")
    parser.add_argument("--once", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        step, folder, buckets = options.once[0], Path(options.once[1]), int(options.once[2])
        warnings.simplefilter("ignore")
        found = {
            "write": lambda: write(folder, buckets, options.storage),
            "tf2": lambda: tf2(folder, buckets),
            "session": lambda: session(folder, buckets),
            "two versions": lambda: session(folder, buckets, ("1", "2")),
        }[step]()
        print(json.dumps({"peak": peak(), **found}))
        return 0
    table = int(options.rows) * DIM * 4
    print(f"table of {int(options.rows):,} x {DIM} float32: {table / 2**30:.2f} GiB; export in {options.storage}")
    peaks: dict[str, int] = {}
    for buckets in (SMALL, int(options.rows)):
        with tempfile.TemporaryDirectory() as folder:
            for step in STEPS:
                command = [sys.executable, __file__, "--storage", options.storage, "--once", step, folder, str(buckets)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
                if done.returncode:
                    print(f"{step}, {buckets:,} rows: exit {done.returncode}", file=sys.stderr)
                    return 1
                found = json.loads(done.stdout.splitlines()[-1])
                if buckets == SMALL:
                    peaks[step] = found["peak"]
                    continue
                above = (found["peak"] - peaks[step]) / table
                files = f", {found['files'] / 2**30:.2f} GiB of files" if "files" in found else ""
                print(
                    f"{step:14}{found['seconds']:7.1f} s{found['peak'] / 2**30:8.2f} GiB at the peak, "
                    f"{above:.2f} tables above a small one{files}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
