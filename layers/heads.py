"""The last step of a task: representation to logit."""

from __future__ import annotations

import keras
from keras import ops

from layers.counts import Part, dense_part


@keras.saving.register_keras_serializable("mixrank")
class TaskHead(keras.Layer):
    """`logit = g(x)`, g an MLP with one output; the sigmoid of HeMix equation (22) is applied by the exporter.

    Args:
        units: widths of hidden ReLU layers; empty for logistic regression.

    Call arguments:
        x: Tensor (batch, width).

    Returns:
        float32 tensor (batch,), whatever the precision of the layers below.

    Source: arXiv 2602.09387.

    >>> TaskHead(units=(4,))(keras.ops.ones((2, 3))).shape
    TensorShape([2])
    """

    def __init__(self, *, units: tuple[int, ...] = (), dtype="float32", **kwargs) -> None:
        super().__init__(dtype=dtype, **kwargs)
        if any(width < 1 for width in units):
            raise ValueError(f"`units` must all be at least 1, received {tuple(units)}")
        self.units = tuple(units)

    def build(self, input_shape) -> None:
        self.hidden = [
            keras.layers.Dense(
                width,
                activation="relu",
                kernel_initializer="he_normal",
                name=f"hidden_{index}",
                dtype=self.dtype_policy,
            )
            for index, width in enumerate(self.units)
        ]
        self.logit = keras.layers.Dense(1, name="logit", dtype=self.dtype_policy)
        self.input_width = input_shape[-1]
        for dense in (*self.hidden, self.logit):
            dense.build(input_shape)
            input_shape = (*input_shape[:-1], dense.units)

    def call(self, x):
        for dense in self.hidden:
            x = dense(x)
        # (batch, 1) -> (batch,)
        return ops.reshape(self.logit(x), (-1,))

    def compute_output_shape(self, input_shape):
        return (input_shape[0],)

    def parts(self) -> list[Part]:
        """Parameters and FLOPs of this head."""
        return [dense_part("heads", [self.input_width, *self.units, 1])]

    def get_config(self) -> dict:
        return {**super().get_config(), "units": list(self.units)}
