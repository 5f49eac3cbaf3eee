"""Assignment of rows to splits."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from mixrank.components.examples.calendar import local_days
from mixrank.schemas import SPLITS, Dataset, Split, SplitByDay, SplitByUserTail
from mixrank.schemas.safe_text import shown

NONE = -1


def stable_hash(value: Any, salt: str) -> int:
    """A 64-bit hash of a key, equal in every process; it hashes the text, so 7 and "7" are equal."""
    return int.from_bytes(hashlib.blake2b(f"{salt}:{value}".encode(), digest_size=8).digest(), "little")


def with_days(dataset: Dataset, split_days: str, all_splits: bool = True) -> Dataset:
    """The dataset with different days per split.

    Args:
        dataset: split by day.
        split_days: JSON such as {"train": ["2022-04-22", "2022-05-04"], "eval": ["2022-05-05", "2022-05-06"]}, with
            the dataset's own splits; days as in `SplitByDay`.
        all_splits: whether every split of the dataset must be named.

    Raises:
        ValueError: if the text is not such JSON or names other splits, or the dataset is not split by day.
    """
    split = dataset.source.split
    if not isinstance(split, SplitByDay):
        raise ValueError(f"`split_days`: {dataset.spec.name} is not split by day, but {split.type}")
    try:
        days = json.loads(split_days)
        named = set(days)
    except (ValueError, TypeError):
        raise ValueError(
            f"`split_days` must be JSON, split to [first day, last day], received {shown(split_days)}"
        ) from None
    if not isinstance(days, dict) or (all_splits and named != set(split.splits)):
        raise ValueError(f"`split_days` must give days to {sorted(split.splits)}, received {shown(split_days)}")
    values = dataset.model_dump(mode="json")
    values["source"]["split"]["splits"] = days
    return Dataset.model_validate(values)


def on_day(dataset: Dataset, day: str) -> Dataset:
    """The dataset with one day's rows for training, and those of the next for evaluation."""
    later = str(np.datetime64(day) + 1)
    return with_days(dataset, json.dumps({"train": [day, day], "eval": [later, later]}), all_splits=False)


def assign(split: Split, user: np.ndarray, users: list[Any], time: np.ndarray) -> np.ndarray:
    """Position in `SPLITS` of each row's split, or -1 for none.

    Args:
        split: the rule.
        user: int array (rows,), ascending. Position of each row's user in `users`.
        users: keys of the users.
        time: int array (rows,), milliseconds, ascending within a user.
    """
    if isinstance(split, SplitByDay):
        days = local_days(time, split.timezone, split.starts_at)
        result = np.full(len(time), NONE)
        for name, (first, last) in split.splits.items():
            result[(days >= np.datetime64(first)) & (days <= np.datetime64(last))] = SPLITS.index(name)
        return result
    if isinstance(split, SplitByUserTail):
        return _user_tail(user, time, split.valid, split.eval)
    # A float holds 53 bits exactly.
    share = np.array([(stable_hash(key, "split") >> 11) / 2**53 for key in users])
    dealt = np.where(share < split.eval, 2, np.where(share < split.eval + split.valid, 1, 0))
    return dealt[user] if len(user) else np.zeros(0, dtype=np.int64)


def _user_tail(user: np.ndarray, time: np.ndarray, valid: float, evaluated: float) -> np.ndarray:
    counts = np.bincount(user)
    starts = np.cumsum(counts) - counts
    rows = np.arange(len(user))
    # Rows with equal times go to the split of the first of them.
    first = np.ones(len(user), dtype=bool)
    first[1:] = (user[1:] != user[:-1]) | (time[1:] != time[:-1])
    position = np.maximum.accumulate(np.where(first, rows, 0)) - starts[user]
    # Rounded to the nearest row; 1e-9 keeps 0.1 + 0.2 from moving a bound.
    train_end = np.floor(counts * (1 - valid - evaluated) + 0.5 + 1e-9)[user]
    valid_end = np.floor(counts * (1 - evaluated) + 0.5 + 1e-9)[user]
    return np.where(position < train_end, 0, np.where(position < valid_end, 1, 2))
