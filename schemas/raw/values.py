"""Raw values -> the type that the spec declares, or the reason why a value does not fit.

One rule for all file formats, and for training and scoring alike: a number, a flag, a time or a missing value is
written the same way whether the log is Parquet, text, JSON or TFRecord.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal
from zoneinfo import ZoneInfo

import numpy as np

from mixrank.schemas.arrow import pa, pc
from mixrank.schemas.encode import FLOAT32_END, PADDING, fits_float32
from mixrank.schemas.task_kinds import BINARY, label_kind

Kind = Literal["int", "str", "float", "flag", "time"]
# Missing values as text files and careless exports write them; a `Table` may add its own.
MISSING = frozenset({"", "nan", "NaN", "null", "NULL", "\\N"})
# A later time means a wrong unit; the limit also keeps calendars within 64-bit nanoseconds.
LATEST_MS = 7_258_118_400_000
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
# Clocks change on the quarter of an hour.
QUARTER_MS = 900_000
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
MILLISECOND, NO_TIME = datetime.timedelta(milliseconds=1), datetime.timedelta()
_ARROW = {"int": pa.int64(), "str": pa.string(), "float": pa.float64(), "flag": pa.int64(), "time": pa.int64()}
_WHOLE = re.compile(r"([+-]?[0-9]+)(?:\.0*)?")
_AS_TEXT = '; a column of text is declared with `dtype="str"`'


@dataclass(frozen=True)
class RawColumn:
    """Expected type of a column of a raw table.

    Args:
        name: name after renaming.
        kind: "int", "str", "float", "flag" (of a binary label or an `Action`) or "time".
        required: bool. Whether a missing value makes the row bad.
        many: bool. Whether a row holds a list.
        separator: str or None. Splits text into a list.
        keep_places: bool. Whether a missing value keeps its place in a list.
        filled: bool. Whether a missing value in a list makes the row bad; the list itself may be missing.
        along: column of the table whose lists have as many values, or None.
        single: bool. Whether a value that is no list counts as a list of one.
        exactly: int or None. How many values a list has if it is not empty.
        source: column of the file, after renaming, if it is not `name`.
        mark: str or None. Stands between a value and its weight, in text that `separator` splits.
        weighs: the column whose values it has the weights of, or None.
        format, unit, timezone: of a time, as in `EventTime`.
        decimal, thousands, missing: of text, as in `Table`.
        label: kind of the label that its numbers are, or "".
        classes: of that label, if it declares them.
        weight: bool. Whether its numbers are weights of rows, >= 0.
    """

    name: str
    kind: Kind
    required: bool = False
    many: bool = False
    separator: str | None = None
    keep_places: bool = False
    filled: bool = False
    along: str | None = None
    single: bool = False
    exactly: int | None = None
    source: str = ""
    mark: str | None = None
    weighs: str | None = None
    format: Literal["epoch", "iso"] = "epoch"
    unit: Literal["s", "ms", "us", "ns"] = "ms"
    timezone: str = "UTC"
    decimal: Literal[".", ","] = "."
    thousands: str | None = None
    missing: tuple[str, ...] = ()
    label: str = ""
    classes: tuple[int, ...] = ()
    weight: bool = False

    @property
    def stored(self) -> str:
        """Name in the file, after renaming."""
        return self.source or self.name

    @property
    def value_type(self) -> pa.DataType:
        """Arrow type of a single value."""
        return _ARROW[self.kind]

    @property
    def arrow_type(self) -> pa.DataType:
        return pa.list_(self.value_type) if self.many else self.value_type


def convert(array: pa.Array, column: RawColumn) -> tuple[pa.Array, dict[int, str]]:
    """Converts a raw Arrow array to `column.arrow_type`.

    Args:
        array: as read from the file.
        column: what it must hold.

    Returns:
        The converted array, null where missing or bad; and position -> reason for the bad ones.

    Raises:
        ValueError: if the type of the column cannot be converted at all.

    >>> convert(pa.array(["7", "7.0", "x"]), RawColumn("n", "int"))[0].to_pylist()
    [7, 7, None]
    """
    array = plain_layout(array)
    if column.many:
        return _lists(array, column)
    array, several = _unlisted(array)
    typed, bad = _typed(array, column)
    if column.label:
        kind = label_kind(column.label, column.classes)
        wrong = pc.is_in(typed, pa.array(kind.wrong(pc.unique(typed.drop_null()).to_pylist()), typed.type))
        typed = _without(typed, wrong, f"is not {kind.expected}", bad)
    if column.weight:
        typed = _without(typed, pc.less(typed, 0), "is not a number >= 0", bad)
    if column.required:
        for position in np.flatnonzero(typed.is_null().to_numpy(zero_copy_only=False)):
            bad.setdefault(int(position), "is missing")
    return typed, bad | several


def _without(values: pa.Array, wrong: pa.Array, reason: str, bad: dict[int, str]) -> pa.Array:
    """The values with null where they are wrong, which is added to `bad`."""
    mask = pc.fill_null(wrong, False)
    bad |= {int(position): reason for position in np.flatnonzero(mask.to_numpy(zero_copy_only=False))}
    return pc.if_else(mask, pa.scalar(None, values.type), values)


def uneven_weights(values: pa.Array, weights: pa.Array) -> dict[int, str]:
    """Position -> reason, of the rows whose weights are there and are not as many as the values."""
    (_, counts), (_, own) = _spans(values), _spans(weights)
    return {
        int(row): f"has {own[row]} weights for {counts[row]} values"
        for row in np.flatnonzero((own > 0) & (own != counts))
    }


def uneven_lists(values: pa.Array, others: pa.Array, name: str) -> dict[int, str]:
    """Position -> reason, of the rows with another number of values than of those in the column `name`."""
    (_, own), (_, counts) = _spans(values), _spans(others)
    return {
        int(row): f"has {own[row]} values, but `{name}` of the same row has {counts[row]}"
        for row in np.flatnonzero(own != counts)
    }


def plain_layout(array: pa.Array) -> pa.Array:
    """The same values without dictionary encoding and with lists of any size."""
    if pa.types.is_dictionary(array.type):
        return array.dictionary_decode()
    if pa.types.is_fixed_size_list(array.type):
        present = array.is_valid().to_numpy(zero_copy_only=False)
        ends = np.cumsum(np.where(present, array.type.list_size, 0))
        offsets = pa.array(np.concatenate([[0], ends]), pa.int32(), mask=np.append(~present, False))
        # Arrow leaves out the entries of a list that is null.
        return pa.ListArray.from_arrays(offsets, array.flatten())
    return array


def _unlisted(array: pa.Array) -> tuple[pa.Array, dict[int, str]]:
    """The values of a list array (TFRecord) that holds single values."""
    if not _is_list(array.type):
        return array, {}
    starts, lengths = _spans(array)
    rows = pa.array(np.where(lengths > 0, starts, 0), pa.int64(), mask=lengths == 0)
    values = plain_layout(array.flatten()).take(rows)
    return values, {int(p): f"has {lengths[p]} values" for p in np.flatnonzero(lengths > 1)}


def _lists(array: pa.Array, column: RawColumn) -> tuple[pa.Array, dict[int, str]]:
    if pa.types.is_null(array.type):
        array = pa.nulls(len(array), column.arrow_type)
    absent = array.is_null().to_numpy(zero_copy_only=False)
    owners = np.arange(len(array))
    if _is_list(array.type):
        _, lengths = _spans(array)
        owners, array = np.repeat(owners, lengths), plain_layout(array.flatten())
    elif column.separator is None and not column.single:
        raise ValueError(
            f"cannot read type {array.type} as a list; lists need Parquet, JSON or TFRecord, or a `separator`"
        )
    if column.separator is None:
        values, reasons = _typed(array, column)
        bad = {int(owners[entry]): reason for entry, reason in reasons.items()}
    else:
        # Each entry of a list may be text with separators, too.
        _check_type(array.type, column)
        split, reasons = _by_distinct(array, _split(column), pa.list_(column.value_type))
        bad = {int(owners[entry]): reason for entry, reason in reasons.items()}
        _, lengths = _spans(split)
        owners, values = np.repeat(owners, lengths), split.flatten()
    present = ~values.is_null().to_numpy(zero_copy_only=False)
    if column.required:
        for row in (*np.flatnonzero(absent), *owners[~present]):
            bad.setdefault(int(row), "is missing")
    if column.filled:
        for entry in np.flatnonzero(~present):
            place = 1 + entry - np.searchsorted(owners, owners[entry])
            bad.setdefault(int(owners[entry]), f"lacks value {place} of its list")
    if not column.keep_places:
        owners, values = owners[present], values.filter(pa.array(present))
    lengths = np.bincount(owners, minlength=len(absent))
    if column.weighs is not None:
        for row in owners[values.to_numpy(zero_copy_only=False) < 0]:
            bad.setdefault(int(row), "has a weight below 0")
    if column.exactly is not None:
        for row in np.flatnonzero((lengths > 0) & (lengths != column.exactly)):
            bad.setdefault(int(row), f"has {lengths[row]} numbers, expected {column.exactly}")
    ends = np.cumsum(lengths)
    offsets = pa.array(np.concatenate([[0], ends]), pa.int32(), mask=np.append(absent, False))
    return pa.ListArray.from_arrays(offsets, values), bad


def _typed(array: pa.Array, column: RawColumn) -> tuple[pa.Array, dict[int, str]]:
    """Single values of the type of the column, and position -> reason for the bad ones."""
    _check_type(array.type, column)
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        return _of_timestamps(array, column)
    if pa.types.is_float16(array.type):
        array = pa.array(array.to_numpy(zero_copy_only=False).astype(np.float32), mask=_nulls(array))
    if (whole := _of_numbers(array, column)) is not None:
        return whole, {}
    return _by_distinct(array, _parser(column), column.value_type)


def _check_type(kind: pa.DataType, column: RawColumn) -> None:
    types = pa.types
    times = types.is_timestamp(kind) or types.is_date(kind)
    if not (types.is_nested(kind) or types.is_temporal(kind)) or (times and column.kind == "time"):
        return
    what = f"a list of {column.kind}" if column.many else column.kind
    accepted = "numbers, booleans and text" + (", timestamps and dates" if column.kind == "time" else "")
    if types.is_struct(kind):
        advice = "; write the fields of a struct as columns of their own"
    elif types.is_nested(kind):
        advice = "; a `MultiCategorical` takes one list per row, without lists in it"
    else:
        advice = "; a time is declared as `EventTime`, anything else is written as text or a number"
    raise ValueError(f"cannot read type {kind} as {what}, which takes {accepted}{advice}")


def _of_numbers(array: pa.Array, column: RawColumn) -> pa.Array | None:
    """Numbers that only need a wider type, all at once; None where each value needs a look."""
    if column.kind == "int" and pa.types.is_signed_integer(array.type):
        lowest = pa.scalar(np.iinfo(array.type.to_pandas_dtype()).min, array.type)
        fits = array.type != pa.int64() or not pc.any(pc.equal(array, lowest)).as_py()
        return array.cast(pa.int64()) if fits else None
    if column.kind == "float" and pa.types.is_floating(array.type):
        numbers = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
        # A null is NaN here.
        missing = np.isnan(numbers)
        fits = np.abs(np.where(missing, 0.0, numbers)) < FLOAT32_END
        return pa.array(numbers, mask=missing) if fits.all() else None
    return None


def _by_distinct(array: pa.Array, parse: Callable[[Any], Any], to: pa.DataType) -> tuple[pa.Array, dict[int, str]]:
    """`parse` of every element, called once per distinct value."""
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        # Text that is not UTF-8 is a bad value, and not an error of Arrow's.
        array = array.cast(pa.binary() if pa.types.is_string(array.type) else pa.large_binary())
    encoded = array.dictionary_encode()
    values: list[Any] = []
    reasons: dict[int, str] = {}
    for code, value in enumerate(encoded.dictionary.to_pylist()):
        try:
            values.append(parse(value))
        except ValueError as error:
            values.append(None)
            reasons[code] = str(error)
    typed = pa.array(values, to).take(encoded.indices)
    if not reasons:
        return typed, {}
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return typed, {int(p): reasons[int(codes[p])] for p in np.flatnonzero(np.isin(codes, list(reasons)))}


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _nulls(array: pa.Array) -> np.ndarray:
    return array.is_null().to_numpy(zero_copy_only=False)


def _spans(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Start in `array.flatten()` and length of every list."""
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.cumsum(lengths) - lengths, lengths


def _parser(column: RawColumn) -> Callable[[Any], Any]:
    parse = {"int": _int, "str": _text, "float": _float, "flag": _flag, "time": _time}[column.kind]
    missing = MISSING.union(column.missing)

    def parse_present(value: Any) -> Any:
        value = _plain(value)
        return None if value is None or value in missing else parse(value, column)

    return parse_present


def _split(column: RawColumn) -> Callable[[Any], list[Any]]:
    parse = _parser(column)

    missing = MISSING.union(column.missing)

    def weighted(part: str) -> list[Any]:
        """The value of a part, or its weight; nothing if the value is missing."""
        assert column.mark is not None
        value, _, weight = part.rpartition(column.mark) if column.mark in part else (part, "", "")
        if value.strip() in missing:
            return []
        found = parse(value if column.weighs is None else weight)
        return [1.0 if found is None else found]

    def parse_all(value: Any) -> list[Any]:
        value = _plain(value)
        if value is None or value in MISSING:
            return []
        text = str(_text(value, column))
        if column.kind == "float" and text[:1] + text[-1:] == "[]":
            # Lists of numbers as Python and NumPy write them.
            text = text[1:-1].strip()
        if column.mark is not None:
            return [each for part in text.split(column.separator) for each in weighted(part)]
        parts = [parse(part) for part in text.split(column.separator)]
        return parts if column.keep_places else [part for part in parts if part is not None]

    return parse_all


def _plain(value: Any) -> Any:
    """Bytes as text, without space around it; a number that is none as None."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise ValueError("is not UTF-8 text") from None
    if isinstance(value, str):
        return value.strip()
    is_nan = isinstance(value, float | Decimal) and value != value
    return None if is_nan else value


def _text(value: Any, column: RawColumn) -> str:
    whole = isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value)
    if whole or isinstance(value, bool):
        return str(int(value))
    # A decimal is written with the zeros of its type.
    return f"{value.normalize():f}" if isinstance(value, Decimal) else str(value)


def _digits(text: str, column: RawColumn) -> str:
    """The text of a number as Python writes it, or text that is no number for Python either."""
    if column.thousands is not None:
        # Typewriters, Excel and Unicode's CLDR use different spaces.
        mark = "[ \u00a0\u202f]" if column.thousands == " " else re.escape(column.thousands)
        if grouped := re.fullmatch(rf"([+-]?[0-9]{{1,3}}(?:{mark}[0-9]{{3}})+)(\D.*)?", text):
            text = re.sub(mark, "", grouped[1]) + (grouped[2] or "")
    if column.decimal == ",":
        text = "_" if "." in text else text.replace(",", ".", 1)
    # Python would read 1_000 as a number; in a log it is not one.
    return "_" if "_" in text else text


def _number(value: Any, column: RawColumn, advice: str = "") -> float:
    try:
        number = float(_digits(value, column) if isinstance(value, str) else value)
    except OverflowError:
        number = math.inf
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise ValueError(f"is not a number{advice}")
    if math.isinf(number):
        raise ValueError("is not finite")
    return number


def _float(value: Any, column: RawColumn) -> float:
    number = _number(value, column)
    if not fits_float32(number):
        raise ValueError("does not fit into a 32-bit number")
    return number


def _int(value: Any, column: RawColumn) -> int:
    if isinstance(value, str):
        value = _digits(value, column)
        if whole := _WHOLE.fullmatch(value):
            # More digits than Python converts are too many anyway.
            value = int(whole[1]) if len(whole[1]) < 100 else 2**64
    if isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
        value = int(value)
    if not isinstance(value, int):
        # In Parquet and text files, an integer column with nulls often becomes float.
        number = _number(value, column, _AS_TEXT)
        if number != int(number):
            raise ValueError("is not a whole number")
        if abs(number) > 2**53:
            raise ValueError("is a float above 2**53, where whole numbers are rounded")
        value = int(number)
    if value == PADDING["int"]:
        raise ValueError("is the smallest 64-bit number, which stands for a missing value")
    if not -(2**63) < value < 2**63:
        raise ValueError("does not fit into 64 bits")
    return int(value)


def _flag(value: Any, column: RawColumn) -> int:
    value = {"true": 1, "false": 0}.get(value.lower(), value) if isinstance(value, str) else value
    try:
        number = _number(value, column)
    except ValueError:
        raise ValueError(f"is not {BINARY.expected}, true or false") from None
    if BINARY.wrong([number]):
        raise ValueError(
            f"is not {BINARY.expected}; a number such as a watch time becomes a label by a `Threshold` in `derive`"
        )
    return int(number)


def _time(value: Any, column: RawColumn) -> int:
    if column.format == "iso":
        # A date such as 20240105 may be stored as a number.
        return _in_range(_iso(str(value), ZoneInfo(column.timezone)), "")
    per_second = PER_SECOND[column.unit]
    if isinstance(value, str):
        value = _digits(value, column)
        if re.fullmatch(r"[0-9]{1,30}", value):
            value = int(value)
    if isinstance(value, int):
        return _in_range(value * 1000 // per_second, column.unit)
    if isinstance(value, Decimal):
        return _in_range(round(value * 1000 / per_second) if value.is_finite() else -1, column.unit)
    number = _number(value, column, _iso_advice(value))
    # Far enough from any time, and not infinite in milliseconds.
    return _in_range(round(max(-1e30, min(number, 1e30)) * (1000 / per_second)), column.unit)


def _in_range(time_ms: int, unit: str) -> int:
    if not 0 <= time_ms < LATEST_MS:
        raise ValueError(f"is not a time between 1970 and 2200{' in the declared unit' if unit else ''}")
    return time_ms


def _iso(text: str, zone: ZoneInfo) -> int:
    """Milliseconds since 1970 of an ISO 8601 time or date, as Python, Spark, Postgres and BigQuery write it."""
    text = re.sub(r"\s*(?:UTC|GMT|[Zz])$", "+00:00", text)
    text = re.sub(r"\s+(?=[+-][0-9]{2}(?::?[0-9]{2})?$)", "", text)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("is not a time in ISO 8601, such as 2024-01-05T18:30:00+01:00") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    return (moment - EPOCH) // MILLISECOND


def _iso_advice(value: Any) -> str:
    try:
        _iso(str(value), ZoneInfo("UTC"))
    except ValueError:
        return ""
    return '; a time in ISO 8601 is declared as `EventTime(..., format="iso")`'


def _of_timestamps(array: pa.Array, column: RawColumn) -> tuple[pa.Array, dict[int, str]]:
    """Milliseconds of Arrow timestamps and dates; those without a zone are local times."""
    local = not pa.types.is_timestamp(array.type) or array.type.tz is None
    if pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("ms"))
    missing, per_second = _nulls(array), PER_SECOND[array.type.unit]
    stored = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    # Before they become milliseconds, as far seconds would overflow to a time that looks right.
    wrong = (stored < 0) | (stored >= LATEST_MS * per_second // 1000)
    stored = np.where(wrong, 0, stored)
    time = stored * 1000 if per_second == 1 else stored // (per_second // 1000)
    if local and column.timezone != "UTC":
        quarters, places = np.unique(time // QUARTER_MS, return_inverse=True)
        zone, first = ZoneInfo(column.timezone), EPOCH.replace(tzinfo=None)
        offsets = [zone.utcoffset(first + MILLISECOND * QUARTER_MS * quarter) for quarter in quarters.tolist()]
        time = time - np.array([(offset or NO_TIME) // MILLISECOND for offset in offsets], dtype=np.int64)[places]
        wrong |= (time < 0) | (time >= LATEST_MS)
    bad = wrong & ~missing
    typed = pa.array(time, pa.int64(), mask=missing | bad)
    return typed, {int(p): "is not a time between 1970 and 2200" for p in np.flatnonzero(bad)}
