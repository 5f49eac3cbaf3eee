"""Datasets whose iterators stop as soon as they are deleted."""

from __future__ import annotations

import tensorflow as tf


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The dataset without tf.data's autotuning, for pipelines that state their own parallelism.

    An iterator that tunes itself has a thread that pauses between its looks, twice as long each time up to a minute.
    When the iterator is dropped, that thread misses the call to stop about every other time (TensorFlow 2.16), and
    dropping it lasts until the pause is over: up to as long again as it was read.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
