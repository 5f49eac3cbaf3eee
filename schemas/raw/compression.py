"""Compressed files: by the ending of their names, or by their first bytes where the name has no ending."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO, cast

from mixrank.schemas.raw.storage import open_stored

# Codec -> the bytes that its files begin with.
MAGIC = {
    "gz": b"\x1f\x8b\x08",
    "bz2": b"BZh",
    "xz": b"\xfd7zXZ\x00",
    "zst": b"\x28\xb5\x2f\xfd",
    "lz4": b"\x04\x22\x4d\x18",
}
# What the standard library has no codec for is read through Arrow.
_OF_ARROW = {"zst": "zstd", "lz4": "lz4"}
DAMAGED = (EOFError, zlib.error, lzma.LZMAError)


def codec_of(name: str) -> str | None:
    """The codec that a file's name ends with, or None."""
    ending = name.rpartition(".")[2].lower()
    return ending if ending in MAGIC else None


def codec_within(head: bytes) -> str | None:
    """The codec that a file's first bytes tell, or None."""
    return next((codec for codec, magic in MAGIC.items() if head.startswith(magic)), None)


@contextmanager
def open_raw(path: str, codec: str | None) -> Iterator[BinaryIO]:
    """The decompressed bytes of a file; a read gives as many as asked for, unless the file ends.

    Args:
        path: path or URL.
        codec: of `MAGIC`, or None.

    Raises:
        ValueError: naming the file, if it is cut off or damaged.
        OSError: if it is missing or must not be read.
    """
    with ExitStack() as stack:
        source = stack.enter_context(open_stored(path))
        try:
            yield stack.enter_context(_decompressed(source, codec)) if codec is not None else source
        except (*DAMAGED, OSError) as error:
            # Those of the system have a number, those of a damaged content have none.
            if codec is None or (isinstance(error, OSError) and error.errno is not None):
                raise
            state = "is cut off" if isinstance(error, EOFError) or "runcated" in str(error) else "is damaged"
            raise ValueError(f"{path} {state} ({codec}: {error}); write or copy it again") from None


def _decompressed(source: BinaryIO, codec: str) -> BinaryIO:
    if codec in _OF_ARROW:
        return cast(BinaryIO, io.BufferedReader(_ArrowStream(source, _OF_ARROW[codec]), 2**20))
    standard: Any = {"gz": gzip.GzipFile, "bz2": bz2.BZ2File, "xz": lzma.LZMAFile}[codec]
    return cast(BinaryIO, standard(fileobj=source) if codec == "gz" else standard(source))


class _ArrowStream(io.RawIOBase):
    """A stream that Arrow decompresses, as Python's streams are."""

    def __init__(self, source: BinaryIO, codec: str) -> None:
        from mixrank.schemas.arrow import pa

        self._stream = pa.CompressedInputStream(pa.PythonFile(source, "r"), codec)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = self._stream.read(len(buffer))
        buffer[: len(read)] = read
        return len(read)
