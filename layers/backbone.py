"""What a model file implements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import keras

from layers.counts import Part
from layers.heads import TaskHead
from schemas.features import GROUPS

WINDOWS = ("before", "within")


class Widths(NamedTuple):
    """The sizes that a spec, not a parameter, decides.

    Args:
        features: int. Sum of the widths of all feature vectors.
        histories: window -> (length, width of an item).
    """

    features: int
    histories: Mapping[str, tuple[int, int]]


class Backbone(keras.Layer):
    """Feature vectors and histories to a representation; `layers.ranker` does the rest.

    A subclass overrides `call`, and where it differs `windows`, `task_head` and `count`.

    Args:
        head_units: widths of the hidden layers of every task's head.

    Call arguments:
        features: group ("user", "item", "context") -> list of tensors (batch, width), in the spec's order.
        histories: window -> {"items": tensor (batch, length, width), "mask": bool tensor (batch, length)}, for each of
            `windows` that the spec declares. "before" is the long-term history, "within" the real-time one.
        scenario: int64 tensor (batch,), id of the scenario.

    Returns:
        Tensor (batch, width).
    """

    def __init__(self, *, head_units: tuple[int, ...] = (), **kwargs) -> None:
        super().__init__(**kwargs)
        self.head_units = tuple(head_units)

    @property
    def windows(self) -> tuple[str, ...]:
        """Windows of the histories this model reads."""
        return WINDOWS

    def task_head(self, task: str) -> keras.Layer:
        """A new layer from the representation to the task's logits (batch,)."""
        return TaskHead(units=self.head_units, name=f"head_{task}")

    def count(self, widths: Widths) -> list[Part]:
        """Parameters and FLOPs by arithmetic; works before `build`."""
        raise NotImplementedError(f"{type(self).__name__} has no count()")

    def build(self, features_shape, histories_shape, scenario_shape) -> None:
        vectors = [shape for group in GROUPS for shape in features_shape[group]]
        items = {window: shapes["items"] for window, shapes in histories_shape.items()}
        self.widths = Widths(
            features=sum(shape[-1] for shape in vectors),
            histories={window: (items[window][1], items[window][2]) for window in WINDOWS if window in items},
        )

    def parts(self) -> list[Part]:
        """Parameters and FLOPs of the layer as it was built."""
        return self.count(self.widths)

    def get_config(self) -> dict:
        return {**super().get_config(), "head_units": list(self.head_units)}
