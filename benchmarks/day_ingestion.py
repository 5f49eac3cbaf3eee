"""Seconds and memory of the examples of one day, against those of a whole log.

    python benchmarks/day_ingestion.py DATA_DIR --copies 1 4 10

The log is KuaiRand with its users copied, in one file up to 05-05 and one of 05-06. `whole` is ExampleGen over both;
`day` begins with what the days before have left, reads the second file and makes the examples of that day, as `mixrank
advance` does. The last column is its seconds over the share of a whole log that its rows are: 1 if a day costs what
its rows cost. Each line is a process of its own; memory is its peak above what it held after its imports.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

BEFORE, DAY = "2022-05-05", "2022-05-06"


def split_log(folder: Path) -> None:
    """Puts the rows of the last day into a file of their own."""
    import pandas as pd

    from mixrank.schemas.datasets.kuairand import DATASET

    frame = pd.read_parquet(folder / "log.parquet")
    times = pd.to_datetime(frame[DATASET.spec.time.name], unit="ms", utc=True).dt.tz_convert(
        DATASET.source.split.timezone
    )
    today = times.dt.strftime("%Y-%m-%d") >= DAY
    (folder / "log.parquet").unlink()
    frame[~today].to_parquet(folder / "log_1.parquet", index=False, row_group_size=131_072)
    frame[today].to_parquet(folder / "log_2.parquet", index=False, row_group_size=131_072)


def declared() -> str:
    from example_gen import as_parquet

    dataset = json.loads(as_parquet("kuairand"))
    dataset["source"]["log"]["files"] = ["log_*.parquet"]
    return json.dumps(dataset)


def of_day(folder: str) -> dict[str, float]:
    """Takes the days before, then the last one, whose figures are returned."""
    import apache_beam as beam
    from example_gen import peak_mb

    from mixrank.components.examples import DayState, find_tables, read_log, read_others, write_day
    from mixrank.schemas import Dataset

    dataset, home = Dataset.model_validate_json(declared()), Path(folder)

    def take(day: str, before: DayState, examples: str | None) -> tuple[DayState, Any, float]:
        began = time.monotonic()
        tables = find_tables(dataset, folder)
        log = read_log(f"{folder}/log", dataset, tables, None, beam.Pipeline)
        others = read_others(tables, log.num_shards, f"{folder}/others-{day}", beam.Pipeline)
        state, figures = write_day(
            dataset,
            log,
            tables,
            others,
            before=before,
            day=day,
            examples=examples,
            after=f"{folder}/state-{day}",
            scratch=f"{folder}/scratch",
            pipeline=beam.Pipeline,
        )
        return state, figures, time.monotonic() - began

    held = peak_mb()
    (home / "log_2.parquet").rename(home / "later")
    state, _, _ = take(BEFORE, DayState(), None)
    (home / "later").rename(home / "log_2.parquet")
    _, figures, seconds = take(DAY, state, f"{folder}/examples")
    size = sum(path.stat().st_size for path in (home / f"state-{DAY}").rglob("*") if path.is_file())
    return {
        "rows": sum(figures.rows.values()),
        "seconds": seconds,
        "memory_mb": peak_mb() - held,
        "state_mb": size / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir")
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--once", choices=("whole", "day"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.once:
        from example_gen import measure

        measured = of_day(args.data_dir) if args.once == "day" else measure(declared(), args.data_dir, None, "ours")
        print(json.dumps(measured))
        return
    print("copies        rows  seconds  memory MB  state MB  cost over share")
    for copies in args.copies:
        with tempfile.TemporaryDirectory() as folder:
            from example_gen import replicate

            replicate("kuairand", args.data_dir, copies, folder)
            split_log(Path(folder))
            found = {}
            for what in ("whole", "day"):
                command = [sys.executable, __file__, folder, "--once", what]
                process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found[what] = json.loads(process.stdout.splitlines()[-1])
        whole, day = found["whole"], found["day"]
        cost = day["seconds"] / whole["seconds"] / (day["rows"] / whole["rows"])
        print(f"{copies:6d} whole {whole['rows']:9,d} {whole['seconds']:8.1f} {whole['memory_mb']:10.0f}")
        shown = f"{day['seconds']:8.1f} {day['memory_mb']:10.0f} {day['state_mb']:9.0f} {cost:16.2f}"
        print(f"{copies:6d} day   {day['rows']:9,d} {shown}", flush=True)


if __name__ == "__main__":
    main()
