"""FeatureSpec -> a table for people."""

from __future__ import annotations

from collections.abc import Iterator

from mixrank.schemas.features import (
    Action,
    Categorical,
    FeatureSpec,
    History,
    MultiCategorical,
    Numeric,
    TimeGap,
    Vocab,
)

HEADER = ("column", "type", "group", "encoding", "width", "also read as")


def describe(spec: FeatureSpec) -> Iterator[tuple[str, str, str, str, str, str]]:
    """One row of text per column, under `HEADER`."""
    for role, key in (("user key", spec.user), ("item key", spec.item)):
        yield key.name, role, "", key.dtype, "", ""
    yield spec.time.name, "event time", "", spec.time.unit, "", ""
    scenario = spec.scenario
    yield scenario.name, "scenario", "context", f"{len(scenario.values)} values", str(scenario.dim), ""
    for label in spec.labels:
        yield label.name, "label", "", f"weight {label.weight:g}", "", ""
    for feature in spec.features:
        if isinstance(feature, Categorical | MultiCategorical):
            kind = "categorical" if isinstance(feature, Categorical) else f"up to {feature.max_length} categories"
            shared = ", ".join(spec.vocab_columns(feature)[1:])
            yield feature.name, kind, feature.group, _encoding(feature), str(feature.dim), shared
        elif isinstance(feature, Numeric):
            bucketized = feature.transform == "bucketize"
            how = f"{feature.buckets} quantiles" if bucketized else feature.transform
            yield feature.name, "numeric", feature.group, how, str(feature.dim if bucketized else 1), ""
        elif isinstance(feature, Action):
            used = ", ".join(h.column(feature.name) for h in spec.histories if feature.name in h.of)
            yield feature.name, "action", "event", " + ".join(feature.flags), str(feature.dim), used
        elif isinstance(feature, TimeGap):
            used = ", ".join(h.column(feature.name) for h in spec.histories if feature.name in h.of)
            yield feature.name, "time gap", "event", f"{feature.buckets} log2 buckets", str(feature.dim), used
        elif isinstance(feature, History):
            when = {"before": "long-term", "within": "real-time"}[feature.window]
            only = f", only {feature.only}" if feature.only else ""
            yield feature.name, f"history, {when}", "user", f"{feature.length} newest{only}", "", ", ".join(feature.of)


def _encoding(feature: Categorical | MultiCategorical) -> str:
    vocab = feature.vocab
    if not isinstance(vocab, Vocab):
        return f"{feature.dtype}, hash {vocab.size:,}"
    most = f" top {vocab.max_size:,}" if vocab.max_size else ""
    seen = f" count>={vocab.min_count}" if vocab.min_count > 1 else ""
    return f"{feature.dtype}, vocab{seen}{most}, {vocab.oov} OOV"
