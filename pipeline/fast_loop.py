"""Training alone, on rows that an earlier run has transformed."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.runners import BASELINE_FILE, LOG_FILE, RUN_FILE, quiet
from schemas.files import write_atomically


def train_only(config: RunConfig) -> Path:
    """Trains on the transformed rows of the config's last run.

    Args:
        config: the run; `mixrank run` must have been through Transform with the same dataset.

    Returns:
        A new folder below the run's, laid out like a run folder; nothing is judged or pushed.

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
    # A wrong config is answered at once, before TensorFlow is imported.
    import tensorflow_transform as tft

    from components.strategy import prepare_devices
    from components.trainer import train_model

    prepare_devices(config.train.replicas)
    started = datetime.now()
    folder = config.run_dir / "train" / started.strftime("%Y%m%d-%H%M%S")
    rows = Path(earlier["transformed_examples"])
    folder.mkdir(parents=True)
    with quiet(folder / LOG_FILE):
        train_model(
            spec=dataset.spec,
            model_settings=config.model,
            settings=config.train,
            patterns={split: str(rows / f"Split-{split}" / "*") for split in dataset.split_names},
            transform_output=tft.TFTransformOutput(earlier["transform_graph"]),
            checkpoints=folder / "checkpoints",
            run_dir=folder / "model_run",
            export_dir=folder / "export",
        )
    if (baseline := config.run_dir / BASELINE_FILE).exists():
        (folder / BASELINE_FILE).write_bytes(baseline.read_bytes())
    described = {
        **earlier,
        "name": f"{config.name}/{folder.name}",
        "config": config.model_dump(mode="json"),
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now().isoformat(timespec="seconds"),
        "seconds": {"Trainer": (datetime.now() - started).total_seconds()},
        "blessed": False,
        "reasons": ["trained alone; nothing was judged"],
        "pushed": None,
        "evaluation": None,
        "model_run": str(folder / "model_run"),
        "export": str(folder / "export"),
    }
    write_atomically(folder / RUN_FILE, lambda path: path.write_text(json.dumps(described, indent=1)))
    return folder
