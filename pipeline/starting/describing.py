"""A column as a feature of the model, or the reason why it is left out."""

from __future__ import annotations

import datetime
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from mixrank.pipeline.starting import words
from mixrank.pipeline.starting.columns import Column, as_numbers, parts, share_fixed_by
from mixrank.pipeline.starting.roles import gives_away, is_after
from mixrank.pipeline.starting.times import read_time
from mixrank.schemas import Categorical, MultiCategorical, Numeric, Vocab

Group = Literal["user", "item", "context"]
Dtype = Literal["int", "str"]
# Whole numbers with at most so many values are categories.
MOST_CATEGORIES = 50
# So many values of a row are all kept; of longer lists, what most rows have.
MOST_KEPT = 8
# A text that is longer is prose, and a column of the log with a larger share of different values is a name or a number.
PROSE, ALL_DIFFERENT = 40, 0.5
# A value that is set is followed by the label this often only if it is written after it. Where it is rare and makes the
# odds of the label so many times larger, it may be.
FOLLOWS, LEAST_SET = 0.95, 20
RARE, SUSPECT_ODDS = 0.1, 8.0
POSITIONS = frozenset(["position", "pos", "rank", "slot", "index"])


@dataclass(frozen=True)
class Described:
    """A feature.

    Args:
        feature: its declaration.
        why: reason.
        distinct: int. Values in the sample.
        doubt: question, or empty.
    """

    feature: Categorical | MultiCategorical | Numeric
    why: str
    distinct: int
    doubt: str = ""


@dataclass(frozen=True)
class LeftOut:
    """A column that the model does not get.

    Args:
        column: its name.
        why: reason.
        doubt: question, or empty.
    """

    column: str
    why: str
    doubt: str = ""


def describe_log_column(
    column: Column, keys: dict[str, Column], day: np.ndarray, label: np.ndarray, today: datetime.date
) -> Described | LeftOut:
    """A column of the log: an attribute of the user or item that is written into every row, or of the impression.

    Args:
        column: the column.
        keys: "user" and "item" -> key column.
        day: int array (rows,). Days since 1970.
        label: array (rows,) of 0 and 1, the main task.
        today: for columns that are times.
    """
    name = column.name
    if why := _useless(column):
        return LeftOut(name, why)
    group = group_of(column, keys)
    told: float | None = None
    if group == "context":
        if is_after(name):
            return LeftOut(name, "by its name it is known only after the impression")
        if auc := gives_away(column, label):
            return LeftOut(name, f"it alone tells the label (AUC {auc:.2f}): it must be written after it")
        told = _share_where_set(column, label)
        if told is not None and told >= FOLLOWS:
            return LeftOut(name, f"where it is set, {told:.0%} of the rows have the label: it must be written after it")
        if set(words.words(name)) & words.POLICY:
            return LeftOut(name, "of the policy that chose the item, not of the impression")
        if column.look == "int" and column.distinct > max(100, 0.95 * column.rows):
            return LeftOut(name, "nearly every row has a number of its own")
        if bound := bound_to_day(column, day):
            return LeftOut(name, bound)
    found = describe_column(column, group, today, ALL_DIFFERENT)
    if not isinstance(found, Described) or group != "context":
        return found
    if told is not None and _is_suspect(column, label, told):
        rates = f"{told:.0%} of the rows where it is set have the label, and {label.mean():.0%} of all"
        return replace(found, doubt=f"is it known before the ranking? {rates}")
    if set(words.words(name)) & POSITIONS:
        return replace(found, doubt="a served request must carry it: is it known before the ranking?")
    return found


def group_of(column: Column, keys: dict[str, Column]) -> Group:
    """Whose attribute a column of the log is, by whose rows it never changes in."""
    order: tuple[Group, ...] = ("item", "user")
    for group in order:
        if group in keys and (share_fixed_by(column, keys[group]) or 0.0) >= 0.95:
            return group
    return "context"


def _is_set(column: Column) -> np.ndarray:
    """Whether a number is above its least value, per row."""
    assert column.numbers is not None
    least = float(column.numbers.min())
    return column.per_row(least) > least


def _share_where_set(column: Column, label: np.ndarray) -> float | None:
    """Share of the label in the rows where a number is set, or None if it is hardly ever or usually."""
    if column.numbers is None or column.lengths is not None:
        return None
    is_set = _is_set(column)
    if is_set.sum() < LEAST_SET or is_set.mean() > 0.5 or label.mean() > 0.8:
        return None
    return float(label[is_set].mean())


def _is_suspect(column: Column, label: np.ndarray, told: float) -> bool:
    return _is_set(column).mean() <= RARE and told / (1 - told) >= SUSPECT_ODDS * label.mean() / (1 - label.mean())


def bound_to_day(column: Column, day: np.ndarray) -> str:
    """Why the values of a column do not come again on later days; empty if they do."""
    if column.lengths is not None or column.distinct < 3:
        return ""
    known = (column.codes >= 0) & (day >= 0)
    if not known.any() or len(np.unique(day[known])) < 4:
        return ""
    codes, days = column.codes[known], day[known] - day[known].min()
    width = int(days.max()) + 1
    pairs = np.unique(codes * width + days)
    own_days = np.bincount(pairs // width, minlength=column.distinct)
    rows = np.bincount(codes, minlength=column.distinct)
    often = rows >= 3
    if column.is_number and column.distinct > MOST_CATEGORIES and column.look == "float":
        return ""
    # A day that begins at another hour is two days of the log.
    most = 2.1 if len(np.unique(days)) >= 7 else 1.3
    if often.sum() >= 3 and rows[often].sum() > 0.3 * len(codes) and own_days[often].mean() < most:
        return "each of its values is of one day, or nearly: a model never meets them again"
    return ""


def describe_column(
    column: Column, group: Group, today: datetime.date, all_different: float = 0.9
) -> Described | LeftOut:
    """A column as a feature of a group.

    Args:
        column: of a table with one row per user or item, or of the log.
        group: whose attribute it is.
        today: for columns that are times.
        all_different: largest share of different values in the rows; with more, it says no more than the key.
    """
    name = words.cleaned(column.name)
    if why := _useless(column):
        return LeftOut(column.name, why)
    if column.lengths is not None:
        return _of_list(column, name, group)
    if _is_date(column, today):
        return LeftOut(column.name, "a date, whose values are as good as never met again")
    if split := parts(column):
        if split.is_vector:
            return LeftOut(column.name, _vector(split.most, f", separator={split.separator!r}"))
        numbers = as_numbers(split.values)
        whole = numbers is not None and all(part.lstrip("+-").isdigit() for part in split.values)
        options: dict[str, Any] = {"dtype": "int"} if whole else {}
        return Described(
            MultiCategorical(
                name,
                group=group,
                **options,
                separator=split.separator,
                **_length(split.most, split.usual),
                **_sizes(len(split.values)),
            ),
            f"{len(split.values):,} values, up to {split.most} in a row, divided by {split.separator!r}",
            len(split.values),
        )
    known = column.rows - int((column.codes < 0).sum())
    if column.look == "text" or (column.look == "int" and column.padded):
        length = float(np.mean([len(str(value)) for value in column.values[:1000]]))
        if column.distinct > max(100, all_different * known):
            return LeftOut(column.name, f"nearly every row has another text, such as {column.range()}")
        if length > PROSE:
            return LeftOut(column.name, "prose, which is not read as a feature")
        return _category(column, name, group, "str")
    if column.look == "int" and (_is_code(name) or column.distinct <= MOST_CATEGORIES):
        if column.distinct > max(100, all_different * known):
            return LeftOut(column.name, "nearly every row has another number")
        return _category(column, name, group, "int")
    return _number(column, name, group)


def _useless(column: Column) -> str:
    if column.look == "nested":
        return "lists in lists or records, which are not read"
    if column.look == "other mark":
        return "its numbers have another decimal mark than those of other columns; a table has one `decimal`"
    if column.distinct == 0:
        return "it has no value"
    return "it has one value only" if column.distinct == 1 and not column.missing_share else ""


def _is_date(column: Column, today: datetime.date) -> bool:
    found = read_time(column, today)
    if found is None or column.look == "time" or not column.is_number:
        return found is not None
    # A number such as 20240105 has a lower confidence, because it says nothing about the time of day.
    return found.confidence >= (0.25 if found.form == "date" else 0.5)


def _is_code(name: str) -> bool:
    parts = set(words.words(name))
    return bool(parts & (words.KEY_ENDINGS - {"no", "num", "number"}) or parts & words.SERIAL)


def _of_list(column: Column, name: str, group: Group) -> Described | LeftOut:
    assert column.lengths is not None
    if column.look not in ("int", "text"):
        sizes = np.unique(column.lengths[column.lengths > 0])
        vector = len(sizes) == 1 and column.look == "float"
        return LeftOut(column.name, _vector(int(sizes[0])) if vector else "lists of numbers, which are not read")
    usual = int(np.quantile(column.lengths, 0.95))
    dtype: dict[str, Any] = {"dtype": "int"} if column.look == "int" else {}
    feature = MultiCategorical(
        name, group=group, **dtype, **_length(int(column.lengths.max()), usual), **_sizes(column.distinct)
    )
    return Described(feature, f"a list of up to {column.lengths.max()} of {column.distinct:,} values", column.distinct)


def _vector(dim: int, more: str = "") -> str:
    return f"a vector of {dim} numbers; declare Vector(dim={dim}{more}) if a model made it"


def _length(most: int, usual: int) -> dict[str, Any]:
    return {"max_length": max(1, most if most <= MOST_KEPT else min(16, usual))}


def _category(column: Column, name: str, group: Group, dtype: Dtype) -> Described:
    feature = Categorical(name, group=group, **_typed(dtype), **_sizes(column.distinct))
    return Described(feature, f"{column.distinct:,} values: {column.range()}", column.distinct)


def _typed(dtype: Dtype) -> dict[str, Any]:
    return {} if dtype == "int" else {"dtype": dtype}


def _sizes(distinct: int) -> dict[str, Any]:
    """Vocabulary and width for so many values; rare ones of many share buckets."""
    dim = {"dim": 4 if distinct <= 20 else 8 if distinct <= 1000 else 16}
    if distinct <= 1000:
        return dim
    least = 2 if distinct <= 100_000 else 5
    return {"vocab": Vocab(min_count=least, oov=min(64, max(4, distinct // 500))), **dim}


def key_feature(column: Column, name: str, group: Group, dtype: Dtype) -> Categorical:
    """The feature that reads a key."""
    vocab = Vocab(min_count=2, oov=min(64, max(4, column.distinct // 500)))
    dim = 8 if column.distinct <= 1000 else 16
    return Categorical(name, group=group, **_typed(dtype), vocab=vocab, dim=dim)


def _number(column: Column, name: str, group: Group) -> Described:
    assert column.numbers is not None
    rows = column.per_row()
    present = rows[~np.isnan(rows)]
    middle = float(np.median(present))
    skewed = present.min() >= 0 and present.max() > 20 * max(middle, 1e-9)
    options: dict[str, Any] = {"transform": "log1p_standardize"} if skewed else {}
    missing = column.missing_share
    if missing > 0:
        options["default"] = float(f"{middle:.4g}")
    why = f"a number from {column.range()}" + (", a few of them large" if skewed else "")
    why += f"; {missing:.0%} missing, for which the median stands" if missing > 0 else ""
    return Described(Numeric(name, group=group, **options), why, column.distinct)


def history_fields(features: Collection[Described], item: str, items: int) -> list[str]:
    """Item features that a history repeats for every event: those with most values that items share."""
    found = [
        (described.distinct, described.feature.name)
        for described in features
        if described.feature.group == "item"
        and described.feature.kind != "float"
        and described.feature.name != item
        and 3 <= described.distinct <= 0.8 * items
    ]
    return [item, *(name for _, name in sorted(found, reverse=True)[:3])]
