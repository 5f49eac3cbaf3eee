"""Cost of reading rows: training steps per second on real rows relative to one cached batch.

    python benchmarks/input_pipeline.py runs/kuairand

Rows are read from the files, as in a training of one pass, and from memory, as in one of several passes after they were
decoded. All loops run the same step in turn, so that a change of the machine's speed hits all. A ratio of 1 means that
reading, decoding and shuffling hide behind the training step.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--steps", type=int, default=60, help="steps per turn")
    parser.add_argument("--turns", type=int, default=7)
    arguments = parser.parse_args()

    import tensorflow as tf
    import tensorflow_transform as tft

    from mixrank.components.training import (
        PositionBias,
        build_model,
        build_strategy,
        compile_for_training,
        training_rows,
        training_stream,
    )
    from mixrank.pipeline.config import RunConfig
    from mixrank.pipeline.run_record import RunRecord, split_files

    run = RunRecord.read(arguments.run)
    config = RunConfig.model_validate(run.config)
    spec, settings, model_settings = run.spec, config.train, config.model
    transform_output = tft.TFTransformOutput(str(run.rows.transform_graph))
    pattern = split_files(run.rows.transformed)["train"]
    rows = training_rows(spec, [pattern], settings, transform_output)
    steps_per_pass = rows.count() // settings.batch_size
    needed = (arguments.turns + 2) * arguments.steps
    if needed > steps_per_pass:
        parser.error(
            f"the run has rows for {steps_per_pass} steps, and {needed} are asked for: lower --steps or --turns"
        )
    from_files, from_memory = (
        iter(
            training_stream(
                rows,
                batch_size=settings.batch_size,
                steps_per_pass=steps_per_pass,
                steps=passes * steps_per_pass,
                seed=settings.seed,
                shuffle_rows=settings.shuffle_rows,
            )
        )
        for passes in (1, 2)
    )
    model = build_model(spec, model_settings, settings, transform_output)
    trained = compile_for_training(
        model, spec, settings, build_strategy(1), steps=needed, position=PositionBias.of(spec, rows)
    )
    trained.make_train_function()
    cached = iter(tf.data.Dataset.from_tensors(next(from_files)).cache().repeat())

    def rate(batches: Any) -> float:
        began = time.perf_counter()
        for _ in range(arguments.steps):
            logs = trained.train_function(batches)
        float(tf.nest.flatten(logs)[0])  # Waits for the last step.
        return arguments.steps / (time.perf_counter() - began)

    loops = {"one cached batch": cached, "rows from files": from_files, "rows from memory": from_memory}
    turns = [{name: rate(batches) for name, batches in loops.items()} for _ in range(arguments.turns + 1)][1:]
    print(f"model {model_settings.name}, batch {settings.batch_size}, {arguments.steps} steps a turn")
    for name in loops:
        ratios = sorted(turn[name] / turn["one cached batch"] for turn in turns)
        print(
            f"{name:18}{statistics.median(turn[name] for turn in turns):7.1f} steps/s"
            f"{statistics.median(ratios):7.2f}   ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
