"""FeatureSpec -> a table for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from mixrank.schemas.features import (
    Action,
    AnyCategorical,
    AnyFromFile,
    Categorical,
    Cross,
    Encoding,
    Expression,
    Feature,
    FeatureSpec,
    Hash,
    History,
    Lookup,
    Match,
    MultiCategorical,
    Number,
    Numeric,
    NumericLookup,
    RowFeature,
    TimeGap,
    Vector,
    VectorTable,
    Vocab,
)

HEADER = ("column", "type", "group", "encoding", "width", "also read as")


def describe(spec: FeatureSpec) -> Iterator[tuple[str, str, str, str, str, str]]:
    """One row of text per column, under `HEADER`."""
    for role, key in (("user key", spec.user), ("item key", spec.item)):
        yield key.name, role, "", "number of the row" if key.per_row else key.dtype, "", ""
    time = spec.time
    yield time.name, "event time", "", time.unit if time.format == "epoch" else f"ISO 8601, {time.timezone}", "", ""
    if spec.request is not None:
        yield spec.request.name, "request", "", spec.request.dtype, "", ""
    scenario = spec.scenario
    yield scenario.name, "scenario", "context", f"{len(scenario.values)} values", str(scenario.dim), ""
    for label in spec.labels:
        given = f", given {label.given}" if label.given else ""
        unit = f"of {', '.join(map(str, label.classes))}" if label.classes else f"in units of {label.scale:g}"
        kind = "" if label.is_flag else f"{label.kind}, {unit}, "
        kept = f", {100 * label.keep_negatives:g} % of the negatives" if label.keep_negatives < 1 else ""
        mature = f", known after {label.matures_after}" if label.matures_after else ""
        yield label.name, "label", "", f"{kind}weight {label.weight:g}{given}{kept}{mature}", "", ""
    for name in spec.row_weights:
        tasks = [label.name for label in spec.labels if spec.weight_of(label) == name]
        yield name, "row weight", "", f"of {', '.join(tasks)}", "", ""
    if (position := spec.position) is not None:
        told = f"{position.size} places" + (" of each scenario" if position.per_scenario else "")
        yield position.name, "position", "", f"{told}, in training alone", "", ""
    for feature in spec.features:
        yield (feature.name, *_feature(spec, feature))


def _feature(spec: FeatureSpec, feature: Feature) -> tuple[str, str, str, str, str]:
    match feature:
        case Categorical():
            return "categorical", *_categories(spec, feature)
        case MultiCategorical():
            pooled = "" if feature.pooling == "mean" else f", {feature.pooling}"
            weighted = "" if feature.weights is None else ", weighted"
            return f"up to {feature.max_length} categories{weighted}{pooled}", *_categories(spec, feature)
        case Numeric():
            said = _transform(feature)
            return "numeric", feature.group, said, str(spec.vector_width(feature)), _in_histories(spec, feature)
        case Expression():
            said = f"{feature.formula}, {_transform(feature)}"
            return "expression", feature.group, said, str(spec.vector_width(feature)), ""
        case Vector():
            said = "divided by its length" if feature.normalize else ""
            return "vector", feature.group, said, str(feature.dim), _in_histories(spec, feature)
        case Match():
            where = ", ".join(history.name for history in spec.searched(feature))
            counted = ", ".join(("count", *(["recency"] if feature.recency else []), *feature.flags))
            return "match", feature.group, f"{feature.of} in {where}: {counted}", str(feature.width), ""
        case Cross():
            return "cross", feature.group, f"{' x '.join(feature.of)}, {_encoding(feature.vocab)}", str(feature.dim), ""
        case Lookup():
            said = f"{_source(feature)}, {_encoding(feature.vocab)}"
            return "lookup", feature.group, said, str(feature.dim), _in_histories(spec, feature)
        case NumericLookup():
            said = f"{_source(feature)}, {_transform(feature)}"
            return "numeric lookup", feature.group, said, str(spec.vector_width(feature)), _in_histories(spec, feature)
        case VectorTable():
            said = f"{_source(feature)}, frozen" + (", divided by its length" if feature.normalize else "")
            return "vector table", feature.group, said, str(feature.dim), _in_histories(spec, feature)
        case Action():
            return "action", "event", " + ".join(feature.flags), str(feature.dim), ", ".join(spec.columns_of(feature))
        case TimeGap():
            columns = ", ".join(spec.columns_of(feature))
            return "time gap", "event", f"{feature.buckets} log2 buckets", str(feature.dim), columns
        case History():
            when = {"before": "long-term", "within": "real-time"}[feature.window]
            of = f" of {feature.events}" if feature.events else " of the row" if feature.in_row else ""
            only = f", only {feature.only}" if feature.only else ""
            return f"history{of}, {when}", "user", f"{feature.length} newest{only}", "", ", ".join(feature.of)
        case _:
            assert_never(feature)


def _categories(spec: FeatureSpec, feature: AnyCategorical) -> tuple[str, str, str, str]:
    weights = [column for column, weighted in spec.weights.items() if weighted.name == feature.name]
    weights += [column for h in spec.histories for column, each in spec.weights_in(h) if each == feature]
    shared = ", ".join(filter(None, [_in_histories(spec, feature), *weights]))
    ids = _encoding(feature.vocab) if feature.table is None else f"table of {feature.table}"
    if (vectors := spec.initial_tables.get(feature.name)) is not None:
        ids += f", {'frozen' if feature.is_frozen else 'begins'} as {_source(vectors)}"
    return feature.group, f"{feature.dtype}, {ids}", str(feature.dim), shared


def _in_histories(spec: FeatureSpec, feature: RowFeature | AnyFromFile) -> str:
    """The columns of histories that hold a feature."""
    if isinstance(feature, AnyFromFile):
        return ", ".join(column for h in spec.histories for column, each in spec.added_to(h) if each == feature)
    return ", ".join(column for column in spec.columns_of(feature) if column != feature.name)


def _source(feature: AnyFromFile) -> str:
    return f"{feature.value_column} of {feature.of} in {feature.file}"


def _transform(feature: Number) -> str:
    cuts = f"{len(feature.edges)} edges" if feature.edges else f"{feature.buckets} quantiles"
    said = {
        "bucketize": cuts,
        "piecewise_linear": f"piecewise linear, {cuts}",
        "autodis": f"autodis, {feature.buckets} meta-embeddings",
    }.get(feature.transform, feature.transform)
    return said if feature.clip is None else f"{said}, clipped to {feature.clip[0]:g}..{feature.clip[1]:g}"


def _encoding(vocab: Encoding) -> str:
    match vocab:
        case Vocab():
            most = f" top {vocab.max_size:,}" if vocab.max_size else ""
            seen = f" count>={vocab.min_count}" if vocab.min_count > 1 else ""
            return f"vocab{seen}{most}, {vocab.oov} OOV"
        case Hash():
            return f"hash {vocab.size:,}" + (f", {vocab.functions} functions" if vocab.functions > 1 else "")
        case _:
            assert_never(vocab)
