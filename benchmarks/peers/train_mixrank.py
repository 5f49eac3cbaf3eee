"""The task in mixrank: as `mixrank train` trains it, with its defaults but for batch size, rates and lazy Adam."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import task
import tensorflow as tf

from mixrank.components.training import (
    Optimizer,
    TableOptimizer,
    TrainSettings,
    build_strategy,
    compile_for_training,
)
from mixrank.layers.ranking import build_ranker
from mixrank.schemas import Categorical, EventTime, FeatureSpec, Key, Label, Scenario

PARAMS = {"num_layers": task.CROSSES, "cross": "full", "structure": "parallel", "mlp_units": task.MLP}


def spec() -> FeatureSpec:
    # A log of mixrank has a scenario, which is a field like all others; two of its ids mean missing and unknown.
    scenario, user, item, *others = task.names()
    return FeatureSpec(
        name="peers",
        user=Key(user),
        item=Key(item),
        time=EventTime("at"),
        scenario=Scenario(scenario, values=tuple(range(task.IDS - 2)), dim=task.DIM),
        labels=(Label("click"),),
        features=(
            Categorical(user, group="user", dim=task.DIM),
            *(Categorical(name, group="item", dim=task.DIM) for name in (item, *others)),
        ),
    )


def main() -> None:
    given = task.arguments()
    log = spec()
    settings = TrainSettings(
        batch_size=given.batch,
        jit_compile=given.jit,
        optimizer=Optimizer(learning_rate=task.RATE),
        # The nearest to the peers' Adam; the default would learn faster, and be cheaper.
        embedding_optimizer=TableOptimizer(name="lazy_adam", learning_rate=task.RATE),
    )
    strategy = build_strategy(settings.replicas)
    with strategy.scope():
        counted = dict(zip(task.names()[1:], task.sizes(given.large)[1:], strict=True))
        trained = compile_for_training(
            build_ranker(log, counted, "dcnv2", PARAMS), log, settings, strategy, steps=10**6
        )
    rows, labels = task.columns(given.file, "int64")
    stream = tf.data.Dataset.from_tensor_slices((rows, {"click": labels}))
    batches = iter(stream.batch(given.batch, drop_remainder=True).cache().repeat())
    trained.make_train_function()
    dense = sum(int(np.prod(weight.shape)) for weight in trained.dense_weights)
    task.report(lambda: float(trained.train_function(batches)["loss"]), given, dense, means=True)


if __name__ == "__main__":
    main()
