"""A log of repeats: the label says whether the user has had this very item before.

FOLDER/log.parquet        impressions and labels
FOLDER/truth.parquet      whether each row's item is one of its user's past; not for models
FOLDER/simulation.json    the settings, from which the rest can be drawn again
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mixrank.schemas.arrow import pa, pq
from mixrank.schemas.files import write_folder_atomically
from mixrank.schemas.naming import Declaration
from mixrank.schemas.simulation.log import DAY_MS, SETTINGS, check_new, day_starts, pick

# How much more often the first item is shown than the n-th: n to this power.
_STEEPNESS = 0.7


class Repeats(Declaration):
    """Sizes and chances of a log of repeats.

    Args:
        users: int >= 1.
        items: int >= 2.
        days: int in [4, 182]. The last is for evaluation, the day before it for validation.
        impressions: float > 0. Mean impressions of a user on a day; Poisson.
        again: float in [0, 1]. Chance that an impression shows an item of the past, once there is one.
        recency: float > 0. Mean place of such an item in the past, counted from the newest; exponential.
        wrong: float in [0, 0.5). Share of labels that say the opposite.
        seed: int >= 0. The same values give the same files.
    """

    users: int = Field(default=2000, ge=1)
    items: int = Field(default=3000, ge=2)
    days: int = Field(default=10, ge=4, le=182)
    impressions: float = Field(default=8.0, gt=0, le=10_000)
    again: float = Field(default=0.5, ge=0, le=1)
    recency: float = Field(default=25.0, gt=0, allow_inf_nan=False)
    wrong: float = Field(default=0.02, ge=0, lt=0.5)
    seed: int = Field(default=0, ge=0)


def write_repeats(
    folder: Path, settings: Repeats, progress: Callable[[range], Iterable[int]] = lambda users: users
) -> None:
    """Writes a log of repeats, whole or not at all.

    Args:
        folder: must not exist.
        settings: its sizes and chances.
        progress: wraps the numbers of the users, to show how many are done.

    Raises:
        ValueError: if the folder exists.
    """
    check_new(folder)
    shares = np.arange(1, settings.items + 1) ** -_STEEPNESS
    shares /= shares.sum()
    drawn = [_user(settings, shares, user) for user in progress(range(settings.users))]
    owner = np.repeat(np.arange(settings.users), [len(items) for items, *_ in drawn])
    item, time, had, bought = (np.concatenate(each) for each in zip(*drawn, strict=True))
    keys = {"user_id": owner, "item_id": item, "time_ms": time}
    page = pa.array(["home"] * len(owner))

    def write(temporary: Path) -> None:
        temporary.mkdir(parents=True, exist_ok=True)
        (temporary / SETTINGS).write_text(settings.model_dump_json(indent=1))
        pq.write_table(pa.table({**keys, "page": page, "bought": bought}), temporary / "log.parquet")
        pq.write_table(pa.table({**keys, "had": had}), temporary / "truth.parquet")

    write_folder_atomically(folder, write)


def repeats_seen(folder: Path, earlier: int, today: int) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray]:
    """What a reader of histories could know of the last day of a log of repeats.

    Args:
        folder: what `write_repeats` wrote.
        earlier, today: how many events of earlier days and of the same day a history holds, the newest first.

    Returns:
        Labels of the last day; whether the item is in those histories; whether it is one of the past at all.
    """
    settings = Repeats.model_validate_json((folder / SETTINGS).read_text())
    log, truth = (pq.read_table(folder / f"{name}.parquet") for name in ("log", "truth"))
    user, item, time, bought = (log[name].to_numpy() for name in ("user_id", "item_id", "time_ms", "bought"))
    day = np.searchsorted(day_starts(settings.days), time, side="right") - 1
    seen = np.zeros(len(user), bool)
    (rows,) = np.nonzero(day == settings.days - 1)
    for row in rows:
        start = np.searchsorted(user, user[row])
        first = start + np.searchsorted(day[start:row], settings.days - 1)
        window = item[max(start, first - earlier) : first], item[max(first, row - today) : row]
        seen[row] = any(np.any(part == item[row]) for part in window)
    return bought[rows], seen[rows], truth["had"].to_numpy()[rows]


def _user(s: Repeats, shares: NDArray, user: int) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Items, times, whether each is one of the past, and labels of one user, in the order of time."""
    draw = np.random.default_rng([s.seed, user])
    count = int(draw.poisson(s.impressions * s.days))
    # At least one millisecond apart: an event at the time of an impression does not count as earlier.
    moments = np.sort(draw.integers(0, s.days * DAY_MS - count, count)) + np.arange(count)
    fresh = pick(draw, shares, count)
    again, place = draw.random(count) < s.again, draw.exponential(s.recency, count).astype(np.int64)
    items, past, had = np.zeros(count, np.int64), set(), np.zeros(count, bool)
    for row in range(count):
        items[row] = items[max(0, row - 1 - place[row])] if again[row] and row else fresh[row]
        had[row] = items[row] in past
        past.add(int(items[row]))
    bought = had ^ (draw.random(count) < s.wrong)
    return items, day_starts(s.days)[0] + moments, had, bought.astype(np.int64)
