"""Matrices in NumPy's format `.npy`, whose numbers stay in the file until they are asked for."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from mixrank.schemas.encode import FLOAT32_END
from mixrank.schemas.raw.storage import open_stored
from mixrank.schemas.stores import is_url

# Bytes of a block, in 32 bits.
BLOCK_BYTES = 8 << 20
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def open_matrix(path: str, dims: int, kinds: str, what: str) -> NDArray[Any]:
    """The array of a file, mapped and not read; a file in an object store is copied to the disk first.

    Args:
        path: path or address.
        dims: how many axes it must have.
        kinds: the `dtype.kind`s that it may have.
        what: what the file must hold, for the error.

    Raises:
        ValueError: naming a file that is missing, cut off, not in this format or of another shape or type.
    """
    with ExitStack() as closing:
        try:
            file: Any = closing.enter_context(open_stored(path))
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        if is_url(path):
            stored, file = file, closing.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(stored, file)
            file.seek(0)
        try:
            version = npy.read_magic(file)
            if version not in _HEADERS:
                raise ValueError(f"format version {version[0]}.{version[1]}")
            shape, fortran, dtype = _HEADERS[version](file)
            if len(shape) != dims or dtype.kind not in kinds:
                raise ValueError(f"received {dtype} of shape {shape}")
            if 0 in shape:
                # Nothing can be mapped.
                return np.zeros(shape, dtype)
            return np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")
        except ValueError as error:
            raise ValueError(f"{path} must be {what} in NumPy's format `.npy`: {error}") from None


def number_blocks(matrix: NDArray[Any]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(first row, its rows in 32 bits), block by block."""
    step = max(1, BLOCK_BYTES // (4 * matrix.shape[1]))
    for first in range(0, len(matrix), step):
        yield first, np.asarray(matrix[first : first + step], np.float32)


def missing_rows(path: str, matrix: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows are all NaN.

    Raises:
        ValueError: naming the file and the row with another number that is not finite in 32 bits.
    """
    missing = np.zeros(len(matrix), bool)
    step = max(1, BLOCK_BYTES // (4 * matrix.shape[1]))
    for first in range(0, len(matrix), step):
        block = np.asarray(matrix[first : first + step])
        absent = np.isnan(block).all(axis=1)
        fits = (np.abs(block) < FLOAT32_END).all(axis=1)
        if len(wrong := np.flatnonzero(~fits & ~absent)):
            row = first + int(wrong[0])
            raise ValueError(
                f"{path}, row {row + 1}: has a number that is not finite in 32 bits; a row of NaN alone is a missing "
                "vector"
            )
        missing[first : first + step] = absent
    return missing
