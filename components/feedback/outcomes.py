"""Outcomes of impressions: tables of any raw format -> rows with keys, a time and labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mixrank.schemas import FeatureSpec
from mixrank.schemas.arrow import pa
from mixrank.schemas.naming import nearest
from mixrank.schemas.raw import RawColumn, RawFile, convert, files_at
from mixrank.serving.drift import IMPRESSION

ORDER, FILE, NUMBER = "outcome_order", "outcome_file", "outcome_row"
TYPES = {"int": pa.int64(), "float": pa.float64(), "str": pa.string(), "flag": pa.int64(), "time": pa.int64()}


@dataclass(frozen=True)
class OutcomeColumns:
    """What outcomes are joined by and what they bring.

    Args:
        keys: the impression id alone; or user and item.
        timed: whether they have a time.
        values: labels, and other columns of a row that only its outcome may know: weights and the position.
    """

    keys: tuple[RawColumn, ...]
    timed: bool
    values: tuple[RawColumn, ...]

    @property
    def by_id(self) -> bool:
        return len(self.keys) == 1

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.keys]


class Outcomes:
    """Tables of outcomes.

    A table has `impression_id`, or else the columns of user, item and time, and any of the labels; the time is called
    and written as in the raw log. A table with ids need not have times: all its outcomes then count as in time.

    Args:
        sources: files, folders or patterns.
        spec: the columns.

    Raises:
        ValueError: if a table lacks its keys or has no label, one has ids and another has not, or no table has one of
            the labels.
    """

    def __init__(self, sources: Sequence[str], spec: FeatureSpec) -> None:
        self.spec = spec
        self.files: list[RawFile] = [file for source in sources for file in files_at(source).files]
        self._names = {file.path: file.schema().names for file in self.files}
        # Many rows have one ranking request; a column of that name does not tell them apart.
        has_ids = spec.request is None or spec.request.name != IMPRESSION
        by_id = {
            file.path: has_ids and IMPRESSION in names
            for file, names in zip(self.files, self._names.values(), strict=True)
        }
        if len(set(by_id.values())) > 1:
            with_ids, without = (next(path for path, has in by_id.items() if has is each) for each in (True, False))
            raise ValueError(f"{with_ids} has a column `{IMPRESSION}` and {without} has none: join them one by one")
        self.columns = self._columns(any(by_id.values()))
        for path, names in self._names.items():
            self._check(path, names)
        known = {name for names in self._names.values() for name in names}
        if missing := [label.name for label in spec.labels if label.name not in known]:
            raise ValueError(
                f"no table of outcomes has a column for the label `{missing[0]}`{nearest(missing[0], known)}"
            )

    def _columns(self, by_id: bool) -> OutcomeColumns:
        spec = self.spec
        keys = (spec.user, spec.item)
        time = spec.time.name
        values = [
            RawColumn(label.name, "flag")
            if label.is_flag
            else RawColumn(label.name, label.values.column, label=label.kind, classes=label.classes)
            for label in spec.labels
        ]
        values += [RawColumn(name, "float", weight=True) for name in spec.row_weights]
        values += [RawColumn(spec.position.name, "int")] if spec.position is not None else []
        return OutcomeColumns(
            (RawColumn(IMPRESSION, "str"),) if by_id else tuple(RawColumn(key.name, key.dtype) for key in keys),
            timed=any(time in names for names in self._names.values()),
            values=tuple(values),
        )

    def _check(self, path: str, names: Sequence[str]) -> None:
        needed = self.columns.names if self.columns.by_id else [*self.columns.names, self.spec.time.name]
        if missing := [name for name in needed if name not in names]:
            raise ValueError(
                f"{path} has no column `{missing[0]}`{nearest(missing[0], names)}: outcomes are joined by "
                f"`{IMPRESSION}`, or by {', '.join(f'`{each}`' for each in self.spec.key_columns[:3])}"
            )
        labels = [label.name for label in self.spec.labels]
        if not set(labels) & set(names):
            raise ValueError(f"{path} has none of the labels {', '.join(labels)}")

    @property
    def schema(self) -> pa.Schema:
        """Keys, time, values, then where each row is from."""
        columns = self.columns
        fields = [pa.field(column.name, TYPES[column.kind]) for column in columns.keys]
        fields.append(pa.field(self.spec.time.name, pa.int64()))
        fields += [pa.field(column.name, TYPES[column.kind]) for column in columns.values]
        return pa.schema(
            [*fields, pa.field(ORDER, pa.int64()), pa.field(FILE, pa.string()), pa.field(NUMBER, pa.int64())]
        )

    def __iter__(self) -> Iterator[pa.Table]:
        """Batches of `schema`.

        Raises:
            ValueError: naming the file, row and column of a value that does not fit.
        """
        time = self.spec.time
        moment = RawColumn(time.name, "time", format=time.format, unit=time.unit, timezone=time.timezone)
        wanted = (*self.columns.keys, moment, *self.columns.values)
        order = 0
        for file in self.files:
            names = self._names[file.path]
            for batch in file.read([column.name for column in wanted if column.name in names]):
                for row, _, reason in batch.bad:
                    raise ValueError(f"{file.path}, row {row} {reason}")
                rows = len(batch.rows)
                arrays = [self._values(file.path, batch, column, names) for column in wanted]
                arrays += [pa.array(np.arange(order, order + rows)), pa.array([file.path] * rows)]
                order += rows
                yield pa.Table.from_arrays([*arrays, pa.array(batch.rows.astype(np.int64))], schema=self.schema)

    def _values(self, path: str, batch: object, column: RawColumn, names: Sequence[str]) -> pa.Array:
        table, rows = batch.table, batch.rows  # type: ignore[attr-defined]
        kind = TYPES[column.kind]
        if column.name not in names:
            return pa.nulls(len(rows), kind)
        array = table[column.name]
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.nulls(0, array.type)
        if column.name == IMPRESSION and pa.types.is_integer(array.type):
            return array.cast(pa.string())
        try:
            values, bad = convert(array, column)
        except ValueError as error:
            raise ValueError(f"{path}, column `{column.name}`: {error}") from None
        for place, reason in sorted(bad.items()):
            raise ValueError(f"{path}, row {rows[place]}, column `{column.name}` {reason}")
        return values.cast(kind)
