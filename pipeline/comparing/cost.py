"""Speed of one variant, measured while nothing else runs: `python -m mixrank.pipeline.comparing.cost FOLDER`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mixrank.pipeline.comparing.trial import run
from mixrank.pipeline.comparing.trial_plan import Given
from mixrank.pipeline.run_record import split_files

LATENCY_BATCHES = (1, 512)
SECONDS = 5.0


def work(folder: Path) -> dict[str, Any]:
    """Times training steps and forward passes of a model with fresh weights, on the run's own rows.

    Returns:
        `training_samples_per_second` of the Trainer's step on one cached batch, and `latency_ms`, the median
        milliseconds of a forward pass as it is served, from transformed columns to logits, by batch size.
    """
    import tensorflow as tf
    import tensorflow_transform as tft

    from mixrank.components.training import (
        PositionBias,
        build_model,
        build_strategy,
        compile_for_training,
        inference,
        prepare_devices,
        training_rows,
        training_stream,
        transformed_rows,
    )
    from mixrank.serving.base import untuned

    given = Given.read(folder)
    prepare_devices(given.train.replicas)
    graph = tft.TFTransformOutput(str(given.graph))
    strategy = build_strategy(given.train.replicas)
    settings = given.train.on(strategy.num_replicas_in_sync)
    patterns = [split_files(given.rows)["train"]]
    rows, served = training_rows(given.spec, patterns, settings, graph), transformed_rows(given.spec, patterns, graph)

    def batch_of(rows: Any, size: int) -> Any:
        stream = training_stream(rows, batch_size=size, steps_per_pass=1, steps=1, seed=0, shuffle_rows=size)
        return next(iter(stream))

    with strategy.scope():
        model = build_model(given.spec, given.model, settings, graph)
        trained = compile_for_training(
            model, given.spec, settings, strategy, steps=1000, position=PositionBias.of(given.spec, rows)
        )
    infer = inference(model)
    latency = {}
    for size in LATENCY_BATCHES:
        inputs, _ = batch_of(served, size)

        def score(batch: Any = inputs) -> object:
            return [logits.numpy() for logits in infer(batch).values()]

        latency[size] = 1000 * median_seconds(score)
    # One cached batch: the cost of the model, not of reading rows.
    batches = iter(untuned(tf.data.Dataset.from_tensors(batch_of(rows, settings.batch_size)).cache().repeat()))
    trained.make_train_function()
    step = median_seconds(lambda: float(tf.nest.flatten(trained.train_function(batches))[0]))
    return {"training_samples_per_second": settings.batch_size / step, "latency_ms": latency}


def median_seconds(doing: Callable[[], object], seconds: float = SECONDS) -> float:
    """Median time of calls repeated for some seconds, at least three.

    Three calls before them are not counted, or fewer where one alone takes longer than `seconds`.
    """

    def spent() -> float:
        began = time.perf_counter()
        doing()
        return time.perf_counter() - began

    for _ in range(3):
        if spent() > seconds:
            break
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        times.append(spent())
    return statistics.median(times)


if __name__ == "__main__":
    run(work)
