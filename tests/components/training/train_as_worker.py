"""One worker of a training on toy rows, as its own process: `python train_as_worker.py ARGUMENTS.json`.

The JSON holds the arguments of `train_model`; TF_CONFIG says who this worker is. A worker with `die_after` kills itself
when it has gone through that many rounds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path


def main(file: str) -> None:
    arguments = json.loads(Path(file).read_text())
    import tensorflow_transform as tft

    from mixrank.components.training import ModelSettings, TrainSettings, resumable_training, train_model
    from mixrank.schemas import FeatureSpec

    if die_after := arguments.get("die_after"):
        begin = resumable_training.Rounds.on_epoch_begin

        def die(self: resumable_training.Rounds, epoch: int, logs: dict[str, float] | None = None) -> None:
            if epoch == die_after:
                os.kill(os.getpid(), signal.SIGKILL)
            begin(self, epoch, logs)

        resumable_training.Rounds.on_epoch_begin = die  # type: ignore[method-assign]
    train_model(
        spec=FeatureSpec.from_json(arguments["spec"]),
        model_settings=ModelSettings(**arguments["model"]),
        settings=TrainSettings(**arguments["train"]),
        patterns=arguments["patterns"],
        transform_output=tft.TFTransformOutput(arguments["graph"]),
        checkpoints=Path(arguments["checkpoints"]),
        run_dir=Path(arguments["run"]),
        export_dir=Path(arguments["export"]),
    )


if __name__ == "__main__":
    main(sys.argv[1])
