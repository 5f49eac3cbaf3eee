"""Transform: raw columns -> the ids and numbers that the model reads, one branch per feature type.

The layout it produces is written down in `layers/ranking/inputs.py`. The same graph is exported with the model, so
that a served request and a training row go through the same code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

import tensorflow as tf
import tensorflow_transform as tft

from mixrank.schemas import (
    KEYS,
    Action,
    Categorical,
    EventField,
    FeatureSpec,
    Hash,
    History,
    MultiCategorical,
    Numeric,
    RowFeature,
    Scenario,
    TimeGap,
    Vocab,
)
from mixrank.schemas.encode import PADDING


def preprocessing_fn(inputs: Mapping[str, tf.RaggedTensor], custom_config: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """Entry point of the TFX Transform component.

    Args:
        inputs: column -> ragged values, as the TFMD schema declares them.
        custom_config: must hold `spec`, the JSON of a `FeatureSpec`.

    Returns:
        Model input -> dense tensor; every label as float32; the keys of the row under the names in `KEYS`.
    """
    return transform(FeatureSpec.from_json(custom_config["spec"]), inputs)


def transform(spec: FeatureSpec, inputs: Mapping[str, tf.RaggedTensor]) -> dict[str, tf.Tensor]:
    """`preprocessing_fn` for a spec; must run inside a TFT analysis or its exported graph."""
    vocabularies = {name: count_vocabulary(name, vocab, inputs[name]) for name, vocab in spec.vocabularies.items()}
    outputs = {spec.scenario.name: scenario_id(spec.scenario, inputs[spec.scenario.name])}
    for feature in spec.inputs:
        outputs[feature.name] = row_values(feature, inputs[feature.name], vocabularies)
    for history in spec.histories:
        for column, field in spec.history_fields(history):
            outputs[column] = history_ids(history, field, inputs[column], vocabularies)
    for label in spec.labels:
        outputs[label.name] = tf.cast(first(inputs[label.name], 0), tf.float32)
    for role, key in (("user", spec.user), ("item", spec.item), ("time", spec.time)):
        outputs[KEYS[role]] = first(inputs[key.name], PADDING[getattr(key, "dtype", "int")])
    return outputs


def row_values(feature: RowFeature, values: tf.RaggedTensor, vocabularies: Mapping[str, Any]) -> tf.Tensor:
    """Ids or numbers of a row feature, `[batch]`, or `[batch, max_length]` if it is multi-valued."""
    match feature:
        case Categorical():
            return categorical_ids(feature, first(values, PADDING[feature.dtype]), vocabularies)
        case MultiCategorical():
            dense = padded(values, feature.max_length, PADDING[feature.dtype])
            return categorical_ids(feature, dense, vocabularies)
        case Numeric():
            return numeric(feature, values)
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


def count_vocabulary(name: str, vocab: Vocab, values: tf.RaggedTensor) -> Any:
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


def categorical_ids(
    feature: Categorical | MultiCategorical, values: tf.Tensor, vocabularies: Mapping[str, Any]
) -> tf.Tensor:
    """Ids of dense values of any shape, 0 where a value is the padding; same shape.

    Args:
        feature: its `vocab` says how ids are made.
        values: int64 or string.
        vocabularies: feature name -> asset path of its vocabulary.
    """
    present = tf.not_equal(values, tf.constant(PADDING[feature.dtype], values.dtype))
    match feature.vocab:
        case Hash(size=size):
            text = values if values.dtype == tf.string else tf.strings.as_string(values)
            ids = tf.strings.to_hash_bucket_fast(text, size)
        case Vocab(oov=oov):
            ids = tft.apply_vocabulary(values, vocabularies[feature.name], num_oov_buckets=oov)
        case _:
            assert_never(feature.vocab)
    return tf.where(present, ids + 1, tf.zeros_like(ids))


def numeric(feature: Numeric, values: tf.RaggedTensor) -> tf.Tensor:
    """Transformed number, float32 `[batch]`; for "bucketize" the id 1..buckets of its quantile, 0 where missing."""
    value = first(values, feature.default)
    # NaN and infinity would pass through every layer; they count as missing.
    missing = tf.logical_or(values.row_lengths() == 0, tf.logical_not(tf.math.is_finite(value)))
    value = tf.where(missing, tf.fill(tf.shape(value), feature.default), value)
    if feature.transform == "bucketize":
        buckets = tft.bucketize(value, feature.buckets)
        return tf.where(missing, tf.zeros_like(buckets), buckets + 1)
    if feature.transform.startswith("log1p"):
        value = tf.sign(value) * tf.math.log1p(tf.abs(value))
    if feature.transform.endswith("standardize"):
        value = tft.scale_to_z_score(value)
    return value


def history_ids(
    history: History, field: EventField, values: tf.RaggedTensor, vocabularies: Mapping[str, Any]
) -> tf.Tensor:
    """Ids of one history field, `[batch, length]` (times `max_length` for a multi-valued field), newest first."""
    dense = padded(values, history.length * field.width, PADDING[field.kind])
    match field:
        case Categorical() | MultiCategorical():
            return categorical_ids(field, dense, vocabularies)
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
