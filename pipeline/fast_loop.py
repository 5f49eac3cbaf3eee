"""Training alone, on rows that an earlier run has transformed."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from mixrank.pipeline.config import RunConfig
from mixrank.pipeline.runners import BASELINE_FILE, LOG_FILE, RUN_FILE, quiet
from mixrank.schemas import Dataset
from mixrank.schemas.files import write_atomically


def train_only(config: RunConfig) -> Path:
    """Trains on the transformed rows of the config's last run.

    Args:
        config: the run; `mixrank run` must have been through Transform with the same dataset.

    Returns:
        A new folder below the run's, laid out like a run folder; nothing is judged or pushed.

    Raises:
        ValueError: if there is no earlier run, or it was of another dataset or feature spec.
    """
    earlier, dataset = last_run(config)
    # A wrong config is answered at once, before TensorFlow is imported.
    import tensorflow_transform as tft

    from mixrank.components.training import prepare_devices, train_model

    prepare_devices(config.train.replicas)
    started = datetime.now()
    folder = new_folder(config, started)
    with quiet(folder / LOG_FILE):
        train_model(
            spec=dataset.spec,
            model_settings=config.model,
            settings=config.train.model_copy(update={"warm_start": config.warm_start_folder()}),
            patterns=patterns(earlier, dataset),
            transform_output=tft.TFTransformOutput(earlier["transform_graph"]),
            checkpoints=folder / "checkpoints",
            run_dir=folder / "model_run",
            export_dir=folder / "export",
        )
    describe(config, earlier, folder, started, export=str(folder / "export"))
    return folder


def last_run(config: RunConfig) -> tuple[dict[str, Any], Dataset]:
    """What `run.json` says of the config's last run, and the dataset.

    Raises:
        ValueError: if there is no earlier run, or it was of another dataset or feature spec.
    """
    source = config.run_dir / RUN_FILE
    if not source.is_file():
        raise ValueError(f"{source} does not exist: run the pipeline once first, `mixrank run` with the same config")
    earlier = json.loads(source.read_text())
    if earlier["config"]["dataset"] != config.dataset:
        raise ValueError(f"{source} is a run of dataset {earlier['config']['dataset']}, not of {config.dataset}")
    dataset = config.load_dataset()
    if dataset.spec.model_dump(mode="json") != earlier.get("spec"):
        raise ValueError(f"the feature spec of {config.dataset} has changed since {source}: `mixrank run` it again")
    return earlier, dataset


def patterns(earlier: dict[str, Any], dataset: Dataset) -> dict[str, str]:
    """Split -> files of an earlier run's transformed rows."""
    rows = Path(earlier["transformed_examples"])
    return {split: str(rows / f"Split-{split}" / "*") for split in dataset.split_names}


def new_folder(config: RunConfig, started: datetime, suffix: str = "") -> Path:
    """Makes a folder for one training, below the run's."""
    folder = config.run_dir / "train" / f"{started:%Y%m%d-%H%M%S}{suffix}"
    folder.mkdir(parents=True)
    return folder


def describe(config: RunConfig, earlier: dict[str, Any], folder: Path, started: datetime, export: str | None) -> None:
    """Writes what makes the folder of a training look like a run folder: `run.json`, and the run's baseline.

    Args:
        config: settings of the training.
        earlier: the run whose rows it read.
        folder: holds `model_run/` already.
        started: when the training began.
        export: folder of the SavedModel, or None where none was exported.
    """
    if (baseline := config.run_dir / BASELINE_FILE).exists():
        write_atomically(folder / BASELINE_FILE, lambda path: path.write_bytes(baseline.read_bytes()))
    finished = datetime.now()
    described = {
        **earlier,
        "name": f"{config.name}/{folder.name}",
        "config": config.model_dump(mode="json"),
        "started": started.isoformat(timespec="seconds"),
        "finished": finished.isoformat(timespec="seconds"),
        "seconds": {"Trainer": (finished - started).total_seconds()},
        "blessed": False,
        "reasons": ["trained alone; nothing was judged"],
        "pushed": None,
        "evaluation": None,
        "model_run": str(folder / "model_run"),
        "export": export,
    }
    write_atomically(folder / RUN_FILE, lambda path: path.write_text(json.dumps(described, indent=1)))
