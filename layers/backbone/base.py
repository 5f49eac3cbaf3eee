"""The base class of all models: feature vectors and histories to a representation."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self, TypeAlias

import keras
from pydantic import PositiveInt

from mixrank.layers.backbone.windows import WINDOWS, in_order, window_of
from mixrank.layers.base import Layer, Part, Shape, Tensor, check_needs, per_candidate
from mixrank.layers.heads import Heads, TaskHeads, build_heads
from mixrank.layers.tokens import Search, count_interest, count_search
from mixrank.schemas import GROUPS
from mixrank.schemas.naming import nearest

Features: TypeAlias = Mapping[str, Sequence[Tensor]]
Histories: TypeAlias = Mapping[str, Mapping[str, Tensor]]


class Widths(NamedTuple):
    """The sizes that a spec, not a parameter, decides.

    Args:
        vectors: group -> width of each of its feature vectors, in the spec's order; a number has width 1.
        histories: history -> (length, width of an item), by the keys of `Backbone`, long-term ones first.
        shared: history -> width of each field that its events share with the candidate; only those that have one.
    """

    vectors: Mapping[str, tuple[int, ...]]
    histories: Mapping[str, tuple[int, int]]
    shared: Mapping[str, tuple[int, ...]] = {}

    @property
    def fields(self) -> tuple[int, ...]:
        """Width of every feature vector: user, item, context."""
        return tuple(width for group in GROUPS for width in self.vectors[group])

    @property
    def features(self) -> int:
        """Sum of the widths of all feature vectors."""
        return sum(self.fields)


class Backbone(Layer):
    """Feature vectors and histories to a representation; `mixrank.layers.ranking.ranker` does the rest.

    A subclass overrides `call`, `width` and `count`, and where it differs `windows`, `search_of`, `heads` and
    `insights`.

    A request asks for the scores of many candidates of one user. With `request_of`, everything but the item's features
    has one row per request, and `request_of` holds the index of each candidate's request; a model then does once per
    request what does not depend on the candidate. The scores are those of the expanded rows.

    Args:
        target_interest: bool. Whether `features` also hold what each history that is read says about the candidate,
            as vectors of the item (`TargetInterest`); a subclass that lets a configuration choose declares it again.
        head_units: widths of the hidden layers of every task's head.
        scenarios: declared values of the scenario; given by the spec, not by a configuration.
        field_names: names of the feature vectors, then of the histories, in the order of `FieldBackbone.fields`; given
            by the spec.

    Call arguments:
        features: group ("user", "item", "context") -> list of tensors (batch, width), in the spec's order. With
            `request_of` those of "user" and "context" are (requests, width).
        histories: history -> {"items": tensor (batch, length, width), "mask": bool tensor (batch, length)}, for each of
            `windows` that the spec declares; (requests, ...) with `request_of`. With `search_of` a history whose events
            share a field with the candidate also has "relevance": int32 tensor (batch, length), one row per candidate,
            as `HardRelevance` or `SoftRelevance` finds it. "before" is the long-term history,
            "within" the real-time one; of several with one window the first that is declared, while the others add
            their name, as in "before_orders".
        scenario: int64 tensor (batch,), or (requests,) with `request_of`: 0 is missing, i the i-th of `scenarios`,
            len(scenarios) + 1 any other.
        request_of: None, or int tensor (batch,): the index of each candidate's request.

    Returns:
        Tensor (batch, width).
    """

    def __init__(
        self,
        *,
        target_interest: bool = False,
        head_units: tuple[PositiveInt, ...] = (),
        scenarios: tuple[int | str, ...] = (),
        field_names: tuple[str, ...] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

    @classmethod
    def from_preset(cls, preset: str, **params: Any) -> Self:
        """The model with a preset's parameters.

        Args:
            preset: a key of `PRESETS` in the model's file.
            params: constructor arguments that override the preset's.

        Raises:
            ValueError: for an unknown preset, naming the nearest one.

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

    def reads(self, histories: Iterable[str]) -> tuple[str, ...]:
        """Keys of the histories that this model reads: those of the first of `windows` first, then by name."""
        return in_order(histories, self.windows)

    def search_of(self, history: str) -> Search | None:
        """How a history is searched for events like the candidate, by its key; None if it is read as it is."""
        return None

    def heads(self, tasks: tuple[str, ...]) -> Heads:
        """A new layer of this model's own heads, by the name `heads`; a configuration may choose others."""
        return TaskHeads(tasks=tasks, units=self.head_units, name="heads")

    def insights(self, ranker: keras.Model, batches: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Insights into a trained model, as JSON, for the model card and the report.

        Args:
            ranker: the model that this backbone belongs to.
            batches: evaluation rows, each batch a dictionary of the ranker's inputs.
        """
        return {}

    def given(self, widths: Widths) -> tuple[Widths, list[Part]]:
        """What this model is given of a spec: the histories that it reads, and its interests as features of the item.

        Args:
            widths: of the spec.

        Returns:
            The sizes, and parameters and FLOPs of the interests and of what a search compares.
        """
        histories = {key: size for key, size in widths.histories.items() if window_of(key) in self.windows}
        shared = {key: fields for key, fields in widths.shared.items() if key in histories}
        interests = shared if self.target_interest else {}
        vectors = {**widths.vectors, "item": (*widths.vectors["item"], *map(len, interests.values()))}
        parts = [count_interest(fields, histories[key][0]) for key, fields in interests.items()]
        searched = [key for key in shared if self.search_of(key) == "soft"]
        return Widths(vectors, histories), [*parts, *(count_search(shared[key], histories[key][0]) for key in searched)]

    def width(self, widths: Widths) -> int:
        """Width of the representation; works before `build`."""
        raise NotImplementedError(f"{type(self).__name__} has no width()")

    def count(self, widths: Widths) -> list[Part]:
        """Parameters and FLOPs by arithmetic, heads excepted; works before `build`."""
        raise NotImplementedError(f"{type(self).__name__} has no count()")

    def build(self, features_shape: Any, histories_shape: Any = None, scenario_shape: Shape | None = None) -> None:
        # Keras leaves out an argument that is an empty dictionary.
        items = {key: shapes["items"] for key, shapes in (histories_shape or {}).items()}
        if unfit := [key for key in items if window_of(key) not in WINDOWS]:
            raise ValueError(
                f"`histories` of {self.name} takes the keys `before` and `within`, alone or before a name as in "
                f"`before_orders`, received `{unfit[0]}`"
            )
        for group in GROUPS:
            if group not in features_shape:
                raise ValueError(f"`features` of {self.name} must have a list for `{group}`, which may be empty")
        given = {group: features_shape[group] for group in GROUPS} | {key: [shape] for key, shape in items.items()}
        for place, shapes in given.items():
            if unknown := [shape for shape in shapes if None in tuple(shape)[1:]]:
                raise ValueError(
                    f"`{place}` of {self.name} must have known widths and lengths, received the shape "
                    f"{tuple(unknown[0])}; only the batch may be unknown"
                )
        self.widths = Widths(
            vectors={group: tuple(shape[-1] for shape in features_shape[group]) for group in GROUPS},
            histories={key: (items[key][1], items[key][2]) for key in in_order(items)},
        )
        self.check_widths(self.widths)

    def check_widths(self, widths: Widths) -> None:
        """Refuses widths of a spec that lacks one of the `NEEDS` in the model's file.

        Raises:
            ValueError: naming what is missing.
        """
        stated = (getattr(sys.modules.get(cls.__module__), "NEEDS", None) for cls in type(self).__mro__)
        needs: Mapping[str, Mapping[str, Any]] = next((each for each in stated if each is not None), {})
        values = {name: getattr(self, name) for without in needs.values() for name in without}
        given = [group for group, vectors in widths.vectors.items() if vectors]
        check_needs(type(self).__name__, needs, values, [*given, *map(window_of, widths.histories)])

    def compute_output_shape(
        self,
        features_shape: Any,
        histories_shape: Any = None,
        scenario_shape: Shape | None = None,
        request_of_shape: Shape | None = None,
    ) -> Shape:
        return ((request_of_shape or scenario_shape or (None,))[0], self.width(self.widths))

    def parts(self) -> list[Part]:
        """Parameters and FLOPs of the layer as it was built."""
        return self.count(self.widths)


def all_vectors(features: Features, request_of: Tensor | None = None) -> list[Tensor]:
    """Every feature vector: user, item, context; each (batch, width)."""
    return [
        vector if group == "item" else per_candidate(vector, request_of)
        for group in GROUPS
        for vector in features[group]
    ]


def new_heads(backbone: Backbone, tasks: tuple[str, ...], chosen: Mapping[str, Any] | None = None) -> Heads:
    """The heads of a ranker, not yet built: those chosen, with the model's `head_units`, or else the model's own.

    Args:
        backbone: of the ranker.
        tasks: names of the tasks.
        chosen: kind and options, as `mixrank.layers.heads.heads_for` returns them, or None.

    Raises:
        ValueError: a value that the heads refuse.
    """
    return backbone.heads(tasks) if chosen is None else build_heads(chosen, tasks=tasks, units=backbone.head_units)


def backbone_of(model: keras.Model) -> Backbone:
    """The backbone of a ranker."""
    (backbone,) = [layer for layer in model.layers if isinstance(layer, Backbone)]
    return backbone
