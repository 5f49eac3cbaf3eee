"""The baseline that needs no training: smoothed log-odds of scenario, user and item, added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

BATCH = 4096


class AdditiveLogOdds:
    """Click rates of each key's value, smoothed towards the overall rate and added on the logit scale.

    `logit p = logit r + sum_k (logit r_k(v_k) - logit r)` with the overall rate r and
    `r_k(v) = (positives of v + m r) / (rows of v + m)` for the value v of key k. A value that was not seen adds 0.

    Args:
        smoothing: float > 0. Pseudo-count m, in rows.

    Raises:
        ValueError: if `smoothing` is not positive.

    >>> model = AdditiveLogOdds(smoothing=1.0).fit({"page": [0, 0, 1, 1]}, [1, 1, 0, 1])
    >>> model.predict({"page": [0, 1, 2]}).round(4)
    array([0.9167, 0.5833, 0.75  ])
    """

    def __init__(self, *, smoothing: float = 5.0) -> None:
        if not smoothing > 0:
            raise ValueError(f"`smoothing` must be > 0, received {smoothing}")
        self.smoothing = smoothing
        self.prior = float("nan")
        self.offsets: dict[str, tuple[NDArray[Any], NDArray[np.float64]]] = {}

    def fit(self, keys: Mapping[str, ArrayLike], labels: ArrayLike) -> AdditiveLogOdds:
        """Counts the training rows.

        Args:
            keys: name -> integer or text values, `(rows,)`.
            labels: 0 or 1, `(rows,)`; both must occur.

        Raises:
            ValueError: if lengths differ or all labels are equal.
        """
        y = np.asarray(labels, np.float64)
        rate = float(y.mean()) if len(y) else float("nan")
        if not 0 < rate < 1:
            raise ValueError(f"`labels` must hold both 0 and 1, received {len(y)} rows with mean {rate}")
        self.prior = _logit(rate)
        self.offsets = {}
        for name, column in keys.items():
            column = np.asarray(column)
            if column.shape != y.shape:
                raise ValueError(f"key `{name}` must have one value per label {y.shape}, received {column.shape}")
            values, code = np.unique(column, return_inverse=True)
            count, positives = np.bincount(code), np.bincount(code, weights=y)
            smoothed = (positives + self.smoothing * rate) / (count + self.smoothing)
            self.offsets[name] = (values, _logit(smoothed) - self.prior)
        return self

    def predict(self, keys: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
        """Probability of every row, `(rows,)`.

        Args:
            keys: the same names as in `fit`.

        Raises:
            ValueError: before `fit`, or if a key is missing.
        """
        if not self.offsets:
            raise ValueError("`fit` must be called before `predict`")
        if missing := sorted(set(self.offsets) - set(keys)):
            raise ValueError(f"`keys` lacks {missing}, received {sorted(keys)}")
        score: Any = self.prior
        for name, (values, offset) in self.offsets.items():
            column = np.asarray(keys[name])
            at = np.minimum(np.searchsorted(values, column), len(values) - 1)
            score = score + np.where(values[at] == column, offset[at], 0.0)
        return 1 / (1 + np.exp(-score))


def read_columns(pattern: str, columns: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Some columns of the `tf.Example`s in gzipped TFRecord files, in the order of sorted files and their rows.

    Args:
        pattern: glob, for instance "examples/Split-train/*".
        columns: names of features with one value per row; the type is taken from the first row.

    Returns:
        name -> `(rows,)` of int64, float32 or text.

    Raises:
        ValueError: if no file matches, or a row lacks one of the columns or has several values of it.
    """
    import tensorflow as tf

    from mixrank.serving.base import untuned

    files = sorted(tf.io.gfile.glob(pattern))
    if not files:
        raise ValueError(f"`pattern` {pattern} matches no file")
    records = untuned(tf.data.TFRecordDataset(files, compression_type="GZIP"))
    first = tf.train.Example()
    for record in records.take(1):
        first.ParseFromString(record.numpy())
    kinds = {"int64_list": tf.int64, "float_list": tf.float32, "bytes_list": tf.string}
    wanted = {}
    for name in columns:
        kind = first.features.feature[name].WhichOneof("kind")
        if kind is None:
            raise ValueError(f"the first row of {files[0]} has no column `{name}`")
        wanted[name] = tf.io.FixedLenFeature([], kinds[kind])
    parsed = records.batch(BATCH).map(lambda batch: tf.io.parse_example(batch, wanted), num_parallel_calls=2)
    try:
        batches = list(parsed.prefetch(2).as_numpy_iterator())
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            f"`columns` {list(columns)} need one value in every row of {pattern}: {error.message}"
        ) from None
    found = {name: np.concatenate([batch[name] for batch in batches]) for name in columns}
    return {
        name: np.char.decode(c.astype(bytes), "utf-8").astype(object) if c.dtype == object else c
        for name, c in found.items()
    }


def _logit(rate: Any) -> Any:
    return np.log(rate) - np.log1p(-rate)
