"""Shapes of a signature's inputs, asserted inside the graph.

TensorFlow Serving does not compare a request with the signature: a tensor of any shape reaches the graph. A graph that
trusts the declared width would then read the values of one row as those of another. So each input passes through an
assertion of its own shape, which the graph cannot run without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """The inputs, behind an assertion of the rank, the widths and the counts of each.

    The first input that names a count sets it; all others are compared with it. The message of a failure names the
    first column that does not fit, the shape that was expected and the shape that came.

    Args:
        inputs: column -> values.
        axes: column -> its axes, of every input.
        note: ends what a message says of the expected shape.
    """
    # All shapes are one vector, in which each ends with a negative number of its own. So a few operations compare them,
    # however many there are; and up to the first difference, each size is at its expected place. A size is
    # `fixed + each * counts[of]`.
    sizes: list[tuple[int, int, int]] = []
    owner, start = [], []
    places: dict[str, tuple[int, int]] = {}
    for number, wanted in enumerate(axes.values()):
        start.append(len(sizes))
        for axis in wanted:
            if isinstance(axis, Count):
                places.setdefault(axis.of, (len(sizes), axis.each))
                sizes.append((0, axis.each, list(places).index(axis.of)))
            else:
                sizes.append((axis, 0, 0))
        sizes.append((_end(number), 0, 0))
        owner += [number] * (len(wanted) + 1)
    fixed, each, of = map(list, zip(*sizes, strict=True))
    shapes = _shapes([inputs[name] for name in axes])
    ended = [part for number, shape in enumerate(shapes) for part in (shape, [_end(number)])]
    with tf.device("/CPU:0"):
        received = tf.concat([*ended, [-1] * len(fixed)], axis=0)
        setting = list(places.values()) or [(0, 1)]
        counts = tf.gather(received, [place for place, _ in setting]) // [factor for _, factor in setting]
        expected = fixed + tf.gather(counts, of) * each
        fits = tf.equal(received[: len(fixed)], expected)
        column = tf.gather(owner, tf.argmin(tf.cast(fits, tf.int32)))
        come, due = received[tf.gather(start, column) :], expected[tf.gather(start, column) :]
        messages = [f"column `{name}` must have shape {_text(wanted)}{note}, here" for name, wanted in axes.items()]
        data = [tf.gather(messages, column), due[: _length(due)], "received", come[: _length(come)]]
        assertion = tf.debugging.Assert(tf.reduce_all(fits), data)
    with tf.control_dependencies([assertion]):
        return dict(zip(axes, tf.identity_n([inputs[name] for name in axes]), strict=True))


def _end(number: int) -> int:
    return -2 - number


def _shapes(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Shapes of tensors of any types, as they come; `tf.shape` would believe the declared ones."""
    found: dict[int, tf.Tensor] = {}
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        places = [place for place, tensor in enumerate(tensors) if tensor.dtype == dtype]
        found |= zip(places, tf.raw_ops.ShapeN(input=[tensors[place] for place in places]), strict=True)
    return [found[place] for place in range(len(tensors))]


def _length(sizes: tf.Tensor) -> tf.Tensor:
    """How many sizes stand before the end of the first shape."""
    return tf.argmax(tf.cast(sizes < 0, tf.int32))


def _text(axes: Axes) -> str:
    return f"({', '.join(map(str, axes))}{',' * (len(axes) == 1)})"
