"""Files beside a log, as a spec names them and as a run finds them."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from mixrank.schemas.naming import Declaration

MATRIX = ".npy"


class SideFile(Declaration):
    """A side file as a run has found it; a run fills it in, a spec does not.

    Args:
        path: its path or address.
        sha256: hash of its bytes and those of `keys`, so that what is computed from it is computed again when it
            changes.
        rows: how many keys it has.
        keys: path or address of the file with the keys of its rows, if it is a matrix.
    """

    path: str
    sha256: str
    rows: int
    keys: str | None = None


def check_matrix(file: str, key_file: str | None, separator: str | None) -> None:
    """Refuses a matrix without keys, and what only one of matrix and table can have.

    Raises:
        ValueError: naming the file and the argument.
    """
    if not file.endswith(MATRIX):
        if key_file is not None:
            raise ValueError(f"`key_file` is for a matrix in `{MATRIX}`; {file} has its keys in the column `key`")
        return
    if key_file is None:
        raise ValueError(f"{file} is a matrix without keys: name the file that has them, row for row, in `key_file`")
    if separator is not None:
        raise ValueError(f"`separator` splits text; {file} holds numbers")


class VectorFile(Declaration):
    """A file with a vector for each value of a feature, in which its embeddings begin.

    Args:
        file: path of the file, relative to the data folder; one row a value. A matrix in NumPy's format if it ends in
            `.npy`.
        key: column of the values; the name of the feature if None.
        value: column of the vectors, each of the feature's `dim` numbers; not read of a matrix.
        separator: str or None. Splits a text column into numbers; None for a list column.
        key_file: for a matrix, the file with the value of each of its rows, in their order: a `.npy` as well, or a
            table with the column `key`.
        found: filled in by a run.
    """

    file: str = Field(kw_only=False, min_length=1)
    key: str | None = None
    value: str = "vector"
    separator: str | None = None
    key_file: str | None = Field(default=None, min_length=1)
    found: SideFile | None = None

    @model_validator(mode="after")
    def _check_matrix(self) -> VectorFile:
        check_matrix(self.file, self.key_file, self.separator)
        return self

    def __init__(self, file: str, **others: Any) -> None:
        super().__init__(file=file, **others)  # type: ignore[call-arg]

    # JSON is validated without it, or a missing file would be a TypeError.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]
