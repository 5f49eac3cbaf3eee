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
from mixrank.schemas.features import MATRIX
from mixrank.schemas.naming import nearest
from mixrank.schemas.raw.batch import as_python
from mixrank.schemas.raw.find import files_at
from mixrank.schemas.raw.matrix import missing_rows, number_blocks, open_matrix
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
        values: int64, text or float32, `(rows,)`, or vectors `(rows, dim)`, which may be numbers of any type that are
            still in their file.
        missing: bool, `(rows,)`: where there is a key without a value; what `values` holds there means nothing.
    """

    keys: NDArray[Any]
    values: NDArray[Any]
    missing: NDArray[np.bool_]

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(first row, its vectors), block by block; zeros where one is missing."""
        for first, rows in number_blocks(self.values):
            yield first, np.where(self.missing[first : first + len(rows), None], np.float32(0), rows)

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Some vectors; zeros where one is missing."""
        return np.where(self.missing[rows, None], np.float32(0), np.asarray(self.values[rows], np.float32))


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
    if _sha256(found.path, found.keys) != found.sha256:
        raise ValueError(f"{found.path} of `{feature.name}` has changed since the run began: run again")
    if found.keys is not None:
        keys, matrix = _matrix(spec, feature, found.path, found.keys)
        return SideTable(_numpy(keys), matrix, missing_rows(found.path, matrix))
    file = _file(found.path)
    dim, separator = feature.value_dim, feature.value_separator
    value = RawColumn(feature.value_column, feature.value_kind, many=dim is not None, separator=separator, exactly=dim)
    keys, values = _read(file, [_key(spec, feature), value])
    _check_distinct(file.path, feature, keys)
    missing = values.is_null().to_numpy(zero_copy_only=False)
    if dim is not None:
        lengths = values.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        missing = lengths == 0
        dense = np.zeros((len(values), dim), np.float32)
        dense[~missing] = values.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
        return SideTable(_numpy(keys), dense, missing)
    return SideTable(_numpy(keys), _numpy(values), missing)


def _found(spec: FeatureSpec, feature: AnyFromFile, folder: str) -> SideFile:
    path = f"{folder.rstrip('/')}/{feature.file}"
    beside = None if feature.file_of_keys is None else f"{folder.rstrip('/')}/{feature.file_of_keys}"
    if beside is not None:
        keys, _ = _matrix(spec, feature, path, beside)
    else:
        file = _file(path)
        path, (keys,) = file.path, _read(file, [_key(spec, feature)])
        _check_distinct(path, feature, keys)
    return SideFile(path=path, sha256=_sha256(path, beside), rows=len(keys), keys=beside)


def _matrix(spec: FeatureSpec, feature: AnyFromFile, path: str, beside: str) -> tuple[pa.Array, NDArray[Any]]:
    """Keys and vectors of a matrix."""
    matrix = open_matrix(path, 2, "fiu", f"a matrix of numbers, {feature.value_dim} a row,")
    if matrix.shape[1] != feature.value_dim:
        raise ValueError(
            f"{path} of `{feature.name}` has vectors of {matrix.shape[1]} numbers, not {feature.value_dim}"
        )
    if not beside.endswith(MATRIX):
        (keys,) = _read(_file(beside), [_key(spec, feature)])
    else:
        array = np.array(open_matrix(beside, 1, "iuUS", "an array of integers or text"))
        keys, bad = convert(pa.array(array.tolist()), _key(spec, feature))
        if bad:
            row = min(bad)
            raise ValueError(f"{beside}, row {row + 1}: key {bad[row]}, received {shown(array[row].item())}")
    _check_distinct(beside, feature, keys)
    if len(keys) != len(matrix):
        raise ValueError(f"{beside} has {len(keys)} keys for the {len(matrix)} rows of {path} of `{feature.name}`")
    return keys, matrix


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


def _check_distinct(path: str, feature: AnyFromFile, keys: pa.Array) -> None:
    if not len(keys):
        raise ValueError(f"{path} of `{feature.name}` has no rows")
    codes = keys.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    distinct, first = np.unique(codes, return_index=True)
    if len(distinct) < len(codes):
        again = int(np.setdiff1d(np.arange(len(codes)), first)[0])
        before = int(first[codes[again]])
        raise ValueError(
            f"{path} of `{feature.name}`: rows {before + 1} and {again + 1} have the same "
            f"`{feature.key_column}`, {shown(as_python(keys[again]))}; a key may occur once"
        )


def _numpy(array: pa.Array) -> NDArray[Any]:
    """int64, float32 or text; 0 or "" where the array is null."""
    filled = array.fill_null("" if pa.types.is_string(array.type) else 0).to_numpy(zero_copy_only=False)
    return filled.astype(np.float32) if filled.dtype == np.float64 else filled


def _blocks(path: str) -> Iterator[bytes]:
    with open_stored(path) as source:
        while block := source.read(BLOCK):
            yield block


def _sha256(path: str, beside: str | None = None) -> str:
    """Hash of a file, and of the one with its keys."""
    digest = hashlib.sha256()
    for block in _blocks(path):
        digest.update(block)
    if beside is not None:
        # Where the first ends is part of it.
        digest.update(_sha256(beside).encode())
    return digest.hexdigest()
