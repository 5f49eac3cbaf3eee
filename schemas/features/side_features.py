"""Features that are looked up in a file beside the log by the value of another feature."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mixrank.schemas.features.encodings import Encoding, Vocab
from mixrank.schemas.features.named import Dtype, Group, Kind, Valued
from mixrank.schemas.features.row_features import Number
from mixrank.schemas.features.vector_file import SideFile, check_matrix


class FromFile(Valued):
    """What a file says about the value of a `Categorical` of the row.

    The file has one row for each key, in Parquet, text or JSON lines, and is a file of the data folder. Transform holds
    it, in training and in the exported graph alike: neither a log nor a request has a column of it. A key that is
    missing or occurs twice, and a value that does not fit, stop a run with the file and the row.

    Args:
        of: name of a `Categorical`; its raw value is the key.
        file: path of the file, relative to the data folder.
        key: column of the keys in the file; the name in `of` if None.
        value: column of the values in the file; the feature's own name if None.
        histories: names of histories that list `of`, whose events get what the file says about their own values as
            well, by the same table, edges and moments.
        found: filled in by a run.
    """

    of: str
    file: str = Field(min_length=1)
    key: str | None = None
    value: str | None = None
    histories: tuple[str, ...] = ()
    found: SideFile | None = None

    @model_validator(mode="after")
    def _check_columns(self) -> FromFile:
        if self.key_column == self.value_column:
            raise ValueError(f"`{self.name}`: `key` and `value` must be two columns, both are `{self.key_column}`")
        return self

    @property
    def key_column(self) -> str:
        return self.key or self.of

    @property
    def value_column(self) -> str:
        return self.value or self.name

    @property
    def value_kind(self) -> Kind:
        """Type of the values in the file."""
        return self.kind

    @property
    def value_dim(self) -> int | None:
        """Numbers of a value that is a vector, or None."""
        return None

    @property
    def value_separator(self) -> str | None:
        """What splits the text of a vector."""
        return None

    @property
    def file_of_keys(self) -> str | None:
        """Path of the file with the keys of the rows of a matrix."""
        return None


class Lookup(FromFile):
    """A category that a file says about the value of another feature, such as the category of an item.

    A key that the file lacks, or whose value is empty there, is a missing value.

    Args:
        group: that of the feature in `of`.
        vocab: `Vocab` or `Hash`.
        dim: int >= 1. Embedding width.
        dtype: "int" or "str". Type of the values in the file.
        (others as in `FromFile`)
    """

    type: Literal["lookup"] = "lookup"
    group: Group
    vocab: Encoding = Vocab()
    dim: int = Field(default=16, ge=1)
    dtype: Dtype = "str"

    @property
    def kind(self) -> Kind:
        return self.dtype

    @property
    def functions(self) -> int:
        return self.vocab.functions


class NumericLookup(FromFile, Number):
    """A number that a file says about the value of another feature, such as the price of an item.

    A key that the file lacks, or whose value is empty there, is a missing number, in a row and in an event.

    Args:
        (as in `FromFile` and `Number`; `group` is that of the feature in `of`. Edges and moments are those of the
        rows. With `histories`, any transform but "autodis")
    """

    type: Literal["numeric_lookup"] = "numeric_lookup"
    group: Group


class VectorTable(FromFile):
    """A vector that a file says about the value of another feature, such as an embedding of an item's text.

    The vectors are a frozen embedding table of the model: Transform makes a number of the row of the file, 0 for a key
    that the file lacks, whose vector is zeros. Training does not change them.

    Args:
        group: that of the feature in `of`.
        dim: int >= 1. Numbers of a vector.
        normalize: bool. Whether each is divided by its length, `x / |x|`; zeros stay zeros.
        separator: str or None. Splits a text column into numbers; None for a list column.
        key_file: for a `file` that is a matrix in NumPy's format (`.npy`, rows of `dim` numbers; a row of NaN is a
            missing vector), the file with the key of each row, in their order: a `.npy` as well, or a table with the
            column `key`. `value` is not read then.
        (others as in `FromFile`)
    """

    type: Literal["vector_table"] = "vector_table"
    group: Group
    dim: int = Field(ge=1)
    normalize: bool = False
    separator: str | None = None
    key_file: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _check_matrix(self) -> VectorTable:
        check_matrix(self.file, self.key_file, self.separator)
        return self

    @property
    def file_of_keys(self) -> str | None:
        return self.key_file

    @property
    def kind(self) -> Kind:
        """Type of what Transform makes of it: a number of a row."""
        return "int"

    @property
    def value_kind(self) -> Kind:
        return "float"

    @property
    def value_dim(self) -> int:
        return self.dim

    @property
    def value_separator(self) -> str | None:
        return self.separator

    @property
    def is_frozen(self) -> bool:
        return True

    @property
    def ids(self) -> int:
        """Rows of its table, that of a missing key included."""
        if self.found is None:
            raise ValueError(f"the file {self.file} of `{self.name}` has not been looked for yet")
        return 1 + self.found.rows
