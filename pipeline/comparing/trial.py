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
from typing import TYPE_CHECKING, Any, NamedTuple

from mixrank.pipeline.comparing.trial_plan import RESULT_FILE, TRIAL_FILE, split_patterns
from mixrank.schemas.files import write_atomically

if TYPE_CHECKING:
    import tensorflow_transform as tft

    from mixrank.components.training import ModelSettings, TrainSettings
    from mixrank.schemas import FeatureSpec


class Given(NamedTuple):
    """What `trial.json` says, ready for use."""

    spec: FeatureSpec
    model: ModelSettings
    train: TrainSettings
    patterns: dict[str, str]
    graph: tft.TFTransformOutput

    @classmethod
    def of(cls, folder: Path) -> Given:
        """Reads the folder's settings and prepares the devices they ask for."""
        import tensorflow_transform as tft

        from mixrank.components.training import ModelSettings, TrainSettings, prepare_devices
        from mixrank.schemas import FeatureSpec

        about = json.loads((folder / TRIAL_FILE).read_text())
        train = TrainSettings(**about["train"])
        prepare_devices(train.replicas)
        return cls(
            FeatureSpec.model_validate(about["spec"]),
            ModelSettings(**about["model"]),
            train,
            split_patterns(about["rows"]),
            tft.TFTransformOutput(about["graph"]),
        )


def work(folder: Path) -> dict[str, Any]:
    """Trains on the run's rows and judges the evaluation split.

    Args:
        folder: holds `trial.json`; gets the files of a training.

    Returns:
        Metrics per task and slice, those of the last validation, dense parameters, FLOPs, and which code it was.
    """
    import pandas as pd

    from mixrank.components.training import MODEL_CARD, PREDICTIONS, TRAINING_LOG, train_model
    from mixrank.layers import registry
    from mixrank.pipeline.comparing.judging import judge
    from mixrank.pipeline.fingerprint import source

    given = Given.of(folder)
    train_model(
        spec=given.spec,
        model_settings=given.model,
        settings=given.train,
        patterns=given.patterns,
        transform_output=given.graph,
        checkpoints=folder / "checkpoints",
        run_dir=folder,
        export_dir=None,
    )
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    card = json.loads((folder / MODEL_CARD).read_text())
    log = [json.loads(line) for line in (folder / TRAINING_LOG).read_text().splitlines()]
    return {
        "metrics": judge(given.spec, pd.read_parquet(folder / PREDICTIONS)),
        "valid": log[-1]["valid"],
        "dense_parameters": sum(part["parameters"] for part in card["parts"] if part["name"] != "embeddings"),
        "flops": card["flops"],
        "code": source(
            "mixrank.components.training.trainer", "mixrank.layers.models", registry.origin(given.model.name)
        ),
    }


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
    write_atomically(folder / RESULT_FILE, lambda path: path.write_text(json.dumps(found, indent=1)))


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    run(work)
