"""The floor that a run must beat: the additive log-odds baseline on the same rows."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from mixrank.components.baselines import AdditiveLogOdds, read_columns
from mixrank.pipeline.runners import BASELINE_FILE, RUN_FILE
from mixrank.schemas import FeatureSpec
from mixrank.schemas.files import write_atomically


def write_baseline(run_dir: Path) -> Path:
    """Fits scenario, user and item log-odds on the rows the model was trained on; scores the evaluation split.

    Args:
        run_dir: folder of a finished run.

    Returns:
        `baseline.parquet` in it: the key columns and `score_<task>`.
    """
    about = json.loads((run_dir / RUN_FILE).read_text())
    examples = Path(about["examples"])
    keys = [about["scenario"]["column"], about["user"], about["item"]]
    wanted = [*keys, about["time"], *about["tasks"]]
    spec = FeatureSpec.model_validate(about["spec"])
    parts = [read_columns(spec, str(examples / f"Split-{s}" / "*"), wanted) for s in about["config"]["train"]["splits"]]
    training = {name: pd.concat([pd.Series(part[name]) for part in parts]).to_numpy() for name in wanted}
    evaluated = read_columns(spec, str(examples / "Split-eval" / "*"), wanted)
    frame = pd.DataFrame({name: evaluated[name] for name in (about["user"], about["item"], about["time"])})
    for task in about["tasks"]:
        model = AdditiveLogOdds().fit({key: training[key] for key in keys}, training[task])
        frame[f"score_{task}"] = model.predict({key: evaluated[key] for key in keys})
    target = run_dir / BASELINE_FILE
    write_atomically(target, lambda path: frame.to_parquet(path, index=False))
    return target
