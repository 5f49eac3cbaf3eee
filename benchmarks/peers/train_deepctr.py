"""The task in DeepCTR: its `DCN` with matrices, without linear part and penalties, trained by the step of `fit`."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import task
import tensorflow as tf
import tf_keras
from deepctr.feature_column import SparseFeat
from deepctr.models import DCN


def main() -> None:
    given = task.arguments()
    fields = [
        SparseFeat(
            name,
            size,
            embedding_dim=task.DIM,
            embeddings_initializer=tf_keras.initializers.RandomNormal(0.0, task.SPREAD, seed=at),
        )
        for at, (name, size) in enumerate(zip(task.names(), task.sizes(given.large), strict=True))
    ]
    model = DCN(
        [],
        fields,
        cross_num=task.CROSSES,
        cross_parameterization="matrix",
        dnn_hidden_units=task.MLP,
        l2_reg_linear=0,
        l2_reg_embedding=0,
        l2_reg_cross=0,
    )
    model.compile(tf_keras.optimizers.Adam(task.RATE), "binary_crossentropy")
    stream = tf.data.Dataset.from_tensor_slices(task.columns(given.file, "int32"))
    batches = iter(stream.batch(given.batch).cache().repeat())
    step = model.make_train_function()
    dense = sum(
        int(np.prod(weight.shape))
        for layer in model.layers
        if not isinstance(layer, tf_keras.layers.Embedding)
        for weight in layer.trainable_weights
    )
    task.report(lambda: float(step(batches)["loss"]), given, dense, means=True)


if __name__ == "__main__":
    main()
