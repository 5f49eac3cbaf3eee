"""Files beside a log, as a spec names them and as a run finds them."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from mixrank.schemas.naming import Declaration


class SideFile(Declaration):
    """A side file as a run has found it; a run fills it in, a spec does not.

    Args:
        path: its path or address.
        sha256: hash of its bytes, so that what is computed from it is computed again when it changes.
        rows: how many keys it has.
    """

    path: str
    sha256: str
    rows: int


class VectorFile(Declaration):
    """A file with a vector for each value of a feature, in which its embeddings begin.

    Args:
        file: path of the file, relative to the data folder; one row a value.
        key: column of the values; the name of the feature if None.
        value: column of the vectors, each of the feature's `dim` numbers.
        separator: str or None. Splits a text column into numbers; None for a list column.
        found: filled in by a run.
    """

    file: str = Field(kw_only=False, min_length=1)
    key: str | None = None
    value: str = "vector"
    separator: str | None = None
    found: SideFile | None = None

    def __init__(self, file: str, **others: Any) -> None:
        super().__init__(file=file, **others)  # type: ignore[call-arg]

    # JSON is validated without it, or a missing file would be a TypeError.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]
