"""Delta of two versions: what turns a version that is there into another one, byte for byte.

Files that are equal are named by the base's; the others are cut into pieces, and each is compressed by Zstandard with
the part of the base's file where the same bytes may stand as its prefix (`zstd --patch-from`). Of an embedding table
remain the rows that changed, whatever their width and type, and wherever the table begins in the file.

The file is a zip archive: `delta.json`, and one entry per piece.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field

from mixrank.schemas.files import write_atomically
from mixrank.schemas.naming import Declaration, readable
from mixrank.serving.base import SUMS, check_sums, parse_sums

MANIFEST = "delta.json"
MEBIBYTE = 2**20
# Bytes of a piece; of the base around it, on both sides; and the most that tables may have grown for all to be found.
PIECE, SLACK, GROWTH = 128 * MEBIBYTE, MEBIBYTE, 512 * MEBIBYTE
LEVEL = 3
# Bounds of a window's size, as a power of 2, on every machine of 64 bits.
WINDOW = (10, 31)


class Piece(Declaration):
    """Part of a file, made from part of the base's.

    Args:
        size: its bytes.
        low, high: bytes of the base's file that it was compressed with.
    """

    size: int = Field(gt=0, le=PIECE)
    low: int = Field(ge=0)
    high: int = Field(ge=0)


class Patched(Declaration):
    """A file that is not in the base as it is.

    Args:
        base: name of the base's file that the pieces are made from, or None.
        pieces: in order.
    """

    base: str | None
    pieces: tuple[Piece, ...]


class Manifest(Declaration):
    """What a delta is.

    Args:
        format: of the file.
        base: number of the base where the delta was made; elsewhere it may have another.
        base_sums: SHA-256 of the base's `SHA256SUMS`, by which the base is recognized.
        version: number of the version that it makes.
        sums: the whole `SHA256SUMS` of that version.
        same: file -> the base's file that equals it.
        patched: file -> how it is made.
    """

    format: Literal["mixrank delta 1"] = "mixrank delta 1"
    base: int
    base_sums: str
    version: int = Field(ge=0, lt=2**63)
    sums: str
    same: dict[str, str]
    patched: dict[str, Patched]


@dataclass(frozen=True)
class Sizes:
    """Bytes of a delta, and of the version that it makes."""

    delta: int
    version: int

    @property
    def ratio(self) -> float:
        return self.delta / max(1, self.version)


def write_delta(base: Path, version: Path, output: Path, say: Callable[[str], object] = print) -> Sizes:
    """Writes what turns one version into another.

    Memory: about 0.5 GiB, and as much more as tables have grown by, up to 0.5 GiB; to apply, half as much again.

    Args:
        base: folder of the version that is there.
        version: folder of the version to make.
        output: file; one that exists is replaced.
        say: called with a line for each file that differs.

    Raises:
        ValueError: if one of the versions has no SHA-256 sums or is not as they say.
    """
    known, wanted = (_checked_sums(folder) for folder in (base, version))
    names = {digest: name for name, digest in known.items()}
    same = {name: names[digest] for name, digest in wanted.items() if digest in names}

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            patched = {}
            for number, name in enumerate(sorted(set(wanted) - set(same))):
                old = base / name if name in known else None
                pieces, stored = [], 0
                for at, (piece, data) in enumerate(_pieces(version / name, old)):
                    archive.writestr(_entry(number, at), data)
                    pieces.append(piece)
                    stored += len(data)
                patched[name] = Patched(base=name if old else None, pieces=tuple(pieces))
                say(f"{name}: {stored:,} of {(version / name).stat().st_size:,} bytes")
            manifest = Manifest(
                base=int(base.name),
                base_sums=_sums_of(base),
                version=int(version.name),
                sums=(version / SUMS).read_text(encoding="utf-8"),
                same=same,
                patched=patched,
            )
            archive.writestr(MANIFEST, manifest.model_dump_json(indent=1))

    write_atomically(output, write)
    return Sizes(output.stat().st_size, sum((version / name).stat().st_size for name in (*wanted, SUMS)))


def read_manifest(delta: Path) -> Manifest:
    """What a delta says of itself.

    Raises:
        ValueError: if the file is missing, cut off, damaged or something else.
    """
    with _reading(delta) as archive:
        found = Manifest.model_validate_json(_stored(archive, MANIFEST))
        known = set(parse_sums(found.sums, f"`sums` of {delta}"))
        if {*found.same, *found.patched} != known or set(found.same) & set(found.patched):
            raise ValueError("its files are not those of its sums")
        for name in known | set(found.same.values()) | {each.base for each in found.patched.values() if each.base}:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or name == SUMS:
                raise ValueError(f"it names a file outside a version: {name!r}")
    return found


def find_base(manifest: Manifest, versions: Mapping[int, Path]) -> Path:
    """The version that a delta was made for, whatever its number is here.

    Raises:
        ValueError: if it is not there, or its files are not as its sums say.
    """
    for folder in versions.values():
        if (folder / SUMS).is_file() and _sums_of(folder) == manifest.base_sums:
            _checked_sums(folder)
            return folder
    raise ValueError(
        f"the delta makes version {manifest.version} from version {manifest.base}, which is not here: there are "
        f"{', '.join(map(str, versions)) or 'none'}. Copy version {manifest.base} or {manifest.version} here as a whole"
    )


def is_made(manifest: Manifest, folder: Path) -> bool:
    """Whether a version is the one that a delta makes, by its sums."""
    return (folder / SUMS).is_file() and (folder / SUMS).read_text(encoding="utf-8") == manifest.sums


def write_version(delta: Path, manifest: Manifest, base: Path, folder: Path) -> None:
    """Makes a version, and compares it with its SHA-256 sums.

    Args:
        delta: the file.
        manifest: what it says of itself.
        base: folder of the version that it was made for.
        folder: an empty folder.

    Raises:
        ValueError: if the delta is damaged.
    """
    with _reading(delta) as archive:
        for name, old in manifest.same.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with (base / old).open("rb") as source, (folder / name).open("xb") as target:
                while data := source.read(MEBIBYTE):
                    target.write(data)
        for number, name in enumerate(sorted(manifest.patched)):
            plan = manifest.patched[name]
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with (folder / name).open("xb") as target:
                for at, piece in enumerate(plan.pieces):
                    prefix = _part(base / plan.base, piece.low, piece.high) if plan.base else b""
                    target.write(_expand(_stored(archive, _entry(number, at)), prefix, piece.size))
        (folder / SUMS).parent.mkdir(exist_ok=True)
        (folder / SUMS).write_text(manifest.sums, encoding="utf-8")
        try:
            _checked_sums(folder)
        except ValueError as error:
            raise ValueError(f"it does not make the version: {str(error).replace(f'{folder}/', '')}") from None


def _pieces(file: Path, old: Path | None) -> Iterator[tuple[Piece, bytes]]:
    size, before = file.stat().st_size, old.stat().st_size if old else 0
    # What stands behind a table that grew has moved by as much at most.
    back, ahead = (SLACK + min(GROWTH, max(0, moved)) for moved in (size - before, before - size))
    for start in range(0, size, PIECE):
        data = _part(file, start, start + PIECE)
        low, high = (min(before, max(0, at)) for at in (start - back, start + len(data) + ahead))
        prefix = _part(old, low, high) if old else b""
        yield Piece(size=len(data), low=low, high=high), _compress(data, prefix)


def _part(file: Path, low: int, high: int) -> bytes:
    with file.open("rb") as handle:
        handle.seek(low)
        return handle.read(max(0, high - low))


def _compress(data: bytes, prefix: bytes) -> bytes:
    from backports.zstd import CompressionParameter, compress

    window = math.ceil(math.log2(len(data) + len(prefix)))
    options: dict[int, int] = {
        CompressionParameter.compression_level: LEVEL,
        CompressionParameter.enable_long_distance_matching: 1,
        CompressionParameter.window_log: min(WINDOW[1], max(WINDOW[0], window)),
    }
    return compress(data, options=options, zstd_dict=_prefix(prefix))


def _expand(data: bytes, prefix: bytes, size: int) -> bytes:
    from backports.zstd import DecompressionParameter, ZstdDecompressor

    options: dict[int, int] = {DecompressionParameter.window_log_max: WINDOW[1]}
    found = ZstdDecompressor(zstd_dict=_prefix(prefix), options=options).decompress(data, max_length=size + 1)
    if len(found) != size:
        raise ValueError(f"a piece of it has {len(found):,} bytes, not {size:,}")
    return found


def _prefix(data: bytes) -> Any:
    from backports.zstd import ZstdDict

    # Zstandard takes no dictionary of fewer than 8 bytes.
    return ZstdDict(data, is_raw=True).as_prefix if len(data) >= 8 else None


def _entry(file: int, piece: int) -> str:
    return f"{file}/{piece}"


def _stored(archive: zipfile.ZipFile, name: str) -> bytes:
    # An entry that zip has compressed as well could be far larger than the file.
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"its entry {name} is compressed by zip")
    return archive.read(name)


@contextmanager
def _reading(delta: Path) -> Iterator[zipfile.ZipFile]:
    """An open delta; whatever is wrong with it is said by its name."""
    try:
        with zipfile.ZipFile(delta) as archive:
            yield archive
    except zipfile.BadZipFile as error:
        raise ValueError(f"{delta} is no delta, or is cut off or damaged: copy it again ({error})") from None
    except OSError:
        raise
    # On damaged bytes zipfile, pydantic and Zstandard raise all kinds of errors.
    except Exception as error:
        why = readable(error) or type(error).__name__
        raise ValueError(f"{delta} is damaged or was not written by mixrank: {why}") from None


def _checked_sums(folder: Path) -> dict[str, str]:
    check_sums(folder, otherwise="")
    return parse_sums((folder / SUMS).read_text(encoding="utf-8"), str(folder / SUMS))


def _sums_of(folder: Path) -> str:
    return hashlib.sha256((folder / SUMS).read_bytes()).hexdigest()
