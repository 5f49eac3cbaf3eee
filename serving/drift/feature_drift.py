"""Feature drift: statistics of some rows compared with those of the training rows.

TFDV compares what it can: L-infinity distance of categories, Jensen-Shannon divergence of numbers, the schema.
Limits come from the feature spec, or else from a default. This module adds the shares of missing and
unseen values, the lengths of lists and histories, and columns that have disappeared.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from mixrank.schemas import FeatureSpec, tfmd
from mixrank.schemas.encode import Column, columns
from mixrank.serving.drift.alarms import (
    JENSEN_SHANNON,
    L_INFINITY,
    LENGTH,
    MISSING,
    MISSING_COLUMN,
    SCHEMA,
    UNSEEN,
    Finding,
    Limits,
)

TOP = 3


def feature_findings(spec: FeatureSpec, baseline: Any, new: Any, limits: Limits, min_rows: int) -> list[Finding]:
    """All findings from two sets of statistics.

    Args:
        spec: the columns.
        baseline, new: TFDV `DatasetFeatureStatisticsList` of training and of the rows to judge, with raw columns.
        limits: the limits.
        min_rows: int >= 0. Fewer rows raise no alarm, except for missing columns and broken schemas.

    Returns:
        One finding per measure, in the order of the columns.
    """
    old, now = by_name(baseline), by_name(new)
    rows_before, rows_after = _rows(baseline), _rows(new)
    rows = min(rows_before, rows_after)
    enough = rows >= min_rows
    found: list[Finding] = []
    gone = set()
    for column in columns(spec):
        if not column.serving or column.name not in old or not _values(old[column.name]):
            continue
        if column.name not in now or not _values(now[column.name]):
            gone.add(column.name)
            there = f"{_mean_length(old[column.name]):.2f} values per row"
            found.append(Finding(column.name, MISSING_COLUMN, 1.0, 0.0, rows, True, there, "no value in any row"))
            continue
        before, after = old[column.name], now[column.name]
        if column.length is None or column.exact:
            values = column.length or 1
            shares = missing_share(before, values * rows_before), missing_share(after, values * rows_after)
            said = [f"{100 * share:.1f} % missing" for share in shares]
            found.append(Finding(column.name, MISSING, shares[1] - shares[0], limits.missing, rows, enough, *said))
        elif column.history is None or column.name == _clock(spec, column.history):
            found.append(_lengths(column, before, after, limits, rows, min_rows))
    return found + _by_tfdv(spec, baseline, new, gone, limits, rows, min_rows)


def comparison_schema(spec: FeatureSpec, limits: Limits) -> Any:
    """The spec's schema without keys, time and labels, with a drift limit for every column, and the listed scenarios.

    A scenario that is not listed is scored like any other, but whoever watches the rows wants to know of it.

    Args:
        spec: the columns; a feature's own `drift` limit is kept.
        limits: the limits of all others.
    """
    from tensorflow_metadata.proto.v0 import schema_pb2

    schema = tfmd.schema(spec)
    kept = [feature for feature in schema.feature if tfmd.SERVING not in feature.not_in_environment]
    for feature in kept:
        if feature.name == spec.scenario.name and spec.scenario.dtype == "str":
            feature.string_domain.value.extend(map(str, spec.scenario.values))
        elif feature.name == spec.scenario.name:
            feature.int_domain.min, feature.int_domain.max = min(spec.scenario.values), max(spec.scenario.values)
        if feature.HasField("drift_comparator"):
            continue
        if feature.type != schema_pb2.BYTES and not feature.int_domain.is_categorical:
            feature.drift_comparator.jensen_shannon_divergence.threshold = limits.number
        else:
            feature.drift_comparator.infinity_norm.threshold = limits.category
    result = type(schema)(represent_variable_length_as_ragged=True)
    result.feature.extend(kept)
    return result


def unseen_findings(
    baseline: Mapping[str, tuple[int, int]], new: Mapping[str, tuple[int, int]], limits: Limits, min_rows: int
) -> list[Finding]:
    """Rise of the share of values that have no embedding row of their own.

    Args:
        baseline, new: column -> (values outside the vocabulary, values); a column that only one side has is skipped.
        limits: the limits.
        min_rows: int >= 0. Values needed on both sides for an alarm.
    """
    found = []
    for column in new:
        (before, all_before), (after, all_after) = baseline.get(column, (0, 0)), new[column]
        if not all_before or not all_after:
            continue
        shares, rows = (before / all_before, after / all_after), min(all_before, all_after)
        said = [f"{100 * share:.1f} % unseen" for share in shares]
        found.append(Finding(column, UNSEEN, shares[1] - shares[0], limits.unseen, rows, rows >= min_rows, *said))
    return found


def by_name(statistics: Any) -> dict[str, Any]:
    """Column -> its `FeatureNameStatistics`."""
    return {".".join(f.path.step) or f.name: f for f in statistics.datasets[0].features}


def common(feature: Any) -> Any:
    """The statistics that all kinds of columns share."""
    return getattr(feature, feature.WhichOneof("stats")).common_stats


def missing_share(feature: Any, rows: int) -> float:
    """Share of rows without a value, for a column of at most one value per row; NaN counts as missing.

    Args:
        feature: statistics of the column.
        rows: how many there are; times its length, for a vector.
    """
    histograms = feature.num_stats.histograms if feature.WhichOneof("stats") == "num_stats" else []
    nan = histograms[0].num_nan if histograms else 0
    return 1 - (common(feature).tot_num_values - nan) / rows if rows else 0.0


def top_values(feature: Any, others: Any = None) -> str:
    """The most frequent values with their shares, or mean and median of a number.

    Args:
        feature: statistics of a column.
        others: statistics whose most frequent values are listed instead, so that both sides list the same values.
    """
    if feature.WhichOneof("stats") == "num_stats":
        return f"mean {feature.num_stats.mean:.4g}, median {feature.num_stats.median:.4g}"
    own = value_shares(feature)
    names = list(value_shares(others) if others is not None else own)[:TOP]
    return ", ".join(f"{name or '(empty)'} {100 * own.get(name, 0.0):.1f} %" for name in names)


def value_shares(feature: Any) -> dict[str, float]:
    """Value -> share of all values, most frequent first, as far as the statistics list them."""
    total = common(feature).tot_num_values or 1
    return {bucket.label: bucket.sample_count / total for bucket in feature.string_stats.rank_histogram.buckets}


def length_distance(baseline: Any, new: Any) -> float:
    """Kolmogorov-Smirnov distance of two quantile histograms of lengths, interpolated inside a bucket.

    The histograms have ten buckets, so the resolution is about 0.1.
    """
    edges = sorted({edge for buckets in (baseline, new) for b in buckets for edge in (b.low_value, b.high_value)})
    return max(
        (abs(_below(baseline, edge, own) - _below(new, edge, own)) for edge in edges for own in (False, True)),
        default=0.0,
    )


def _below(buckets: Any, edge: float, with_edge: bool) -> float:
    """Share of lengths below an edge, with or without those that equal it."""
    total, below = sum(b.sample_count for b in buckets), 0.0
    for b in buckets:
        if b.high_value < edge or (with_edge and b.high_value == edge):
            below += b.sample_count
        elif b.low_value < edge:
            below += b.sample_count * (edge - b.low_value) / (b.high_value - b.low_value)
    return below / total if total else 0.0


def _lengths(column: Column, before: Any, after: Any, limits: Limits, rows: int, min_rows: int) -> Finding:
    unit = "events" if column.history else "values"
    said = [f"{_mean_length(f) / column.width:.2f} {unit} per row" for f in (before, after)]
    value = length_distance(_length_histogram(before), _length_histogram(after))
    return Finding(column.history or column.name, LENGTH, value, limits.length, rows, rows >= min_rows, *said)


def _mean_length(feature: Any) -> float:
    counts = common(feature)
    return counts.tot_num_values / (counts.num_missing + counts.num_non_missing)


def _length_histogram(feature: Any) -> list[Any]:
    absent = common(feature).num_missing
    buckets = list(common(feature).num_values_histogram.buckets)
    return [SimpleNamespace(low_value=0.0, high_value=0.0, sample_count=absent), *buckets] if absent else buckets


def _clock(spec: FeatureSpec, history: str) -> str:
    """The column that counts the events of a history: one that every event has, if there is one."""
    (found,) = (h for h in spec.histories if h.name == history)
    fields = list(spec.history_fields(found))
    return next((name for name, field in fields if field.never_missing), fields[0][0])


def _by_tfdv(
    spec: FeatureSpec, baseline: Any, new: Any, gone: set[str], limits: Limits, rows: int, min_rows: int
) -> list[Finding]:
    import tensorflow_data_validation as tfdv
    from tensorflow_metadata.proto.v0 import anomalies_pb2

    schema = comparison_schema(spec, limits)
    names = {feature.name for feature in schema.feature} - gone
    before, after = by_name(baseline), by_name(new)
    anomalies = tfdv.validate_statistics(_only(new, names), schema, previous_statistics=_only(baseline, names))
    measures = {
        anomalies_pb2.DriftSkewInfo.Measurement.L_INFTY: L_INFINITY,
        anomalies_pb2.DriftSkewInfo.Measurement.JENSEN_SHANNON_DIVERGENCE: JENSEN_SHANNON,
    }
    found = []
    for compared in anomalies.drift_skew_info:
        name = compared.path.step[0]
        if name not in before or name not in after or name in gone:
            continue
        said = top_values(before[name]), top_values(after[name], before[name]), newcomers(before[name], after[name])
        for measured in compared.drift_measurements:
            measure, value, limit = measures[measured.type], measured.value, measured.threshold
            found.append(Finding(name, measure, value, limit, rows, rows >= min_rows, *said))
    for name, anomaly in sorted(anomalies.anomaly_info.items()):
        for reason in anomaly.reason:
            kind = anomalies_pb2.AnomalyInfo.Type.Name(reason.type)
            if name not in gone and not kind.startswith("COMPARATOR_"):
                note = f"{reason.short_description}: {reason.description}"
                found.append(Finding(name, SCHEMA, 1.0, 0.0, rows, note=note))
    return found


def newcomers(baseline: Any, new: Any) -> str:
    """The most frequent values of the new rows that are not frequent in the baseline."""
    if new.WhichOneof("stats") == "num_stats":
        return ""
    known, now = list(value_shares(baseline))[:TOP], value_shares(new)
    other = [f"{name or '(empty)'} {100 * share:.1f} %" for name, share in list(now.items())[:TOP] if name not in known]
    return f"now frequent: {', '.join(other)}" if other else ""


def _only(statistics: Any, names: set[str]) -> Any:
    kept = type(statistics)()
    (dataset,) = statistics.datasets
    kept.datasets.add(num_examples=dataset.num_examples)
    kept.datasets[0].features.extend(f for name, f in by_name(statistics).items() if name in names)
    return kept


def _rows(statistics: Any) -> int:
    return int(statistics.datasets[0].num_examples)


def _values(feature: Any) -> float:
    return float(common(feature).tot_num_values)
