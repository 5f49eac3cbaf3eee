"""Transform: raw columns -> the ids and numbers that the model reads, one branch per feature type.

The layout it produces is written down in `layers/ranking/inputs.py`. The same graph is exported with the model, so
that a served request and a training row go through the same code.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, assert_never

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from mixrank.components.watch_quantiles import quantiles_of_group, rank
from mixrank.schemas import (
    KEYS,
    Action,
    AnyFromFile,
    Categorical,
    Cross,
    EventField,
    Expression,
    FeatureSpec,
    Hash,
    History,
    LookedUp,
    Lookup,
    Match,
    MultiCategorical,
    Number,
    Numeric,
    NumericLookup,
    RowFeature,
    Scenario,
    TimeGap,
    Vector,
    VectorTable,
    Vocab,
)
from mixrank.schemas.encode import PADDING
from mixrank.schemas.raw import read_side_file

# Stands between the values of a combination: the unit separator of ASCII.
BETWEEN = "\x1f"


def preprocessing_fn(inputs: Mapping[str, tf.RaggedTensor], custom_config: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """Entry point of the TFX Transform component.

    Args:
        inputs: column -> ragged values, as the TFMD schema declares them.
        custom_config: must hold `spec`, the JSON of a `FeatureSpec`.

    Returns:
        Model input -> dense tensor; every label as float32, NaN where the row does not count for the task; of a
        watch_quantile label its rank and its group's quantiles besides (`Label.learned`, `Label.quantiles`); every row
        weight as float32, over its mean of the training split; the keys of the row under the names in `KEYS`.
    """
    return transform(FeatureSpec.from_json(custom_config["spec"]), inputs)


def transform(spec: FeatureSpec, inputs: Mapping[str, tf.RaggedTensor]) -> dict[str, tf.Tensor]:
    """`preprocessing_fn` for a spec; must run inside a TFT analysis or its exported graph."""
    outputs = {spec.scenario.name: scenario_id(spec.scenario, inputs[spec.scenario.name])}
    for feature in spec.inputs:
        outputs[feature.name] = row_values(feature, inputs[feature.name])
    for column, feature in spec.weights.items():
        outputs[column] = weights_of(inputs[column], feature.width)
    for history in spec.histories:
        for column, field in spec.history_fields(history):
            outputs[column] = history_values(history, field, inputs[column])
        for column, weighted in spec.weights_in(history):
            outputs[column] = weights_of(inputs[column], history.length * weighted.width)
    # Before values become ids, of which all rare ones have the same.
    matches = {match.name: matched(spec, match, outputs, inputs) for match in spec.matches}
    crosses = {cross.name: crossed(spec, cross, outputs, inputs[spec.scenario.name]) for cross in spec.crosses}
    counted = _counted(spec, inputs, crosses)
    looked_up = {each.name: from_file(spec, each, outputs) for each in spec.from_files}
    for owner in spec.all_categorical:
        sharing = [feature for feature in spec.all_categorical if feature.owner == owner.name]
        categories = {column: outputs[column] for feature in sharing for column in spec.columns_of(feature)}
        if sharing:
            outputs |= category_ids(owner, categories, counted.get(owner.name))
    for number in spec.all_numbers:
        outputs |= numeric(number, {column: outputs[column] for column in spec.columns_of(number)})
    for cross in spec.crosses:
        outputs |= category_ids(cross, {cross.name: crosses[cross.name]}, counted[cross.name])
    for each in spec.from_files:
        outputs |= looked_up[each.name]
    outputs |= matches
    outputs |= {each.name: expressed(spec, each, inputs) for each in spec.expressions}
    labels = {label.name: tf.cast(first(inputs[label.name], 0), tf.float32) / label.scale for label in spec.labels}
    for label in spec.labels:
        value = labels[label.name]
        # NaN in the rows that do not count.
        for name in label.counts_where:
            value = tf.where(first(inputs[name], 0) > 0, value, math.nan)
        outputs[label.name] = value
        if label.duration is not None and label.quantiles is not None:
            quantiles = quantiles_of_group(first(inputs[label.duration], math.nan), value)
            outputs |= {label.quantiles: quantiles, label.learned: rank(value, quantiles)}
    for name in spec.row_weights:
        weight = first(inputs[name], 0.0)
        # Rows that all weigh 0 have no mean to be measured by.
        outputs[name] = tf.math.divide_no_nan(weight, tft.mean(weight))
    if (position := spec.position) is not None:
        place = first(inputs[position.name], PADDING["int"])
        known = 1 + tf.clip_by_value(place, 0, position.size - 1)
        outputs[position.name] = tf.where(place != PADDING["int"], known, tf.zeros_like(known))
    for role, key in spec.row_keys.items():
        outputs[KEYS[role]] = first(inputs[key.name], PADDING[getattr(key, "dtype", "int")])
    return outputs


def vocabulary_values(spec: FeatureSpec, inputs: Mapping[str, tf.RaggedTensor]) -> dict[str, tf.Tensor]:
    """The values of rows that count for vocabularies, outside a graph of Transform; those of a `Lookup` excepted.

    Args:
        spec: the declaration.
        inputs: column -> ragged values; of the categories of rows, the scenario and what crosses are of.

    Returns:
        Feature -> all of its values, one behind the other, int64 or text.
    """
    read = {feature.name: feature for feature in spec.categorical if feature.name in inputs}
    values = {name: row_values(feature, inputs[name]) for name, feature in read.items()}
    crosses = {cross.name: crossed(spec, cross, values, inputs[spec.scenario.name]) for cross in spec.crosses}
    return {
        name: found.flat_values if isinstance(found, tf.RaggedTensor) else found
        for name, found in _counted(spec, {name: inputs[name] for name in read}, crosses).items()
    }


def _counted(
    spec: FeatureSpec, inputs: Mapping[str, tf.RaggedTensor], crosses: Mapping[str, tf.Tensor]
) -> dict[str, tf.RaggedTensor | tf.Tensor]:
    """Feature -> what its vocabulary is counted on: values of rows, and combinations of which no part is missing."""
    rows = {feature.name: inputs[feature.name] for feature in spec.categorical if feature.name in inputs}
    return rows | {name: tf.boolean_mask(text, tf.not_equal(text, PADDING["str"])) for name, text in crosses.items()}


def row_values(feature: RowFeature, values: tf.RaggedTensor) -> tf.Tensor:
    """Raw numbers or categories of a row feature, `[batch]` or `[batch, values]`; a vector as the model reads it."""
    match feature:
        case Categorical():
            return first(values, PADDING[feature.dtype])
        case MultiCategorical():
            return padded(values, feature.max_length, PADDING[feature.dtype])
        case Numeric():
            return first(values, math.nan)
        case Vector():
            return vector(feature, padded(values, feature.dim, math.nan))
        case _:
            assert_never(feature)


def first(values: tf.RaggedTensor, default: Any) -> tf.Tensor:
    """The first value of each row, `[batch]`; `default` where there is none."""
    return values.to_tensor(default, shape=[None, 1])[:, 0]


def padded(values: tf.RaggedTensor, length: int, default: Any) -> tf.Tensor:
    """The first `length` values of each row, `[batch, length]`, filled up with `default`."""
    return values[:, :length].to_tensor(default, shape=[None, length])


def scenario_id(scenario: Scenario, values: tf.RaggedTensor) -> tf.Tensor:
    """1-based position among the declared scenarios, `len(values) + 1` for any other, `[batch]`."""
    value = first(values, PADDING[scenario.dtype])
    known = tf.constant(scenario.values, tf.int64 if scenario.dtype == "int" else tf.string)
    matches = tf.cast(tf.equal(value[:, None], known[None, :]), tf.int64)
    position = tf.reduce_sum(matches * tf.range(1, len(scenario.values) + 1, dtype=tf.int64), axis=1)
    return tf.where(
        position > 0, position, tf.fill(tf.shape(position), tf.constant(len(scenario.values) + 1, tf.int64))
    )


def count_vocabulary(name: str, vocab: Vocab, values: tf.RaggedTensor | tf.Tensor) -> Any:
    """Counts a vocabulary over the training split; returns its asset path.

    Only impressions are counted, never histories: a history repeats an event once per later impression, which would
    make `min_count` meaningless.
    """
    return tft.vocabulary(
        values,
        top_k=vocab.max_size,
        # A threshold of one would keep everything and only cause a warning.
        frequency_threshold=vocab.min_count if vocab.min_count > 1 else None,
        vocab_filename=name,
    )


def category_ids(
    feature: LookedUp, columns: Mapping[str, tf.Tensor], counted: tf.RaggedTensor | tf.Tensor | None
) -> dict[str, tf.Tensor]:
    """Ids of a feature's columns, 0 where a value is the padding; same shapes.

    All columns are looked up at once, so that a graph reads the vocabulary into memory once.

    Args:
        feature: its `vocab` says how ids are made; the columns are its own and those of features that use its table.
        columns: column -> dense raw values, int64 or string.
        counted: the values that its vocabulary is counted on; None for a feature that no row has, which has none.
    """
    values = tf.concat([tf.reshape(dense, [-1]) for dense in columns.values()], axis=0)
    present = tf.not_equal(values, tf.constant(PADDING[feature.dtype], values.dtype))
    match feature.vocab:
        case Hash(ids=buckets):
            text = values if values.dtype == tf.string else tf.strings.as_string(values)
            ids = tf.strings.to_hash_bucket_fast(text, buckets)
        case Vocab(oov=oov):
            vocabulary = count_vocabulary(feature.name, feature.vocab, counted)
            ids = tft.apply_vocabulary(values, vocabulary, num_oov_buckets=oov)
        case _:
            assert_never(feature.vocab)
    ids = tf.where(present, ids + 1, tf.zeros_like(ids))
    parts = tf.split(ids, [tf.size(dense) for dense in columns.values()])
    return {
        column: tf.reshape(part, [-1, *dense.shape[1:]])
        for (column, dense), part in zip(columns.items(), parts, strict=True)
    }


def numeric(feature: Number, columns: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Transformed numbers of a feature's columns, by the same edges and moments, which are those of its rows.

    Those of a feature that no row has are of the events in the histories of all rows, without the missing ones.

    Args:
        feature: the declaration.
        columns: column -> raw numbers, float32 `[batch]` of the row, `[batch, length]` of a history.

    Returns:
        Column -> float32 `[batch, *shape]` or `[batch, length * width]`; int64 ids for "bucketize".
    """
    if list(columns) == [feature.name]:
        return {feature.name: transformed(feature, columns[feature.name])}
    values = tf.concat([tf.reshape(dense, [-1]) for dense in columns.values()], axis=0)
    counted = columns.get(feature.name)
    if counted is None:
        counted = tf.boolean_mask(values, tf.math.is_finite(values))
    found = transformed(feature, values, counted)
    parts = tf.split(found, [tf.size(dense) for dense in columns.values()])
    return {
        column: tf.reshape(
            part, [-1, *feature.shape] if column == feature.name else [-1, dense.shape[1] * feature.width]
        )
        for (column, dense), part in zip(columns.items(), parts, strict=True)
    }


def expressed(spec: FeatureSpec, expression: Expression, raw: Mapping[str, tf.RaggedTensor]) -> tf.Tensor:
    """The value of an `Expression`, transformed, as in `numeric`.

    Its numbers may have different batches, one of which is 1: a request has one user for all of its candidates.

    Args:
        spec, expression: the declaration.
        raw: column -> ragged values.
    """
    functions = {
        "abs": tf.abs,
        "exp": tf.exp,
        "log1p": tf.math.log1p,
        "max": tf.maximum,
        "min": tf.minimum,
        "sqrt": tf.sqrt,
        "where": tf.where,
        "is_finite": tf.math.is_finite,
    }
    numbers = {name: first(raw[name], math.nan) for name in expression.of}
    value = spec.evaluate(expression, numbers, functions, lambda number: tf.constant(number, tf.float32))
    return transformed(expression, value)


def transformed(feature: Number, value: tf.Tensor, counted: tf.Tensor | None = None) -> tf.Tensor:
    """`Number.transform` of a number `[batch]` that is missing where it is not finite.

    Args:
        feature: the declaration.
        value: the number.
        counted: numbers `[any]` whose edges and moments count; None for those of `value`.
    """
    value, missing = _cleaned(feature, value)
    known, unknown = (value, missing) if counted is None else _cleaned(feature, counted)
    if feature.transform == "bucketize":
        ids = 1 + tft.apply_buckets(value, _bounds(feature, known, unknown))
        return tf.where(missing, tf.zeros_like(ids), ids)
    if feature.transform == "piecewise_linear":
        return _piecewise_linear(feature, value, missing, known, unknown)
    if feature.transform.startswith("log1p"):
        value, known = (tf.sign(x) * tf.math.log1p(tf.abs(x)) for x in (value, known))
    if feature.transform.endswith("standardize") or feature.is_embedded_number:
        if counted is None:
            value = tft.scale_to_z_score(value)
        else:
            deviation = tf.sqrt(tft.var(known))
            # As in `tft.scale_to_z_score`, numbers that are all the same are only centred.
            value = (value - tft.mean(known)) / tf.where(deviation > 0, deviation, tf.ones_like(deviation))
    if feature.is_embedded_number:
        parts = [tf.cast(missing, tf.float32)] if feature.default is None else []
        value = tf.stack([*parts, tf.where(missing, tf.zeros_like(value), value)], axis=1)
    return value


def _cleaned(feature: Number, value: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A number after `default` and `clip`, and where it is missing and nothing stands for it."""
    default = 0.0 if feature.default is None else feature.default
    # NaN and infinity would pass through every layer; they count as missing.
    absent = tf.logical_not(tf.math.is_finite(value))
    value = tf.where(absent, tf.fill(tf.shape(value), default), value)
    if feature.clip is not None:
        value = tf.clip_by_value(value, *feature.clip)
    # Where something stands for it, a missing number is one like any other.
    return value, absent if feature.default is None else tf.zeros_like(absent)


def _bounds(feature: Number, value: tf.Tensor, missing: tf.Tensor) -> tf.Tensor:
    """Declared edges, or quantiles of the training rows without the missing ones, `[1, edges]`."""
    if feature.edges:
        return tf.constant([feature.edges], tf.float32)
    # NaN is not counted. The tolerance is that of `tft.bucketize`.
    counted = tf.where(missing, tf.fill(tf.shape(value), math.nan), value)
    return tft.quantiles(counted, feature.buckets, epsilon=min(1 / feature.buckets, 0.01))


def _piecewise_linear(
    feature: Number, value: tf.Tensor, missing: tf.Tensor, known: tf.Tensor, unknown: tf.Tensor
) -> tf.Tensor:
    """`Number`'s "piecewise_linear", float32 `[batch, width]`; `known` are the numbers whose edges count."""
    edges = tf.reshape(_bounds(feature, known, unknown), [-1])
    if not feature.edges:
        # Beside the quantiles, the smallest and the largest number of the training rows.
        low = tft.min(tf.where(unknown, tf.fill(tf.shape(known), math.inf), known))
        high = tft.max(tf.where(unknown, tf.fill(tf.shape(known), -math.inf), known))
        # Without any number there is nothing to divide.
        low, high = (tf.where(tf.math.is_finite(end), end, 0.0) for end in (low, high))
        edges = tf.concat([low[None], edges, high[None]], axis=0)
    left, right = edges[:-1], edges[1:]
    passed = value[:, None] - left
    parts = tf.where(right > left, tf.math.divide_no_nan(passed, right - left), tf.cast(passed >= 0, tf.float32))
    parts = tf.where(missing[:, None], tf.zeros_like(parts), tf.clip_by_value(parts, 0.0, 1.0))
    if feature.default is None:
        parts = tf.concat([tf.cast(missing[:, None], tf.float32), parts], axis=1)
    return tf.reshape(parts, [-1, feature.width])


def vector(feature: Vector, dense: tf.Tensor) -> tf.Tensor:
    """Its numbers, float32 `[any, dim]`; zeros where they are missing, not all there or not all finite."""
    whole = tf.reduce_all(tf.math.is_finite(dense), axis=1, keepdims=True)
    dense = tf.where(whole, dense, tf.zeros_like(dense))
    if feature.normalize:
        # Of the largest number first, whose square may not fit into 32 bits.
        dense = tf.math.divide_no_nan(dense, tf.reduce_max(tf.abs(dense), axis=1, keepdims=True))
        dense = tf.math.divide_no_nan(dense, tf.norm(dense, axis=1, keepdims=True))
    return dense


def weights_of(values: tf.RaggedTensor, length: int) -> tf.Tensor:
    """Weights of the values of a row or of its events, float32 `[batch, length]`; 1 where there is none."""
    weights = padded(values, length, math.nan)
    return tf.where(tf.math.is_finite(weights), tf.maximum(weights, 0.0), tf.ones_like(weights))


def matched(
    spec: FeatureSpec, match: Match, values: Mapping[str, tf.Tensor], raw: Mapping[str, tf.RaggedTensor]
) -> tf.Tensor:
    """The numbers of a `Match`, float32 `[batch, width]`.

    The row's own value and the events may have different batches, one of which is 1: a request has one history for all
    of its candidates.

    Args:
        spec, match: the declaration.
        values: column -> raw categories, as of `row_values` and `history_values`.
        raw: column -> ragged values.
    """
    own = values[match.of]
    padding = tf.constant(PADDING["str" if own.dtype == tf.string else "int"], own.dtype)
    # [batch, 1, 1, values of the row]
    own = _comparable(tf.reshape(own, [tf.shape(own)[0], 1, 1, own.shape[1] if own.shape.rank == 2 else 1]))
    counts: list[Any] = []
    newest: list[Any] = []
    outcomes: dict[str, list[Any]] = {flag: [] for flag in match.flags}
    for history in spec.searched(match):
        events = values[history.column(match.of)]
        # [batch, events, values of an event, 1]
        events = tf.reshape(events, [tf.shape(events)[0], history.length, events.shape[1] // history.length, 1])
        equal = tf.logical_and(tf.equal(_comparable(events), own), tf.not_equal(events, padding))
        # [batch, events]
        same = tf.reduce_any(equal, axis=[2, 3])
        counts.append(_count(same))
        if match.recency and (gap := spec.gap_of(history)) is not None:
            seconds = padded(raw[gap], history.length, PADDING["int"])
            known = tf.logical_and(same, seconds >= 0)
            newest.append(tf.reduce_min(tf.where(known, tf.cast(seconds, tf.float32), math.inf), axis=1))
        for flag, found in outcomes.items():
            column, bit = spec.flags_of(history)[flag]
            masks = tf.maximum(padded(raw[column], history.length, PADDING["int"]), 0)
            found.append(_count(tf.logical_and(same, tf.bitwise.bitwise_and(masks, 1 << bit) > 0)))
    count = tf.add_n(counts)
    numbers = [tf.math.log1p(count)]
    if match.recency:
        # Infinitely long ago is 0.
        hours = tf.reduce_min(tf.stack(newest), axis=0) / 3600
        numbers.append(1 / (1 + tf.math.log1p(hours)))
    numbers += [tf.add_n(found) / (count + 1) for found in outcomes.values()]
    return tf.stack(numbers, axis=1)


def crossed(spec: FeatureSpec, cross: Cross, values: Mapping[str, tf.Tensor], scenario: tf.RaggedTensor) -> tf.Tensor:
    """The raw category of a `Cross`, text `[batch]`: its values one behind the other, or "" where one is missing.

    The values may have different batches, one of which is 1: a request has one user for all of its candidates.

    Args:
        spec, cross: the declaration.
        values: column -> raw categories, as of `row_values`.
        scenario: raw values of the scenario.
    """
    texts, missing = [], []
    for name in cross.of:
        value = first(scenario, PADDING[spec.scenario.dtype]) if name == spec.scenario.name else values[name]
        is_text = value.dtype == tf.string
        texts.append(value if is_text else tf.strings.as_string(value))
        missing.append(tf.equal(value, tf.constant(PADDING["str" if is_text else "int"], value.dtype)))
    rows = functools.reduce(tf.broadcast_dynamic_shape, map(tf.shape, texts))
    joined = tf.strings.join([tf.broadcast_to(text, rows) for text in texts], separator=BETWEEN)
    lacking = tf.reduce_any(tf.stack([tf.broadcast_to(each, rows) for each in missing]), axis=0)
    return tf.where(lacking, tf.fill(rows, PADDING["str"]), joined)


def from_file(spec: FeatureSpec, feature: AnyFromFile, values: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """What a feature looks up in its side file: column -> tensor, its own and those of the events of histories.

    The graph holds the keys, text as 63-bit hashes, in ascending order, and what belongs to them.

    Args:
        spec, feature: the declaration.
        values: column -> raw categories, as of `row_values` and `history_values`.
    """
    table = read_side_file(spec, feature)
    keys = table.keys if table.keys.dtype == np.int64 else _hashed(table.keys)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    if (equal := np.flatnonzero(keys[1:] == keys[:-1])).size:
        two = [table.keys[order[place]] for place in (equal[0], equal[0] + 1)]
        raise ValueError(f"{feature.file} of `{feature.name}`: keys {two[0]!r} and {two[1]!r} have the same hash")
    wanted = {feature.name: values[feature.of]}
    for history in spec.histories:
        wanted |= {
            column: values[history.column(feature.of)] for column, each in spec.added_to(history) if each == feature
        }
    # Place among the keys, and whether there is such a key.
    known = tf.constant(keys)
    places = {}
    for column, raw in wanted.items():
        numbers = _comparable(raw)
        found = tf.searchsorted(known, tf.reshape(numbers, [-1]), out_type=tf.int64)
        found = tf.reshape(tf.minimum(found, len(keys) - 1), tf.shape(numbers))
        places[column] = found, tf.equal(tf.gather(known, found), numbers)
    match feature:
        case Lookup():
            missing = PADDING[feature.dtype]
            texts = np.where(table.missing, np.array(missing, table.values.dtype), table.values)[order]
            pool, codes = np.unique(texts, return_inverse=True)
            content, codes = tf.constant(pool), tf.constant(codes.astype(np.int32))
            none = tf.constant(missing, content.dtype)
            categories = {
                column: tf.where(there, tf.gather(content, tf.gather(codes, place)), none)
                for column, (place, there) in places.items()
            }
            own = categories[feature.name]
            counted = tf.boolean_mask(own, tf.not_equal(own, none))
            return category_ids(feature, categories, counted)
        case NumericLookup():
            content = tf.constant(np.where(table.missing, np.float32(np.nan), table.values)[order])
            return numeric(
                feature,
                {
                    column: tf.where(there, tf.gather(content, place), math.nan)
                    for column, (place, there) in places.items()
                },
            )
        case VectorTable():
            row = tf.constant(1 + order.astype(np.int64))
            return {
                column: tf.where(there, tf.gather(row, place), tf.zeros_like(place))
                for column, (place, there) in places.items()
            }
        case _:
            assert_never(feature)


def _hashed(texts: np.ndarray) -> np.ndarray:
    """Texts as `_comparable` sees them."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        return session.run(_comparable(tf.constant(texts)))


def _comparable(values: tf.Tensor) -> tf.Tensor:
    """Text as 63-bit hashes, so that each candidate and each event are read once and not once per pair."""
    return tf.strings.to_hash_bucket_fast(values, 2**63 - 1) if values.dtype == tf.string else values


def _count(true: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(true, tf.float32), axis=1)


def history_values(history: History, field: EventField, values: tf.RaggedTensor) -> tf.Tensor:
    """Ids, raw categories or numbers of a history field, newest first: `[batch, length * values per event]`."""
    dense = padded(values, history.length * field.raw_width, PADDING[field.kind])
    match field:
        case Categorical() | MultiCategorical() | Numeric():
            return dense
        case Vector():
            return tf.reshape(vector(field, tf.reshape(dense, [-1, field.dim])), [-1, history.length * field.dim])
        case Action():
            ids = 1 + tf.clip_by_value(dense, 0, 2 ** len(field.flags) - 1)
        case TimeGap():
            # Compared as integers: a float logarithm of 2^k may fall short of k, and not in every batch alike.
            bounds = tf.constant([2**k - 1 for k in range(1, field.buckets - 1)], tf.int64)
            passed = tf.searchsorted(bounds, tf.reshape(dense, [-1]), side="right", out_type=tf.int64)
            bucket = 2 + tf.reshape(passed, [-1, history.length])
            ids = tf.where(dense < 0, tf.ones_like(bucket), bucket)
        case _:
            assert_never(field)
    return tf.where(dense != PADDING["int"], ids, tf.zeros_like(ids))
