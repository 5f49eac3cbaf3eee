"""The bar that a deep model must clear: boosted trees on the same rows and the same inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mixrank.components.baselines import BoostedTrees, read_columns, read_examples
from mixrank.components.examples import local_days
from mixrank.pipeline.reports.run_folder import RunFolder
from mixrank.schemas import CalendarDay, FeatureSpec, datasets
from mixrank.schemas.files import write_atomically


def write_boosted_trees(run_dir: Path, target: Path) -> Path:
    """Grows trees on the rows the run's model was trained on, and scores the evaluation split.

    Days are those of the dataset's real-time window, or of UTC where that window is no day. Every training row counts
    as earlier than the evaluation rows, as it does for the model.

    Args:
        run_dir: folder of a finished run.
        target: Parquet file to write; replaced if it exists.

    Returns:
        `target`: user, item, time and `score_<task>` of every row, in the order of the evaluation split's files.

    Raises:
        ValueError: if the folder is no run's, its rows or its dataset's declaration are gone, or all labels of a task
            are equal.
    """
    run = RunFolder.load(run_dir)
    if missing := sorted({"spec", "examples", "config"} - set(run.about)):
        raise ValueError(f"{run_dir / 'run.json'} lacks {missing}")
    spec = FeatureSpec.model_validate(run.about["spec"])
    config = run.about["config"]
    examples = Path(run.about["examples"])
    evaluated = str(examples / "Split-eval" / "*")
    splits = [str(examples / f"Split-{split}" / "*") for split in config["train"]["splits"]]
    rows = read_examples(spec, [*splits, evaluated])
    training = rows.between(0, rows.ends[-2])
    window = datasets.load(config["dataset"]).source.window
    calendar = window if isinstance(window, CalendarDay) else CalendarDay()
    days = local_days(training.columns[spec.time.name], calendar.timezone, calendar.starts_at).astype(np.int64)
    scores = BoostedTrees(spec).fit(training, days).predict(rows.between(rows.ends[-2], rows.ends[-1]))
    keys = (spec.user.name, spec.item.name, spec.time.name)
    frame = pd.DataFrame(read_columns(spec, evaluated, keys)).assign(
        **{f"score_{task}": s for task, s in scores.items()}
    )
    write_atomically(target, lambda path: frame.to_parquet(path, index=False))
    return target
