"""Day after day: the model that goes on, against models from scratch and one that stays as it is.

    python benchmarks/continuous.py --data /path/to/KuaiRand-Pure/data --output runs/continuous
    python benchmarks/continuous.py ... --scratch 2022-05-03 2022-05-06    # days for which models begin from scratch

Every model is judged on rows of a day that it has not seen:

    go on     `mixrank run` on the first four days, then `mixrank advance`: the model of the day before
    scratch   `mixrank run` on all days before
    window    `mixrank run` on the four days before
    frozen    the model of the first four days

Each run is a process of its own, and one that has ended is not done again. A day costs what all its steps take, as the
run's record or the day's has them, without the start of the process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

DAYS = [str(date(2022, 4, 25) + timedelta(days=number)) for number in range(12)]
FIRST = 4
METRICS = ("auc", "gauc", "log_loss")
MODULE = """from mixrank.schemas import SplitByDay
from mixrank.schemas.datasets.kuairand import DATASET as WHOLE

SPLIT = SplitByDay(timezone=WHOLE.source.split.timezone, splits={splits})
DATASET = WHOLE.model_copy(update={{"source": WHOLE.source.model_copy(update={{"split": SPLIT}})}})
"""


class Runs:
    """Runs of one output folder."""

    def __init__(self, output: Path, data: str, overrides: list[str]) -> None:
        self.output, self.data, self.overrides = output, data, overrides

    def arguments(self, name: str) -> list[str]:
        changes = [
            f"name={name}",
            f"dataset={self.output / name}.py",
            f"data={self.data}",
            f"output={self.output}",
            "train.splits=[train]",
            "thresholds={}",
            *self.overrides,
        ]
        return ["kuairand", *(part for change in changes for part in ("--set", change))]

    def command(self, command: str, name: str) -> None:
        done = subprocess.run([sys.executable, "-m", "mixrank.pipeline.cli", command, *self.arguments(name)])
        # 1 as well if the newest day is held back, which the table shows.
        if done.returncode and command == "run":
            raise SystemExit(done.returncode)

    def run(self, name: str, train: list[str], judged: list[str]) -> dict[str, Any]:
        """The run over some days, and its record."""
        record = self.output / name / "run.json"
        if not record.is_file():
            self.output.mkdir(parents=True, exist_ok=True)
            splits = {"train": (train[0], train[-1]), "eval": (judged[0], judged[-1])}
            (self.output / f"{name}.py").write_text(MODULE.format(splits=splits))
            self.command("run", name)
        return dict(json.loads(record.read_text()))


def judged(record: dict[str, Any], day: str) -> dict[str, dict[str, float]]:
    """Task -> metric -> value, of a run's model on the rows of a day."""
    from mixrank.components.metrics import Rows, measure, reported
    from mixrank.schemas import FeatureSpec
    from mixrank.schemas.arrow import read_frame
    from mixrank.schemas.datasets.kuairand import DATASET

    spec = FeatureSpec.model_validate(record["spec"])
    frame = read_frame(Path(record["model_run"]) / "predictions.parquet")
    times = pd.to_datetime(frame[spec.time.name], unit="ms", utc=True).dt.tz_convert(DATASET.source.split.timezone)
    frame = frame[times.dt.strftime("%Y-%m-%d") == day].reset_index(drop=True)
    return {
        label.name: measure(Rows.of(frame, label.name, spec), reported(label.kind, requests=False))
        for label in spec.labels
    }


def plot(table: pd.DataFrame, file: Path) -> None:
    """AUC of every model by day, a panel for each task."""
    import altair as alt

    day, colour = (
        alt.X("day:O", title=None),
        alt.Color("model:N", title=None, sort=["go on", "scratch", "window", "frozen"]),
    )
    auc = alt.Y("auc:Q", title="AUC", scale=alt.Scale(zero=False))
    lines = alt.Chart(table).mark_line(point=True).encode(x=day, y=auc, color=colour)
    lines.properties(width=420, height=180).facet(row=alt.Row("task:N", title=None)).save(str(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of KuaiRand-Pure's files")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--scratch", nargs="*", default=DAYS[FIRST:], metavar="DAY")
    parser.add_argument("--plot", type=Path, help="file (.svg) of a plot")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="as of `mixrank run`")
    args = parser.parse_args()
    output = args.output.resolve()
    runs = Runs(output, args.data, args.overrides)
    frozen = runs.run("base", DAYS[:FIRST], DAYS[FIRST:])
    runs.command("advance", "base")
    rows: list[dict[str, Any]] = []
    for number, day in enumerate(DAYS[FIRST:], start=FIRST):
        record = json.loads((output / "base" / "days" / day / "day.json").read_text())
        steps = record["seconds"]
        found = {"go on": (record["metrics"], sum(steps.values()), steps.get("train", 0.0))}
        if day in args.scratch:
            for name, train in (("scratch", DAYS[:number]), ("window", DAYS[number - FIRST : number])):
                run = runs.run(f"{name}-{day}", train, [day])
                found[name] = (judged(run, day), sum(run["seconds"].values()), run["seconds"]["Trainer"])
        found["frozen"] = (judged(frozen, day), 0.0, 0.0)
        for name, (metrics, whole, training) in found.items():
            for task, values in metrics.items():
                row = {"task": task, "day": day, "model": name, "rows": record["rows"]}
                rows.append(row | {m: values[m] for m in METRICS} | {"seconds": whole, "training": training})
    table = pd.DataFrame(rows)
    table.to_csv(output / "days.csv", index=False)
    if args.plot is not None:
        plot(table, args.plot)
    for task, part in table.groupby("task", sort=False):
        print(f"\n{task}\n\n| day | rows | model | AUC | GAUC | log loss | seconds | of them training |")
        print("|---|---|---|---|---|---|---|---|")
        for row in part.itertuples():
            print(
                f"| {row.day} | {row.rows:,} | {row.model} | {row.auc:.4f} | {row.gauc:.4f} | {row.log_loss:.4f} "
                f"| {row.seconds:.0f} | {row.training:.0f} |"
            )


if __name__ == "__main__":
    main()
