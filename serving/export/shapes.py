"""Shapes of a signature's inputs, asserted inside the graph.

TensorFlow Serving does not compare a request with the signature: a tensor of any shape reaches the graph. A graph that
trusts the declared width would then read the values of one row as those of another. So each input passes through an
assertion of its own shape, which the graph cannot run without.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf


class Count(NamedTuple):
    """A size that is known only with the request, and the same for all inputs that name it.

    Args:
        of: what is counted, such as rows.
        each: int >= 1. Values for each.
    """

    of: str
    each: int = 1

    def __str__(self) -> str:
        return self.of if self.each == 1 else f"{self.each} * {self.of}"


Axes = tuple[int | Count, ...]


def tensor_spec(name: str, dtype: tf.DType, axes: Axes) -> tf.TensorSpec:
    """An input as a signature declares it: a count is an axis of any size."""
    return tf.TensorSpec([None if isinstance(axis, Count) else axis for axis in axes], dtype, name=name)


def checked(inputs: Mapping[str, tf.Tensor], axes: Mapping[str, Axes], note: str = "") -> dict[str, tf.Tensor]:
    """The inputs, each behind an assertion of its rank, its widths and its counts.

    The first input that names a count sets it; all others are compared with it. The message of a failure names the
    column, the shape that was expected and the shape that came.

    Args:
        inputs: column -> values.
        axes: column -> its axes, of every input.
        note: ends what a message says of the expected shape.
    """
    counts: dict[str, tf.Tensor] = {}
    found = {}
    for name, wanted in axes.items():
        # `tf.shape` would believe the declared shape.
        shape = tf.raw_ops.Shape(input=inputs[name])
        # Vectors of one length, whatever the rank: negative sizes stand where there is no axis.
        sizes = tf.concat([shape, [-1 - place for place in range(len(wanted) + 1)]], axis=0)[: len(wanted) + 1]
        others = []
        for place, axis in enumerate(wanted):
            if not isinstance(axis, Count):
                continue
            if axis.of in counts:
                others.append(axis.of)
            else:
                counts[axis.of] = sizes[place] // axis.each
        expected = [counts[axis.of] * axis.each if isinstance(axis, Count) else axis for axis in wanted]
        text = ", ".join(map(str, wanted)) + ("," if len(wanted) == 1 else "")
        message: list[tf.Tensor | str] = [f"column `{name}` must have shape ({text}){note}, received", shape]
        for count in others:
            message += [f"where {count} is", counts[count]]
        fits = tf.reduce_all(tf.equal(sizes, tf.stack([*expected, -1])))
        with tf.control_dependencies([tf.debugging.Assert(fits, message)]):
            found[name] = tf.identity(inputs[name], name=f"checked_{name}")
    return found
