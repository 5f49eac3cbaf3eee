"""How the values of a categorical feature become ids."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from mixrank.schemas.naming import Declaration


class Vocab(Declaration):
    """Ids from a vocabulary counted on the training split.

    Args:
        min_count: int >= 1. Values seen less often go to the out-of-vocabulary buckets.
        oov: int >= 1. Number of hashed out-of-vocabulary buckets.
        max_size: int or None. Keep only the most frequent values.
    """

    # Every value has a row of its own.
    functions: ClassVar[int] = 1

    type: Literal["vocab"] = "vocab"
    min_count: int = Field(default=1, ge=1)
    oov: int = Field(default=1, ge=1)
    max_size: int | None = Field(default=None, ge=1)


class Hash(Declaration):
    """Ids from a stable hash of the value, without a vocabulary.

    With several functions, a value has a bucket in each, all in one table, and its embedding is the sum of their rows
    (D. T. Svenstrup, J. Hansen, O. Winther, "Hash Embeddings for Efficient Word Representations", NeurIPS 2017, without
    its importance weights; C. Zhang et al., "Model Size Reduction Using Frequency Based Double Hashing for Recommender
    Systems", RecSys 2020, for every value alike). Two values have the same embedding only where they share all buckets,
    in any order. Of n values, a share of about `1 - exp(-n / size)` does so with one function, and
    `1 - exp(-2 n / size^2)` with two.

    One number holds all buckets of a value: its id is `1 + fingerprint mod size^functions`, and the digits of `id - 1`
    to the base `size` are the buckets.

    Args:
        size: int >= 1. Number of buckets, and of the table's rows besides that of a missing value.
        functions: int >= 1. Number of hash functions; `size^functions` must be below 2^63.
    """

    type: Literal["hash"] = "hash"
    size: int = Field(ge=1)
    functions: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _check_ids(self) -> Hash:
        # No power of a huge number: it would never end.
        if self.size > 1 and self.functions * math.log2(self.size) >= 63:
            raise ValueError(
                f"`size` ** `functions` of Hash must be below 2 ** 63, received {self.size} ** {self.functions}"
            )
        return self

    @property
    def ids(self) -> int:
        """Number of ids besides 0."""
        return self.size**self.functions


Encoding = Annotated[Vocab | Hash, Field(discriminator="type")]
