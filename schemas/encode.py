"""A row of a spec <-> serialized tf.Example and JSON instance, with readable errors.

A row is a mapping column -> value: a scalar or None for keys, time (milliseconds), scenario, labels, `Categorical` and
`Numeric`; a list for `MultiCategorical`, `Vector` and for history columns (newest event first; a `MultiCategorical`
field takes `max_length` values per event). This is the layout of the example files and of serving requests alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, assert_never

from mixrank.schemas.features import (
    Action,
    Categorical,
    Cross,
    Expression,
    FeatureSpec,
    History,
    Kind,
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
from mixrank.schemas.safe_text import shown
from mixrank.schemas.wire import entry, example

# Encodes a missing attribute of a history event, and a missing value in a JSON instance.
PADDING: dict[str, Any] = {"int": -(2**63), "str": "", "float": math.nan}
# The first number that a 32-bit float rounds to infinity.
FLOAT32_END = float(2**128 - 2**103)
# Raw time gap of an event with unknown time.
UNKNOWN_GAP = -1


@dataclass(frozen=True)
class Column:
    """One column of a row.

    Args:
        name: the column.
        kind: "int", "float" or "str".
        length: int or None. Maximum number of values of a list column; None for a single value.
        width: int >= 1. Values per event of a history column, else 1.
        exact: bool. Whether a list is empty or has `length` values.
        weighs: the column whose values its numbers are the weights of, or None.
        history: name of the history, or None.
        required: bool. Whether a serving request must carry it.
        optional: bool. Whether a training row may lack it, of a column that no request carries.
        serving: bool. Whether a serving request may carry it.
        candidate: bool. Whether it describes the item: in a request with several candidates, each has its own.
    """

    name: str
    kind: Kind
    length: int | None = None
    width: int = 1
    exact: bool = False
    weighs: str | None = None
    history: str | None = None
    required: bool = False
    optional: bool = False
    serving: bool = True
    candidate: bool = False


def columns(spec: FeatureSpec) -> tuple[Column, ...]:
    """Every column of a row: keys, time, request, scenario, labels, weights, position, then features as declared."""
    return tuple(_columns(spec))


def _columns(spec: FeatureSpec) -> Iterator[Column]:
    for key in (spec.user, spec.item):
        if spec.get(key.name) is None:
            yield Column(key.name, key.dtype, required=False, serving=False)
    yield Column(spec.time.name, "int", serving=False)
    if spec.request is not None:
        yield Column(spec.request.name, spec.request.dtype, serving=False)
    yield Column(spec.scenario.name, spec.scenario.dtype, required=True)
    for label in spec.labels:
        yield Column(label.name, label.values.column, serving=False)
    for name in spec.row_weights:
        yield Column(name, "float", serving=False)
    for name in spec.mature:
        yield Column(name, "int", serving=False)
    if spec.position is not None:
        yield Column(spec.position.name, "int", optional=True, serving=False)
    weights_of = {feature.name: column for column, feature in spec.weights.items()}
    for feature in spec.features:
        match feature:
            case Categorical() | MultiCategorical() | Numeric() | Vector() if feature.group == "event":
                pass  # Read from the histories alone.
            case Categorical() | MultiCategorical() | Numeric() | Vector():
                of_item = feature.group == "item"
                yield Column(
                    feature.name,
                    feature.kind,
                    feature.max_values,
                    exact=feature.exact,
                    required=feature.required or feature.name in (spec.user.name, spec.item.name),
                    candidate=of_item,
                )
                if weights := weights_of.get(feature.name):
                    yield Column(weights, "float", feature.max_values, weighs=feature.name, candidate=of_item)
            case History():
                for name, field in spec.history_fields(feature):
                    length, width = feature.length * field.raw_width, field.raw_width
                    yield Column(name, field.kind, length, width, history=feature.name)
                for name, weighted in spec.weights_in(feature):
                    length, width = feature.length * weighted.raw_width, weighted.raw_width
                    weighs = feature.column(weighted.name)
                    yield Column(name, "float", length, width, weighs=weighs, history=feature.name)
            case Action() | TimeGap():
                pass  # Read from the histories alone.
            case Match() | Cross() | Expression() | Lookup() | NumericLookup() | VectorTable():
                pass  # Computed by Transform.
            case _:
                assert_never(feature)


def check_row(spec: FeatureSpec, row: Mapping[str, Any], labels: bool = False) -> None:
    """Refuses a row that does not fit the spec.

    Args:
        spec: the columns.
        row: column -> value.
        labels: bool. Whether keys, time and labels must be there, as in a training row.

    Raises:
        ValueError: naming the column, the rule and what was received; for an unknown column, the nearest known one.
    """
    known = columns(spec)
    _check_names(spec, known, row)
    _check_values(spec, known, row, labels)


def _check_names(spec: FeatureSpec, known: Sequence[Column], row: Mapping[str, Any]) -> None:
    names = [column.name for column in known]
    for name in row:
        if name not in names:
            raise ValueError(f"spec `{spec.name}` has no column `{name}`{nearest(name, names)}")


def _check_values(spec: FeatureSpec, known: Iterable[Column], row: Mapping[str, Any], labels: bool) -> None:
    events: dict[str, tuple[str, int]] = {}
    lists: dict[str, list[Any]] = {}
    labels_of = {label.name: label for label in spec.labels}
    for column in known:
        values = _values(column, row.get(column.name))
        if not values and (column.required or (labels and not column.serving and not column.optional)):
            raise ValueError(f"column `{column.name}` is required but missing")
        # Weights are there for all events or none.
        if column.history is not None and (values or column.weighs is None):
            first, count = events.setdefault(column.history, (column.name, len(values) // column.width))
            if count != len(values) // column.width:
                raise ValueError(
                    f"history `{column.history}` has {count} events in `{first}` "
                    f"but {len(values) // column.width} in `{column.name}`"
                )
        lists[column.name] = values
        # In the order of the columns, the values come first.
        if column.weighs is not None and values:
            if column.history is None:
                _check_weights(column.name, values, column.weighs, lists[column.weighs])
            if least := [weight for weight in values if weight < 0]:
                raise ValueError(f"column `{column.name}` takes weights of at least 0, received {min(least)}")
        if values and (label := labels_of.get(column.name)):
            label.values.check(f"label `{column.name}`", values)
        if values and column.name in spec.row_weights and not values[0] >= 0:
            raise ValueError(f"row weight `{column.name}` must be >= 0, received {shown(values[0])}")


def _check_weights(name: str, weights: Sequence[float], weighs: str, values: Sequence[Any]) -> None:
    """Refuses weights that are not as many as the values that they weigh.

    Raises:
        ValueError: naming both columns.
    """
    present = [place for place, value in enumerate(values, start=1) if value not in PADDING.values()]
    # What pads the values has no weight.
    if not max(present, default=0) <= len(weights) <= len(values):
        raise ValueError(f"column `{name}` has {len(weights)} weights for {len(values)} values of `{weighs}`")


def _values(column: Column, value: Any) -> list[Any]:
    """The values of a column as a checked list; a missing value is an empty list."""
    if column.length is None:
        if isinstance(value, list | tuple):
            raise ValueError(f"column `{column.name}` takes one value, received {shown(value)}")
        missing = value is None or (column.kind == "float" and isinstance(value, Real) and value != value)
        # Padding as in a request.
        values = [] if missing or value == PADDING[column.kind] or value == "" else [value]
    else:
        if value is not None and not isinstance(value, list | tuple):
            raise ValueError(f"column `{column.name}` takes a list, received {shown(value)}")
        values = list(value or ())
        if column.kind == "float" and column.history is None:
            # Padding as in a request; in histories and lists of the other kinds Transform passes over it.
            kept = [
                place for place, each in enumerate(values, start=1) if not (isinstance(each, Real) and each != each)
            ]
            values = values if column.exact and kept else values[: max(kept, default=0)]
        if len(values) > column.length:
            raise ValueError(f"column `{column.name}` takes at most {column.length} values, received {len(values)}")
        if column.exact and len(values) not in (0, column.length):
            raise ValueError(f"column `{column.name}` takes exactly {column.length} values, received {len(values)}")
        if len(values) % column.width:
            raise ValueError(
                f"column `{column.name}` takes {column.width} values per event, received {len(values)} in all"
            )
    for item in values:
        _check_type(column, item)
    return values


def fits_float32(value: Any) -> bool:
    """Whether a number is finite as a 32-bit float.

    >>> fits_float32(1.5), fits_float32(1e308), fits_float32(10**400), fits_float32(float("nan"))
    (True, False, False, False)
    """
    return bool(abs(value) < FLOAT32_END)


def _check_type(column: Column, value: Any) -> None:
    if column.kind == "str":
        fits, expected = isinstance(value, str), "text"
    elif column.kind == "int":
        fits = isinstance(value, Integral) and not isinstance(value, bool) and -(2**63) <= int(value) < 2**63
        expected = "a 64-bit integer"
    else:
        fits = isinstance(value, Real) and not isinstance(value, bool) and fits_float32(value)
        # A missing number of an event keeps its place.
        fits = fits or (column.history is not None and isinstance(value, Real) and value != value)
        expected = "a finite 32-bit number"
    if not fits:
        raise ValueError(f"column `{column.name}` takes {expected}, received {shown(value)} ({type(value).__name__})")


def encode(spec: FeatureSpec, row: Mapping[str, Any]) -> bytes:
    """A row as serialized tf.Example.

    Features are always present, with an empty list when missing; keys, time and labels only if the row has them.

    Args:
        spec: the columns.
        row: column -> value.

    Raises:
        ValueError: as in `check_row`.
    """
    check_row(spec, row)
    return example(
        entry(column.name, column.kind, _values(column, row.get(column.name)))
        for column in columns(spec)
        if column.serving or row.get(column.name) is not None
    )


def decode(spec: FeatureSpec, serialized: bytes) -> dict[str, Any]:
    """The row of a serialized tf.Example; a missing single value is None, a missing list is empty.

    Keys, time and labels that the example does not carry are left out.

    Raises:
        ValueError: if a column holds values of another type than the spec says.
    """
    import tensorflow as tf

    features = tf.train.Example.FromString(serialized).features.feature
    lists = {"int": "int64_list", "float": "float_list", "str": "bytes_list"}
    row: dict[str, Any] = {}
    for column in columns(spec):
        if column.name not in features:
            if column.serving:
                row[column.name] = None if column.length is None else []
            continue
        feature = features[column.name]
        found = feature.WhichOneof("kind")
        if found not in (None, lists[column.kind]):
            raise ValueError(f"column `{column.name}` takes {lists[column.kind]}, received {found}")
        values: list[Any] = list(getattr(feature, lists[column.kind]).value)
        if column.kind == "str":
            values = [value.decode() for value in values]
        row[column.name] = values if column.length is not None else values[0] if values else None
    return row


def newest(spec: FeatureSpec, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with every history cut to its newest events, as the model does with those that reach it.

    Args:
        spec: the columns.
        row: column -> value.
    """
    lengths = {column.name: column.length for column in columns(spec) if column.history is not None}
    return {
        name: value[: lengths[name]] if name in lengths and isinstance(value, list | tuple) else value
        for name, value in row.items()
    }


def to_logged(spec: FeatureSpec, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as a log keeps it: what was sent of it, unpadded, and keys and time if the row has them.

    Args:
        spec: the columns.
        row: column -> value; fields that the spec does not know and labels are left out.

    Returns:
        Column -> plain Python value or list, without those that are missing. `to_instance` makes the same of it as of
        the row.

    Raises:
        ValueError: naming the column of a value that does not fit.
    """
    labels = {label.name for label in spec.labels}
    row = newest(spec, row)
    found: dict[str, Any] = {}
    for column in columns(spec):
        if column.name not in labels and (values := _values(column, row.get(column.name))):
            plain = {"int": int, "float": float, "str": str}[column.kind]
            found[column.name] = [plain(each) for each in values] if column.length is not None else plain(values[0])
    return found


def to_instance(spec: FeatureSpec, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as JSON instance of a serving request: the columns a request may carry, all of a fixed length.

    TensorFlow Serving accepts neither null nor rows of different lengths, so missing single values become `PADDING` of
    their kind and lists are padded with it at the end; a history that is too long keeps its newest events. A
    missing number is NaN, which Python writes and TensorFlow Serving reads although standard JSON does not have it.

    Args:
        spec: the columns.
        row: column -> value; labels, keys and time are dropped unless the model reads them.

    Raises:
        ValueError: as in `check_row`.
    """
    row = newest(spec, row)
    check_row(spec, row)
    return {column.name: _padded(column, row.get(column.name)) for column in columns(spec) if column.serving}


def to_request(
    spec: FeatureSpec, request: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """One user and several items as the named inputs of `rank_candidates`.

    Args:
        spec: the columns.
        request: user and context features, scenario and histories, column -> value.
        candidates: at least one; item features of each, column -> value.

    Returns:
        Column -> value as `to_instance` makes it for a column of the request, list with one such value per candidate
        for a column of the items.

    Raises:
        ValueError: as in `check_row`, naming the candidate by its position from 0; for an item's column in `request`
            or a column of the request in a candidate; without candidates.
    """
    known = columns(spec)
    own = [column for column in known if not column.candidate]
    items = [column for column in known if column.candidate]
    if not candidates:
        raise ValueError("a request needs at least one candidate, received none")
    for column in items:
        if column.name in request:
            raise ValueError(f"column `{column.name}` describes an item: give it with every candidate")
    request = newest(spec, request)
    _check_names(spec, known, request)
    _check_values(spec, own, request, labels=False)
    for position, candidate in enumerate(candidates):
        try:
            for column in own:
                if column.serving and column.name in candidate:
                    raise ValueError(f"column `{column.name}` belongs to the request, not to a candidate")
            _check_names(spec, known, candidate)
            _check_values(spec, items, candidate, labels=False)
        except ValueError as error:
            raise ValueError(f"candidate {position}: {error}") from None
    return {column.name: _padded(column, request.get(column.name)) for column in own if column.serving} | {
        column.name: [_padded(column, candidate.get(column.name)) for candidate in candidates] for column in items
    }


def _padded(column: Column, value: Any) -> Any:
    plain = {"int": int, "float": float, "str": str}[column.kind]
    values = [plain(each) for each in _values(column, value)]
    size = 1 if column.length is None else column.length
    values += [PADDING[column.kind]] * (size - len(values))
    return values[0] if column.length is None else values
