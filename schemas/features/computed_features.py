"""Features that Transform computes from other columns: neither a log nor a request has a column of them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from mixrank.schemas.features.encodings import Encoding, Hash
from mixrank.schemas.features.formulas import names_in
from mixrank.schemas.features.named import Dtype, Group, Kind, Valued
from mixrank.schemas.features.row_features import Number


class Match(Valued):
    """How often the row's own value occurs in the user's histories, how recently, and with which outcomes.

    Computed by Transform from the row's value and its histories, in training and in the exported graph alike: neither a
    log nor a request has a column of it. Values are compared as they are, not by their ids, so that rare ones match as
    well; a row and an event with several values match if they share one. Of the n events that match, n_f have flag f,
    and the newest known time is s seconds ago:

        log(1 + n),   1 / (1 + log(1 + s / 3600)),   n_f / (n + 1) for each flag

    All are 0 without a match.

    Args:
        of: name of a categorical item feature that histories list.
        histories: names of the histories that are searched; if empty all of impressions that list `of`. Those of event
            tables are searched where they are named.
        recency: bool. Whether the time of the newest match is one of the numbers; its histories then list a `TimeGap`.
        flags: outcomes to count; each a flag of an `Action` in its histories.
    """

    type: Literal["match"] = "match"
    of: str
    histories: tuple[str, ...] = ()
    recency: bool = True
    flags: tuple[str, ...] = ()

    @property
    def group(self) -> Group:
        """That of what it depends on and differs between the candidates of a request."""
        return "item"

    @property
    def kind(self) -> Kind:
        return "float"

    @property
    def max_values(self) -> int:
        return 1 + self.recency + len(self.flags)

    @property
    def dim(self) -> int:
        """Width of its vector, the numbers themselves."""
        return self.width

    @property
    def is_number(self) -> bool:
        return True


class Cross(Valued):
    """The combination of the row's own values of several features, as one category with an embedding of its own.

    Computed by Transform from the raw values, in training and in the exported graph alike: neither a log nor a request
    has a column of it. Where one of the values is missing, so is the combination.

    Args:
        of: names of two or more features; each a `Categorical`, or the scenario.
        group: "item" if one of them describes the item, else "user" or "context".
        vocab: `Hash` or `Vocab`. A vocabulary of combinations is large: give it a `min_count`.
        dim: int >= 1. Embedding width.
    """

    type: Literal["cross"] = "cross"
    of: tuple[str, ...] = Field(min_length=2)
    group: Group
    vocab: Encoding = Hash(size=100_000)
    dim: int = Field(default=16, ge=1)

    @property
    def dtype(self) -> Dtype:
        """Type of what is hashed or counted: the texts of the values, one behind the other."""
        return "str"

    @property
    def kind(self) -> Kind:
        return self.dtype

    @property
    def functions(self) -> int:
        return self.vocab.functions


class Expression(Number):
    """A number that is computed from other numbers of the row.

    Computed by Transform from the raw numbers, in 32 bits, in training and in the exported graph alike: neither a log
    nor a request has a column of it. Where one of its numbers is missing and has no `default`, or the value is not
    finite (a division by zero), it is missing.

    Args:
        formula: arithmetic over `Numeric` features: `+ - * /`, numbers, and the functions `abs`, `exp`, `log1p`, `max`,
            `min` and `sqrt`.
        group: "item" if one of them describes the item, else "user" or "context".
        (others as in `Number`)
    """

    type: Literal["expression"] = "expression"
    group: Group
    formula: str

    @field_validator("formula")
    @classmethod
    def _check_formula(cls, formula: str) -> str:
        if not names_in(formula):
            raise ValueError(f"`formula` must name a column, received {formula!r}")
        return formula

    @property
    def of(self) -> tuple[str, ...]:
        """The columns that it is computed from."""
        return names_in(self.formula)
