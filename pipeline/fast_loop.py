"""Training alone, on rows that an earlier run has transformed."""

from __future__ import annotations

import itertools
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from mixrank.components.baselines import ADDITIVE, fit_additive
from mixrank.pipeline.config import RunConfig
from mixrank.pipeline.run_record import RUN_FILE, RunRecord, is_run, split_files
from mixrank.pipeline.runners import LOG_FILE, quiet
from mixrank.schemas import Dataset


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
    export = folder / "export"
    with quiet(folder / LOG_FILE):
        train_model(
            spec=dataset.spec,
            model_settings=config.model,
            settings=config.train.model_copy(update={"warm_start": config.warm_start_folder()}),
            patterns=split_files(earlier.rows.transformed),
            transform_output=tft.TFTransformOutput(str(earlier.rows.transform_graph)),
            checkpoints=folder / "checkpoints",
            run_dir=folder / "model_run",
            export_dir=export,
        )
    record_training(config, earlier, folder, started, export)
    return folder


def last_run(config: RunConfig) -> tuple[RunRecord, Dataset]:
    """The config's last run, and the dataset.

    Raises:
        ValueError: if there is no earlier run, or it was of another dataset or feature spec.
    """
    earlier, dataset = find_run(config), config.load_dataset()
    if dataset.spec != earlier.spec:
        source = config.run_dir / RUN_FILE
        raise ValueError(f"the feature spec of {config.dataset} has changed since {source}: `mixrank run` it again")
    return earlier, dataset


def find_run(config: RunConfig) -> RunRecord:
    """The config's last run, without a look at today's dataset.

    Raises:
        ValueError: if there is no earlier run, or it was of another dataset.
    """
    source = config.run_dir / RUN_FILE
    if not is_run(config.run_dir):
        raise ValueError(f"{source} does not exist: run the pipeline once first, `mixrank run` with the same config")
    earlier = RunRecord.read(config.run_dir)
    if earlier.dataset != config.dataset:
        raise ValueError(f"{source} is a run of dataset {earlier.dataset}, not of {config.dataset}")
    return earlier


def new_folder(config: RunConfig, started: datetime, suffix: str = "") -> Path:
    """Makes a folder for one training, below the run's; a time that comes again gets a number."""
    for again in itertools.count(1):
        number = f"-{again}" if again > 1 else ""
        folder = config.run_dir / "train" / f"{started:%Y%m%d-%H%M%S}{suffix}{number}"
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            break
    return folder


def record_training(
    config: RunConfig, earlier: RunRecord, folder: Path, started: datetime, export: Path | None
) -> None:
    """Makes the folder of a training a run folder: its record, and the baseline on the same rows.

    Args:
        config: settings of the training.
        earlier: the run whose rows it read.
        folder: holds `model_run/` already.
        started: when the training began.
        export: folder of the SavedModel, or None where none was exported.
    """
    baselines = earlier.baselines
    if earlier.splits != config.train.splits:
        baselines = folder / "baselines"
        baselines.mkdir()
        fit_additive(earlier.spec, split_files(earlier.rows.examples), config.train.splits, baselines / ADDITIVE)
    finished = datetime.now()
    record = RunRecord(
        name=f"{config.name}/{folder.name}",
        dataset=config.dataset,
        config=config.model_dump(mode="json"),
        spec=earlier.spec,
        splits=config.train.splits,
        started=started,
        finished=finished,
        seconds={"Trainer": (finished - started).total_seconds()},
        rows=earlier.rows,
        baselines=baselines,
        model_run=folder / "model_run",
        export=export,
        judgement=None,
    )
    record.write(folder)
