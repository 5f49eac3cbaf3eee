"""One training of a comparison, as a process of its own: `python -m mixrank.pipeline.comparing.trial FOLDER`.

The folder holds `trial.json`; `result.json` is written last, so its presence means that the training is complete. The
process ends with the one that holds the other end of its standard input.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mixrank.components.metrics import Rows, answers_in, weights_in
from mixrank.pipeline.comparing.trial_plan import RESULT_FILE, Given
from mixrank.pipeline.reports import OVERALL, TASK_REPORTS, exact_metrics
from mixrank.pipeline.run_record import split_files
from mixrank.schemas import FeatureSpec
from mixrank.schemas.arrow import read_frame
from mixrank.schemas.files import write_text_atomically

# A scenario with a smaller share of the rows is not shown: its metrics move more with the seed than with the model.
MAIN_SHARE = 0.05


def work(folder: Path) -> dict[str, Any]:
    """Trains on the run's rows and judges the evaluation split.

    Args:
        folder: holds `trial.json`; gets the files of a training.

    Returns:
        Metrics per task and slice, those of the last validation, dense parameters, FLOPs, and which code it was.
    """
    import tensorflow_transform as tft

    from mixrank.components.training import MODEL_CARD, PREDICTIONS, TRAINING_LOG, prepare_devices, train_model
    from mixrank.layers import losses, registry
    from mixrank.pipeline.fingerprint import source

    given = Given.read(folder)
    prepare_devices(given.train.replicas)
    train_model(
        spec=given.spec,
        model_settings=given.model,
        # Nothing goes on from a trial.
        settings=given.train.model_copy(update={"keep_state": False}),
        patterns=split_files(given.rows),
        transform_output=tft.TFTransformOutput(str(given.graph)),
        checkpoints=folder / "checkpoints",
        run_dir=folder,
        export_dir=None,
    )
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    card = json.loads((folder / MODEL_CARD).read_text())
    log = [json.loads(line) for line in (folder / TRAINING_LOG).read_text().splitlines()]
    return {
        "metrics": judge(given.spec, read_frame(folder / PREDICTIONS)),
        "valid": log[-1]["valid"],
        "dense_parameters": sum(part["parameters"] for part in card["parts"] if part["name"] != "embeddings"),
        "flops": card["flops"],
        "code": source(
            "mixrank.components.training.trainer",
            "mixrank.layers.models",
            registry.origin(given.model.name),
            *map(losses.origin, given.train.losses.values()),
        ),
    }


def judge(spec: FeatureSpec, predictions: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Metrics of predictions as `mixrank.components.training.predictions.predict` gives them.

    Returns:
        task -> "overall" or the scenario as text -> metric -> value. A main scenario has at least `MAIN_SHARE` of the
        rows, with labels that can be judged.
    """
    _, users = np.unique(predictions[spec.user.name].to_numpy(), return_inverse=True)
    requests = None if spec.request is None else predictions[spec.request.name].to_numpy()
    scenario = predictions[spec.scenario.name].astype(str).to_numpy()
    values, counts = np.unique(scenario, return_counts=True)
    largest = sorted(zip(-counts, values, strict=True))
    slices: list[tuple[str, Any]] = [(OVERALL, np.arange(len(predictions)))]
    slices += [
        (value, np.flatnonzero(scenario == value)) for rows, value in largest if -rows >= MAIN_SHARE * len(predictions)
    ]
    found: dict[str, dict[str, dict[str, float]]] = {}
    for task in spec.labels:
        labels, weights = predictions[f"label_{task.name}"].to_numpy(), weights_in(predictions, task.name)
        answers = answers_in(predictions, task).astype(np.float64)
        whole = Rows.of_answers(labels, answers, users, task.classes, requests=requests, weights=weights)
        counted = {name: rows[~np.isnan(labels[rows])] for name, rows in slices}
        found[task.name] = {
            name: exact_metrics(task.kind, whole.take(rows))
            for name, rows in counted.items()
            if not TASK_REPORTS[task.kind].unjudged(labels[rows])
        }
    return found


def run(doing: Callable[[Path], dict[str, Any]]) -> None:
    """A process of a comparison: does its work in the folder on its command line and writes `result.json`."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder = Path(sys.argv[1])
    began = time.monotonic()
    found = doing(folder)
    # Linux counts in kB.
    found |= {
        "seconds": time.monotonic() - began,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    write_text_atomically(folder / RESULT_FILE, json.dumps(found, indent=1))


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    run(work)
