"""FeatureSpec -> a table for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from mixrank.schemas.features import (
    Action,
    Categorical,
    Encoding,
    Feature,
    FeatureSpec,
    Hash,
    History,
    Match,
    MultiCategorical,
    Numeric,
    TimeGap,
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
        kind = "" if label.is_flag else f"{label.kind}, in units of {label.scale:g}, "
        yield label.name, "label", "", f"{kind}weight {label.weight:g}{given}", "", ""
    for feature in spec.features:
        yield (feature.name, *_feature(spec, feature))


def _feature(spec: FeatureSpec, feature: Feature) -> tuple[str, str, str, str, str]:
    match feature:
        case Categorical() | MultiCategorical():
            kind = "categorical" if feature.max_values is None else f"up to {feature.max_values} categories"
            shared = ", ".join(spec.columns_of(feature)[1:])
            return kind, feature.group, f"{feature.dtype}, {_encoding(feature.vocab)}", str(feature.dim), shared
        case Numeric():
            if feature.is_number:
                return "numeric", feature.group, feature.transform, "1", ""
            return "numeric", feature.group, f"{feature.buckets} quantiles", str(feature.dim), ""
        case Match():
            where = ", ".join(history.name for history in spec.searched(feature))
            counted = ", ".join(("count", *(["recency"] if feature.recency else []), *feature.flags))
            return "match", feature.group, f"{feature.of} in {where}: {counted}", str(feature.width), ""
        case Action():
            return "action", "event", " + ".join(feature.flags), str(feature.dim), ", ".join(spec.columns_of(feature))
        case TimeGap():
            columns = ", ".join(spec.columns_of(feature))
            return "time gap", "event", f"{feature.buckets} log2 buckets", str(feature.dim), columns
        case History():
            when = {"before": "long-term", "within": "real-time"}[feature.window]
            only = f", only {feature.only}" if feature.only else ""
            return f"history, {when}", "user", f"{feature.length} newest{only}", "", ", ".join(feature.of)
        case _:
            assert_never(feature)


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
