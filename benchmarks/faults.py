"""Faults: kills, races, failing disks, damaged requests and damaged files; what was tried, and what was lost.

    python benchmarks/faults.py                          # all parts, on a small simulated log; about an hour
    python benchmarks/faults.py disk races --share 0.1   # some parts, a tenth of the tries
    python benchmarks/faults.py --config movielens       # on the rows and the model of a run that is finished

Parts:
    rollout    kills of `mixrank rollout` push, canary, promote and rollback
    pusher     kills of the Pusher component
    score      kills of `mixrank score`, which then resumes
    trainer    kills of a training, which then resumes
    races      two commands at once in one folder, killed or not
    disk       a disk that is full or broken at each write of a push
    requests   damaged requests to `mixrank serve`, over REST and gRPC
    files      damaged files and folders given to commands
    raw        damaged files of a log, of every format and codec

A command that is killed is a fork of a process that has imported everything, so that the kill finds it at work. Each
part is a process of its own. The exit code is 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from fault_parts.common import Ground, Tally
from fault_parts.disk import disk
from fault_parts.files import files
from fault_parts.kills import pusher, rollout, score, trainer
from fault_parts.races import races
from fault_parts.raw_logs import raw
from fault_parts.requests import requests

PARTS = {each.__name__: each for each in (rollout, pusher, score, trainer, races, disk, requests, files, raw)}


def prepare(folder: Path) -> str:
    """A finished run on a small simulated log; its config."""
    import yaml

    config = folder / "small.yaml"
    values = {
        "name": "small",
        "dataset": "simulated",
        "data": str(folder / "log"),
        "model": {"name": "hemix", "preset": "tiny", "params": {"dim": 8, "mixing_heads": 4, "attention_heads": 2}},
        "train": {"batch_size": 64, "epochs": 1, "steps_per_round": 8, "jit_compile": "off"},
        "check_rows": 100,
        "output": str(folder / "runs"),
    }
    config.write_text(yaml.safe_dump(values))
    for arguments in (
        ["simulate", "clicks", folder / "log", "--users", 120, "--impressions", 5, "--days", 8],
        ["run", config],
    ):
        command = [sys.executable, "-m", "mixrank.pipeline.cli", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"mixrank {arguments[0]} failed: {done.stderr[-2000:]}")
    return str(config)


def try_part(name: str, ground: Ground) -> list[Tally]:
    """Runs a part in this process, which is its own."""
    # Those of the libraries.
    warnings.simplefilter("ignore")
    print(f"{name}:", flush=True)
    ground.folder.mkdir(parents=True)
    began = time.monotonic()
    tallies = PARTS[name](ground)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    for tally in tallies:
        tally.megabytes = tally.megabytes or peak / 1024
        tally.seconds = time.monotonic() - began
    return tallies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="of all draws")
    parser.add_argument("--share", type=float, default=1.0, help="of the full number of tries")
    parser.add_argument("--config", help="of a finished run (default: a small one is made first)")
    parser.add_argument("--folder", type=Path, help="to work in; it must not exist (default: a temporary one)")
    args = parser.parse_args()
    if unknown := [name for name in args.parts if name not in PARTS]:
        parser.error(f"there is no part {unknown[0]}")
    folder = args.folder or Path(tempfile.mkdtemp(prefix="mixrank-faults-"))
    folder.mkdir(parents=True, exist_ok=args.folder is None)
    parts = args.parts or [*PARTS]
    # A log is read without a model.
    config = args.config or ("" if parts == ["raw"] else prepare(folder))
    found: list[tuple[str, Tally]] = []
    for name in parts:
        ground = Ground(config, (folder / name).absolute(), args.seed, args.share)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as one:
            found += [(name, tally) for tally in one.submit(try_part, name, ground).result()]
    print("\n| part | what | tried | lost | peak MB | seconds | |\n|---|---|---|---|---|---|---|")
    for name, tally in found:
        cells = [name, tally.what, f"{tally.tried:,}", str(len(tally.lost)), f"{tally.megabytes:,.0f}"]
        print("| " + " | ".join([*cells, f"{tally.seconds:.0f}", tally.note]) + " |")
    if args.folder is None:
        shutil.rmtree(folder)
    sys.exit(any(tally.lost for _, tally in found))


if __name__ == "__main__":
    main()
