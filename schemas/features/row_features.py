"""Features of a row that a log and a request carry in a column of their own."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mixrank.schemas.features.encodings import Encoding, Vocab
from mixrank.schemas.features.named import Dtype, Kind, Place, Valued
from mixrank.schemas.features.vector_file import VectorFile

SeveralPooling = Literal["mean", "sum", "max", "sqrtn", "attention"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
# Transform of a number that knows edges -> how many it takes at least.
LEAST_EDGES = {"bucketize": 1, "piecewise_linear": 2}


class Categorical(Valued):
    """One categorical value per row.

    Args:
        group: "user", "item" or "context"; "event" if rows have no such column, but events of histories.
        vocab: `Vocab` or `Hash`.
        dim: int >= 1. Embedding width.
        dtype: "int" or "str". Type of the raw column.
        table: name of another categorical feature, or None. Its vocabulary and embedding table are used, such as those
            of the item for the item that was bought last: a value has one id and one embedding wherever it stands.
            `dtype`, `vocab` and `dim` are those of that feature, whose values alone its vocabulary counts.
        initial: file with the vectors in which the embeddings of its vocabulary begin, or None. A value that the file
            lacks begins at random, as without a file. A warm start comes after it: what was learned counts.
        frozen: bool. Whether training leaves the vectors of `initial` as they are. A value that the file lacks then has
            zeros, and no warm start changes them.
        required: bool. Whether a serving request must carry it.
        drift: float in (0, 1] or None. L-infinity distance between training and evaluation above which
            validation stops the run.
    """

    type: Literal["categorical"] = "categorical"
    group: Place
    vocab: Encoding = Vocab()
    dim: int = Field(default=16, ge=1)
    dtype: Dtype = "int"
    table: str | None = None
    initial: VectorFile | None = None
    frozen: bool = False
    required: bool = False
    drift: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _check_initial(self) -> Categorical:
        what = f"categorical `{self.name}`"
        if self.frozen and self.initial is None:
            raise ValueError(f"{what}: `frozen` embeddings come from a file, name it in `initial`")
        if self.initial is None:
            return self
        if self.table is not None:
            raise ValueError(f"{what} uses the table of `{self.table}`: name the file in `initial` of that feature")
        if not isinstance(self.vocab, Vocab):
            raise ValueError(f"{what}: `initial` needs a Vocab, since values of a Hash share their rows")
        return self

    @property
    def is_frozen(self) -> bool:
        return self.frozen

    @property
    def kind(self) -> Kind:
        return self.dtype

    @property
    def owner(self) -> str:
        return self.table or self.name

    @property
    def functions(self) -> int:
        return self.vocab.functions


class MultiCategorical(Valued):
    """Up to `max_length` categorical values per row (tags, genres), pooled to one vector.

    Args:
        separator: str or None. Splits a text column into values; None for a list column.
        max_length: int >= 1. Values after it are dropped.
        pooling: how the embeddings of the values become one: "mean", "sum", "max", "sqrtn" (their sum, divided by the
            square root of their number) or "attention" (weights that are learned); missing values are left out.
        weights: name of a column with one number >= 0 for each value, or None; "max" takes none. It weighs the values
            of a row, and in histories those of each event. Where a row or event has values and no weights, each
            weighs 1.
        weight_separator: str or None. Where the text of the column holds the weights, what stands between a value and
            its weight, as in `comedy:0.7|drama:0.3`; None if the log has `weights` as a column of its own.
        (others as in `Categorical`)
    """

    type: Literal["multi_categorical"] = "multi_categorical"
    group: Place
    vocab: Encoding = Vocab()
    dim: int = Field(default=16, ge=1)
    dtype: Dtype = "str"
    table: str | None = None
    separator: str | None = None
    max_length: int = Field(default=4, ge=1)
    pooling: SeveralPooling = "mean"
    weights: str | None = None
    weight_separator: str | None = Field(default=None, min_length=1)
    required: bool = False
    drift: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _check_weights(self) -> MultiCategorical:
        what = f"multi-categorical `{self.name}`"
        if self.weights is not None and self.pooling == "max":
            raise ValueError(f"{what}: pooling='max' takes no `weights`")
        if self.weight_separator is not None:
            if self.weights is None:
                raise ValueError(f"{what}: `weight_separator` needs a name for the column of the weights in `weights`")
            if self.separator in (None, self.weight_separator):
                raise ValueError(
                    f"{what}: `weight_separator` needs another `separator` between the values, received "
                    f"{self.separator!r}"
                )
        return self

    @property
    def kind(self) -> Kind:
        return self.dtype

    @property
    def owner(self) -> str:
        return self.table or self.name

    @property
    def functions(self) -> int:
        return self.vocab.functions

    @property
    def max_values(self) -> int:
        return self.max_length


class Number(Valued):
    """How a number enters a model.

    Transforms, applied in training and in the exported graph alike, after `default` and `clip`:

    * "none": the number.
    * "log1p": `sign(x) log(1 + |x|)`.
    * "standardize": `(x - mean) / deviation`, both over training.
    * "log1p_standardize": both, in this order.
    * "bucketize": the number of edges that are at most x, as an id with an embedding.
    * "piecewise_linear": for edges b_0 < ... < b_T the T numbers `e_t = (x - b_{t-1}) / (b_t - b_{t-1})`, at least 0
      and at most 1. A linear layer over them, which every model has, is a piecewise linear function of x with a slope
      of its own in each interval (Y. Gorishniy, I. Rubachev, A. Babenko, "On Embeddings for Numerical Features in
      Tabular Deep Learning", NeurIPS 2022, equation 1, except that the first and the last interval end there: a number
      beyond the edges counts as the nearest of them). An interval of width 0 counts as passed from its edge on.
    * "autodis": as "standardize", and then an embedding that the model learns as a mean of `buckets` meta-embeddings,
      whose weights depend on the number (`mixrank.layers.AutoDis`).

    A missing number, one that is not finite included, has an id of its own (0), or is the first of the numbers of
    "piecewise_linear" and "autodis", which is 1 where all others are 0. That number is there only without a `default`.

    Args:
        transform: one of the above.
        buckets: int >= 2. For "bucketize" the number of ids, for "piecewise_linear" the number T of intervals; the
            edges are quantiles of the training rows, where a missing number counts only if it has a `default`. For
            "autodis" the number of meta-embeddings.
        edges: ascending numbers in place of quantiles. For "bucketize" k edges make k + 1 ids, for
            "piecewise_linear" they are b_0 to b_T.
        dim: int >= 1. Embedding width, only for "bucketize" and "autodis".
        temperature: float > 0. For "autodis" alone: the lower it is, the more a number has the embedding of one bucket.
        clip: (lowest, highest) or None. A number outside becomes the nearer of both.
        default: float or None. Stands for a missing number. If None, a missing number is one of its own for
            "bucketize", "piecewise_linear" and "autodis", and 0 before the other transforms.

    Raises:
        ValueError: edges that do not ascend, or that the transform does not take; both `edges` and `buckets`; a `clip`
            whose lowest number is not below its highest.
    """

    group: Place
    transform: Literal[
        "none", "log1p", "standardize", "log1p_standardize", "bucketize", "piecewise_linear", "autodis"
    ] = "standardize"
    buckets: int = Field(default=16, ge=2)
    edges: tuple[Finite, ...] = ()
    dim: int = Field(default=8, ge=1)
    clip: tuple[Finite, Finite] | None = None
    default: Finite | None = None
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check(self) -> Number:
        what = f"{type(self).__name__.lower()} `{self.name}`"
        if self.clip is not None and self.clip[0] >= self.clip[1]:
            raise ValueError(f"{what}: `clip` takes (lowest, highest), received {self.clip}")
        if self.temperature != 1 and self.transform != "autodis":
            raise ValueError(f"{what}: `temperature` is for transform='autodis', not for {self.transform!r}")
        if not self.edges:
            return self
        if self.transform not in LEAST_EDGES:
            raise ValueError(
                f"{what}: `edges` are for transform='bucketize' or 'piecewise_linear', not for {self.transform!r}"
            )
        if len(self.edges) < LEAST_EDGES[self.transform]:
            raise ValueError(f"{what}: transform={self.transform!r} takes at least 2 `edges`, received {self.edges}")
        if any(left >= right for left, right in pairwise(self.edges)):
            raise ValueError(f"{what}: `edges` must ascend, received {self.edges}")
        if self.buckets != type(self).model_fields["buckets"].default:
            raise ValueError(f"{what}: give `edges` or the number of quantiles in `buckets`, not both")
        return self

    @property
    def kind(self) -> Kind:
        return "float"

    @property
    def intervals(self) -> int:
        """Ids of a bucketized number besides 0; intervals of a piecewise linear one."""
        if not self.edges:
            return self.buckets
        return len(self.edges) + 1 if self.transform == "bucketize" else len(self.edges) - 1

    @property
    def shape(self) -> tuple[int, ...]:
        own = self.default is None
        match self.transform:
            case "piecewise_linear":
                return (self.intervals + own,)
            case "autodis":
                return (1 + own,)
        return ()

    @property
    def is_embedded_number(self) -> bool:
        return self.transform == "autodis"

    @property
    def is_number(self) -> bool:
        return self.transform != "bucketize"


class Numeric(Number):
    """One number per row.

    Args:
        (others as in `Number`)
        required: bool. Whether a serving request must carry it.
        drift: float in (0, 1] or None. Jensen-Shannon divergence above which validation stops the run.
    """

    type: Literal["numeric"] = "numeric"
    required: bool = False
    drift: float | None = Field(default=None, gt=0, le=1)


class Vector(Valued):
    """A vector of numbers per row, such as an embedding of text or images that another model has computed.

    It enters the model as it is, beside the other features of its group. A row has exactly `dim` numbers or none; a
    missing vector is zeros.

    Args:
        group: as in `Categorical`.
        dim: int >= 1. Number of its numbers.
        normalize: bool. Whether it is divided by its length, `x / |x|`; zeros stay zeros.
        separator: str or None. Splits a text column into numbers; None for a list column.
        required: bool. Whether a serving request must carry it.
        drift: float in (0, 1] or None. Jensen-Shannon divergence, over all its numbers, above which validation stops
            the run.
    """

    type: Literal["vector"] = "vector"
    group: Place
    dim: int = Field(ge=1)
    normalize: bool = False
    separator: str | None = None
    required: bool = False
    drift: float | None = Field(default=None, gt=0, le=1)

    @property
    def kind(self) -> Kind:
        return "float"

    @property
    def max_values(self) -> int:
        return self.dim

    @property
    def exact(self) -> bool:
        return True

    @property
    def is_number(self) -> bool:
        return True
