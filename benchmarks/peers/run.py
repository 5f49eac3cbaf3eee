"""Training speed of mixrank, DeepCTR (tf_keras) and FuxiCTR (PyTorch) on the same model, batches and cores.

    python benchmarks/peers/run.py                                       # every case, three rounds: about 20 minutes
    python benchmarks/peers/run.py --check                               # the same; exits with 1 where a bar is missed
    python benchmarks/peers/run.py --ids 1000 --batch 1024 --rounds 1 --seconds 3 --only mixrank deepctr
    python benchmarks/peers/run.py --ids 1000 --only mixrank --jit on    # mixrank with XLA

DCN-V2 with 40 fields, 16 wide, and 1.7 M dense weights (`task.py`): every field has 1,000 ids, or two of them have a
million. Adam trains all weights, the tables of mixrank by its lazy Adam. FuxiCTR's step also clips the norm of all
gradients, which cannot be turned off. mixrank has its default settings otherwise, so no XLA on a CPU. Rates and the
spread of the first embeddings are equal, the batches lie ready in memory, and every library may use all cores.

Each peer has an environment of its own below `.peers`, which the first run builds with uv from the pinned packages of
`deepctr.txt` and `fuxictr.txt` (8 GB); mixrank is the environment that runs this file. Each measurement is a process of
its own, and the libraries take turns. Its first 40 steps are not timed; the mean losses of the first and last five of
these show that all three learn alike. Samples per second are the median of the rounds, processor time is the least.
Other programs on the machine hurt libraries differently, so run it on a quiet one. The last line holds the ratios of
mixrank to the best peer.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import task

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENTS = ROOT / ".peers"
LIBRARIES = ("mixrank", "deepctr", "fuxictr")
# Ids of the large fields -> least ratio of mixrank's samples per second to the best peer's.
BARS = {task.IDS: 1.3, 10**6: 3.0}
BATCHES = (1024, 4096)
# The last losses may differ by this much, because the libraries start from different random weights.
LOSS_BAR = 0.02


def python_of(library: str) -> str:
    """The interpreter of a library's environment, which is built first where it is missing or out of date."""
    if library == "mixrank":
        return sys.executable
    wanted = HERE / f"{library}.txt"
    folder, built = ENVIRONMENTS / library, ENVIRONMENTS / library / "built_from.txt"
    python = str(folder / "bin" / "python")
    if built.is_file() and built.read_text() == wanted.read_text():
        return python
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    print(f"building {folder}", file=sys.stderr, flush=True)
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, "--requirements", str(wanted)], check=True)
    built.write_text(wanted.read_text())
    return python


def measure(command: list[str], file: Path, ids: int, batch: int, seconds: float) -> dict[str, Any]:
    """Figures of one training in a process of its own.

    Args:
        command: interpreter and program of a library, with options of its own.

    Raises:
        RuntimeError: with the end of its output, if it fails.
    """
    given = ["--large", str(ids), "--batch", str(batch), "--seconds", str(seconds)]
    run = subprocess.run([*command, str(file), *given], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {run.returncode}:\n{run.stderr[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def ratio(speeds: dict[str, float]) -> float | None:
    """mixrank's samples per second over those of the best peer; None where one of the two was left out."""
    peers = [speed for library, speed in speeds.items() if library != "mixrank"]
    return speeds["mixrank"] / max(peers) if "mixrank" in speeds and peers else None


def unequal(runs: dict[str, dict[str, Any]]) -> list[str]:
    """What makes a comparison unfair: other dense weights, or losses that do not fall alike."""
    found = []
    if len({run["dense_parameters"] for run in runs.values()}) > 1:
        found.append("dense weights")
    last = [run["last_loss"] for run in runs.values()]
    if max(last) - min(last) > LOSS_BAR or any(run["last_loss"] >= run["first_loss"] for run in runs.values()):
        found.append("losses")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bar is missed")
    parser.add_argument("--only", nargs="+", choices=LIBRARIES, default=LIBRARIES, help="libraries; all if left out")
    parser.add_argument("--ids", nargs="+", type=int, default=list(BARS), help="ids of the two large fields")
    parser.add_argument("--batch", nargs="+", type=int, default=BATCHES, help="rows of a batch")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of every case")
    parser.add_argument("--seconds", type=float, default=8.0, help="timed part of a measurement")
    parser.add_argument(
        "--jit", choices=("auto", "on", "off"), default="auto", help="mixrank's XLA, if not its default"
    )
    options = parser.parse_args()
    if options.check and options.jit != "auto":
        parser.error("--check measures mixrank's default settings: leave --jit out")
    commands = {
        library: [python_of(library), str(HERE / f"train_{library}.py")]
        for library in LIBRARIES
        if library in options.only
    }
    if "mixrank" in commands:
        commands["mixrank"] += ["--jit", options.jit]
    cases = [(ids, batch) for ids in options.ids for batch in options.batch]
    found: dict[tuple[int, int], dict[str, list[dict[str, Any]]]] = {
        case: {name: [] for name in commands} for case in cases
    }
    with tempfile.TemporaryDirectory() as folder:
        files = {ids: Path(folder) / f"{ids}.npz" for ids in options.ids}
        for ids, file in files.items():
            task.write(file, ids)
        for number in range(options.rounds):
            for (ids, batch), runs in found.items():
                for library, command in commands.items():
                    began = time.monotonic()
                    runs[library].append(measure(command, files[ids], ids, batch, options.seconds))
                    spent = time.monotonic() - began
                    print(
                        f"round {number + 1}: {ids:,} ids, batch {batch}, {library}: "
                        f"{runs[library][-1]['samples_per_second']:,.0f} samples/s ({spent:.0f} s)",
                        file=sys.stderr,
                        flush=True,
                    )
    print(
        f"{'ids':>10}{'batch':>7}  {'library':9}{'dense weights':>14}{'first loss':>12}{'last loss':>11}"
        f"{'samples/s':>11}{'least':>9}{'most':>9}{'processor':>14}"
    )
    figures, missed = {}, []
    for (ids, batch), runs in found.items():
        case = f"{ids}_ids_batch_{batch}"
        speeds = {}
        for library, each in runs.items():
            rates = [run["samples_per_second"] for run in each]
            speeds[library] = statistics.median(rates)
            print(
                f"{ids:10,}{batch:7}  {library:9}{each[0]['dense_parameters']:14,}{each[0]['first_loss']:12.4f}"
                f"{each[0]['last_loss']:11.4f}{speeds[library]:11,.0f}{min(rates):9,.0f}{max(rates):9,.0f}"
                f"{min(run['processor_ms'] for run in each):8,.0f} ms/step"
            )
        missed += [f"{what} of {case}" for what in unequal({library: each[0] for library, each in runs.items()})]
        if (by := ratio(speeds)) is not None:
            figures[case] = float(f"{by:.3g}")
            bar = BARS.get(ids)
            print(f"{'':17}  {by:.2f} times the best peer" + (f", the bar is {bar}" if bar else ""))
            if bar and by < bar:
                missed.append(case)
    print(json.dumps(figures))
    if missed:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
