"""Arrow, with types that are stored as programs refused: the one module that imports pyarrow.

A Parquet or Arrow file may hold an extension type as a pickle. pyarrow 10 loads it and so runs what its writer wanted
(CVE-2023-47248); `pyarrow_hotfix` stops that for the whole process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pyarrow_hotfix

if TYPE_CHECKING:
    import gzip

    import pandas as pd

__all__ = ["open_parquet", "pa", "pc", "pq", "read_frame"]
pyarrow_hotfix.install()


def open_parquet(source: Path | str | BinaryIO | gzip.GzipFile, name: str | None = None) -> pq.ParquetFile:
    """An open Parquet file.

    Args:
        source: path or open file.
        name: of an open file, for messages.

    Raises:
        ValueError: if one of its types is stored as a program; names the file.
        pyarrow.ArrowInvalid: if it is not a Parquet file.
    """
    with _without_programs(name or str(source)):
        file = pq.ParquetFile(source)
        # Types are made when the schema is asked for; no row is read before that.
        _ = file.schema_arrow
    return file


def read_frame(path: Path | str) -> pd.DataFrame:
    """The rows of a Parquet file.

    Raises:
        ValueError: if it is not a Parquet file, or as `open_parquet`.
    """
    try:
        return open_parquet(path).read().to_pandas()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} cannot be read as parquet: {error}") from None


@contextmanager
def _without_programs(name: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "arrow.py_extension_type" not in str(error):
            raise
        raise ValueError(
            f"{name} holds a column whose type is stored as a program (a pickle), which mixrank does not run: "
            "ask its writer for plain columns"
        ) from None
