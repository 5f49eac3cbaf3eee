"""The last step of a calibrated model: logit to calibrated logit."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from mixrank.layers.base import Layer, Shape, Tensor

# Knots, values at them, slope before the first knot, slope after the last.
Curve = tuple[tuple[float, ...], tuple[float, ...], float, float]


@keras.saving.register_keras_serializable("mixrank")
class CalibratedLogits(Layer):
    """An increasing, piecewise linear function of the logit per task, one for all rows or one per scenario.

    Between its knots `(x_i, v_i)` a curve is linear; beyond them it goes on with a slope of its own:

        f(z) = v_0 + left min(z - x_0, 0) + sum_i s_i clip(z - x_i, 0, x_{i+1} - x_i) + right max(z - x_K, 0)

    with `s_i = (v_{i+1} - v_i) / (x_{i+1} - x_i)`. A line `a z + b` is the one knot (0, b) with both slopes a. The
    curves are constants of the graph; nothing is trained.

    Args:
        curves: task -> one curve, or one per scenario id; tasks that are not named stay as they are.

    Call arguments:
        logits: task -> Tensor (batch,).
        scenario: int tensor (batch,), or (1,) for the candidates of one request.

    Returns:
        task -> float32 tensor (batch,).

    >>> line = ((0.0,), (1.0,), 2.0, 2.0)
    >>> layer = CalibratedLogits(curves={"click": (line,)})
    >>> logits = {"click": keras.ops.array([0.0, 3.0])}
    >>> layer(logits, keras.ops.ones(2, "int32"))["click"].numpy()
    array([1., 7.], dtype=float32)
    """

    def __init__(self, *, curves: dict[str, Any], dtype: Any = "float32", **kwargs: Any) -> None:
        super().__init__(dtype=dtype, **kwargs)
        for task, each in self.curves.items():
            for knots, values, left, right in each:
                if not (knots and len(knots) == len(values) and _rises(knots) and _rises(values)):
                    raise ValueError(
                        f"`curves` of task `{task}` need increasing knots with one increasing value each, received "
                        f"{knots} and {values}"
                    )
                if not (left > 0 and right > 0):
                    raise ValueError(f"`curves` of task `{task}` need slopes above 0, received {left} and {right}")

    def call(self, logits: dict[str, Tensor], scenario: Tensor) -> dict[str, Tensor]:
        return {
            task: _of_curves(self.curves[task], ops.cast(z, "float32"), scenario) if task in self.curves else z
            for task, z in logits.items()
        }

    def compute_output_shape(self, logits_shape: dict[str, Shape], scenario_shape: Shape) -> dict[str, Shape]:
        return dict(logits_shape)


def _rises(numbers: Any) -> bool:
    return bool((np.diff(numbers) > 0).all())


def _filled(numbers: Any, length: int) -> list[float]:
    """The last number repeated up to a length: pieces without a width."""
    return [*numbers, *[numbers[-1]] * (length - len(numbers))]


def _of_curves(curves: Any, logits: Tensor, scenario: Tensor) -> Tensor:
    most = max(len(knots) for knots, _, _, _ in curves)
    # (curves, knots)
    x = np.array([_filled(knots, most) for knots, _, _, _ in curves])
    v = np.array([_filled(values, most) for _, values, _, _ in curves])
    width = np.diff(x)
    slope = np.divide(np.diff(v), width, out=np.zeros_like(width), where=width > 0)
    tails = np.array([each[2:] for each in curves])

    def chosen(table: np.ndarray) -> Tensor:
        # (batch, columns); (1, columns) of one curve, or for one request.
        rows = ops.convert_to_tensor(table.astype(np.float32))
        return rows if len(curves) == 1 else ops.take(rows, ops.clip(scenario, 0, len(curves) - 1), axis=0)

    z = logits[:, None]
    first, last, ends = chosen(x[:, :1]), chosen(x[:, -1:]), chosen(tails)
    found = chosen(v[:, :1]) + ends[:, :1] * ops.minimum(z - first, 0) + ends[:, 1:] * ops.maximum(z - last, 0)
    if most > 1:
        pieces = chosen(slope) * ops.minimum(ops.maximum(z - chosen(x[:, :-1]), 0), chosen(width))
        found = found + ops.sum(pieces, axis=1, keepdims=True)
    return found[:, 0]
