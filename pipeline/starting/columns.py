"""Profile of a column: its distinct values, how often each occurs, and what they look like."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from mixrank.schemas.arrow import pa
from mixrank.schemas.raw import as_python

Look = Literal["int", "float", "text", "time", "empty", "nested", "other mark"]
# Spellings of a missing value that every reader knows, and those that a table must declare.
MISSING = frozenset({"", "nan", "NaN", "null", "NULL", "\\N"})
DECLARED_MISSING = ("N/A", "n/a", "NA", "#N/A", "<NA>", "None", "none", "nil", "-", "--", "?", "unknown")
SEPARATORS = ("|", ";", ",", "^", "/", " ")
_INT, _COMMA = re.compile(r"[+-]?[0-9]+"), re.compile(r"[+-]?[0-9]+(\.[0-9]{3})*,[0-9]+")


@dataclass(frozen=True)
class Column:
    """A column of a sample.

    Args:
        name: as in the file.
        values: distinct values that are not missing; of a list column, of its elements.
        codes: int array. Position in `values` of every row, -1 if missing; of a list column, of every element.
        lengths: int array (rows,), or None unless it is a list column.
        look: what the values are.
        numbers: float array, the values as numbers; None unless they are.
        missing_words: spellings of a missing value found among numbers that a table must declare.
        decimal_comma: whether the numbers are written like 1.234,50.
    """

    name: str
    values: list[Any]
    codes: np.ndarray
    lengths: np.ndarray | None = None
    look: Look = "text"
    numbers: np.ndarray | None = field(default=None, repr=False)
    missing_words: tuple[str, ...] = ()
    decimal_comma: bool = False

    @property
    def rows(self) -> int:
        return len(self.codes if self.lengths is None else self.lengths)

    @property
    def distinct(self) -> int:
        return len(self.values)

    @cached_property
    def counts(self) -> np.ndarray:
        """Rows of every distinct value."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.values))

    @property
    def missing_share(self) -> float:
        if self.lengths is not None:
            return float(np.mean(self.lengths == 0)) if self.rows else 0.0
        return float(np.mean(self.codes < 0)) if self.rows else 0.0

    @property
    def is_number(self) -> bool:
        return self.numbers is not None

    @property
    def is_binary(self) -> bool:
        """Whether its values are 0 and 1, both of them."""
        return self.numbers is not None and self.lengths is None and set(self.numbers.tolist()) == {0.0, 1.0}

    @property
    def padded(self) -> bool:
        """Whether whole numbers are written with leading zeros."""
        return any(isinstance(v, str) and len(v) > 1 and v[0] == "0" and v.isdigit() for v in self.values)

    @property
    def decimal_point(self) -> bool:
        """Whether the numbers are text with a decimal point."""
        return (
            self.look == "float" and not self.decimal_comma and any("." in v for v in self.values if isinstance(v, str))
        )

    def per_row(self, missing: float = np.nan) -> np.ndarray:
        """The number of every row."""
        assert self.numbers is not None
        return np.append(self.numbers, missing)[self.codes]

    def range(self) -> str:
        """The values in a few words, for a comment."""
        if self.numbers is not None and self.distinct > 4:
            return f"{_short(self.numbers.min())} to {_short(self.numbers.max())}"
        order = np.argsort(-self.counts, kind="stable")[:3]
        shown = ", ".join(_shown(self.values[i]) for i in order)
        return shown + (", ..." if self.distinct > 3 else "")


def profile(name: str, array: pa.ChunkedArray | pa.Array) -> Column:
    """The column of an Arrow array as read from a file: bytes of a text file, or any type of Parquet."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
        array = array.chunk(0) if isinstance(array, pa.ChunkedArray) and array.num_chunks == 1 else array
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_null(array.type):
        return Column(name, [], np.full(len(array), -1), look="empty")
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        lengths = pa.compute.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        found = profile(name, array.flatten())
        return replace(found, lengths=lengths)
    if pa.types.is_nested(array.type):
        return Column(name, [], np.full(len(array), -1), look="nested")
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("us"), safe=False) if pa.types.is_timestamp(array.type) else array
    encoded = array.dictionary_encode()
    raw = [as_python(value) for value in encoded.dictionary]
    if pa.types.is_temporal(array.type):
        # A time that Python's calendar lacks.
        raw = [None if isinstance(value, int) else value for value in raw]
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return _typed(name, [_plain(value) for value in raw], codes)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        value = value.strip()
        return None if value in MISSING else value
    if isinstance(value, bool):
        return int(value)
    return None if isinstance(value, float) and value != value else value


def _typed(name: str, raw: list[Any], codes: np.ndarray) -> Column:
    values, codes = _compact(raw, codes)
    if not values:
        return Column(name, [], codes, look="empty")
    if isinstance(values[0], datetime.date):
        return Column(name, values, codes, look="time")
    numbers = as_numbers(values)
    if numbers is None and all(isinstance(value, str) for value in values):
        words = [value for value in DECLARED_MISSING if value in set(values)]
        rest = [value for value in values if value not in words]
        if words and len(rest) >= len(words):
            numbers = as_numbers(rest) if as_numbers(rest) is not None else as_comma_numbers(rest)
        if numbers is not None:
            comma = as_numbers(rest) is None
            values, codes = _compact([None if value in words else value for value in values], codes)
            return Column(name, values, codes, None, _look(values, numbers), numbers, tuple(words), comma)
        numbers = as_comma_numbers(values)
        if numbers is not None:
            return Column(name, values, codes, None, "float", numbers, (), True)
        if {value.lower() for value in values} <= {"true", "false"}:
            numbers = np.array([float(value.lower() == "true") for value in values])
            return Column(name, values, codes, None, "int", numbers)
    if numbers is None:
        return Column(name, [str(value) for value in values], codes)
    return Column(name, values, codes, None, _look(values, numbers), numbers)


def _compact(raw: list[Any], codes: np.ndarray) -> tuple[list[Any], np.ndarray]:
    """Distinct values without None, and codes that point to them."""
    places: dict[Any, int] = {}
    to = np.array([-1 if value is None else places.setdefault(value, len(places)) for value in raw] + [-1])
    return list(places), to[codes]


def as_numbers(values: Sequence[Any]) -> np.ndarray | None:
    """The values as finite numbers, or None if one is none."""
    try:
        numbers = np.array([float(value) for value in values])
    except (TypeError, ValueError):
        return None
    written = all("_" not in value for value in values if isinstance(value, str))
    return numbers if written and np.isfinite(numbers).all() else None


def as_comma_numbers(values: Sequence[Any]) -> np.ndarray | None:
    """Numbers with a decimal comma (12,50 or 1.234,50), or None if that is not how they are written."""
    texts = [str(value) for value in values]
    if sum(bool(_COMMA.fullmatch(text)) for text in texts) < 0.5 * len(texts):
        return None
    return as_numbers([text.replace(".", "").replace(",", ".") for text in texts])


def _look(values: Sequence[Any], numbers: np.ndarray) -> Look:
    whole = np.all(numbers == np.floor(numbers))
    small = np.abs(numbers).max() <= 2**53 or all(isinstance(v, int) or _INT.fullmatch(str(v)) for v in values)
    return "int" if whole and small else "float"


@dataclass(frozen=True)
class Parts:
    """Several values in one text.

    Args:
        separator: between them.
        values: distinct parts.
        most: largest number of parts in a text.
        usual: number of parts that 95 of 100 texts do not exceed.
        is_vector: whether the parts are the coordinates of a vector: equally many in every text, with decimals.
    """

    separator: str
    values: tuple[str, ...]
    most: int
    usual: int
    is_vector: bool


def parts(column: Column) -> Parts | None:
    """How the texts of a column are made of several values, or None if they are not.

    Parts repeat: a separator is believed if it makes far fewer distinct parts than there are distinct texts.
    """
    texts = [value for value in column.values[:20_000] if isinstance(value, str)]
    if not texts or column.look != "text":
        return None
    weights = column.counts[: len(texts)]
    for separator in SEPARATORS:
        split = [[part.strip() for part in text.split(separator)] for text in texts]
        sizes = np.array([len(each) for each in split])
        if np.mean(sizes > 1) < 0.05:
            continue
        vector = sizes.min() == sizes.max() >= 4 and as_numbers(split[0]) is not None and "." in texts[0]
        distinct = {part for each in split for part in each if part}
        repeats = len(distinct) <= 0.6 * len(texts) and max(map(len, distinct)) <= 40
        # Words of a title or of a city's name hardly repeat; a separator that is no blank needs less proof.
        if vector or (repeats and (separator != " " or len(distinct) <= 0.3 * len(texts))):
            order = np.argsort(sizes, kind="stable")
            reached = np.cumsum(weights[order]) >= 0.95 * weights.sum()
            usual = int(sizes[order][np.argmax(reached)])
            return Parts(separator, tuple(sorted(distinct)), int(sizes.max()), usual, bool(vector))
    return None


def share_fixed_by(column: Column, owner: Column) -> float | None:
    """Share of the owner's values within which the column never changes, or None if the sample cannot tell.

    It cannot if too few owners have three rows, or if a column shuffled over the rows would look the same.
    """
    if column.lengths is not None or column.distinct < 2:
        return None
    known = owner.codes >= 0
    owners, codes = owner.codes[known], column.codes[known] + 1
    often = np.bincount(owners, minlength=owner.distinct) >= 3
    if often.sum() < 20:
        return None
    found = _single(owners, codes, often)
    by_chance = _single(owners, np.random.default_rng(0).permutation(codes), often)
    return None if by_chance > 0.8 else found


def _single(owners: np.ndarray, codes: np.ndarray, often: np.ndarray) -> float:
    width = int(codes.max()) + 1
    pairs = np.unique(owners * width + codes)
    values = np.bincount(pairs // width, minlength=len(often))
    return float(np.mean(values[often] == 1))


def auc(scores: np.ndarray, label: np.ndarray) -> float:
    """Probability that a row with the label scores above one without; ties count half."""
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    first = np.concatenate([[0], np.flatnonzero(np.diff(ranked)) + 1])
    sizes = np.diff(np.append(first, len(ranked)))
    ranks = np.empty(len(scores))
    ranks[order] = np.repeat(first + (sizes + 1) / 2, sizes)
    positives = int(label.sum())
    negatives = len(label) - positives
    if not positives or not negatives:
        return 0.5
    return float((ranks[label > 0].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def separation(column: Column, label: np.ndarray) -> float:
    """AUC in [0.5, 1] with which the column alone tells the label: by its number, or by the label's rate per value."""
    if column.lengths is not None or not column.rows:
        return 0.5
    by_number = 0.5
    if column.numbers is not None:
        found = auc(column.per_row(float(column.numbers.min()) - 1), label)
        by_number = max(found, 1 - found)
    if column.distinct > min(200, column.rows / 50):
        return by_number
    codes = column.codes + 1
    sizes = np.bincount(codes, minlength=column.distinct + 1)
    rates = np.bincount(codes, label, minlength=column.distinct + 1) / np.maximum(sizes, 1)
    return max(by_number, auc(rates[codes], label))


def _short(number: float) -> str:
    return f"{int(number):,}" if float(number).is_integer() and abs(number) < 1e15 else f"{number:.4g}"


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:21] + "..."
