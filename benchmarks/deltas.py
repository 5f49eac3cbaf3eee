"""Size, time and memory of deltas between versions whose embedding tables have changed in part.

    python benchmarks/deltas.py                                     # 1M ids; ten seconds
    python benchmarks/deltas.py --ids 2e7 --folder BIG_DISK         # tables of 1.3 GB; needs 4 GB there
    python benchmarks/deltas.py --base VERSION --version VERSION    # two versions that there are

Each synthetic version holds one table of ids and a block of dense weights of 1 MiB in front of it. From one version to
the next all dense weights change, a share of the rows chosen by chance changes in all of its numbers, and 1 % new rows
come at the end of the table. Writing and applying run in processes of their own; peak is the memory of each at most,
its imports included. The version that is made is compared with the one that was meant, byte for byte.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DENSE, GROWTH, BLOCK = 2**20, 0.01, 100_000
DATA = "variables/variables.data-00000-of-00001"
KINDS = ("float32", "bfloat16", "int8")


def save(folder: Path, options: argparse.Namespace, kind: str) -> None:
    """Versions 1 and 2 in a folder."""
    import ml_dtypes
    import numpy as np

    from mixrank.serving.base import write_sums

    dtype = np.dtype(ml_dtypes.bfloat16) if kind == "bfloat16" else np.dtype(kind)
    ids, draw = int(options.ids), np.random.default_rng(0)

    def rows(count: int) -> np.ndarray:
        values = draw.normal(size=(count, options.width)).astype(np.float32) * (40 if kind == "int8" else 0.05)
        return values.astype(dtype)

    files = []
    for version in ("1", "2"):
        (folder / version / "variables").mkdir(parents=True)
        (folder / version / "assets.extra").mkdir()
        (folder / version / "saved_model.pb").write_bytes(b"graph")
        (folder / version / "variables" / "variables.index").write_bytes(b"index")
        files.append((folder / version / DATA).open("wb"))
    old, new = files
    for file in files:
        file.write(draw.bytes(DENSE))
    for start in range(0, ids, BLOCK):
        before = rows(min(BLOCK, ids - start))
        after = before.copy()
        changed = draw.random(len(before)) < options.changed
        after[changed] = rows(int(changed.sum()))
        old.write(before.tobytes())
        new.write(after.tobytes())
    new.write(rows(int(GROWTH * ids)).tobytes())
    for file in files:
        file.close()
    for version in ("1", "2"):
        write_sums(folder / version)


def step(name: str, base: Path, version: Path, file: Path) -> dict[str, float]:
    from mixrank.serving.rollout import Rollout, write_delta

    began = time.perf_counter()
    if name == "write":
        sizes = write_delta(base, version, file, say=str)
        found = {"delta": sizes.delta, "version": sizes.version}
    else:
        there = file.parent / "there"
        shutil.copytree(base, there / base.name)
        began = time.perf_counter()
        made = there / str(Rollout(there, say=str).apply(file))
        found = {}
        seconds = time.perf_counter() - began
        for path in version.rglob("*"):
            if path.is_file() and not filecmp.cmp(path, made / path.relative_to(version), shallow=False):
                raise RuntimeError(f"{path.relative_to(version)} came out otherwise")
        shutil.rmtree(there)
        began = time.perf_counter() - seconds
    found["seconds"] = time.perf_counter() - began
    return {**found, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


def measure(name: str, base: Path, version: Path, folder: Path) -> None:
    found = {}
    for each in ("write", "apply"):
        command = [sys.executable, __file__, "--one", each, "--base", str(base), "--version", str(version)]
        done = subprocess.run([*command, "--folder", str(folder)], stdout=subprocess.PIPE, text=True, check=True)
        found[each] = json.loads(done.stdout.splitlines()[-1])
    write, apply = found["write"], found["apply"]
    print(
        f"{name:10} {write['version'] / 1e6:10,.1f} {write['delta'] / 1e6:10,.2f} "
        f"{100 * write['delta'] / write['version']:8.1f} {write['seconds']:8.2f} {write['peak_mib']:10,} "
        f"{apply['seconds']:8.2f} {apply['peak_mib']:10,}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=float, default=1e6, help="rows of the table")
    parser.add_argument("--width", type=int, default=16, help="numbers of a row")
    parser.add_argument("--changed", type=float, default=0.05, help="share of the rows that change")
    parser.add_argument("--folder", type=Path, help="where to work")
    parser.add_argument("--base", type=Path, help="a version that is there")
    parser.add_argument("--version", type=Path, help="the version to make of it")
    parser.add_argument("--one", choices=("write", "apply"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if (options.base is None) != (options.version is None):
        parser.error("--base and --version go together")
    if options.one:
        print(json.dumps(step(options.one, options.base, options.version, options.folder / "delta")))
        return 0
    header = ("version MB", "delta MB", "ratio %", "write s", "peak MiB", "apply s", "peak MiB")
    widths = (10, 10, 8, 8, 10, 8, 10)
    print(" " * 10, *(f"{name:>{width}}" for name, width in zip(header, widths, strict=True)))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.base:
            measure("given", options.base, options.version, Path(folder))
            return 0
        for kind in KINDS:
            save(Path(folder, kind), options, kind)
            measure(kind, Path(folder, kind, "1"), Path(folder, kind, "2"), Path(folder))
            shutil.rmtree(Path(folder, kind))
    return 0


if __name__ == "__main__":
    sys.exit(main())
