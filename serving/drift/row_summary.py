"""Summary of rows for comparison with others: statistics, unseen values, scores and labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mixrank.schemas import FeatureSpec, tfmd
from mixrank.schemas.arrow import lines_of, pa, pc
from mixrank.schemas.encode import columns
from mixrank.serving.drift.logged_rows import TYPES

NO_VALUE = ""
# Distinct values that are at least looked up at once.
LOOKUP = 100_000


@dataclass(frozen=True)
class RowSummary:
    """Summary of some rows.

    Args:
        rows: int >= 0. Rows that were read.
        statistics: TFDV statistics of the spec's columns, or None if there are no features.
        unseen: column -> (values outside the vocabulary, values), for columns with a vocabulary.
        judged: for each row, scenario as text, and `score_<task>` and `label_<task>` where present.
    """

    rows: int
    statistics: Any
    unseen: dict[str, tuple[int, int]]
    judged: pd.DataFrame


def summarize(batches: Iterable[pa.RecordBatch], spec: FeatureSpec, vocabularies: Mapping[str, pa.Array]) -> RowSummary:
    """Summarizes rows in one pass, batch by batch.

    Args:
        batches: as `LoggedRows` gives them.
        spec: the columns.
        vocabularies: feature -> its values, as `read_vocabularies` gives them.
    """
    import tensorflow_data_validation as tfdv
    from tensorflow_data_validation.statistics import stats_impl

    known = {column.name for column in columns(spec)}
    identity = {spec.user.name, spec.item.name, spec.scenario.name}
    features = {column.name for column in columns(spec) if column.serving} - identity
    owners = {
        column: feature.owner
        for feature in spec.all_categorical
        if feature.owner in vocabularies
        for column in spec.columns_of(feature)
    }
    generators = stats_impl.get_generators(tfdv.StatsOptions(schema=tfmd.schema(spec)), in_memory=True)
    counted = [generator.create_accumulator() for generator in generators]
    outside = {column: Outside(vocabularies[feature]) for column, feature in owners.items()}
    judged, has_features = [], False
    for batch in batches:
        arrays = dict(zip(batch.schema.names, batch.columns, strict=True))
        own = pa.RecordBatch.from_arrays(*_split({name: a for name, a in arrays.items() if name in known}))
        counted = [generator.add_input(state, own) for generator, state in zip(generators, counted, strict=True)]
        has_features = has_features or bool(features & arrays.keys())
        for column in outside.keys() & arrays.keys():
            outside[column].add(arrays[column].flatten())
        judged.append(_judged(arrays, spec))
    frame = pd.concat(judged, ignore_index=True) if judged else pd.DataFrame()
    statistics = stats_impl.extract_statistics_output(counted, generators) if has_features else None
    # In the order of the spec; a column that no row has is left out.
    unseen = {column: each.counted() for column, each in outside.items() if each.read}
    return RowSummary(len(frame), statistics, unseen, frame)


def read_vocabularies(spec: FeatureSpec, assets: Path) -> dict[str, pa.Array]:
    """Feature -> the values in its vocabulary, read from the `assets` folder of a version or of a transform graph.

    Raises:
        ValueError: if a file is missing.
    """
    found = {}
    for feature in spec.categorical:
        if feature.name not in spec.vocabularies:
            continue
        file = assets / feature.name
        if not file.is_file():
            raise ValueError(f"{assets} holds no vocabulary of `{feature.name}`")
        values = lines_of(file.read_bytes())
        found[feature.name] = values.cast(pa.large_string()).cast(pa.int64()) if feature.dtype == "int" else values
    return found


class Outside:
    """Counter of the values of a column and of those outside its vocabulary, without padding.

    A lookup begins with a hash table of the whole vocabulary. So values wait until they are as many.

    Args:
        vocabulary: known values.
    """

    def __init__(self, vocabulary: pa.Array) -> None:
        self.vocabulary = vocabulary
        self.read = False
        self._waiting: list[pa.StructArray] = []
        self._unseen = self._all = self._distinct = 0

    def add(self, values: pa.Array) -> None:
        self.read = True
        self._waiting.append(pc.value_counts(values))
        self._distinct += len(self._waiting[-1])
        if self._distinct >= max(LOOKUP, len(self.vocabulary)):
            self._look_up()

    def counted(self) -> tuple[int, int]:
        """(values outside the vocabulary, values)"""
        self._look_up()
        return self._unseen, self._all

    def _look_up(self) -> None:
        if not self._waiting:
            return
        counts = pa.concat_arrays(self._waiting)
        self._waiting, self._distinct = [], 0
        values, number = counts.field(0), counts.field(1).to_numpy()
        padding = pa.scalar(b"" if values.type == TYPES["str"] else -(2**63), values.type)
        there = ~pc.equal(values, padding).to_numpy(zero_copy_only=False)
        known = pc.is_in(values, value_set=self.vocabulary).to_numpy(zero_copy_only=False)
        self._unseen += int(number[there & ~known].sum())
        self._all += int(number[there].sum())


def _judged(arrays: Mapping[str, pa.Array], spec: FeatureSpec) -> pd.DataFrame:
    size = len(next(iter(arrays.values()))) if arrays else 0
    frame = pd.DataFrame(index=range(size))
    if spec.scenario.name in arrays:
        frame["scenario"] = [_text(value) for value in _firsts(arrays[spec.scenario.name])]
    for task in spec.tasks:
        if f"score_{task}" in arrays:
            frame[f"score_{task}"] = arrays[f"score_{task}"].to_numpy(zero_copy_only=False)
        if task in arrays and len(arrays[task].flatten()):
            frame[f"label_{task}"] = [np.nan if value is None else value for value in _firsts(arrays[task])]
    known = frame.copy()
    for label in spec.labels:
        if {f"label_{label.name}", f"label_{label.given}"} <= set(frame):
            frame[f"label_{label.name}"] = known[f"label_{label.name}"].where(known[f"label_{label.given}"] > 0)
    return frame


def _firsts(lists: pa.Array) -> list[Any]:
    return [value[0] if value else None for value in lists.to_pylist()]


def _text(value: Any) -> str:
    if value is None:
        return NO_VALUE
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _split(arrays: Mapping[str, pa.Array]) -> tuple[list[pa.Array], list[str]]:
    return list(arrays.values()), list(arrays)
