"""Inputs of a model: one per transformed column, and the number of ids of each table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, assert_never

from mixrank.layers.backbone import in_order
from mixrank.schemas import (
    GROUPS,
    Action,
    Categorical,
    Cross,
    Expression,
    FeatureSpec,
    History,
    Lookup,
    Match,
    MultiCategorical,
    Numeric,
    NumericLookup,
    TimeGap,
    Vector,
    VectorTable,
)
from mixrank.schemas.naming import nearest

if TYPE_CHECKING:
    import keras

    from mixrank.layers.backbone import Widths


def model_inputs(spec: FeatureSpec, one_request: bool = False) -> dict[str, keras.KerasTensor]:
    """One `keras.Input` per transformed column, under the column's name.

    Args:
        spec: the log's declaration.
        one_request: bool. Whether the batch is the candidates of one request; columns that do not describe the item
            then have a batch of exactly 1.

    Returns:
        name -> int64 (batch,) for a scenario, categorical or bucketized feature; int64 (batch, max_length) for a
        multi-valued one, float32 of that shape for its weights; float32 (batch,) for a number, (batch, width) for a
        vector, a match or a piecewise linear number; int64 (batch, length) for a history field, (batch, length *
        max_length) if that field is multi-valued, float32 of that shape for its weights, float32 (batch, length *
        width) if it is a number or a vector.
    """
    import keras

    shapes: dict[str, tuple[int, ...]] = {spec.scenario.name: ()}
    for feature in spec.model_features:
        shapes[feature.name] = feature.shape
    shapes |= {column: feature.shape for column, feature in spec.weights.items()}
    numbers = {feature.name for feature in spec.model_features if feature.is_number}
    for history in spec.histories:
        for column, field in [*spec.history_fields(history), *spec.added_to(history)]:
            shapes[column] = (history.length * field.width,)
            if field.is_number:
                numbers.add(column)
        for column, weighted in spec.weights_in(history):
            shapes[column] = (history.length * weighted.width,)
            numbers.add(column)
    numbers |= set(spec.weights)
    items = {feature.name for feature in spec.model_features if feature.group == "item"}
    items |= {column for column, feature in spec.weights.items() if feature.group == "item"}
    return {
        name: keras.Input(
            batch_shape=(1 if one_request and name not in items else None, *shape),
            dtype="float32" if name in numbers else "int64",
            name=name,
        )
        for name, shape in shapes.items()
    }


def table_sizes(spec: FeatureSpec, sizes: Mapping[str, int]) -> dict[str, int]:
    """Number of ids, 0 included, of every feature that is looked up.

    Args:
        spec: the log's declaration.
        sizes: number of ids of each `Categorical`, `MultiCategorical`, `Cross` and `Lookup`, known after Transform.

    Returns:
        feature name -> size: the scenario's values + 2 (missing, unknown), intervals + 1, 2 ** flags + 1 for an
        `Action`, and what `sizes` says.

    Raises:
        ValueError: if `sizes` lacks a categorical feature, or names something else.
    """
    result = {spec.scenario.name: len(spec.scenario.values) + 2}
    counted = [feature.name for feature in spec.looked_up]
    for name in sizes:
        if name not in counted:
            raise ValueError(
                f"`sizes` names {name!r}, which is not a categorical feature of {spec.name}{nearest(name, counted)}"
            )
    for feature in spec.features:
        match feature:
            case Categorical() | MultiCategorical() | Cross() | Lookup():
                if feature.owner != feature.name:
                    continue  # Looked up in the table of another.
                if feature.name not in sizes:
                    raise ValueError(f"`sizes` lacks the categorical feature `{feature.name}` of {spec.name}")
                result[feature.name] = int(sizes[feature.name])
            case Action():
                result[feature.name] = 2 ** len(feature.flags) + 1
            case TimeGap():
                result[feature.name] = feature.buckets + 1
            case Numeric() | Expression() | NumericLookup():
                if not feature.is_number:
                    result[feature.name] = feature.intervals + 1
            case History():
                pass  # Its fields have tables.
            case VectorTable():
                result[feature.name] = feature.ids
            case Vector() | Match():
                pass  # Numbers.
            case _:
                assert_never(feature)
    return result


def widths(spec: FeatureSpec) -> Widths:
    """Widths of the feature vectors and histories that a spec gives every model; nothing is built.

    Args:
        spec: the log's declaration.
    """
    from mixrank.layers.backbone import Widths

    vectors: dict[str, list[int]] = {group: [] for group in GROUPS}
    vectors["context"].append(spec.scenario.dim)
    for feature in spec.model_features:
        vectors[feature.group].append(spec.vector_width(feature))
    by_key = histories_by_key(spec)
    histories: dict[str, tuple[int, int]] = {
        key: (
            history.length,
            sum(spec.vector_width(field) for _, field in [*spec.history_fields(history), *spec.added_to(history)]),
        )
        for key, history in by_key.items()
    }
    of_item = {feature.name: feature for feature in spec.model_features}
    shared = {
        key: tuple(spec.vector_width(of_item[name]) for name in found.values())
        for key, history in by_key.items()
        if (found := shared_fields(spec, history))
    }
    return Widths({group: tuple(found) for group, found in vectors.items()}, histories, shared)


def shared_fields(spec: FeatureSpec, history: History) -> dict[str, str]:
    """Fields of a history's events that the candidate has as well: ids, and vectors wider than one number.

    Args:
        spec: the log's declaration.
        history: one of its histories.

    Returns:
        Column of the history -> feature of the item.
    """
    of_item = {feature.name for feature in spec.model_features if feature.group == "item"}
    fields = [*spec.history_fields(history), *spec.added_to(history)]
    return {
        column: field.name
        for column, field in fields
        if field.name in of_item and (spec.vector_width(field) > 1 or not field.is_number)
    }


def field_names(spec: FeatureSpec) -> tuple[str, ...]:
    """Name of every feature vector and history, in the order in which `FieldBackbone` sees them.

    Args:
        spec: the log's declaration.

    Returns:
        Features of the user, the item and the context, whose first is the scenario, then the long-term and the
        real-time histories.
    """
    names: dict[str, list[str]] = {group: [] for group in GROUPS}
    names["context"].append(spec.scenario.name)
    for feature in spec.model_features:
        names[feature.group].append(feature.name)
    histories = histories_by_key(spec).values()
    return (*(name for group in GROUPS for name in names[group]), *(history.name for history in histories))


def histories_by_key(spec: FeatureSpec) -> dict[str, History]:
    """Histories by the keys under which a `Backbone` gets them, in its order.

    The first history that is declared of a window has the window for a key, others add their name.

    Args:
        spec: the log's declaration.

    Returns:
        Long-term histories, then real-time ones; of each, the first declared, then the others by name.
    """
    found: dict[str, History] = {}
    for history in spec.histories:
        found[f"{history.window}_{history.name}" if history.window in found else history.window] = history
    return {key: found[key] for key in in_order(found)}
