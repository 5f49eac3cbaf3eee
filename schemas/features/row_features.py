"""Features of a row that a log and a request carry in a column of their own."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mixrank.schemas.features.encodings import Encoding, Vocab
from mixrank.schemas.features.named import Dtype, Group, Kind, Valued


class Categorical(Valued):
    """One categorical value per row.

    Args:
        group: "user", "item" or "context".
        vocab: `Vocab` or `Hash`.
        dim: int >= 1. Embedding width.
        dtype: "int" or "str". Type of the raw column.
        required: bool. Whether a serving request must carry it.
        drift: float in (0, 1] or None. L-infinity distance between training and evaluation above which
            validation stops the run.
    """

    type: Literal["categorical"] = "categorical"
    group: Group
    vocab: Encoding = Vocab()
    dim: int = Field(default=16, ge=1)
    dtype: Dtype = "int"
    required: bool = False
    drift: float | None = Field(default=None, gt=0, le=1)

    @property
    def kind(self) -> Kind:
        return self.dtype

    @property
    def functions(self) -> int:
        return self.vocab.functions


class MultiCategorical(Valued):
    """Up to `max_length` categorical values per row (tags, genres), pooled by their mean.

    Args:
        separator: str or None. Splits a text column into values; None for a list column.
        max_length: int >= 1. Values after it are dropped.
        (others as in `Categorical`)
    """

    type: Literal["multi_categorical"] = "multi_categorical"
    group: Group
    vocab: Encoding = Vocab()
    dim: int = Field(default=16, ge=1)
    dtype: Dtype = "str"
    separator: str | None = None
    max_length: int = Field(default=4, ge=1)
    required: bool = False
    drift: float | None = Field(default=None, gt=0, le=1)

    @property
    def kind(self) -> Kind:
        return self.dtype

    @property
    def functions(self) -> int:
        return self.vocab.functions

    @property
    def max_values(self) -> int:
        return self.max_length


class Numeric(Valued):
    """One number per row.

    Args:
        transform: "none", "log1p" (sign(x) log(1 + |x|)), "standardize" (zero mean, unit variance over training),
            "log1p_standardize" (both, in this order) or "bucketize" (quantiles over training, then an embedding).
        buckets: int >= 2. Number of quantiles, only for "bucketize".
        dim: int >= 1. Embedding width, only for "bucketize"; the other transforms enter the model as one number.
        default: float. Value, before the transform, of a missing number.
        drift: float in (0, 1] or None. Jensen-Shannon divergence above which validation stops the run.
    """

    type: Literal["numeric"] = "numeric"
    group: Group
    transform: Literal["none", "log1p", "standardize", "log1p_standardize", "bucketize"] = "standardize"
    buckets: int = Field(default=16, ge=2)
    dim: int = Field(default=8, ge=1)
    default: float = Field(default=0.0, allow_inf_nan=False)
    required: bool = False
    drift: float | None = Field(default=None, gt=0, le=1)

    @property
    def kind(self) -> Kind:
        return "float"

    @property
    def is_number(self) -> bool:
        return self.transform != "bucketize"
