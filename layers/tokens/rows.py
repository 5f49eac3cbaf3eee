"""Rows of a variable: drawn, read and written without a copy of the others.

The one file of the layers that names TensorFlow: Keras has no operation that reads rows of a variable itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np
from keras import ops

from mixrank.layers.base import Shape, Tensor

# Bytes of rows that are copied at a time.
BLOCK = 64 << 20

_DEVICE: ContextVar[str | None] = ContextVar("device of stored rows", default=None)


@contextlib.contextmanager
def rows_on(device: str | None) -> Iterator[None]:
    """Stored rows that are built inside get their variables on that device of TensorFlow; None: where all others are.

    >>> with rows_on("CPU:0"):
    ...     layer = IdEmbedding(size=7, dim=4)
    ...     layer.build((None,))
    """
    token = _DEVICE.set(device)
    try:
        yield
    finally:
        _DEVICE.reset(token)


def placed() -> contextlib.AbstractContextManager[Any]:
    """Variables that are made inside are where `rows_on` wants them."""
    device = _DEVICE.get()
    if device is None:
        return contextlib.nullcontext()
    if keras.backend.backend() != "tensorflow":
        raise ValueError(f"stored rows have a device of their own ({device}) with TensorFlow only")
    import tensorflow as tf

    return tf.device(device)


@keras.saving.register_keras_serializable("mixrank")
class RowsNormal(keras.initializers.RandomNormal):
    """N(0, 0.05) for every number of a table, drawn without a second copy of it.

    >>> RowsNormal(seed=1)((5, 4)).shape
    TensorShape([5, 4])
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(stddev=0.05, seed=seed)

    def __call__(self, shape: Shape, dtype: Any = None) -> Tensor:
        if keras.backend.backend() != "tensorflow":
            return super().__call__(shape, dtype)
        import tensorflow as tf

        # A normal draw is scaled afterwards, into a second tensor. This one knows its scale; its limits are never met.
        seed, limit = (self.seed, 0), 10 * self.stddev
        drawn = tf.random.stateless_parameterized_truncated_normal(shape, seed, 0.0, self.stddev, -limit, limit)
        return drawn if dtype is None else tf.cast(drawn, dtype)

    def get_config(self) -> dict[str, Any]:
        return {"seed": self.seed}


def gather(variable: keras.Variable, rows: Tensor) -> Tensor:
    """`variable[rows]`.

    On TensorFlow the rows are read from the variable itself. `ops.take` would convert it to a tensor first, which
    copies the whole table once a scatter has changed it.

    Args:
        variable: (size, ...).
        rows: int tensor of any shape, each in [0, size).

    Returns:
        Tensor (*rows.shape, ...) in the variable's type.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(variable.value, rows)
    return ops.take(variable, rows, axis=0)


def blocks(variable: keras.Variable, first: int = 0, last: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """The rows [first, last) of a variable, in order, in blocks that fit into memory beside it.

    Args:
        variable: (size, ...).
        first, last: row numbers; None is the size.

    Yields:
        Number of the block's first row, and its rows.
    """
    last = int(variable.shape[0]) if last is None else last
    bytes_per_row = int(np.prod(variable.shape[1:], dtype=np.int64)) * np.dtype(_numpy_type(variable)).itemsize
    step = max(1, BLOCK // max(1, bytes_per_row))
    for start in range(first, last, step):
        rows = np.arange(start, min(start + step, last))
        yield start, np.asarray(gather(variable, rows))


def put(variable: keras.Variable, first: int, values: np.ndarray) -> None:
    """Replaces the rows from `first` on.

    Args:
        variable: (size, ...); under a distribution strategy the copies of all its replicas are changed.
        first: number of the first row.
        values: (rows, ...).
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        rows = tf.range(first, first + len(values), dtype=tf.int64)
        for copy in getattr(variable.value, "values", (variable.value,)):
            with tf.device(copy.device):
                tf.raw_ops.ResourceScatterUpdate(
                    resource=copy.handle, indices=rows, updates=tf.cast(tf.constant(values), copy.dtype)
                )
        return
    whole = np.array(variable)
    whole[first : first + len(values)] = values
    variable.assign(whole)


def _numpy_type(variable: keras.Variable) -> str:
    return {"bfloat16": "float16"}.get(variable.dtype, variable.dtype)
