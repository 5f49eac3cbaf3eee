"""Files beside a log, from which a spec looks up what belongs to a key."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixrank.schemas import AnyFromFile, FeatureSpec, SideFile
from mixrank.schemas.arrow import pa
from mixrank.schemas.naming import nearest
from mixrank.schemas.raw.batch import as_python
from mixrank.schemas.raw.find import files_at
from mixrank.schemas.raw.raw_file import RawFile
from mixrank.schemas.raw.storage import open_stored
from mixrank.schemas.raw.values import RawColumn, convert
from mixrank.schemas.safe_text import shown

# Bytes that are hashed at a time.
BLOCK = 1 << 20


@dataclass(frozen=True)
class SideTable:
    """Keys and values of a side file, in the order of its rows.

    Args:
        keys: int64 or text, `(rows,)`, distinct.
        values: int64, text or float32, `(rows,)` or `(rows, dim)`.
        missing: bool, `(rows,)`: where there is a key without a value; zeros or "" are in `values` there.
    """

    keys: NDArray[Any]
    values: NDArray[Any]
    missing: NDArray[np.bool_]


def with_side_files(spec: FeatureSpec, folder: str) -> FeatureSpec:
    """The spec with every side file found, its keys checked and its bytes hashed.

    Args:
        spec: its files are relative to `folder`.
        folder: path, or address in an object store.

    Raises:
        ValueError: naming the file that is missing or not one file, or the row whose key is missing, bad or not the
            first of its kind.
    """
    return spec.with_files(lambda feature: _found(spec, feature, folder))


def read_side_file(spec: FeatureSpec, feature: AnyFromFile) -> SideTable:
    """Everything that a feature looks up.

    Args:
        spec, feature: the declaration, after `with_side_files`.

    Raises:
        ValueError: naming file and row of a key that is missing, bad or not the first of its kind, and of a value that
            does not fit; or if the file has changed since `with_side_files`.
    """
    found = feature.found
    if found is None:
        raise ValueError(f"the file {feature.file} of `{feature.name}` has not been looked for yet")
    file = _file(found.path)
    if _sha256(file) != found.sha256:
        raise ValueError(f"{file.path} of `{feature.name}` has changed since the run began: run again")
    dim, separator = feature.value_dim, feature.value_separator
    value = RawColumn(feature.value_column, feature.value_kind, many=dim is not None, separator=separator, exactly=dim)
    keys, values = _read(file, [_key(spec, feature), value])
    _check_distinct(file, feature, keys)
    missing = values.is_null().to_numpy(zero_copy_only=False)
    if dim is not None:
        lengths = values.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        missing = lengths == 0
        dense = np.zeros((len(values), dim), np.float32)
        dense[~missing] = values.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
        return SideTable(_numpy(keys), dense, missing)
    return SideTable(_numpy(keys), _numpy(values), missing)


def _found(spec: FeatureSpec, feature: AnyFromFile, folder: str) -> SideFile:
    file = _file(f"{folder.rstrip('/')}/{feature.file}")
    (keys,) = _read(file, [_key(spec, feature)])
    _check_distinct(file, feature, keys)
    return SideFile(path=file.path, sha256=_sha256(file), rows=len(keys))


def _file(path: str) -> RawFile:
    files = files_at(path).files
    if len(files) != 1:
        raise ValueError(f"a side file must be one file, {path} matches {len(files)}")
    return replace(files[0], folders=())


def _key(spec: FeatureSpec, feature: AnyFromFile) -> RawColumn:
    """The column of the keys, with the type of the feature whose value is looked up."""
    owner = next(each for each in spec.categorical if each.name == feature.of)
    return RawColumn(feature.key_column, owner.kind, required=True)


def _read(file: RawFile, columns: Sequence[RawColumn]) -> list[pa.Array]:
    """Converted columns of all rows."""
    known = file.schema().names
    for column in columns:
        if column.name not in known:
            raise ValueError(f"{file.path} has no column `{column.name}`{nearest(column.name, known)}")
    parts: list[list[pa.Array]] = [[pa.array([], column.arrow_type)] for column in columns]
    for batch in file.read([column.name for column in columns]):
        if batch.bad:
            row, text, reason = batch.bad[0]
            raise ValueError(f"{file.path}, row {row}: {reason}: {shown(text)}")
        for column, part in zip(columns, parts, strict=True):
            array = batch.table[column.name]
            array = pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
            try:
                typed, bad = convert(array, column)
            except ValueError as error:
                raise ValueError(f"{file.path}, column `{column.name}`: {error}") from error
            if bad:
                place = min(bad)
                came = as_python(array[place])
                came = shown(came.decode(errors="replace") if isinstance(came, bytes) else came)
                raise ValueError(
                    f"{file.path}, row {int(batch.rows[place])}: `{column.name}` {bad[place]}, received {came}"
                )
            part.append(typed)
    return [pa.concat_arrays(part) for part in parts]


def _check_distinct(file: RawFile, feature: AnyFromFile, keys: pa.Array) -> None:
    if not len(keys):
        raise ValueError(f"{file.path} of `{feature.name}` has no rows")
    codes = keys.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    distinct, first = np.unique(codes, return_index=True)
    if len(distinct) < len(codes):
        again = int(np.setdiff1d(np.arange(len(codes)), first)[0])
        before = int(first[codes[again]])
        raise ValueError(
            f"{file.path} of `{feature.name}`: rows {before + 1} and {again + 1} have the same "
            f"`{feature.key_column}`, {shown(as_python(keys[again]))}; a key may occur once"
        )


def _numpy(array: pa.Array) -> NDArray[Any]:
    """int64, float32 or text; 0 or "" where the array is null."""
    filled = array.fill_null("" if pa.types.is_string(array.type) else 0).to_numpy(zero_copy_only=False)
    return filled.astype(np.float32) if filled.dtype == np.float64 else filled


def _blocks(file: RawFile) -> Iterator[bytes]:
    with open_stored(file.path) as source:
        while block := source.read(BLOCK):
            yield block


def _sha256(file: RawFile) -> str:
    digest = hashlib.sha256()
    for block in _blocks(file):
        digest.update(block)
    return digest.hexdigest()
