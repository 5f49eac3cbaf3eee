"""What a run gives, in an object store: `OUTPUT/NAME/TIME/`, whose `run.json` comes last."""

from __future__ import annotations

from pathlib import Path

from mixrank.pipeline.run_record import RUN_FILE, RunRecord
from mixrank.schemas import stores

# Small files of a run folder that say what happened.
SHOWN = ("run.log", "report.html")


def store_run(record: RunRecord, run_dir: Path, output: str) -> str:
    """Copies record, report, log, model, training and metrics of a run.

    The copied `run.json` is for reading: it names the folders on the machine of the run, where its rows stay.

    Args:
        record: of the run.
        run_dir: its folder.
        output: address of the folder of all runs.

    Returns:
        The address of the run; every run has one of its own.

    Raises:
        ValueError: if the store refuses or cannot be reached; then there is no `run.json`, and the run stays where it
            is on this machine.
    """
    target = f"{output}/{record.name}/{record.started:%Y%m%d-%H%M%S-%f}"
    wanted = {name: run_dir / name for name in SHOWN if (run_dir / name).is_file()}
    wanted |= _below("model", record.export) | _below("training", record.model_run)
    wanted |= _below("baselines", record.baselines)
    wanted |= _below("evaluation", record.judgement.evaluation if record.judgement else None)
    wanted |= {"rows.json": counts} if (counts := record.rows.examples / "report.json").is_file() else {}
    try:
        for name, file in {**wanted, RUN_FILE: run_dir / RUN_FILE}.items():
            stores.upload(file, f"{target}/{name}")
    except ValueError as error:
        raise ValueError(f"{error}. The run is complete in {run_dir}: run it again to copy it") from None
    return target


def _below(name: str, folder: Path | None) -> dict[str, Path]:
    if folder is None:
        return {}
    found = sorted(folder.rglob("*"))
    return {f"{name}/{path.relative_to(folder).as_posix()}": path for path in found if path.is_file()}
