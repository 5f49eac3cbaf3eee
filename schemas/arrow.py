"""Arrow, with types that are stored as programs refused: the one module that imports pyarrow.

A Parquet or Arrow file may hold an extension type as a pickle. pyarrow 10 loads it and so runs what its writer wanted
(CVE-2023-47248); `pyarrow_hotfix` stops that for the whole process.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pyarrow_hotfix

if TYPE_CHECKING:
    import gzip

    import pandas as pd

__all__ = ["lines_of", "open_parquet", "pa", "pc", "pq", "read_frame", "reading"]
pyarrow_hotfix.install()


def open_parquet(source: Path | str | BinaryIO | gzip.GzipFile, name: str | None = None) -> pq.ParquetFile:
    """An open Parquet file.

    Args:
        source: path or open file.
        name: of an open file, for messages.

    Raises:
        ValueError: if it is not a whole Parquet file, or one of its types is stored as a program; names the file.
    """
    with reading(name or str(source)):
        file = pq.ParquetFile(source)
        # Types are made when the schema is asked for; no row is read before that.
        _ = file.schema_arrow
    return file


def read_frame(path: Path | str) -> pd.DataFrame:
    """The rows of a Parquet file.

    Raises:
        ValueError: as `open_parquet`.
    """
    with reading(str(path)):
        return open_parquet(path).read().to_pandas()


def lines_of(data: bytes) -> pa.Array:
    """The lines of a file as large_binary, each without its line feed.

    They take what their bytes take, and 8 bytes each; as `bytes` objects they would take 33 more.

    >>> lines_of(b"red\n\ngreen\n").to_pylist()
    [b'red', b'', b'green']
    """
    read = np.frombuffer(data, np.uint8)
    feed = read == ord("\n")
    ends = np.flatnonzero(feed)
    if len(read) and not feed[-1]:
        ends = np.append(ends, len(read))
    # A line ends where it did, less the line feeds before it.
    offsets = np.concatenate([[0], ends - np.arange(len(ends))]).astype(np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(read[~feed])]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(ends), buffers)


@contextmanager
def reading(name: str, form: str = "parquet") -> Iterator[None]:
    """Where Arrow reads a file: its errors name the file.

    Args:
        name: of the file.
        form: that it should have.

    Raises:
        ValueError: if its content is damaged, or one of its types is stored as a program.
    """
    try:
        yield
    except (pa.ArrowInvalid, OSError, EOFError, zlib.error) as error:
        # Those of the system have a number, those of a damaged content have none.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{name} cannot be read as {form}: {error}") from None
    except RuntimeError as error:
        if "arrow.py_extension_type" not in str(error):
            raise
        raise ValueError(
            f"{name} holds a column whose type is stored as a program (a pickle), which mixrank does not run: "
            "ask its writer for plain columns"
        ) from None
