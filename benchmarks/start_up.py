"""Start of the command line: seconds, and how many times as long as `python -c pass`.

    python benchmarks/start_up.py

Run it on a quiet machine. The fastest of the runs counts: anything slower was disturbed by other processes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

MIXRANK = [str(Path(sys.executable).with_name("mixrank"))]
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import mixrank.schemas": [sys.executable, "-c", "from mixrank.schemas import FeatureSpec"],
    "import mixrank.serving.client": [sys.executable, "-c", "from mixrank.serving.client import Client"],
    "mixrank --help": [*MIXRANK, "--help"],
    "mixrank run --help": [*MIXRANK, "run", "--help"],
    "mixrank features movielens": [*MIXRANK, "features", "movielens"],
    "mixrank models": [*MIXRANK, "models"],
    "mixrank models hemix": [*MIXRANK, "models", "hemix"],
}


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    nothing = 0.0
    for name, command in COMMANDS.items():
        least = min(seconds(command) for _ in range(args.repeats))
        nothing = nothing or least
        print(f"{name:30} {least:6.2f} s {least / nothing:6.1f}", flush=True)


if __name__ == "__main__":
    main()
