"""FeatureSpec -> TFMD schema: domains, presence, shapes, serving environment, drift limits.

The schema is what StatisticsGen validates against and what Transform parses with. It is generated, never edited: the
copy in `schemas/generated/` is there to be reviewed, and a test compares it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from mixrank.schemas.features import (
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

if TYPE_CHECKING:
    from tensorflow_metadata.proto.v0 import schema_pb2

TRAINING, SERVING = "TRAINING", "SERVING"
GENERATED = Path(__file__).parent / "generated"


def schema(spec: FeatureSpec) -> schema_pb2.Schema:
    """The TFMD schema of the raw columns of a spec.

    Every column is ragged in tensors (`represent_variable_length_as_ragged`), since optional columns may be empty.
    Labels, keys and time are absent in the SERVING environment; a request does not carry them.

    Args:
        spec: the columns.

    Returns:
        A `tensorflow_metadata.proto.v0.schema_pb2.Schema`.
    """
    from tensorflow_metadata.proto.v0 import schema_pb2

    proto = schema_pb2.Schema(represent_variable_length_as_ragged=True)
    proto.default_environment.extend([TRAINING, SERVING])
    done: set[str] = set()

    def add(name: str, dtype: str, at_most: int = 1, always: bool = False, serving: bool = True) -> Any:
        done.add(name)
        kind = {"int": schema_pb2.INT, "float": schema_pb2.FLOAT, "str": schema_pb2.BYTES}[dtype]
        feature = proto.feature.add(name=name, type=kind)
        feature.value_count.min = 1 if always else 0
        feature.value_count.max = at_most
        if always:
            feature.presence.min_fraction = 1.0
        if not serving:
            feature.not_in_environment.append(SERVING)
        return feature

    model_reads = {feature.name for feature in spec.features}
    for key in (spec.user, spec.item):
        if key.name not in model_reads:
            add(key.name, key.dtype, always=True, serving=False)
    add(spec.time.name, "int", always=True, serving=False)
    if spec.request is not None:
        add(spec.request.name, spec.request.dtype, always=True, serving=False)
    # Without a domain: a value outside `values` is a scenario too, the one for any other.
    scenario = add(spec.scenario.name, spec.scenario.dtype, always=True)
    if spec.scenario.dtype == "int":
        scenario.int_domain.is_categorical = True
    for label in spec.labels:
        kind = label.values
        column = add(label.name, kind.column, always=True, serving=False)
        domain = column.int_domain if kind.whole else column.float_domain
        if math.isfinite(kind.low):
            domain.min = kind.low
        if math.isfinite(kind.high):
            domain.max = kind.high

    for name in spec.row_weights:
        add(name, "float", always=True, serving=False).float_domain.min = 0
    for name in spec.mature:
        domain = add(name, "int", always=True, serving=False).int_domain
        domain.min, domain.max = 0, 1
    if spec.position is not None:
        add(spec.position.name, "int", serving=False)

    weights_of = {feature.name: column for column, feature in spec.weights.items()}
    for feature in spec.features:
        match feature:
            case Categorical() | MultiCategorical() | Numeric() | Vector() if feature.group == "event":
                pass  # Columns of the histories.
            case Categorical() | MultiCategorical():
                is_key = feature.name in (spec.user.name, spec.item.name)
                column = add(feature.name, feature.kind, at_most=feature.width, always=feature.required or is_key)
                if feature.kind == "int":
                    column.int_domain.is_categorical = True
                if weights := weights_of.get(feature.name):
                    add(weights, "float", at_most=feature.width)
                if feature.drift is not None:
                    column.drift_comparator.infinity_norm.threshold = feature.drift
                    column.skew_comparator.infinity_norm.threshold = feature.drift
            case Numeric() | Vector():
                column = add(feature.name, feature.kind, at_most=feature.max_values or 1, always=feature.required)
                if feature.drift is not None:
                    column.drift_comparator.jensen_shannon_divergence.threshold = feature.drift
                    column.skew_comparator.jensen_shannon_divergence.threshold = feature.drift
            case History():
                _add_history(add, spec, feature)
            case Action() | TimeGap():
                pass  # Columns of the histories.
            case Match() | Cross() | Expression() | Lookup() | NumericLookup() | VectorTable():
                pass  # Computed by Transform.
            case _:
                assert_never(feature)
    return proto


def _add_history(add: Any, spec: FeatureSpec, history: History) -> None:
    for name, field in spec.history_fields(history):
        column = add(name, field.kind, at_most=history.length * field.raw_width)
        match field:
            case Categorical() | MultiCategorical():
                if field.kind == "int":
                    column.int_domain.is_categorical = True
            case Action():
                column.int_domain.min, column.int_domain.max = 0, 2 ** len(field.flags) - 1
            case TimeGap() | Numeric() | Vector():
                pass  # Any number.
            case _:
                assert_never(field)
    for name, weighted in spec.weights_in(history):
        add(name, "float", at_most=history.length * weighted.raw_width)


def as_text(spec: FeatureSpec) -> str:
    """The schema in protobuf text format, as committed in `schemas/generated/`."""
    from google.protobuf import text_format

    return text_format.MessageToString(schema(spec))


def parsing_spec(spec: FeatureSpec, labels: bool) -> dict[str, Any]:
    """`tf.io.parse_example` specification of the raw columns: ragged, one entry per column.

    Args:
        spec: the columns.
        labels: bool. Whether to read the columns that a serving request does not carry.
    """
    import tensorflow as tf

    dtypes = {1: tf.string, 2: tf.int64, 3: tf.float32}
    return {
        # Transform's graph takes int64 row splits; the default is int32.
        feature.name: tf.io.RaggedFeature(dtypes[feature.type], row_splits_dtype=tf.int64)
        for feature in schema(spec).feature
        if labels or SERVING not in feature.not_in_environment
    }
