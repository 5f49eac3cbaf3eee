"""What a model file implements."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import keras

from mixrank.layers.base import Part, per_candidate
from mixrank.layers.heads import TaskHeads
from mixrank.schemas import GROUPS
from mixrank.schemas.naming import nearest

WINDOWS = ("before", "within")


class Widths(NamedTuple):
    """The sizes that a spec, not a parameter, decides.

    Args:
        vectors: group -> width of each of its feature vectors, in the spec's order; a number has width 1.
        histories: window -> (length, width of an item).
    """

    vectors: Mapping[str, tuple[int, ...]]
    histories: Mapping[str, tuple[int, int]]

    @property
    def fields(self) -> tuple[int, ...]:
        """Width of every feature vector: user, item, context."""
        return tuple(width for group in GROUPS for width in self.vectors[group])

    @property
    def features(self) -> int:
        """Sum of the widths of all feature vectors."""
        return sum(self.fields)


class Backbone(keras.Layer):
    """Feature vectors and histories to a representation; `mixrank.layers.ranking.ranker` does the rest.

    A subclass overrides `call`, `width` and `count`, and where it differs `windows` and `heads`.

    A request asks for the scores of many candidates of one user. With `rows`, everything but the item's features has
    one row per request, and `rows` names the request of each candidate; a model then does once per request what does
    not depend on the candidate. The scores are those of the expanded rows.

    Args:
        head_units: widths of the hidden layers of every task's head.
        scenarios: declared values of the scenario; given by the spec, not by a configuration.

    Call arguments:
        features: group ("user", "item", "context") -> list of tensors (batch, width), in the spec's order. With `rows`
            those of "user" and "context" are (requests, width).
        histories: window -> {"items": tensor (batch, length, width), "mask": bool tensor (batch, length)}, for each of
            `windows` that the spec declares; (requests, ...) with `rows`. "before" is the long-term history, "within"
            the real-time one.
        scenario: int64 tensor (batch,), or (requests,) with `rows`: 0 is missing, i the i-th of `scenarios`,
            len(scenarios) + 1 any other.
        rows: None, or int tensor (batch,): the request of each candidate.

    Returns:
        Tensor (batch, width).
    """

    def __init__(self, *, head_units: tuple[int, ...] = (), scenarios: tuple[int | str, ...] = (), **kwargs) -> None:
        super().__init__(**kwargs)
        self.head_units = tuple(head_units)
        self.scenarios = tuple(scenarios)

    @classmethod
    def from_preset(cls, preset: str, **params: Any) -> Self:
        """The model as a preset has it.

        Args:
            preset: a key of `PRESETS` in the model's file.
            params: constructor arguments that override the preset's.

        Raises:
            ValueError: if there is no such preset; the nearest name is in the text.

        >>> HeMix.from_preset("tiny", num_layers=1).dim
        32
        """
        presets = getattr(sys.modules[cls.__module__], "PRESETS", {})
        if preset not in presets:
            raise ValueError(f"{cls.__name__} has no preset `{preset}`{nearest(preset, presets)}")
        return cls(**{**presets[preset], **params})

    @property
    def windows(self) -> tuple[str, ...]:
        """Windows of the histories this model reads."""
        return WINDOWS

    def heads(self, tasks: tuple[str, ...]) -> keras.Layer:
        """A new layer (representation, scenario) -> {task: float32 logits (batch,)}, with `count(width)`.

        Its scenario is an int64 tensor (batch,), or (1,) for the rows of one request.
        """
        return TaskHeads(tasks=tasks, units=self.head_units, name="heads")

    def name_fields(self, names: tuple[str, ...]) -> None:
        """Tells the names of the fields before `build`: feature vectors, then histories; see `inputs.field_names`."""

    def insights(self, names: tuple[str, ...]) -> dict[str, Any]:
        """What a trained model can tell about itself, as JSON: for the model card and the report.

        Args:
            names: of the fields, as in `name_fields`.
        """
        return {}

    def freeze(self) -> None:
        """Replaces what is constant after training by constants; called before export, changes no score."""

    def width(self, widths: Widths) -> int:
        """Width of the representation; works before `build`."""
        raise NotImplementedError(f"{type(self).__name__} has no width()")

    def count(self, widths: Widths) -> list[Part]:
        """Parameters and FLOPs by arithmetic, heads excepted; works before `build`."""
        raise NotImplementedError(f"{type(self).__name__} has no count()")

    def build(self, features_shape, histories_shape=None, scenario_shape=None) -> None:
        # Keras leaves out an argument that is an empty dictionary.
        items = {window: shapes["items"] for window, shapes in (histories_shape or {}).items()}
        for group in GROUPS:
            if group not in features_shape:
                raise ValueError(f"`features` of {self.name} must have a list for `{group}`, which may be empty")
        given = {group: features_shape[group] for group in GROUPS} | {w: [shape] for w, shape in items.items()}
        for place, shapes in given.items():
            if unknown := [shape for shape in shapes if None in tuple(shape)[1:]]:
                raise ValueError(
                    f"`{place}` of {self.name} must have known widths and lengths, received the shape "
                    f"{tuple(unknown[0])}; only the batch may be unknown"
                )
        self.widths = Widths(
            vectors={group: tuple(shape[-1] for shape in features_shape[group]) for group in GROUPS},
            histories={window: (items[window][1], items[window][2]) for window in WINDOWS if window in items},
        )

    def compute_output_shape(self, features_shape, histories_shape=None, scenario_shape=None, rows_shape=None):
        return ((rows_shape or scenario_shape)[0], self.width(self.widths))

    def parts(self) -> list[Part]:
        """Parameters and FLOPs of the layer as it was built."""
        return self.count(self.widths)

    def get_config(self) -> dict:
        config = {"head_units": list(self.head_units), "scenarios": list(self.scenarios)}
        return {**super().get_config(), **config}


def all_vectors(features, rows=None) -> list:
    """Every feature vector: user, item, context; each (batch, width)."""
    return [
        vector if group == "item" else per_candidate(vector, rows) for group in GROUPS for vector in features[group]
    ]


def backbone_of(model: keras.Model) -> Backbone:
    """The backbone of a ranker."""
    (backbone,) = [layer for layer in model.layers if isinstance(layer, Backbone)]
    return backbone
